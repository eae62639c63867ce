from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssltool.errors import UsageError
from ssltool.probing import compare as module
from ssltool.probing.compare import compare
from ssltool.probing.options import CompareOptions
from ssltool.runs.probe_record import ProbeRecord

from .conftest import pretrained

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    small: dict[str, Any] = {"steps": 1, "backbone": "resnet20"}
    return [
        pretrained(folder / "a/run", "jigsaw", image_size=32, **small),
        pretrained(folder / "b/run", "jigsaw", image_size=32, seed=1, **small),
        pretrained(folder / "c/cpc", "cpc", image_size=20, directions=1, **small),
    ]


def options(runs: list[Path], tmp_path: Path, **more: Any) -> CompareOptions:
    return CompareOptions.checked(
        runs=tuple(runs),
        data=("demo:30",),
        test_data=("demo-test:10",),
        workers=0,
        grid_dim=0,
        kind=("linear", "knn"),
        cache=tmp_path / "cache",
        random_inits=1,
        **more,
    )


@pytest.mark.slow
@pytest.mark.ci
def test_runs_are_probed_once_and_ranked_in_one_table(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"csv": tmp_path / "t.csv", "to": tmp_path / "t.svg"}
    result = compare(options(runs, tmp_path, sort="knn5", **files), QUIET)
    names = [row.name for row in result.rows]
    own = {"a/run", "b/run", "c/cpc", "c/cpc (patches)"}
    assert own | {"raw pixels, 32 px", "raw pixels, 20 px", "majority class"} < set(names)
    # The same for a and b; two variants of cpc.
    assert sum(row.source.kind == "random_init" for row in result.rows) == 3
    values = [row.values["knn5"] for row in result.rows]
    assert values == sorted(values, reverse=True)
    with (tmp_path / "t.csv").open(newline="") as opened:
        assert [row["name"] for row in csv.DictReader(opened)] == names
    assert "<svg" in (tmp_path / "t.svg").read_text()
    table = result.table()
    assert [row[0] for row in table.rows] == names
    assert result.rows[table.best].source.kind == "pretrained"

    def not_again(*args: object, **kwargs: object) -> None:
        raise AssertionError("probed again")

    monkeypatch.setattr(module, "run_probe", not_again)
    assert compare(options(runs, tmp_path, sort="knn5"), QUIET).rows == result.rows
    with pytest.raises(AssertionError, match="probed again"):  # another seed is another protocol
        compare(options(runs, tmp_path, seed=3), QUIET)
    (runs[0] / "probe.json").write_text("{")
    with pytest.raises(AssertionError, match="probed again"):
        compare(options(runs, tmp_path), QUIET)


@pytest.mark.slow
@pytest.mark.ci
def test_shared_baselines_are_measured_once(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in runs[:2]:
        (run / "probe.json").unlink(missing_ok=True)
    calls = []
    original = module.run_probe

    def counted(*args: Any) -> ProbeRecord:
        cache = args[-1]
        before = set(cache)
        record = original(*args)
        calls.append(len(set(cache) - before))
        return record

    monkeypatch.setattr(module, "run_probe", counted)
    compare(options(runs[:2], tmp_path), QUIET)
    assert calls == [3, 1]  # weights, random init and pixels; then the weights alone


def test_unknown_columns_and_repeated_runs_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sort age: one of linear"):
        compare(options(runs, tmp_path, sort="age"), QUIET)
    with pytest.raises(UsageError, match="twice"):
        compare(options([runs[0], runs[0]], tmp_path), QUIET)
