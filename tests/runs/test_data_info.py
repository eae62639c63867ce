from __future__ import annotations

from pathlib import Path

from PIL import Image

from ssltool.data.sources.registry import open_source
from ssltool.runs.data_info import inspect


def test_a_channel_without_contrast_can_be_divided_by(tmp_path: Path) -> None:
    for shade in (10, 200):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    assert inspect(open_source((str(tmp_path),)), 8).std[1:] == (1 / 255, 1 / 255)
