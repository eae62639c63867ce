"""Parquet files and Hugging Face datasets: rows by number, labels, splits, identity, refusals."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssltool.data.sources.registry import open_source, splits_of
from ssltool.data.sources.rows import RowSource
from ssltool.errors import DataError, UnreadableImage, UsageError

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (14, 12), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def value(source: Any, index: int) -> int:
    return int(source.read(index, 8)[0, 0, 0])


def saved(count: int = 6) -> Any:
    """A dataset of red images of value 10 i; label names are out of order."""
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["10", "9"])
    )
    rows = {
        "image": [{"bytes": png(10 * i), "path": None} for i in range(count)],
        "label": [i % 2 for i in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_dataset_saved_to_disk(tmp_path: Path) -> None:
    saved().save_to_disk(tmp_path / "d")
    source = open_source(f"hf:{tmp_path}/d")
    assert source.classes == ("9", "10")
    assert [source.label(i) for i in range(6)] == [1, 0] * 3
    assert [value(source, i) for i in range(6)] == [0, 10, 20, 30, 40, 50]
    assert source.fingerprint() == open_source(f"hf:{tmp_path}/d").fingerprint()
    assert str(tmp_path.resolve()) in source.location
    assert source.cacheable
    assert source.relative_path(3) == "row/3"


def test_lengths_are_those_of_the_encoded_images(tmp_path: Path) -> None:
    rows = saved().select([5, 0, 3])
    source = open_source(rows)
    assert [source.nbytes(i) for i in range(3)] == [len(png(v)) for v in (50, 0, 30)]
    (tmp_path / "1.png").write_bytes(png(1))
    table = pa.table({"image": [{"bytes": None, "path": "1.png"}, {"bytes": png(9), "path": None}]})
    parquet.write_table(table, tmp_path / "m.parquet")
    mixed = open_source(tmp_path / "m.parquet")
    assert [mixed.nbytes(i) for i in range(2)] == [len(png(1)), len(png(9))]


def test_splits_of_a_dataset(tmp_path: Path) -> None:
    both = datasets.DatasetDict(train=saved(6), validation=saved(4))
    both.save_to_disk(tmp_path / "d")
    spec = f"hf:{tmp_path}/d"
    assert len(open_source(spec, split="train")) == 6
    assert len(open_source(f"{spec}:validation")) == 4
    assert len(open_source(spec)) == 10
    assert {s: part.name for s, part in splits_of(spec).items()} == {
        "train": "train",
        "val": "validation",
    }
    with pytest.raises(UsageError, match="its splits are train, validation; type hf:"):
        open_source(f"{spec}:tset")
    with pytest.raises(UsageError, match=r"no folder at .*type hf:FOLDER"):
        open_source(f"hf:{tmp_path}/missing")


def test_a_selection_keeps_its_own_order_and_identity() -> None:
    rows = saved()
    picked = open_source(rows.select([4, 1]))
    assert [value(picked, i) for i in range(2)] == [40, 10]
    again, other = open_source(rows.select([4, 1])), open_source(rows.select([1, 4]))
    assert picked.fingerprint() == again.fingerprint() != other.fingerprint()


def test_a_transform_of_a_dataset_is_ignored(tmp_path: Path) -> None:
    saved().save_to_disk(tmp_path / "d")
    rows = datasets.load_from_disk(tmp_path / "d").with_transform(lambda batch: 1 / 0)
    assert value(open_source(rows), 2) == 20


def test_parquet_files_of_bytes(tmp_path: Path) -> None:
    for shard in range(2):
        table = pa.table(
            {
                "id": [1, 2, 3],
                "img": [png(30 * shard + 10 * i) for i in range(3)],
                "class": ["b", "a", None],
            }
        )
        parquet.write_table(table, tmp_path / f"{shard}.parquet")
    for spec in (tmp_path, f"{tmp_path}/*.parquet", f"{tmp_path}/{{0,1}}.parquet"):
        source = open_source(spec)
        assert [value(source, i) for i in range(6)] == [0, 10, 20, 30, 40, 50]
        assert [source.label(i) for i in range(6)] == [1, 0, None] * 2
        assert source.classes == ("a", "b")
    assert len(open_source(tmp_path / "1.parquet")) == 3


def test_parquet_files_change_with_their_file(tmp_path: Path) -> None:
    def written(start: int) -> Any:
        rows = [{"image": {"bytes": png(start + i), "path": f"{i}.png"}} for i in range(3)]
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
        os.utime(tmp_path / "x.parquet", (start, start))
        return open_source(tmp_path / "x.parquet")

    seen = []
    for start in (1, 100, 1):
        source = written(start)
        assert value(source, 1) == start + 1
        seen.append((source.fingerprint(), source.fingerprint(content=True)))
    assert seen[0] == seen[2]
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_splits_of_parquet_files(tmp_path: Path) -> None:
    for name, count in (("train-00000-of-00002", 2), ("train-00001-of-00002", 3), ("test", 1)):
        table = pa.table({"image": [png(i) for i in range(count)]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    assert len(open_source(tmp_path, split="train")) == 5
    assert len(open_source(tmp_path, split="test")) == 1
    assert len(open_source(tmp_path)) == 6
    column = tmp_path / "column.parquet"
    table = pa.table({"image": [png(i) for i in range(3)], "split": ["train", "test", "train"]})
    parquet.write_table(table, column)
    assert [value(open_source(column, split="train"), i) for i in range(2)] == [0, 2]
    assert value(open_source(f"{column}:test"), 0) == 1
    assert len(open_source(column)) == 3


def test_paths_in_rows_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.png").write_bytes(png(7))
    rows = [{"image": {"bytes": None, "path": path}} for path in ("x/1.png", "x/2.png", None)]
    rows.append({"image": {"bytes": None, "path": "https://example.com/1.png"}})
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet")
    assert value(source, 0) == 7
    for index, reason in ((1, "no such file"), (2, "has no image"), (3, "URL, which is not")):
        with pytest.raises(UnreadableImage, match=reason):
            source.read(index, 8)


def test_names_beside_images_make_no_manifest(tmp_path: Path) -> None:
    rows = [{"file_name": "gone.png", "image": {"bytes": png(3), "path": "gone.png"}}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert value(open_source(tmp_path / "x.parquet"), 0) == 3


def test_an_image_folder_by_datasets(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.png"):
        (tmp_path / "x" / name).parent.mkdir(parents=True)
        (tmp_path / "x" / name).write_bytes(png(9))
    source = open_source(f"hf:{tmp_path}/x")
    assert source.classes == ("a", "b")
    assert value(source, 0) == 9


@pytest.mark.parametrize(
    ("file", "content"), [("x.csv", "image\n1.png\n"), ("x.txt", "1.png"), ("x.jsonl", "{}")]
)
def test_other_builders_are_refused(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / file).write_text(content)
    with pytest.raises(DataError, match="builder of datasets, which is not used; expected Parquet"):
        open_source(f"hf:{tmp_path}/x")


def test_what_is_no_table_of_images_is_one_line(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [1], "b": [2.0]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no column of images: .* found a \(int64\), b \(float64"):
        open_source(tmp_path / "x.parquet")
    parquet.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="it has no rows"):
        open_source(tmp_path / "y.parquet")
    (tmp_path / "z.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="no readable Parquet file") as caught:
        open_source(tmp_path / "z.parquet")
    assert "\n" not in str(caught.value)


def test_rows_survive_a_copy_to_another_process(tmp_path: Path) -> None:
    saved().save_to_disk(tmp_path / "d")
    source = open_source(f"hf:{tmp_path}/d")
    assert isinstance(source, RowSource)
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, bytes([value(source, 5)]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == bytes([50])
    assert np.asarray(source.image(5, 12)).shape == (12, 14, 3)
