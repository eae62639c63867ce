"""The index of tar shards: when it is used, when it is not, and damage."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_shards import numbered, png, reds, tar

from ssltool.data.sources import shards
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.shard_index import (
    _write_table,
    load_table,
    read_index,
    write_index,
)
from ssltool.data.sources.shards import ShardSource, shard_paths
from ssltool.errors import UnreadableImage


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
        f"the index of {path} is out of date or damaged, so that all headers were read; type "
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
    for at in range(0, len(whole), 13 if damage == "flip" else len(whole)):
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
        {"nsamples": 1000},
        {"nsamples": [[[[1]]]]},
        {"filesize": -1},
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


@pytest.mark.parametrize(
    "text", ["[]", "[" * 100_000, '{"shardlist": [NaN]}', '{"shardlist": Infinity}', "9" * 5000]
)
def test_an_index_that_is_no_document_counts_as_none(text: str, tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.png": png(1)})
    (tmp_path / "index.json").write_text(text)
    assert reds(open_source(tmp_path)) == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": np.array([0, 1536, 3072])},
        {"offsets": np.array([-512, 1536, 3072])},
        {"offsets": np.array([512, 1536, 2**62])},
        {"sizes": np.array([-1, 1, 1])},
        {"sizes": np.array([1, 1, 2**62])},
        {"labels": np.array([0, 1, 7], np.int32)},
        {"labels": np.array([0, 1, -2], np.int32)},
        {"ends": np.array([5, 10, 10**9])},
        {"ends": np.array([5, 3, 15])},
        {"ends": np.array([-5, 10, 15])},
        {"offsets": np.array([512, 1536])},
        {"offsets": np.array([[512, 1536, 3072]])},
        {"offsets": np.array([512.0, 1536.0, 3072.0])},
        {"names": b"x" * 10**6},
    ],
)
def test_values_outside_of_the_shard_are_found(change: dict[str, Any], tmp_path: Path) -> None:
    """The digest of a forged table is right; what it says is not."""
    path = tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(3)})
    write_index(str(tmp_path), [str(path)])
    entry = read_index(str(tmp_path)).entries["a.tar"]
    table = load_table(str(path), entry)
    assert table is not None
    _write_table(str(path), replace(table, **change))
    assert load_table(str(path), entry) is None
    assert reds(open_source(tmp_path)) == [0, 1, 2]


def test_notes_of_indexed_shards_are_kept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tar(tmp_path / f"{name}.tar", {"1.png": png(1), "1.txt": b"caption"})
    plain = open_source(tmp_path).notes
    index = write_index(str(tmp_path), shard_paths(str(tmp_path)))
    assert plain == ("members left out that are neither image nor label: 2",)
    assert open_source(tmp_path).notes == plain
    assert index.left_out == {"members left out that are neither image nor label": 2}


def test_another_programs_index_is_no_obstacle(tmp_path: Path) -> None:
    numbered(tmp_path, [2])
    (tmp_path / "index.json").write_text(
        json.dumps({"wids_version": 1, "shardlist": [{"url": "train-0000.tar"}]})
    )
    assert len(open_source([str(tmp_path)])) == 2


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
