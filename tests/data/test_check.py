"""Checking a set of images."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from rich.console import Console

from ssltool.data.check import SideStatistics, check


def test_counts_sizes_classes_and_duplicates(tmp_path: Path) -> None:
    for name, shade in (("a/one.png", 10), ("a/two.png", 10), ("b/three.png", 200)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 50), (shade, 0, 0)).save(path)
    (tmp_path / "b" / "text.jpg").write_text("no image")
    result = check([str(tmp_path)], Console(quiet=True))
    assert (result.images, result.readable, result.gray) == (4, 3, 0)
    assert result.classes == {"a": 2, "b": 1}
    assert result.short_side == SideStatistics(min=40, median=40, max=40)
    assert len(result.unreadable) == 1
    assert [[Path(name).name for name in names] for names in result.duplicates] == [
        ["one.png", "two.png"]
    ]


def test_nothing_readable_has_no_sizes(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    result = check(str(tmp_path), Console(quiet=True))
    assert (result.readable, result.short_side, result.classes) == (0, None, {})
