from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssltool.errors import DataError
from ssltool.methods.find import find_method
from ssltool.workflows.options import combine
from ssltool.workflows.pretrain import pretrain
from ssltool.workflows.probe import ProbeOptions, probe

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    given = {"data": ("demo:16",), "image_size": 32, "batch_size": 4, "steps": 2, "workers": 0, "out": out}
    pretrain(combine("jigsaw", find_method("jigsaw"), {**given, "precision": "fp32"}), console=QUIET)
    return out


def probed(run: Path, **changes: Any) -> dict[str, Any]:
    values = {"weights": run, "data": ("demo:200",), "test_data": ("demo-test:50",), "workers": 0}
    values |= {"grid_numbers": 128, **changes}
    return probe(ProbeOptions.checked(**values), QUIET)


def test_every_stage_is_probed_beside_random_weights_and_pixels(run: Path) -> None:
    result = probed(run)
    stages = ["pooled", "stem", "layer1", "layer2", "layer3", "layer4"]
    for name in ("jigsaw", "random weights"):
        rows = [row for row in result["rows"] if row["features"] == name]
        assert [row["stage"] for row in rows if not row["stage"].endswith("grid")] == stages
        assert {"linear", "knn20", "knn200"} <= set(rows[0])
    pixels = result["rows"][-1]
    assert (pixels["features"], pixels["numbers"]) == ("pixels", 3072)
    assert (result["train_pictures"], result["test_pictures"], len(result["classes"])) == (200, 50, 10)
    best = result["rows"][result["best"]]
    assert best["features"] == "jigsaw"
    assert best["linear"] == max(row["linear"] for row in result["rows"] if row["features"] == "jigsaw")


def test_the_same_command_gives_the_same_document(run: Path) -> None:
    changes = {"kinds": ("linear", "knn")}
    assert json.dumps(probed(run, **changes)) == json.dumps(probed(run, **changes))


def test_kinds_and_baselines_can_be_left_out(run: Path) -> None:
    rows = probed(run, kinds=("knn",), baselines=False)["rows"]
    assert [(row["features"], row["stage"]) for row in rows] == [("jigsaw", "pooled")]
    assert "linear" not in rows[0]


def test_without_test_pictures_a_fifth_is_held_out(run: Path) -> None:
    result = probed(run, test_data=(), kinds=("knn",), baselines=False)
    assert (result["train_pictures"], result["test_pictures"]) == (160, 40)


def test_unlabelled_pictures_and_unknown_classes_are_refused(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("flat/a.png", "odd/unheard/a.png", "odd/car/a.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    with pytest.raises(DataError, match="folder of their own"):
        probed(run, data=(str(tmp_path / "flat"),))
    with pytest.raises(DataError, match="unheard"):
        probed(run, test_data=(str(tmp_path / "odd"),))
