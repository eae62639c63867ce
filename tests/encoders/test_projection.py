"""The projection's file: the same vectors back, equal bytes, and every fault one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata, TrainingSummary
from ssltool.encoders.projection import (
    Projection,
    load_projection,
    projection_path,
    save_projection,
)
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import describe
from ssltool.errors import WeightsError


def metadata_of(encoder: Encoder, steps: int = 3) -> EncoderMetadata:
    training = TrainingSummary(
        ssltool="0",
        steps=steps,
        batch_size=4,
        images=9,
        read_size=16,
        optimizer="sgd",
        lr=0.1,
        seed=0,
        precision="fp32",
    )
    return describe(
        encoder,
        method="npid",
        color_space="rgb",
        image_size=16,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        training=training,
    )


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, EncoderMetadata, Projection]:
    torch.manual_seed(0)
    metadata = metadata_of(build_encoder("resnet20", image_size=16))
    projection = Projection.build(metadata.width, 8, norm=True)
    projection(torch.randn(50, metadata.width) * 3 + 1)  # running statistics
    weights = tmp_path / "encoder.safetensors"
    assert save_projection(projection, metadata, weights) == projection_path(weights)
    return weights, metadata, projection


def test_vectors_are_normalized_projections_by_hand(
    saved: tuple[Path, EncoderMetadata, Projection],
) -> None:
    weights, metadata, projection = saved
    loaded = load_projection(weights, metadata)
    assert loaded is not None
    assert not loaded.training
    x = torch.randn(5, metadata.width)
    norm = projection.norm
    centered = x @ projection.linear.weight.T + projection.linear.bias - norm.running_mean
    expected = centered / (norm.running_var + norm.eps).sqrt()
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert torch.allclose(loaded(x), expected, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(loaded(x), expected, atol=1e-6)  # fp32 at any precision


def test_equal_projections_give_equal_bytes_and_none_is_none(
    saved: tuple[Path, EncoderMetadata, Projection], tmp_path: Path
) -> None:
    weights, metadata, projection = saved
    other = save_projection(projection, metadata, tmp_path / "other.safetensors")
    assert other.read_bytes() == projection_path(weights).read_bytes()
    assert load_projection(tmp_path / "without.safetensors", metadata) is None


def test_faults_are_one_line(saved: tuple[Path, EncoderMetadata, Projection]) -> None:
    weights, metadata, _ = saved
    path = projection_path(weights)
    later = metadata_of(build_encoder("resnet20", image_size=16), steps=4)
    with pytest.raises(WeightsError, match="other steps"):
        load_projection(weights, later)
    content, tensors = path.read_bytes(), load_file(path)
    damaged = {
        "cut": content[:-8],
        "empty": b"",
        "text": b"no tensors",
    }
    for data in damaged.values():
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"projection.safetensors cannot be used") as error:
            load_projection(weights, metadata)
        assert "\n" not in str(error.value)
    save_file(tensors, path)  # without metadata
    with pytest.raises(WeightsError, match="cannot be used"):
        load_projection(weights, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("linear.bias"), "instead of"),
        (lambda t: t.update({"linear.bias": torch.zeros(9)}), r"linear.bias is \[9\]"),
        (lambda t: t.update({"linear.bias": torch.zeros(8).double()}), "float64"),
        (lambda t: t["linear.weight"].fill_(float("nan")), "NaN"),
    ],
)
def test_damaged_tensors_are_named(
    saved: tuple[Path, EncoderMetadata, Projection], change: object, message: str
) -> None:
    from safetensors import safe_open

    weights, metadata, _ = saved
    path = projection_path(weights)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    change(tensors)  # type: ignore[operator]
    save_file(tensors, path, metadata=header)
    with pytest.raises(WeightsError, match=message):
        load_projection(weights, metadata)
