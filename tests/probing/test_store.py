from __future__ import annotations

import io
import json
import os
import tempfile

import pytest
import torch
from rich.console import Console

from ssltool import atomic
from ssltool.errors import DataError, DiskFullError, WeightsError
from ssltool.probing import store
from ssltool.probing.store import FeatureStore, cache_key


def batches(count: int = 3):
    for i in range(count):
        yield (
            {"pooled": torch.full((2, 4), float(i)), "layer1 grid": torch.full((2, 3), -float(i))},
            torch.tensor([i, 9]),
        )


def test_what_is_put_comes_back(tmp_path):
    kept = FeatureStore(tmp_path / "deep" / "cache")
    put = kept.put("a", batches())
    got = FeatureStore(tmp_path / "deep" / "cache").get("a")
    assert got is not None
    for stored in (put, got):
        assert list(stored.stages) == ["pooled", "layer1 grid"]
        assert stored.stages["pooled"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
        assert stored.stages["layer1 grid"].shape == (6, 3)
        assert stored.indices.tolist() == [0, 9, 1, 9, 2, 9]
    assert kept.get("b") is None


def test_changing_what_was_read_back_does_not_change_the_file(tmp_path):
    kept = FeatureStore(tmp_path)
    kept.put("a", batches()).stages["pooled"].zero_()
    again = kept.get("a")
    assert again is not None
    assert again.stages["pooled"].sum() == 24


@pytest.mark.parametrize("damage", ["cut", "index", "missing"])
def test_a_damaged_entry_is_not_read(tmp_path, damage):
    kept = FeatureStore(tmp_path)
    kept.put("a", batches())
    if damage == "cut":
        (tmp_path / "a" / "0.f32").write_bytes(b"1234")
    elif damage == "index":
        (tmp_path / "a" / "index.json").write_text("{")
    else:
        (tmp_path / "a" / "1.f32").unlink()
    assert kept.get("a") is None
    assert kept.put("a", batches()).indices.shape == (6,)


def test_a_failed_write_leaves_nothing(tmp_path):
    kept = FeatureStore(tmp_path)

    def broken():
        yield from batches(1)
        yield {"pooled": torch.full((2, 4), torch.nan)}, torch.tensor([0, 1])

    with pytest.raises(WeightsError, match="'pooled' features hold NaN"):
        kept.put("a", broken())
    with pytest.raises(DataError, match="no images"):
        kept.put("b", iter(()))
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_is_evicted(tmp_path, monkeypatch):
    kept = FeatureStore(tmp_path)
    for i, name in enumerate("abc"):
        kept.put(name, batches())
        os.utime(tmp_path / name / "index.json", (i, i))
    size = sum(file.stat().st_size for file in (tmp_path / "a").iterdir())
    another = FeatureStore(tmp_path)
    assert another.get("a") is not None  # used now
    monkeypatch.setattr(store, "LIMIT", 3 * size)
    another.put("d", batches())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "c", "d"]


def test_without_a_folder_features_live_as_long_as_the_store():
    temporary = FeatureStore(None)
    temporary.put("a", batches())
    folder = temporary.folder
    assert folder.is_dir()
    del temporary
    assert not folder.exists()


def test_keys_are_a_function_of_their_content():
    assert cache_key(a=1, b=[2, 3]) == cache_key(b=[2, 3], a=1) != cache_key(a=1, b=[2, 4])


def test_what_a_command_uses_is_not_evicted_by_it(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LIMIT", 0)
    kept = FeatureStore(tmp_path)
    for name in "abc":
        kept.put(name, batches())
    assert all(kept.read(name).indices.shape == (6,) for name in "abc")
    FeatureStore(tmp_path).put("d", batches())
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


def abandoned(prefix):
    """Name of a temporary folder of a process that has ended."""
    return prefix + atomic.temporary_suffix().replace(f"-{os.getpid()}.", f"-{2**40}.")


def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path):
    (tmp_path / abandoned(".partial-x")).mkdir()
    (tmp_path / abandoned(".partial-x") / "0.f32").write_bytes(b"1234")
    (tmp_path / ".partial-old").mkdir()
    os.utime(tmp_path / ".partial-old", (0, 0))
    FeatureStore.open(tmp_path, Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_temporary_folders_of_killed_commands_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / abandoned("ssltool-features-x")).mkdir()
    temporary = FeatureStore(None)
    assert list(tmp_path.iterdir()) == [temporary.folder]
    FeatureStore(None)
    assert temporary.folder.is_dir()


def test_what_another_command_is_writing_counts(tmp_path, monkeypatch):
    kept = FeatureStore(tmp_path)
    kept.put("a", batches())
    size = sum(file.stat().st_size for file in (tmp_path / "a").iterdir())
    monkeypatch.setattr(store, "LIMIT", 2 * size)
    (tmp_path / ".partial-other").mkdir()
    (tmp_path / ".partial-other" / "0.f32").write_bytes(bytes(size))
    FeatureStore(tmp_path).put("b", batches())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".partial-other", "b"]


def test_a_user_without_a_home(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(store.Path, "home", homeless)
    console = Console(file=io.StringIO())
    kept = FeatureStore.open(store.default_folder(), console)
    assert kept.put("a", batches()).indices.shape == (6,)
    assert "features are not kept: no home folder" in console.file.getvalue()


def test_no_place_for_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(DiskFullError, match=r"no such file or directory.*TMPDIR"):
        FeatureStore(None)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": -3},
        {"rows": 0},
        {"rows": 2**62},
        {"rows": [3]},
        {"dims": {}},
        {"dims": {"a": 0}},
        {"dims": {"a": -2}},
        {"dims": []},
        {"unreadable": {"-1": "x"}},
        {"unreadable": {"x": "x"}},
        {"unreadable": {"1": 3}},
        {"more": 1},
    ],
)
def test_wrong_values_in_an_index_count_as_no_entry(tmp_path, change):
    features = FeatureStore(tmp_path)
    features.put("key", [({"a": torch.ones(3, 2)}, torch.arange(3))])
    index = tmp_path / "key" / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    assert features.get("key") is None


def test_indices_that_are_negative_count_as_no_entry(tmp_path):
    features = FeatureStore(tmp_path)
    features.put("key", [({"a": torch.ones(3, 2)}, torch.arange(3))])
    (tmp_path / "key" / "indices.i64").write_bytes(b"\xff" * 24)
    assert features.get("key") is None
