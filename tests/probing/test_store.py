from __future__ import annotations

import pytest
import torch

from ssltool.errors import DataError, WeightsError
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
    import os

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
