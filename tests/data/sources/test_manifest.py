"""Manifests: what is read, what is refused in one line, round trips of odd names."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ssltool.data.sources.manifest import ManifestSource, read_manifest
from ssltool.data.sources.registry import open_source, splits_of
from ssltool.errors import DataError, SslToolError, UsageError
from ssltool.probing.datasets import LabeledImages

_TEXT = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=20
)
_PATHS = st.lists(_TEXT, min_size=1, max_size=8, unique=True)


def images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (number * 9 % 256, 0, 0)).save(root / name)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """A manifest of rows, in the form of its ending."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


FORMS = [".csv", ".tsv", ".jsonl", ".parquet"]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=_PATHS, data=st.data())
def test_any_names_labels_and_splits_are_read_as_written(
    tmp_path: Path, form: str, paths: list[str], data: st.DataObject
) -> None:
    labels = data.draw(st.lists(_TEXT, min_size=len(paths), max_size=len(paths)))
    rows = [
        {"path": path, "label": label, "split": "s"}
        for path, label in zip(paths, labels, strict=True)
    ]
    file = write(tmp_path / f"m{form}", rows)
    found = list(read_manifest(str(file), "m"))
    assert [row.path for row in found] == paths
    expected = [unicodedata.normalize("NFC", label.strip()) for label in labels]
    assert [row.label or "" for row in found] == expected
    assert {row.split for row in found} == {"s"}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(["train", "test", "val", "fold 0"]), min_size=1, max_size=30))
def test_splits_are_disjoint_and_complete(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("m")
    files = [f"{number}.png" for number in range(len(names))]
    for file in files:
        (root / file).touch()
    rows = [{"path": f, "split": s} for f, s in zip(files, names, strict=True)]
    path = write(root / "m.csv", rows)
    parts = [ManifestSource(str(path), split) for split in dict.fromkeys(names)]
    paths = [part.path(index) for part in parts for index in range(len(part))]
    whole = open_source(path)
    assert sorted(paths) == sorted(whole.path(index) for index in range(len(whole)))
    assert len(set(paths)) == len(files)
    assert [whole.split(index) for index in range(len(whole))] == names  # the order of the lines


@pytest.mark.parametrize("form", FORMS)
def test_labels_splits_and_relative_paths(tmp_path: Path, form: str) -> None:
    images(tmp_path / "x", "b/2.png", "a/1.png", "c, d.png")
    other = tmp_path / "y" / 'e "quoted"\n.png'
    images(tmp_path / "y", other.name)
    rows = [
        {"file_name": "x/b/2.png", "class": "10", "set": "train"},
        {"file_name": "x/a/1.png", "class": "9", "set": "test"},
        {"file_name": "x/c, d.png", "class": "", "set": "train"},
        {"file_name": str(other), "class": "9", "set": "train"},
    ]
    path = write(tmp_path / f"list{form}", rows)
    source = open_source(path)
    assert source.classes == ("9", "10")
    assert [source.label(i) for i in range(4)] == [1, 0, None, 0]
    assert source.relative_path(0) == "x/b/2.png"
    assert source.read(3, 8).shape == (8, 8, 3)
    assert "\n" not in source.name(3)
    assert source.split(1) == "test"
    assert len(open_source(f"{path}:train")) == 3
    only = open_source(str(path), split="train")
    assert len(only) == 3
    assert "only train is read" in only.notes[0]
    assert splits_of(path)["test"].spec == f"{path}:test"
    assert source.fingerprint() == open_source(path).fingerprint()
    assert only.fingerprint() != source.fingerprint()


def test_probing_takes_the_splits_of_a_manifest(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(8)]
    images(tmp_path, *names)
    rows = [
        {"path": name, "label": "ab"[i % 2], "split": "train" if i < 6 else "test"}
        for i, name in enumerate(names)
    ]
    path = write(tmp_path / "m.csv", rows)
    labeled = LabeledImages([str(path)], workers=0)
    assert (labeled.count("train"), labeled.count("test")) == (6, 2)
    assert any(f"test images are those of {path}:test" in note for note in labeled.notes)


def test_a_manifest_of_absolute_paths_has_the_root_of_its_images(tmp_path: Path) -> None:
    images(tmp_path / "x", "a/1.png", "b/2.png")
    (tmp_path / "lists").mkdir()
    rows = [{"path": str(tmp_path / "x" / name)} for name in ("a/1.png", "b/2.png")]
    source = open_source(write(tmp_path / "lists" / "m.csv", rows))
    assert [source.relative_path(i) for i in range(2)] == ["a/1.png", "b/2.png"]


def test_a_name_that_is_not_utf_8_is_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    try:
        images(tmp_path, name)
    except OSError:
        pytest.skip("the file system has UTF-8 names only")
    (tmp_path / "m.csv").write_bytes(b"path\n\xff.png\n")
    source = open_source(tmp_path / "m.csv")
    assert source.read(0, 8).shape == (8, 8, 3)
    assert source.name(0).isprintable()


def test_labels_of_another_encoding_never_become_one_class(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    (tmp_path / "m.csv").write_bytes(b"path,label\n1.png,caf\xe9\n2.png,caf\xe8\n")
    with pytest.raises(DataError, match="line 2: a label is not UTF-8; save the file as UTF-8"):
        open_source(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "", "no column of paths: expected path or file_name or filename, found none"),
        ("m.csv", "name,label\n1.png,a\n", "no column of paths: .* found name, label; rename"),
        ("m.csv", "path\n", "no images in .*m.csv: it has no lines"),
        ("m.csv", "path\n1.png\n2.png\n", r"line 3: no file at .*2\.png \(1 of 2 are missing\)"),
        ("m.csv", "path\n1.png\n./1.png\n", "lines 2 and 3 both name .*1.png; list each"),
        ("m.csv", "path,label\n1.png,a,b\n", "line 2: 3 fields, but its header has 2; put names"),
        ("m.csv", 'path\n"1.png\n', "line 2: unexpected end of data"),
        ("m.csv", "path\n,\n", "line 2: 2 fields"),
        ("m.csv", 'path\n""\n', "line 2: its path is no path of a file"),
        ("m.jsonl", '{"path": "1.png"}\n{"path": 3}\n', "line 2: its path is no path"),
        ("m.jsonl", '{"path": "1.png", "label": 0.5}\n', "line 1: a label is a float, not text"),
        ("m.jsonl", "[1]\n", "line 1 is no JSON object"),
        ("m.jsonl", "{\n", "line 1: it is no JSON"),
        ("m.jsonl", '{"label": 1}\n', "line 1 has no column of paths"),
        ("m.csv", "path,label,Label\n1.png,a,b\n", "2 columns named label; rename all but one"),
        ("m.jsonl", '{"path": "1.png", "label": "\\ud800"}\n', "line 1: a label is not UTF-8"),
        ("m.parquet", "x", "no readable Parquet file"),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    images(tmp_path, "1.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_specs_that_cannot_be(tmp_path: Path) -> None:
    images(tmp_path, "1.png")
    path = write(tmp_path / "m.csv", [{"path": "1.png", "split": "train"}])
    with pytest.raises(UsageError, match="has no split 'tset'; its splits are train"):
        open_source(f"{path}:tset")
    with pytest.raises(UsageError, match=r"no file at .*missing\.csv"):
        open_source(tmp_path / "missing.csv")
    (tmp_path / "n.csv").write_text("path,split\n1.png,val\n2.png,validation\n")
    with pytest.raises(SslToolError, match="both val and validation are splits"):
        open_source(tmp_path / "n.csv")


def test_a_changed_image_or_label_changes_the_fingerprint(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    rows = [{"path": "1.png", "label": "a"}, {"path": "2.png", "label": "b"}]
    before = open_source(write(tmp_path / "m.csv", rows)).fingerprint()
    after = open_source(write(tmp_path / "m.csv", [rows[0], {**rows[1], "label": "a"}]))
    assert after.fingerprint() != before
    write(tmp_path / "m.csv", rows)
    assert open_source(tmp_path / "m.csv").fingerprint() == before
    os.utime(tmp_path / "2.png", (1, 1))
    assert open_source(tmp_path / "m.csv").fingerprint() != before
