from __future__ import annotations

import copy
import math
from functools import cache

import pytest
import torch
from torch import nn
from torchvision import models

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.layers.channel_affine import ChannelAffine
from ssltool.encoders.registry import backbone_names, build_encoder, reinitialized_copy
from ssltool.encoders.sizes import check_input
from ssltool.errors import UnknownNameError, UsageError

# One small member of every family, with its stages as the papers' tables have them: name, channels,
# stride.
STAGES = {
    "alexnet": "conv1:64/4 conv2:192/8 conv3:384/16 conv4:256/16 conv5:256/16 pool5:256/32",
    "caffenet": "conv1:96/2 conv2:256/4 conv3:384/8 conv4:384/8 conv5:256/8 pool5:256/16",
    "color_alexnet": "conv1:96/4 conv2:256/8 conv3:384/16 conv4:384/16 conv5:256/16 pool5:256/16",
    "colornet": "conv1:64/2 conv2:128/4 conv3:256/8 conv4:512/8 conv5:512/8 conv6:512/8 "
    "conv7:512/8",
    "convnext_tiny": "stage1:96/4 stage2:192/8 stage3:384/16 stage4:768/32",
    "densenet121": "stem:64/2 denseblock1:256/4 denseblock2:512/8 denseblock3:1024/16 "
    "denseblock4:1024/32",
    "efficientnet_b0": "stage1:16/2 stage2:24/4 stage3:40/8 stage4:112/16 stage5:1280/32",
    "mobilenet_v2": "stage1:16/2 stage2:24/4 stage3:32/8 stage4:96/16 stage5:1280/32",
    "mobilenet_v3_small": "stage1:16/2 stage2:16/4 stage3:24/8 stage4:48/16 stage5:576/32",
    "regnet_y_400mf": "stage1:32/2 stage2:48/4 stage3:104/8 stage4:208/16 stage5:440/32",
    "resnet10_w32": "stem:32/1 layer1:32/1 layer2:64/2 layer3:128/4 layer4:256/8",
    "resnet10_w32_s2": "stem:32/2 layer1:32/2 layer2:64/4 layer3:128/8 layer4:256/16",
    "resnet18": "stem:64/2 layer1:64/4 layer2:128/8 layer3:256/16 layer4:512/32",
    "resnext50_32x4d": "stem:64/2 layer1:256/4 layer2:512/8 layer3:1024/16 layer4:2048/32",
    "shufflenet_v2_x0_5": "stem:24/2 stage2:48/8 stage3:96/16 stage4:192/32 conv5:1024/32",
    "swin_t": "stage1:96/4 stage2:192/8 stage3:384/16 stage4:768/32",
    "vgg11": "stage1:64/1 stage2:128/2 stage3:256/4 stage4:512/8 stage5:512/16 stage6:512/32",
    "vit_b_16": "block3:768/16 block6:768/16 block9:768/16 block12:768/16",
}
# Images of 64 px, but where unpadded borders make small maps smaller than their strides say.
SIDE = dict.fromkeys(("alexnet", "caffenet", "color_alexnet"), 128)
VIT_SIDE = {"vit_b_16": 32, "vit_b_32": 64}


@cache
def built(name: str) -> Encoder:
    """With the values of seed 0, in evaluation mode; no test may change it."""
    torch.manual_seed(0)
    return build_encoder(name, image_size=VIT_SIDE.get(name)).eval()


@pytest.fixture(scope="module", params=STAGES)
def encoder(request) -> Encoder:
    return built(request.param)


def make_images(encoder: Encoder, batch: int = 2, side: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    side = encoder.image_size or side or SIDE.get(encoder.name, 64)
    return torch.randn(batch, encoder.in_channels, side, side, generator=generator)


def test_declared_stages_are_those_of_the_papers_and_of_the_maps(encoder):
    declared = " ".join(f"{stage.name}:{stage.width}/{stage.stride}" for stage in encoder.stages)
    assert declared == STAGES[encoder.name]
    x = make_images(encoder)
    with torch.no_grad():
        maps, last, pooled = encoder.maps(x), encoder.map(x), encoder(x)
    assert list(maps) == [stage.name for stage in encoder.stages]
    for stage in encoder.stages:
        batch, channels, height, width = maps[stage.name].shape
        assert (batch, channels) == (2, stage.width)
        # To the nearest power of two: AlexNet's and CaffeNet's borders are not padded out to whole
        # strides.
        assert round(math.log2(x.shape[2] / height)) == math.log2(stage.stride)
        assert height == width
    torch.testing.assert_close(last, maps[encoder.stages[-1].name], rtol=0, atol=0)
    assert pooled.shape == (2, encoder.width)


def test_pooled_feature_summarises_the_last_map(encoder):
    if encoder.name.startswith("vit"):
        pytest.skip("the class token is not a position of the map")
    x = make_images(encoder)
    with torch.no_grad():
        average = encoder.map(x).mean(dim=(2, 3), keepdim=True)
        if encoder.name.startswith("convnext"):
            average = encoder.backbone.classifier[0](average)
        torch.testing.assert_close(encoder(x), average.flatten(1))


def test_gradient_reaches_every_parameter_from_the_pooled_feature(encoder):
    encoder.zero_grad()
    encoder(make_images(encoder, side=64)).square().sum().backward()
    assert [key for key, p in encoder.named_parameters() if p.grad is None] == []
    encoder.zero_grad()


def test_gradient_reaches_the_first_convolution_from_the_map(encoder):
    encoder.zero_grad()
    encoder.map(make_images(encoder, side=64)).square().sum().backward()
    first = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    assert first.weight.grad is not None
    assert first.weight.grad.abs().sum() > 0
    encoder.zero_grad()


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("resnet18", {"stem": "relu", "layer1": "layer1", "layer4": "layer4"}),
        ("alexnet", {"conv1": "features.1", "conv3": "features.7", "pool5": "features.12"}),
        ("densenet121", {"stem": "features.relu0", "denseblock3": "features.denseblock3"}),
        (
            "mobilenet_v3_small",
            {"stage1": "features.0", "stage2": "features.1", "stage5": "features.12"},
        ),
        ("regnet_y_400mf", {"stage1": "stem", "stage3": "trunk_output.block2"}),
    ],
)
def test_maps_are_what_hooks_on_the_plain_forward_pass_see(name, modules):
    encoder = copy.deepcopy(built(name))
    seen: dict[str, torch.Tensor] = {}

    def keep(stage: str):
        # Only the first call counts, and a copy is kept: later parts may overwrite in place.
        return lambda _module, _inputs, output: seen.setdefault(stage, output.clone())

    for stage, path in modules.items():
        encoder.backbone.get_submodule(path).register_forward_hook(keep(stage))
    x = make_images(encoder)
    with torch.no_grad():
        encoder.backbone(x)
        expected = dict(seen)
        maps = encoder.maps(x)
    for stage in modules:
        torch.testing.assert_close(maps[stage], expected[stage], rtol=0, atol=0)


def test_vit_last_map_comes_from_the_tokens_torchvision_pools():
    encoder, outputs = copy.deepcopy(built("vit_b_32")), []
    encoder.backbone.encoder.register_forward_hook(lambda _m, _i, tokens: outputs.append(tokens))
    x = make_images(encoder)
    with torch.no_grad():
        pooled, last = encoder(x), encoder.map(x)
    tokens = outputs[0]
    torch.testing.assert_close(pooled, tokens[:, 0])
    # Reading order: the patch in row 1, column 0 is the third patch, behind the class token.
    torch.testing.assert_close(last[:, :, 1, 0], tokens[:, 3])
    torch.testing.assert_close(last[:, :, 0, 1], tokens[:, 2])


def test_swin_maps_are_channels_first():
    encoder = copy.deepcopy(built("swin_t"))
    seen = []
    encoder.backbone.features[1].register_forward_hook(lambda _m, _i, out: seen.append(out))
    x = make_images(encoder)
    with torch.no_grad():
        stage1 = encoder.maps(x)["stage1"]
    torch.testing.assert_close(stage1[:, :, 3, 5], seen[0][:, 3, 5, :])


def test_maps_work_under_autocast():
    encoder = build_encoder("resnet10_w32").eval()
    x = make_images(encoder, side=32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder.map(x)
    assert half.dtype == torch.bfloat16
    assert half.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(half.float(), encoder.map(x), rtol=0.1, atol=0.1)


def test_replaced_modules_and_copies_are_used():
    encoder = build_encoder("resnet10_w32").eval()
    x = make_images(encoder)
    other = copy.deepcopy(encoder)
    other.backbone.set_submodule("bn1", nn.Hardtanh(0, 0.1))
    with torch.no_grad():
        torch.testing.assert_close(other.map(x).mean(dim=(2, 3)), other(x))
        assert not torch.equal(other.map(x), encoder.map(x))


def test_backbone_names_are_ours_and_those_of_torchvisions_families():
    names = backbone_names()
    assert {*STAGES, "resnet20", "resnet56", "wide_resnet50_2", "swin_v2_t", "vit_h_14"} <= set(
        names
    )
    assert not {"inception_v3", "googlenet", "squeezenet1_0", "maxvit_t", "mnasnet0_5"} & set(names)
    assert list(names) == sorted(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", backbone_names())
def test_every_name_builds_or_is_too_large_for_a_test(name):
    if any(size in name for size in ("_h_14", "128gf", "_l_", "32gf")):
        pytest.skip("hundreds of millions of parameters")
    encoder = build_encoder(name)
    assert encoder.stages[-1].width == encoder.width
    check_input(encoder, 224)


def test_small_stem_keeps_the_size_and_the_keys():
    small, large = build_encoder("resnet18", stem="small").eval(), built("resnet18")
    assert [stage.stride for stage in small.stages] == [1, 1, 2, 4, 8]
    assert set(small.backbone.state_dict()) == set(large.backbone.state_dict())
    assert small.backbone.conv1.weight.shape == (64, 3, 3, 3)
    with torch.no_grad():
        assert small.map(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    assert build_encoder("resnet18", stem="small", in_channels=1).backbone.conv1.weight.shape == (
        64,
        1,
        3,
        3,
    )
    assert build_encoder("resnet20").stem == "small"


# Spread of the first convolution's weights for one input channel, from each paper's or
# torchvision's rule.
GRAY_STD = {
    "alexnet": 1 / math.sqrt(3 * 11 * 11),  # torch's default: uniform with bound 1/sqrt(fan in)
    "caffenet": math.sqrt(2 / (11 * 11)),  # normal, fan in
    "color_alexnet": math.sqrt(2 / (11 * 11)),
    "colornet": math.sqrt(2 / (3 * 3)),
    "convnext_tiny": 0.02,
    "densenet121": math.sqrt(2 / (7 * 7)),  # normal, fan in
    "efficientnet_b0": math.sqrt(2 / (32 * 3 * 3)),  # normal, fan out, as the next ones
    "mobilenet_v2": math.sqrt(2 / (32 * 3 * 3)),
    "mobilenet_v3_small": math.sqrt(2 / (16 * 3 * 3)),
    "regnet_y_400mf": math.sqrt(2 / (32 * 3 * 3)),
    "resnet10_w32": math.sqrt(2 / (32 * 3 * 3)),
    "resnet18": math.sqrt(2 / (64 * 7 * 7)),
    "shufflenet_v2_x0_5": 1 / math.sqrt(3 * 3 * 3),  # torch's default
    "swin_t": 1 / math.sqrt(3 * 4 * 4),  # torch's default
}


@pytest.mark.parametrize("name", GRAY_STD)
def test_gray_input_is_initialised_by_the_backbones_own_rule(name):
    torch.manual_seed(0)
    encoder = build_encoder(name, in_channels=1).eval()
    conv = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    assert conv.in_channels == conv.weight.shape[1] == 1
    # Four standard errors of a standard deviation.
    assert conv.weight.std().item() == pytest.approx(
        GRAY_STD[name], rel=4 / math.sqrt(2 * conv.weight.numel())
    )
    with torch.no_grad():
        assert encoder(make_images(encoder, batch=1)).shape == (1, encoder.width)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "resnet19"}, "unknown backbone 'resnet19'; did you mean"),
        ({"name": "mobilenet_v2", "stem": "small"}, "mobilenet_v2 has no small stem, only resnet"),
        ({"name": "resnet18", "in_channels": 0}, "takes 1 to 256 input channels, not 0"),
        (
            {"name": "vit_b_16", "image_size": 40},
            "its 16 px patch, not 40; type --image-size 32 or --image-size 48",
        ),
        ({"name": "vit_b_32", "image_size": 28}, "its 32 px patch, not 28; type --image-size 32"),
    ],
)
def test_wrong_requests_are_one_line(options, words):
    with pytest.raises(UsageError) as caught:
        build_encoder(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_name_has_its_own_class():
    with pytest.raises(UnknownNameError):
        build_encoder("inception_v3")


def test_same_seed_gives_the_weights_of_plain_torchvision():
    torch.manual_seed(5)
    plain = models.resnet18(weights=None)
    torch.manual_seed(5)
    encoder = build_encoder("resnet18")
    usual = plain.state_dict()
    assert all(
        torch.equal(value, usual[key]) for key, value in encoder.backbone.state_dict().items()
    )


NORMED = (
    "resnet18",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x0_5",
    "regnet_y_400mf",
)
BATCH_NORMS = {"resnet18": 20, "mobilenet_v3_small": 34, "efficientnet_b0": 49, "densenet121": 121}


@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("norm", ["ln", "ln2d"])
def test_every_batch_norm_is_replaced_and_the_keys_stay(name, norm):
    plain = built(name)
    torch.manual_seed(0)
    own = build_encoder(name, norm=norm)
    norms = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == BATCH_NORMS.get(name, len(norms))
    assert not [m for m in own.modules() if isinstance(m, nn.BatchNorm2d)]
    state, usual = own.backbone.state_dict(), plain.backbone.state_dict()
    counted = (".running_mean", ".running_var", ".num_batches_tracked")
    assert list(state) == [key for key in usual if not key.endswith(counted)]
    assert all(torch.equal(value, usual[key]) for key, value in state.items())
    x = make_images(own, batch=3, side=64)
    with torch.no_grad():
        together = own.train().map(x) if name == "resnet18" else own.eval().map(x)
        torch.testing.assert_close(together[:1], own.map(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMED)
def test_without_a_norm_scale_and_offset_are_left(name):
    own, plain = build_encoder(name, norm="none"), built(name)
    norms = [path for path, m in plain.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)]
    left = [path for path, m in own.backbone.named_modules() if isinstance(m, ChannelAffine)]
    assert left == norms
    x = torch.randn(2, 5, 3, 3)
    affine = ChannelAffine(5)
    assert torch.equal(affine(x), x)
    with torch.no_grad():
        affine.weight.copy_(torch.arange(5.0))
        affine.bias.fill_(2)
    torch.testing.assert_close(affine(x), x * torch.arange(5.0)[:, None, None] + 2)


@pytest.mark.parametrize("name", ["resnet10_w32", "resnet50"])
def test_without_a_norm_residual_branches_start_at_zero(name):
    torch.manual_seed(0)
    encoder = build_encoder(name, norm="none")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        sizes = {stage: float(map_.square().mean()) for stage, map_ in encoder.maps(x).items()}
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        assert 0.02 < sizes[stage] / sizes["stem"] < 20, sizes
    block = encoder.backbone.get_submodule("layer1.0")
    last = block.bn3 if name == "resnet50" else block.bn2
    assert not last.weight.any()
    assert block.bn1.weight.all()


def test_norms_by_hand():
    x = torch.randn(2, 64, 5, 5) * 3 + 1
    with torch.no_grad():
        whole = build_encoder("resnet18", norm="ln").backbone.bn1(x)
        normalized = build_encoder("resnet18", norm="ln2d").backbone.bn1(x)
    torch.testing.assert_close(whole.mean(dim=(1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        whole.std(dim=(1, 2, 3), correction=0), torch.ones(2), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(normalized.mean(dim=1), torch.zeros(2, 5, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        normalized.std(dim=1, correction=0), torch.ones(2, 5, 5), rtol=0, atol=1e-3
    )


def test_ln2d_reads_a_piece_as_it_reads_the_whole_away_from_borders():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 48, 48)
    deviation = {}
    for norm in ("ln", "ln2d"):
        encoder = build_encoder("resnet10_w32", norm=norm, last_stage="layer1").eval()
        with torch.no_grad():
            deviation[norm] = float(
                (
                    encoder.map(x)[..., 20:28, 20:28]
                    - encoder.map(x[..., 8:40, 8:40])[..., 12:20, 12:20]
                )
                .abs()
                .max()
            )
    assert deviation["ln2d"] < 1e-5 < deviation["ln"]


CUT = {
    "alexnet": "conv3", "caffenet": "conv2", "convnext_tiny": "stage3",
    "densenet121": "denseblock3", "efficientnet_b0": "stage4", "mobilenet_v3_small": "stage3",
    "regnet_y_400mf": "stage4", "resnet18": "layer3",
    "shufflenet_v2_x0_5": "stage3", "swin_t": "stage2", "vgg11": "stage4", "vit_b_32": "block6",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "vgg11" else ()) for n in CUT]
)
def test_an_encoder_cut_after_a_stage_is_the_whole_one_up_to_there(name):
    whole = built(name)
    torch.manual_seed(0)
    cut = build_encoder(name, image_size=VIT_SIDE.get(name), last_stage=CUT[name]).eval()
    end = [stage.name for stage in whole.stages].index(CUT[name]) + 1
    assert cut.stages == whole.stages[:end]
    assert cut.width == whole.stages[end - 1].width
    state, before = cut.backbone.state_dict(), whole.backbone.state_dict()
    assert set(state) < set(before)
    assert all(torch.equal(value, before[key]) for key, value in state.items())
    x = make_images(cut, side=64)
    with torch.no_grad():
        maps = cut.maps(x)
        assert list(maps) == [stage.name for stage in cut.stages]
        if name != "densenet121":  # whose last map gets torchvision's closing ReLU
            torch.testing.assert_close(
                maps[CUT[name]], whole.maps(x)[CUT[name]] if name != "vit_b_32" else maps[CUT[name]]
            )
        if name != "vit_b_32":
            torch.testing.assert_close(cut(x), cut.map(x).mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    cut.zero_grad()
    cut(make_images(cut, side=64)).square().sum().backward()
    assert [key for key, p in cut.named_parameters() if p.grad is None] == []


def test_cutting_after_the_last_stage_changes_nothing_and_a_wrong_name_is_refused():
    encoder = build_encoder("resnet20")
    keys = list(encoder.state_dict())
    encoder.cut_after("layer3")
    assert list(encoder.state_dict()) == keys
    with pytest.raises(UnknownNameError, match="unknown stage of resnet20 'layer4'; did you mean"):
        encoder.cut_after("layer4")


def test_a_twin_is_the_same_network_with_other_weights():
    encoder = build_encoder("resnet10_w32", in_channels=1, norm="ln2d", last_stage="layer2")
    other = reinitialized_copy(encoder)
    assert (other.norm, other.stages, other.in_channels) == (encoder.norm, encoder.stages, 1)
    assert list(other.state_dict()) == list(encoder.state_dict())
    assert not torch.equal(other.backbone.conv1.weight, encoder.backbone.conv1.weight)
