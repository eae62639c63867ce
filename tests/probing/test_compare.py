from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from ssltool.errors import UsageError
from ssltool.probing import compare as module
from ssltool.probing.compare import compare
from ssltool.probing.probe import ProbeOptions
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    given = {
        "data": ("demo:16",),
        "batch_size": 4,
        "steps": 1,
        "workers": 0,
        "backbone": "resnet20",
    }
    for name, method, more in (
        ("a/run", "jigsaw", {"image_size": 32}),
        ("b/run", "jigsaw", {"image_size": 32, "seed": 1}),
        ("c/cpc", "cpc", {"image_size": 20, "directions": 1}),
    ):
        values = {**given, **more, "out": folder / name, "precision": "fp32"}
        pretrain(RunConfig.merged(method, values), console=QUIET)
    return [folder / "a/run", folder / "b/run", folder / "c/cpc"]


def options(tmp_path: Path) -> ProbeOptions:
    return ProbeOptions.checked(
        weights=tmp_path,
        data=("demo:30",),
        test_data=("demo-test:10",),
        workers=0,
        grid_numbers=0,
        kinds=("linear", "knn"),
        cache=tmp_path / "cache",
    )


def test_runs_are_probed_once_and_stand_in_one_table(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = compare(
        runs,
        options(tmp_path),
        table=tmp_path / "t.csv",
        image=tmp_path / "t.svg",
        sort="knn5",
        console=QUIET,
    )
    names = [row["name"] for row in result["rows"]]
    own = {"a/run", "b/run", "c/cpc (whole)", "c/cpc (patch)"}
    assert own | {"pixels", "majority class"} < set(names)
    assert (
        sum(name.startswith("random init") for name in names) == 3
    )  # alike for a and b, two ways for cpc
    values = [row["knn5"] for row in result["rows"]]
    assert values == sorted(values, reverse=True)
    with (tmp_path / "t.csv").open(newline="") as opened:
        assert [row["name"] for row in csv.DictReader(opened)] == names
    assert "<svg" in (tmp_path / "t.svg").read_text()

    def not_again(*args: object, **kwargs: object) -> None:
        raise AssertionError("probed again")

    monkeypatch.setattr(module, "probe", not_again)
    again = compare(runs, options(tmp_path), sort="knn5", console=QUIET)
    assert json.dumps(again["rows"]) == json.dumps(result["rows"])
    with pytest.raises(AssertionError, match="probed again"):  # another seed is another protocol
        compare(runs, options(tmp_path).model_copy(update={"seed": 3}), console=QUIET)
    (runs[0] / "probe.json").write_text("{")
    with pytest.raises(AssertionError, match="probed again"):
        compare(runs, options(tmp_path), console=QUIET)


def test_wrong_columns_and_double_runs_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sort age: one of linear"):
        compare(runs, options(tmp_path), sort="age", console=QUIET)
    with pytest.raises(UsageError, match="twice"):
        compare([runs[0], runs[0]], options(tmp_path), console=QUIET)
