from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from ssltool.data.sources.folder import FolderSource
from ssltool.errors import DataError, UsageError
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.label_file import ClassLabel, LabelFile


def images(root: Path, *names: str) -> FolderSource:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 50, 90)).save(path)
    return FolderSource(root)


def labels(root: Path, text: str, *sources: FolderSource) -> tuple[list[dict], list[str]]:
    path = root / "labels.csv"
    path.write_text(text, encoding="utf-8")
    matched, unmatched = LabelFile(path).match(sources)
    return [
        {source.relative_path(i): [c.name for c in classes] for i, classes in part.items()}
        for source, part in zip(sources, matched, strict=True)
    ], unmatched


def test_several_lines_or_several_classes_of_an_image(tmp_path: Path) -> None:
    source = images(tmp_path / "p", "1.png", "2.png", "3.png")
    text = "file,label\n1.png,red\n1.png,big\n2.png,blue;big\n2.png,blue\n3.png,\n"
    (found,), unmatched = labels(tmp_path, text, source)
    assert found == {"1.png": ["red", "big"], "2.png": ["blue", "big"], "3.png": []}
    assert unmatched == []


@pytest.mark.parametrize(
    "name",
    [
        "a/1.png",
        "./a//1.png",
        "p/a/1.png",
        "../p/a/1.png",
        "ABSOLUTE/p/a/1.png",
    ],
)
def test_paths_may_begin_at_any_folder_above_the_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "lists").mkdir()
    source = images(tmp_path / "p", "a/1.png", "b/a/2.png")
    text = f"{name.replace('ABSOLUTE', str(tmp_path))},red\n"
    (found,), _ = labels(tmp_path / "lists", text, source)
    assert found == {"a/1.png": ["red"]}


def test_a_bare_name_is_an_image_of_the_root_alone(tmp_path: Path) -> None:
    source = images(tmp_path / "p", "1.png", "a/1.png", "a/2.png")
    (found,), unmatched = labels(tmp_path, "1.png,red\n2.png,blue\n", source)
    assert found == {"1.png": ["red"]}
    assert unmatched == ["2.png"]


def test_a_line_that_names_two_images_is_refused(tmp_path: Path) -> None:
    sources = [images(tmp_path / split, "1.png", "2.png") for split in ("train", "test")]
    with pytest.raises(DataError, match=r"1\.png names .*train/1\.png as well as .*test/1\.png"):
        labels(tmp_path, "1.png,red\n2.png,blue\n", *sources)
    found, _ = labels(tmp_path, "train/1.png,red\ntrain/2.png,blue\ntest/1.png,blue\n", *sources)
    assert found == [{"1.png": ["red"], "2.png": ["blue"]}, {"1.png": ["blue"]}]


@pytest.mark.parametrize(
    "name",
    [
        "at 9.41\u202fAM.png",
        "a,b.png",
        'quo"te.png',
        "semi;colon.png",
        "what?.png",
        "$5.png",
        "?x.png",
        unicodedata.normalize("NFD", "é.png"),
    ],
)
def test_any_file_name_can_be_listed(tmp_path: Path, name: str) -> None:
    source = images(tmp_path / "p", name)
    quoted = '"' + unicodedata.normalize("NFC", name).replace('"', '""') + '"'
    (found,), unmatched = labels(tmp_path, f"{quoted},red\n", source)
    assert list(found.values()) == [["red"]]
    assert unmatched == []


def test_marks_in_class_names_are_escaped(tmp_path: Path) -> None:
    source = images(tmp_path, "1.png")
    path = tmp_path / "labels.csv"
    path.write_text(r"1.png,?cat;\?dog;a\;b;$5_bill$" + "\n", encoding="utf-8")
    (found,), _ = LabelFile(path).match([source])
    assert found[0] == (
        ClassLabel("cat", uncertain=True),
        ClassLabel("?dog"),
        ClassLabel("a;b"),
        ClassLabel("$5_bill$"),
    )


def test_a_class_folder_may_have_any_name(tmp_path: Path) -> None:
    images(tmp_path, *(f"{c}/{i}.png" for c in ("?what", "a;b") for i in range(5)))
    data = LabeledImages((str(tmp_path),), workers=0)
    assert data.classes == ("?what", "a;b")
    assert not data.multilabel


def test_the_header_alone_may_name_no_image(tmp_path: Path) -> None:
    source = images(tmp_path, "1.png")
    assert labels(tmp_path, "image,class\n1.png,red\n", source)[1] == []
    assert labels(tmp_path, "0.png,class\n1.png,red\n", source)[1] == ["0.png"]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    images(tmp_path / "p", *(f"{i}.png" for i in range(12)))
    lines = [f"{i}.png,{'ab'[i % 2]}\n" for i in range(10)]
    (tmp_path / "l.csv").write_text("".join([*lines, "gone.png,a\n"]), encoding="utf-8")
    data = LabeledImages((str(tmp_path / "p"),), label_file=tmp_path / "l.csv", workers=0)
    missing, unlabeled = data.notes
    assert missing.startswith("1 line names of") or "1 line names" in missing
    assert "gone.png" in missing
    assert "2 of 12 images" in unlabeled
    assert data.total("train") + data.total("test") == 10


@pytest.mark.parametrize("text", ["", "\n", "a.png", "a.png,x,y", ",x"])
def test_files_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="expected"):
        LabelFile(tmp_path / "labels.csv")


def test_a_file_that_lists_none_of_the_images_is_refused(tmp_path: Path) -> None:
    source = images(tmp_path / "p", "a/1.png")
    with pytest.raises(DataError, match=r"paths such as a/1\.png are expected"):
        labels(tmp_path, "1.png,red\n", source)


def test_without_a_class_is_unlabeled_unless_images_have_several(tmp_path: Path) -> None:
    images(tmp_path / "p", *(f"{i}.png" for i in range(13)))
    lines = [f"{i}.png,{'ab'[i % 2]}\n" for i in range(12)] + ["12.png,\n"]
    (tmp_path / "l.csv").write_text("".join(lines), encoding="utf-8")
    options = {"label_file": tmp_path / "l.csv", "workers": 0}
    single = LabeledImages((str(tmp_path / "p"),), **options)
    assert not single.multilabel
    assert single.total("train") + single.total("test") == 12
    assert any("1 of 13 images" in note and "12.png" in note for note in single.notes)
    (tmp_path / "l.csv").write_text("".join([*lines, "0.png,b\n"]), encoding="utf-8")
    several = LabeledImages((str(tmp_path / "p"),), **options)
    assert several.multilabel
    assert several.total("train") + several.total("test") == 13


@pytest.mark.parametrize("content", [b"a\0b,c\n", b"\xff,a\n", b"a," + b"x" * 200_000, b'"a,b\n'])
def test_damaged_files_are_one_short_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="lines such as") as caught:
        LabelFile(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbfa.jpg,dog\n")
    assert LabelFile(path)._first == "a.jpg"
