from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import load_encoder
from ssltool.errors import DataError, UsageError
from ssltool.visualizing.attribution import draw_attribution, overlaid, responses


@pytest.mark.slow
def test_responses_over_images_of_the_run_and_over_files(
    run: Path, photo: Path, tmp_path: Path, figure_bytes: Any
) -> None:
    result = draw_attribution(run, tmp_path / "a.png", count=2, stages=["layer2", "stem"])
    assert (result.images, list(result.stages)) == (2, ["stem", "layer2"])
    assert draw_attribution(run, tmp_path / "b.png", image=[photo]).images == 1
    alone = tmp_path / "alone" / "encoder.safetensors"  # weights that belong to no run
    alone.parent.mkdir()
    alone.write_bytes((run / "encoder.safetensors").read_bytes())
    assert draw_attribution(alone, tmp_path / "c.png", image=[photo]).images == 1
    for name in ("a", "b", "c"):
        figure_bytes(tmp_path / f"{name}.png")


def test_what_cannot_be_drawn_is_refused(run: Path, photo: Path, tmp_path: Path) -> None:
    weights = tmp_path / "encoder.safetensors"
    weights.write_bytes((run / "encoder.safetensors").read_bytes())
    with pytest.raises(UsageError, match="name images with --data"):
        draw_attribution(weights, tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"missing\.png is no file"):
        draw_attribution(run, tmp_path / "a.png", image=[tmp_path / "missing.png"])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        draw_attribution(run, tmp_path / "a.png", image=[tmp_path / "text.png"])
    with pytest.raises(UsageError, match="has the stages stem, layer1"):
        draw_attribution(run, tmp_path / "a.png", stages=["layer9"])
    with pytest.raises(UsageError, match=r"figures are written as \.png"):
        draw_attribution(run, tmp_path / "a.jpg", image=[photo])


def test_the_unit_is_the_response_of_a_usual_location(run: Path) -> None:
    encoder = load_encoder(run / "encoder.safetensors").eval()
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    for values in responses(encoder, encoder.transform, images, images).values():
        assert float(values.square().mean().sqrt()) == pytest.approx(1, abs=1e-4)


def test_stages_respond_where_an_image_differs_from_the_background(run: Path) -> None:
    encoder = load_encoder(run / "encoder.safetensors").eval()
    metadata = encoder.metadata
    assert metadata is not None
    plain = torch.full((4, 3, 32, 32), 100, dtype=torch.uint8)
    spot = plain[:1].clone()
    spot[..., 20:24, 4:8] = 255
    maps = responses(encoder, InputTransform.of(metadata, 32), plain, spot)
    assert list(maps) == [stage.name for stage in encoder.stages]
    stem = maps["stem"][0]
    y, x = divmod(int(stem.argmax()), stem.shape[1])  # nowhere at the border: no padding of zeros
    assert 18 <= y <= 25
    assert 2 <= x <= 9
    for values in maps.values():
        assert float(values.min()) >= 0
    mixed = overlaid(spot, maps["stem"] / maps["stem"].max())
    assert mixed.shape == (1, 3, 32, 32)
    bright, dark = mixed[0, :, 20:24, 4:8], mixed[0, :, 8:12, 20:24]
    assert int(bright.sum(dim=0).max()) > int(dark.sum(dim=0).max())
