"""timm's networks as encoders, against plain timm."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

timm = pytest.importorskip("timm")

from ssltool.encoders.catalog import check_name  # noqa: E402
from ssltool.encoders.encoder import Encoder  # noqa: E402
from ssltool.encoders.registry import (  # noqa: E402
    build_encoder,
    keep_last_resolution,
    reinitialized_copy,
)
from ssltool.encoders.sizes import accepts, check_input, deepest_stage  # noqa: E402
from ssltool.encoders.weights import describe, load_encoder, save_encoder  # noqa: E402
from ssltool.errors import UnknownNameError, UsageError, WeightsError  # noqa: E402

SIDE = 64
VIT, CONVNEXT, RESNET = "vit_tiny_patch16_224", "convnext_atto", "resnet18d"
NAMES = [
    VIT,
    CONVNEXT,
    RESNET,
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
    "regnetx_002",
]
OTHERS = [
    "deit_tiny_distilled_patch16_224",
    "densenet121",
    "eva02_tiny_patch14_224",
    "hrnet_w18_small",
    "mixer_s16_224",
    "mobilenetv4_conv_small",
    "resnetv2_50",
    "repvit_m0_9",
    "vgg11",
    "vit_small_patch14_reg4_dinov2",
    "vit_tiny_r_s16_p8_224",
    "xcit_nano_12_p16_224",
]


def images(side: int = SIDE, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def built(name: str, **options: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(f"timm/{name}", **{"image_size": SIDE, **options}).eval()


def plain(name: str, encoder: Encoder, **options: Any) -> torch.nn.Module:
    sized = {"img_size": encoder.position_size} if encoder.position_size else {}
    model: torch.nn.Module = timm.create_model(name, num_classes=0, **sized, **options)
    return model.eval()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_keys_and_pooled_features_are_those_of_plain_timm(name: str, channels: int) -> None:
    encoder = built(name, in_channels=channels)
    model = plain(name, encoder, in_chans=channels)
    assert list(encoder.backbone.state_dict()) == list(model.state_dict())
    model.load_state_dict(encoder.backbone.state_dict())
    x = images(channels=channels)
    assert encoder(x).shape == (2, encoder.width)
    assert torch.allclose(encoder(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_declared_shapes_and_are_timms(name: str) -> None:
    encoder = built(name)
    maps = encoder.maps(images())
    assert tuple(maps) == tuple(stage.name for stage in encoder.stages)
    for stage, feature_map in zip(encoder.stages, maps.values(), strict=True):
        assert feature_map.shape == (2, stage.width, SIDE // stage.stride, SIDE // stage.stride)
    model: Any = plain(name, encoder)
    model.load_state_dict(encoder.backbone.state_dict())
    final = model.forward_features(images())
    last = encoder.map(images())
    if final.dim() == 3:
        assert torch.equal(last.flatten(2).transpose(1, 2), final[:, -last[0, 0].numel() :])
    else:
        assert torch.equal(last, final if final.shape == last.shape else final.permute(0, 3, 1, 2))
    _, intermediates = model.forward_intermediates(images())
    assert any(torch.equal(maps[encoder.stages[0].name], each) for each in intermediates)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_give_pooled_features_and_maps(name: str) -> None:
    with torch.device("meta"):
        side = timm.create_model(name).pretrained_cfg["input_size"][-1]
    encoder = built(name, image_size=side)
    x = images(side)
    model = plain(name, encoder)
    model.load_state_dict(encoder.backbone.state_dict())
    assert torch.allclose(encoder(x), model(x), rtol=0, atol=1e-5)
    maps = encoder.maps(x)
    for stage, feature_map in zip(encoder.stages, maps.values(), strict=True):
        assert feature_map.shape[:2] == (2, stage.width)
        assert round(side / feature_map.shape[2]) == stage.stride


@pytest.mark.slow
def test_stages_of_a_vision_transformer_are_quarters() -> None:
    encoder = built(VIT)
    assert [stage.name for stage in encoder.stages] == ["block3", "block6", "block9", "block12"]
    assert {stage[1:] for stage in encoder.stages} == {(192, 16)}


@torch.no_grad()
def test_patch_size_in_the_name() -> None:
    encoder = built("test_vit,patch_size=8", image_size=32)
    assert encoder.patch == encoder.stages[0].stride == 8
    assert encoder.map(images(32)).shape[2:] == (4, 4)
    model = plain("test_vit", encoder, patch_size=8)
    model.load_state_dict(encoder.backbone.state_dict())
    assert torch.equal(model(images(32)), encoder(images(32)))


@torch.no_grad()
def test_other_sizes_are_encoded_as_timm_does() -> None:
    encoder = built("test_vit")
    assert encoder.image_size is None
    assert encoder.position_size == 64
    model = plain("test_vit", encoder, dynamic_img_size=True)
    model.load_state_dict(encoder.backbone.state_dict())
    for side in (16, 96):
        assert torch.allclose(encoder(images(side)), model(images(side)), rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="multiples of its 16 px patch, not 50x50"):
        encoder(images(50))


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_small_stem_keeps_keys_and_quarters_or_halves_the_strides(name: str) -> None:
    own, small = built(name), built(name, stem="small")
    assert list(own.backbone.state_dict()) == list(small.backbone.state_dict())
    for stage, feature_map in zip(small.stages, small.maps(images(32)).values(), strict=True):
        assert feature_map.shape[1:] == (stage.width, *(32 // stage.stride,) * 2)
    assert small.stages[0].stride == 1
    factor = 4 if name == "test_resnet" else 2
    assert small.stages[-1].stride * factor == own.stages[-1].stride


@torch.no_grad()
@pytest.mark.parametrize("norm", ["ln", "ln2d", "none"])
def test_norm_replacement_keeps_keys_and_activations(norm: Any) -> None:
    own, replaced = built("test_efficientnet"), built("test_efficientnet", norm=norm)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert set(replaced.backbone.state_dict()) == {
        key for key in own.backbone.state_dict() if not key.endswith(statistics)
    }
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in replaced.modules())
    first: Any = replaced.backbone.get_submodule("bn1")
    assert (first(images(channels=first.weight.numel())) < 0).any().item() == (
        type(first.act).__name__ == "SiLU"
    )
    x = images()
    alone, together = replaced(x[:1]), replaced(x)[:1]
    assert torch.allclose(alone, together, atol=1e-5)


def test_without_norm_the_branches_of_resnets_start_at_zero() -> None:
    encoder = built("test_resnet", norm="none")
    weights = [
        m.weight for n, m in encoder.backbone.named_modules() if n.endswith((".bn2", ".bn3"))
    ]
    assert any(not weight.any() for weight in weights)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_cut_after_each_stage(name: str) -> None:
    whole = built(name)
    for stage, following in pairwise(whole.stages):
        cut = built(name, last_stage=stage.name)
        assert [each.name for each in cut.stages][-1] == stage.name
        assert following.name not in dict(cut.walk(images()))
        assert cut(images()).shape == (2, cut.width)
        own = whole.backbone.state_dict()
        cut.backbone.load_state_dict({key: own[key] for key in cut.backbone.state_dict()})
        if name != "test_vit":  # whose final norm is moved to the last stage
            expected = whole.maps(images())[stage.name]
            assert torch.allclose(cut.map(images()), expected, atol=1e-6)
            assert torch.allclose(cut(images()), expected.mean(dim=(2, 3)), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_paths_up_to_a_stage_are_all_that_its_map_depends_on(name: str) -> None:
    encoder = built(name)
    stage = encoder.stages[1].name
    before = encoder.maps(images())
    paths = encoder.paths_up_to(stage)
    for key, tensor in encoder.backbone.state_dict().items():
        if not any(key == path or key.startswith(f"{path}.") for path in paths):
            tensor.mul_(0)
    after = encoder.maps(images())
    assert torch.equal(before[stage], after[stage])
    last = encoder.stages[-1].name
    assert not torch.equal(before[last], after[last])


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_convnext,patch_size=2"])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    encoder, path = built(name, in_channels=1), tmp_path / "w.safetensors"
    metadata = describe(
        encoder, method="m", color_space="rgb", image_size=32, mean=(0.5,), std=(0.2,)
    )
    assert metadata.timm == timm.__version__
    assert metadata.backbone == f"timm/{name}"
    save_encoder(encoder, metadata, path)
    state = torch.random.get_rng_state()
    loaded = load_encoder(path)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(loaded(images(channels=1)), encoder(images(channels=1)))
    model, _, override = name.partition(",patch_size=")
    options = {"patch_size": int(override)} if override else {}
    same = plain(model, encoder, in_chans=1, **options)
    same.load_state_dict(load_file(path))
    assert torch.equal(same(images(channels=1)), encoder(images(channels=1)))
    with (
        mock.patch("ssltool.encoders.timm_names.find_spec", return_value=None),
        pytest.raises(WeightsError, match=r"needs timm.*type pip install 'ssltool\[timm\]'"),
    ):
        load_encoder(path)


def test_reinitialized_copy_has_the_same_architecture() -> None:
    encoder = built("test_vit", in_channels=1, last_stage="block3")
    other = reinitialized_copy(encoder, in_channels=3)
    assert (other.stages, other.position_size) == (encoder.stages, encoder.position_size)
    assert other.in_channels == 3


def test_sizes() -> None:
    encoder = built("test_vit")
    assert [accepts(encoder, side) for side in (8, 16, 24, 32)] == [False, True, False, True]
    assert deepest_stage(encoder, 16, 2) is None
    with pytest.raises(UsageError, match=r"16 px inputs.*smallest is 32 px"):
        check_input(encoder, 16, least=2)
    deep = built("test_convnext")
    assert not accepts(deep, 16)
    assert deepest_stage(deep, 16, 1) == deep.stages[-2].name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm/vit_tiny_patch16_223", {}, "did you mean timm/vit_tiny_patch16_"),
        ("timm/resnet18.a1_in1k", {}, "names weights.*--backbone timm/resnet18,"),
        ("timm/hf-hub:owner/model", {}, "is no name of a timm network"),
        ("timm/test_resnet,patch_size=8", {}, "has no patches; type --backbone timm/test_resnet"),
        ("timm/test_vit", {"stem": "small"}, "has no small stem.*--stem imagenet"),
    ],
)
def test_what_cannot_be_built(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_encoder(name, **options)


def test_a_network_without_maps_is_refused() -> None:
    with (
        mock.patch("timm.create_model", return_value=torch.nn.Identity()),
        pytest.raises(UsageError, match="timm gives no maps of the stages of timm/test_vit2"),
    ):
        build_encoder("timm/test_vit2")


def test_a_malformed_name_is_refused_without_timm() -> None:
    check_name("timm/test_vit")
    with mock.patch("ssltool.encoders.timm_names.find_spec", return_value=None):
        with pytest.raises(UsageError, match=r"pip install 'ssltool\[timm\]'"):
            check_name("timm/test_vit")
        with pytest.raises(UsageError, match="names weights"):
            check_name("timm/resnet18.a1_in1k")


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(UnknownNameError, match="stage of timm/test_vit"):
        built("test_vit").cut_after("layer9")


@pytest.mark.slow
def test_shortcuts_that_pool_cannot_keep_the_last_resolution() -> None:
    with pytest.raises(UsageError, match="--last-stride 1"):
        keep_last_resolution(build_encoder("timm/resnet18d"))
