"""Tar shards: what is listed, ranges of names, and the order of long lists."""

from __future__ import annotations

import io
import tarfile
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
from made_shards import fails, numbered, png, reds, tar
from PIL import Image

from ssltool.data.loader import TrainBatches
from ssltool.data.sampler import Order
from ssltool.data.sources import shards
from ssltool.data.sources.folder import FolderSource
from ssltool.data.sources.joined import JoinedSource
from ssltool.data.sources.locations import expand_braces
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shard_index import write_index
from ssltool.data.sources.shards import ShardSource, shard_paths
from ssltool.errors import DataError, UsageError


def test_images_and_classes_in_order(tmp_path: Path) -> None:
    source = numbered(tmp_path, [3, 2, 4])
    assert reds(source) == list(range(9))
    assert source.classes == ("0", "1", "2")
    assert [source.label(index) for index in range(9)] == [0, 1, 2] * 3
    assert source.name(4) == f"{tmp_path}/train-0001.tar/000004.png"
    assert source.short_side(0) == 12


def test_a_folder_of_shards_and_a_range_are_the_same(tmp_path: Path) -> None:
    expected = numbered(tmp_path / "shards", [2, 2, 2]).fingerprint()
    (tmp_path / "shards" / ".hidden").touch()
    assert open_source([str(tmp_path / "shards")]).fingerprint() == expected
    assert open_source([f"{tmp_path}/shards/train-{{0000..0002}}.tar"]).fingerprint() == expected
    assert open_source([f"{tmp_path}/shards/train-{{0001..0002}}.tar"]).fingerprint() != expected


def test_a_folder_with_anything_else_is_a_folder(tmp_path: Path) -> None:
    numbered(tmp_path, [2])
    (tmp_path / "1.png").write_bytes(png(1))
    assert isinstance(open_source([str(tmp_path)]), FolderSource)
    assert shard_paths(str(tmp_path / "absent")) == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("x{a,b}{0..1}", ["xa0", "xb0", "xa1", "xb1"]),
        ("{}-{x}", ["{}-{x}"]),
        ("{,s}", ["", "s"]),
    ],
)
def test_braces(pattern: str, expected: list[str]) -> None:
    assert sorted(expand_braces(pattern)) == sorted(expected)


def test_what_is_missing_or_no_tar_is_named(tmp_path: Path) -> None:
    numbered(tmp_path, [1])
    text = fails(UsageError, f"{tmp_path}/train-{{0000..0003}}.tar")
    assert "train-0001.tar (3 of 4 are missing)" in text
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    assert "no readable tar file" in fails(DataError, tmp_path / "bad.tar")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as file:
        file.addfile(tarfile.TarInfo("a.png"))
    assert "not compressed" in fails(DataError, tmp_path / "packed.tar")
    (tmp_path / "packed.tar.gz").touch()
    assert "decompress" in fails(UsageError, tmp_path / "packed.tar.gz")
    assert "no images in" in fails(DataError, tar(tmp_path / "text.tar", {"a.txt": b"a"}))


def test_the_least_recently_used_tables_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(tmp_path, [2] * 6)
    write_index(str(tmp_path), shard_paths(str(tmp_path)))
    monkeypatch.setattr(shards, "_CACHED_IMAGES", 4)
    source = ShardSource(shard_paths(str(tmp_path)), "x")
    assert reds(source) == list(range(12))
    assert list(source._recent) == [4, 5]


# The order of long lists


def seen(order: Order, epoch: int, count: int, step: int) -> list[int]:
    return np.concatenate(
        [order.slice(epoch, b, min(b + step, count)) for b in range(0, count, step)]
    ).tolist()


def test_short_lists_are_shuffled_as_a_whole() -> None:
    whole = np.random.Generator(np.random.PCG64([5, 2])).permutation(100).tolist()
    assert seen(Order(100, (), 5), 2, 100, 7) == whole
    assert seen(Order(100, [40, 100], 5), 2, 100, 7) == whole
    assert seen(Order(100, (), 5, window=10), 2, 100, 7) == whole  # a folder, of whatever length


def test_long_lists_are_shuffled_window_by_window() -> None:
    ends = list(range(10, 101, 10))
    order = Order(100, ends, 0, window=30)
    first, second = seen(order, 0, 100, 7), seen(order, 1, 100, 7)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    parts = [set(first[begin : begin + 30]) for begin in (0, 30, 60)]
    assert all(
        len({index // 10 for index in part}) == 3 for part in parts
    )  # three whole shards each
    assert any(first[i] // 10 != first[i + 1] // 10 for i in range(9))  # mixed within
    # Any stretch can be asked for in any order, by anyone.
    assert Order(100, ends, 0, window=30).slice(1, 25, 65).tolist() == second[25:65]
    assert order.slice(0, 95, 100).tolist() == first[95:]


def test_a_chunk_longer_than_a_window() -> None:
    order = Order(100, [70, 80, 100], 3, window=30)
    assert sorted(seen(order, 0, 100, 9)) == list(range(100))


def test_ranks_share_a_global_batch_and_a_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssltool.data.sampler.WINDOW", 8)
    monkeypatch.setattr(Order.__init__, "__defaults__", (8,))
    source = numbered(tmp_path, [4, 3, 5, 4, 4])

    def taken(start: int, count: int, workers: int = 0, **rank: int) -> list[list[int]]:
        options = {"size": 8, "batch_size": 4, "seed": 1, "workers": workers, **rank}
        with TrainBatches(source, **options) as batches:
            read = list(islice(batches.from_step(start), count))
        assert all(batch.images[:, 0, 0, 0].tolist() == batch.indices.tolist() for batch in read)
        return [batch.indices.tolist() for batch in read]

    whole = taken(0, 10)
    assert sorted(chain.from_iterable(whole[:5])) == list(range(20))
    assert taken(3, 7, workers=2) == whole[3:]
    halves = [taken(0, 5, rank=rank, world=2, batch_size=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole[:5]


def test_a_folder_beside_shards(tmp_path: Path) -> None:
    source = numbered(tmp_path / "shards", [3, 2])
    (tmp_path / "folder").mkdir()
    for number in range(3):
        (tmp_path / "folder" / f"{number}.png").write_bytes(png(100 + number))
    folder = FolderSource(tmp_path / "folder")
    assert list(JoinedSource([folder, source]).chunks) == [3, 6, 8]
    assert list(JoinedSource([folder, folder]).chunks) == []


def test_webdataset_reads_what_we_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    source = numbered(tmp_path, [3])
    samples = list(webdataset.WebDataset(str(tmp_path / "train-0000.tar"), shardshuffle=False))
    assert [sample["cls"] for sample in samples] == [b"0", b"1", b"2"]
    assert [sample["__key__"] for sample in samples] == [f"{n:06d}" for n in range(3)]
    assert reds(source) == [
        Image.open(io.BytesIO(sample["png"])).getpixel((0, 0))[0] for sample in samples
    ]
