"""Tar shards: what is listed, labels, the index, ranges of names, damage, order of long lists."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssltool.data.loader import TrainBatches
from ssltool.data.sampler import Order
from ssltool.data.sources import shards
from ssltool.data.sources.base import JoinedSource
from ssltool.data.sources.folder import FolderSource
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shard_index import write_index
from ssltool.data.sources.shards import ShardSource, expand_braces, shard_paths
from ssltool.errors import DataError, SslToolError, UnreadableImage, UsageError


def png(value: int, side: int = 12) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))
    return path


def numbered(folder: Path, counts: list[int]) -> ShardSource:
    """Shards of red images, numbered through."""
    paths, number = [], 0
    for index, count in enumerate(counts):
        members = {}
        for _ in range(count):
            members |= {
                f"{number:06d}.png": png(number % 256),
                f"{number:06d}.cls": str(number % 3).encode(),
            }
            number += 1
        paths.append(str(tar(folder / f"train-{index:04d}.tar", members)))
    return ShardSource(paths, str(folder))


def reds(source: ShardSource) -> list[int]:
    return [int(source.read(index, 8)[0, 0, 0]) for index in range(len(source))]


def fails(kind: type[SslToolError], spec: Path | str) -> str:
    with pytest.raises(kind) as caught:
        open_source([str(spec)])
    text = str(caught.value)
    assert text.isprintable()
    return text


def test_images_and_classes_in_order(tmp_path: Path) -> None:
    source = numbered(tmp_path, [3, 2, 4])
    assert reds(source) == list(range(9))
    assert source.classes == ("0", "1", "2")
    assert [source.label(index) for index in range(9)] == [0, 1, 2] * 3
    assert source.name(4) == f"{tmp_path}/train-0001.tar/000004.png"
    assert source.short_side(0) == 12


def test_labels_and_masks_belong_to_the_image_of_their_key(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        {
            "x.y/one.cls": b"7\n",  # the class may come first
            "x.y/one.jpg.txt": b"no image",
            "x.y/one.png": png(1),
            "x.y/one.mask.png": png(99),  # one image per sample
            "x.y/two.seg.PNG": png(2),
            "x.y/two.json": b'{"label": "cat"}',
            "x.y/two.cls": b"3",  # a name wins over a number
            "three.png": png(3),
            "four.json": b"{broken",
            "four.png": png(4),
            "five.json": b'{"label": "no image"}',
        },
    )
    source = open_source([str(path)])
    assert reds(source) == [1, 2, 3, 4]
    assert source.classes == ("7", "cat")
    assert [source.label(index) for index in range(4)] == [0, 1, None, None]
    assert source.notes == (
        "1 files left out that are neither images nor labels",
        "1 images left out: another has their key, of which they may be a mask",
        "1 labels without an image",
    )


def test_numeric_classes_are_in_numerical_order(tmp_path: Path) -> None:
    members = {
        f"{n}.{ending}": data
        for n in (10, 9, 2)
        for ending, data in (("png", png(n)), ("cls", b"%d" % n))
    }
    assert open_source([str(tar(tmp_path / "a.tar", members))]).classes == ("2", "9", "10")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_odd_names(tmp_path: Path, form: int) -> None:
    source = open_source(
        [
            str(
                tar(
                    tmp_path / "a.tar",
                    {"d" * 200 + "/é.png": png(5), "new\nline.png": png(6)},
                    form,
                )
            )
        ]
    )
    assert reds(source) == [5, 6]
    assert source.name(0).endswith("d/é.png")
    assert source.name(1).isprintable()


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


def test_a_shard_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-0000.tar"
    numbered(tmp_path, [4])
    whole = path.read_bytes()
    path.write_bytes(whole[: 3 * 1024 + 520])
    assert "train-0000.tar" in fails(DataError, path)


def test_the_index_gives_the_same_list_without_reading_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = numbered(tmp_path, [3, 2])
    index = write_index(str(tmp_path), shard_paths(str(tmp_path)))
    assert index.images == 5
    assert index.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    document = json.loads((tmp_path / "index.json").read_text())
    assert [entry["nsamples"] for entry in document["shardlist"]] == [3, 2]
    monkeypatch.setattr(shards, "scan", lambda path: pytest.fail(f"{path} was scanned"))
    source = open_source([str(tmp_path)])
    assert (source.fingerprint(), source.classes) == (plain.fingerprint(), plain.classes)
    assert isinstance(source, ShardSource)
    assert not source._recent  # no table is read before an image is
    assert reds(source) == reds(plain)
    assert [source.label(index) for index in range(5)] == [plain.label(index) for index in range(5)]
    assert reds(pickle.loads(pickle.dumps(source))) == reds(plain)  # a spawned worker's copy


def test_the_least_recently_used_tables_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(tmp_path, [2] * 6)
    write_index(str(tmp_path), shard_paths(str(tmp_path)))
    monkeypatch.setattr(shards, "_CACHED_IMAGES", 4)
    source = ShardSource(shard_paths(str(tmp_path)), "x")
    assert reds(source) == list(range(12))
    assert list(source._recent) == [4, 5]


def test_a_shard_replaced_after_indexing(tmp_path: Path) -> None:
    numbered(tmp_path, [3, 2])
    write_index(str(tmp_path), shard_paths(str(tmp_path)))
    source = open_source([str(tmp_path)])
    numbered(tmp_path, [40])
    with pytest.raises(UnreadableImage, match="its shard has changed since it was opened"):
        source.read(0, 8)
    assert source.read(3, 8)[0, 0, 0] == 3
    (tmp_path / "train-0001.tar").unlink()
    with pytest.raises(UnreadableImage, match="no such file"):
        source.read(3, 8)


def entry_of(folder: Path) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads((folder / "index.json").read_text())["shardlist"][0]
    return entry


def test_an_index_of_a_changed_shard_is_not_used_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    old = {f"{n}.{end}": data for n in range(6) for end, data in (("png", png(n)), ("cls", b"0"))}
    tar(path, old)
    write_index(str(tmp_path), [str(path)])
    assert open_source(tmp_path).notes == ()
    tar(path, {name: b"1" if name.endswith("cls") else data for name, data in old.items()})
    assert path.stat().st_size == entry_of(tmp_path)["filesize"]
    source = open_source(tmp_path)
    assert source.classes == ("1",)
    assert source.notes == (
        f"{path} changed after index.json was written, so all their headers were read; type "
        f"'ssltool data index {tmp_path}'",
    )
    write_index(str(tmp_path), [str(path)])
    assert (open_source(tmp_path).notes, open_source(tmp_path).classes) == ((), ("1",))


def test_a_shard_of_the_same_size_and_time_gives_no_wrong_image(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)})
    write_index(str(tmp_path), [str(path)])
    stamp = path.stat().st_mtime_ns
    tar(path, {"2.png": png(2), "1.png": png(1)})
    os.utime(path, ns=(stamp, stamp))
    source = open_source(tmp_path)
    for index in range(2):
        with pytest.raises(UnreadableImage, match="its shard has changed"):
            source.read(index, 8)


@contextmanager
def suppress_changed() -> Iterator[None]:
    """Let a source refuse an image because the index does not fit the shard."""
    try:
        yield
    except UnreadableImage as error:
        if not re.search("its shard has changed|a class of its shard is not in", str(error)):
            raise


@pytest.mark.parametrize("which", ["index.json", "a.index.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "zeros", "gone"])
def test_a_damaged_index_counts_as_none(which: str, damage: str, tmp_path: Path) -> None:
    members = {
        f"{n}.{end}": data for n in range(3) for end, data in (("png", png(n)), ("cls", b"x"))
    }
    path = tar(tmp_path / "a.tar", members)
    write_index(str(tmp_path), [str(path)])
    target = tmp_path / which
    whole = target.read_bytes()
    for at in range(0, len(whole), 7 if damage == "flip" else len(whole)):
        changed = {
            "flip": whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :],
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "zeros": bytes(len(whole)),
            "gone": b"",
        }[damage]
        target.write_bytes(changed)
        if damage == "gone":
            target.unlink()
        source = open_source(tmp_path)
        # Never another image, name or class.
        with suppress_changed():
            assert reds(source) == [0, 1, 2]
            assert [source.classes[source.label(i) or 0] for i in range(3)] == ["x"] * 3
            assert [source.relative_path(i) for i in range(3)] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    "change",
    [
        {"nsamples": 10**12},
        {"nsamples": -1},
        {"nsamples": True},
        {"nsamples": 2.5},
        {"filesize": 10**30},
        {"sha256": 5},
        {"sha256": "0" * 64},
        {"url": None},
        {"left_out": []},
    ],
)
def test_wrong_values_in_an_index_are_found(change: dict[str, Any], tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(3)})
    write_index(str(tmp_path), [str(path)])
    document = json.loads((tmp_path / "index.json").read_text())
    document["shardlist"][0] |= change
    (tmp_path / "index.json").write_text(json.dumps(document))
    source = open_source(tmp_path)
    with suppress_changed():
        assert reds(source) == [0, 1, 2]


# What the members of a tar file are


def test_names_with_dots_are_images_of_their_own(tmp_path: Path) -> None:
    members = {f"scan.2024.{n:02d}.png": png(n) for n in range(12)}
    source = open_source(tar(tmp_path / "a.tar", members))
    assert (reds(source), source.notes) == (list(range(12)), ())
    numbered_copies = {f"img{end}.png": png(n) for n, end in enumerate(("", ".1", ".2"))}
    assert reds(open_source(tar(tmp_path / "b.tar", numbered_copies))) == [0, 1, 2]


def test_images_of_one_sample_without_a_main_one_share_its_label(tmp_path: Path) -> None:
    members = {"1.left.png": png(1), "1.right.png": png(2), "1.cls": b"cat", "2.png": png(3)}
    source = open_source(tar(tmp_path / "a.tar", members))
    assert [source.label(i) for i in range(len(source))] == [0, 0, None]


def test_labels_need_not_be_beside_their_images(tmp_path: Path) -> None:
    images = {f"./x/{n}.a.png": png(n) for n in range(4)}
    labels = {f"x/{n}.a.cls": str(n % 2).encode() for n in range(4)}
    source = open_source(tar(tmp_path / "a.tar", {**images, **labels}))
    assert (reds(source), source.notes) == ([0, 1, 2, 3], ())
    assert [source.label(i) for i in range(4)] == [0, 1, 0, 1]
    assert source.relative_path(0) == "x/0.a.png"
    assert source.path(0) == f"{tmp_path}/a.tar/./x/0.a.png"


def test_a_second_image_of_a_key_is_counted(tmp_path: Path) -> None:
    source = open_source(tar(tmp_path / "a.tar", {"1.jpg": png(1), "1.png": png(2)}))
    assert (len(source), len(source.notes)) == (1, 1)
    assert source.notes[0].startswith("1 images left out: another has their key")


def add(file: tarfile.TarFile, name: str, data: bytes = b"", **values: Any) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    for key, value in values.items():
        setattr(header, key, value)
    file.addfile(header, io.BytesIO(data))


def test_a_name_that_comes_twice_is_two_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:  # as of two archives appended
        for value in (1, 2):
            add(file, "0.png", png(value))
            add(file, "0.cls", str(value).encode())
    source = open_source(tmp_path / "a.tar")
    assert reds(source) == [1, 2]
    assert [source.label(i) for i in range(2)] == [0, 1]


def test_links_are_followed_or_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        add(file, "d/1.png", png(1))
        add(file, "d", type=tarfile.DIRTYPE)
        add(file, "hard.png", type=tarfile.LNKTYPE, linkname="d/1.png")
        add(file, "d/soft.png", type=tarfile.SYMTYPE, linkname="../later.png")
        add(file, "twice.png", type=tarfile.SYMTYPE, linkname="d/soft.png")
        add(file, "gone.png", type=tarfile.SYMTYPE, linkname="/elsewhere/1.png")
        add(file, "self.png", type=tarfile.SYMTYPE, linkname="self.png")
        add(file, "later.png", png(7))
        add(file, "pipe.png", type=tarfile.FIFOTYPE)
        add(file, "hard.cls", b"cat")
    source = open_source(tmp_path / "a.tar")
    assert reds(source) == [1, 1, 7, 7, 7]
    assert [source.label(i) for i in range(5)] == [None, 0, None, None, None]
    assert source.notes == ("2 links left out: there is no such member",)


def test_hidden_system_and_foreign_members(tmp_path: Path) -> None:
    members = {"1.png": png(1), "._1.png": b"x", "__MACOSX/2.png": b"x", "a/.x/3.png": b"x"}
    source = open_source(tar(tmp_path / "a.tar", {**members, "4.heic": b"ftypheic"}))
    assert len(source) == 2
    assert source.notes == ("3 hidden or system files left out",)
    with pytest.raises(UnreadableImage, match="HEIC is not readable here"):
        source.read(1, 8)


def test_classes_in_a_shard_are_in_nfc(tmp_path: Path) -> None:
    members = {"1.png": png(1), "1.cls": "cafe\u0301".encode()}
    members |= {"2.png": png(2), "2.json": '{"class": "caf\u00e9"}'.encode()}
    assert open_source(tar(tmp_path / "a.tar", members)).classes == ("caf\u00e9",)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(4)})
    whole = bytearray(path.read_bytes())
    whole[2 * 1024 + 20] ^= 1  # in the third header
    path.write_bytes(whole)
    assert "is damaged at byte 2048" in fails(DataError, path)


def test_data_after_the_end_and_a_missing_end_are_said(tmp_path: Path) -> None:
    first = tar(tmp_path / "a.tar", {"1.png": png(1)}).read_bytes()
    (tmp_path / "b.tar").write_bytes(first + first)
    assert open_source(tmp_path / "b.tar").notes == (
        "1 shards with more data after their end, which is not read",
    )
    (tmp_path / "c.tar").write_bytes(first[:1024])
    assert open_source(tmp_path / "c.tar").notes == (
        "1 shards without an end marker, which may be cut off",
    )


def test_notes_of_indexed_shards_are_kept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tar(tmp_path / f"{name}.tar", {"1.png": png(1), "1.txt": b"caption"})
    plain = open_source(tmp_path).notes
    index = write_index(str(tmp_path), shard_paths(str(tmp_path)))
    assert plain == ("2 files left out that are neither images nor labels",)
    assert open_source(tmp_path).notes == plain
    assert index.left_out == {"files left out that are neither images nor labels": 2}


def test_another_programs_index_is_no_obstacle(tmp_path: Path) -> None:
    numbered(tmp_path, [2])
    (tmp_path / "index.json").write_text(
        json.dumps({"wids_version": 1, "shardlist": [{"url": "train-0000.tar"}]})
    )
    assert len(open_source([str(tmp_path)])) == 2


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
