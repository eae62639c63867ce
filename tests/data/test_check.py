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


def test_a_class_of_unreadable_images_is_counted_as_zero(tmp_path: Path) -> None:
    for name in ("cat", "iphone"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "cat" / "1.png")
    for number in range(6):
        (tmp_path / "iphone" / f"IMG_{number}.JXL").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "@eaDir").mkdir()
    result = check(str(tmp_path), Console(quiet=True))
    assert (result.images, result.readable) == (7, 1)
    assert result.classes == {"cat": 1, "iphone": 0}
    assert set(result.unreadable.values()) == {
        "JXL is not readable here; convert it to JPEG or PNG"
    }
    assert result.notes == ("left out hidden or system folders (1): @eaDir",)
    assert result.splits == {}
