"""Projection and memory bank of npid in the table of a probe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ssltool.encoders.projection import projection_path
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import Features
from ssltool.probing.memory import memory_vectors, with_memory
from ssltool.probing.store import StoredFeatures
from ssltool.runs.folder import Run

OWN = {"data": ("demo:16",), "test_data": ("demo-test:20",), "kind": ("knn",), "baselines": False}


def stored(stages: dict[str, torch.Tensor], indices: list[int]) -> StoredFeatures:
    return StoredFeatures(stages, torch.tensor(indices), torch.tensor(indices), {})


def test_the_bank_stands_for_training_images_and_the_projection_for_test_images() -> None:
    """An image that could not be read has no row."""
    vectors = torch.arange(12.0).view(6, 2)
    projected = torch.ones(3, 2)
    train = stored({"pooled": torch.zeros(4, 5), "projection": torch.zeros(4, 2)}, [0, 1, 4, 5])
    test = stored({"pooled": torch.zeros(3, 5), "projection": projected}, [0, 1, 2])
    features = Features(train, test, "key")
    added = with_memory(features, vectors)
    assert torch.equal(added.train.stages["bank"], vectors[[0, 1, 4, 5]])
    assert torch.equal(added.test.stages["bank"], projected)
    assert list(added.train.stages) == ["pooled", "projection", "bank"]
    assert "bank" not in features.train.stages
    assert len({features.key, added.key, with_memory(features, vectors + 1).key}) == 3


@pytest.mark.slow
@pytest.mark.ci
def test_projection_and_bank_are_rows_of_the_runs_own_images(npid_run: Path, probed: Any) -> None:
    record = probed(npid_run, **OWN)
    assert [row.stage for row in record.rows] == ["pooled", "projection", "bank"]
    assert [row.dim for row in record.rows] == [256, 128, 128]
    assert record.notes == ()
    assert probed(npid_run, **{**OWN, "kind": ("linear",)}).rows[-1].stage == "pooled"


@pytest.mark.slow
def test_other_images_have_no_rows_in_the_bank(npid_run: Path, probed: Any) -> None:
    record = probed(npid_run, **{**OWN, "data": ("demo:40",)})
    assert [row.stage for row in record.rows] == ["pooled", "projection"]
    (note,) = record.notes
    assert note.startswith("no bank row: the memory bank is of 16 ")


@pytest.mark.slow
def test_rows_follow_the_order_of_the_runs_images(npid_run: Path) -> None:
    """A fifth is held out here: each vector is that of the image it is read from."""
    data = LabeledImages(("demo:16",), workers=0)
    found = memory_vectors(npid_run / "encoder.safetensors", data)
    source, indices = data.rows_of("train")
    bank = Run.open(npid_run).load_method().memory.vectors
    assert found.vectors is not None
    assert torch.allclose(found.vectors, bank[indices])
    assert torch.allclose(F.normalize(found.vectors), found.vectors, atol=1e-3)
    assert 0 < len(indices) < len(source) == 16


@pytest.mark.slow
def test_weights_outside_of_a_run_have_a_projection_and_no_bank(
    npid_run: Path, probed: Any, tmp_path: Path
) -> None:
    weights = tmp_path / "encoder.safetensors"
    shutil.copy(npid_run / "encoder.safetensors", weights)
    assert [row.stage for row in probed(weights, **OWN).rows] == ["pooled"]
    shutil.copy(projection_path(npid_run / "encoder.safetensors"), projection_path(weights))
    record = probed(weights, **OWN)
    assert [row.stage for row in record.rows] == ["pooled", "projection"]
    assert record.notes == ()


@pytest.mark.slow
def test_a_run_of_another_version_has_no_bank_and_says_so(npid_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(npid_run, run)
    record = json.loads((run / "run.json").read_text())
    record["options"]["option_of_another_version"] = 1
    (run / "run.json").write_text(json.dumps(record))
    read = memory_vectors(run / "encoder.safetensors", LabeledImages(("demo:16",), workers=0))
    assert read.vectors is None
    assert "of another version of ssltool, or was edited" in read.note
