"""Initial weights: prefixes, heads, positions and channels of files of other libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision import models

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.initial_weights import (
    find_prefix,
    gray_kernels,
    initialize,
    interpolate_grid,
)
from ssltool.encoders.metadata import InitialWeights
from ssltool.encoders.registry import build_encoder
from ssltool.errors import WeightsError

timm = pytest.importorskip("timm")


def written(tensors: dict[str, Tensor], folder: Path) -> Path:
    path = folder / "w.safetensors"
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path)
    return path


def resnet(**options: object) -> Encoder:
    return build_encoder("resnet10_w32", **options)  # type: ignore[arg-type]


def equal(encoder: Encoder, tensors: dict[str, Tensor]) -> bool:
    state = encoder.backbone.state_dict()
    return all(torch.equal(state[key], tensors[key]) for key in state)


PREFIXES = [
    "",
    "module.",
    "backbone.",
    "encoder.",
    "teacher.backbone.",
    "module.encoder_q.",
    "x.y.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    source = resnet().backbone.state_dict()
    head = {f"{prefix}fc.weight": torch.zeros(5, 9), "projector.0.weight": torch.zeros(2)}
    path = written({prefix + key: t for key, t in source.items()} | head, tmp_path)
    encoder = resnet()
    record = initialize(encoder, path)
    assert equal(encoder, source)
    assert (record.loaded, record.prefix, record.converted) == (len(source), prefix, ())
    assert sorted(record.left_out) == sorted(
        [f"{prefix.split('.')[0]} (1)" if prefix else "fc (1)", "projector.0 (1)"]
    )


def test_the_teacher_is_taken() -> None:
    keys = [f"{who}.backbone.{key}" for who in ("student", "teacher") for key in ("a", "b.c")]
    assert find_prefix(keys, ["a", "b.c"]) == "teacher.backbone."


def test_a_vision_transformer_of_dino(tmp_path: Path) -> None:
    """A teacher of 224 px with its head, into an encoder for gray images of 32 px."""
    large = timm.create_model("test_vit", num_classes=0, img_size=224)
    heads = {"teacher.head.mlp.0.weight": torch.zeros(4, 4), "student.a": torch.zeros(1)}
    dino = {f"teacher.backbone.{key}": t for key, t in large.state_dict().items()} | heads
    encoder = build_encoder("timm/test_vit", image_size=32, in_channels=1)
    record = initialize(encoder, written(dino, tmp_path))
    assert record.converted == (
        "patch_embed.proj.weight from 3 to 1 channels",
        "pos_embed from 14x14 to 2x2 positions",
    )
    assert record.left_out == ("student (1)", "teacher (1)")
    state = encoder.backbone.state_dict()
    expected = timm.layers.resample_abs_pos_embed(
        large.state_dict()["pos_embed"], (2, 2), num_prefix_tokens=large.num_prefix_tokens
    )
    assert torch.allclose(state["pos_embed"], expected, rtol=0, atol=1e-6)
    assert torch.equal(state["blocks.0.norm1.weight"], large.state_dict()["blocks.0.norm1.weight"])


@pytest.mark.slow
def test_a_vision_transformer_of_torchvision(tmp_path: Path) -> None:
    state = build_encoder("vit_b_32", image_size=96).backbone.state_dict()
    encoder = build_encoder("vit_b_32", image_size=64)
    record = initialize(encoder, written(state, tmp_path))
    assert record.converted == ("encoder.pos_embedding from 3x3 to 2x2 positions",)
    own = encoder.backbone.state_dict()["encoder.pos_embedding"]
    expected = timm.layers.resample_abs_pos_embed(state["encoder.pos_embedding"], (2, 2))
    assert torch.allclose(own, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_relative_position_biases_are_interpolated(tmp_path: Path) -> None:
    large = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=56)
    encoder = build_encoder("timm/swin_tiny_patch4_window7_224", image_size=32)
    record = initialize(encoder, written(large.state_dict(), tmp_path))
    assert any("relative_position_bias_table from" in line for line in record.converted)


@settings(max_examples=25)
@given(
    before=st.integers(2, 9),
    after=st.integers(1, 9),
    prefix=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_interpolation_is_timms(before: int, after: int, prefix: int, seed: int) -> None:
    table = torch.randn(1, prefix + before**2, 8, generator=torch.Generator().manual_seed(seed))
    expected = timm.layers.resample_abs_pos_embed(
        table, (after, after), (before, before), num_prefix_tokens=prefix
    )
    own = torch.cat([table[0, :prefix], interpolate_grid(table[0, prefix:], after)])
    assert torch.allclose(own, expected[0], rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(out=st.integers(1, 6), kernel=st.sampled_from([1, 3, 7]), seed=st.integers(0, 99))
def test_gray_kernels_see_gray_as_color_kernels_do(out: int, kernel: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    kernels = torch.randn(out, 3, kernel, kernel, generator=generator, dtype=torch.float64)
    gray = torch.randn(2, 1, 8, 8, generator=generator, dtype=torch.float64)
    expected = F.conv2d(gray.expand(-1, 3, -1, -1), kernels)
    assert torch.allclose(F.conv2d(gray, gray_kernels(kernels)), expected)


@torch.no_grad()
@pytest.mark.parametrize("channels", [(3, 1), (1, 3)])
def test_channels_are_converted(channels: tuple[int, int], tmp_path: Path) -> None:
    before, after = (resnet(in_channels=c).eval() for c in channels)
    record = initialize(after, written(before.backbone.state_dict(), tmp_path))
    assert record.converted == (f"conv1.weight from {channels[0]} to {channels[1]} channels",)
    gray = torch.randn(2, 1, 32, 32)
    same = [e(gray.expand(-1, e.in_channels, -1, -1)) for e in (before, after)]
    assert torch.allclose(*same, atol=1e-5)


@pytest.mark.slow
def test_what_was_cut_or_replaced_is_left_out(tmp_path: Path) -> None:
    source = models.resnet18().state_dict()
    encoder = build_encoder("resnet18", norm="ln", last_stage="layer3")
    record = initialize(encoder, written(source, tmp_path))
    assert equal(encoder, source)
    assert {each.split(" (")[0] for each in record.left_out} == {
        "batch norm statistics",
        "fc",
        "layer4.0",
        "layer4.1",
    }


@pytest.mark.slow
def test_a_deeper_network_is_refused(tmp_path: Path) -> None:
    path = written(models.resnet34().state_dict(), tmp_path)
    with pytest.raises(WeightsError, match=r"layer1\.2\..* is unexpected.*name the --backbone"):
        initialize(build_encoder("resnet18"), path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = written({"a.b": torch.zeros(1), "c": torch.zeros(2)}, tmp_path)
    with pytest.raises(WeightsError, match=r"holds no tensor of resnet10_w32: its keys are a"):
        initialize(resnet(), path)


@pytest.mark.slow
def test_a_wider_network_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    wider = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    encoder = build_encoder("timm/test_vit", image_size=32)
    before = {key: t.clone() for key, t in encoder.backbone.state_dict().items()}
    with pytest.raises(WeightsError, match=r"instead of .*name the --backbone"):
        initialize(encoder, written(wider.state_dict(), tmp_path))
    assert equal(encoder, before)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"is a pickle.*never read; convert"):
        initialize(resnet(), tmp_path / "w.pth")


def test_the_line_is_short() -> None:
    record = InitialWeights(
        loaded=3, prefix="p.", left_out=tuple(f"a{n} (1)" for n in range(9)), converted=("x",)
    )
    assert record.line() == (
        "3 tensors after the prefix p.; converted x; left out a0 (1), a1 (1), a2 (1), a3 (1), "
        "a4 (1), a5 (1) and 3 more"
    )


def test_the_generator_is_left_as_it_was(tmp_path: Path) -> None:
    path, encoder = written(resnet().backbone.state_dict(), tmp_path), resnet()
    state = torch.random.get_rng_state()
    initialize(encoder, path)
    assert torch.equal(state, torch.random.get_rng_state())
