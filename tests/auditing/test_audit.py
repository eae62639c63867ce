from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ssltool
from ssltool.auditing.audit import _check_count, _described, findings, without_color
from ssltool.cli import run
from ssltool.errors import UsageError
from ssltool.methods.auditing import BASE, CHANCE, Comparison, Kind, Plan, constant
from ssltool.methods.jigsaw.task import Jigsaw
from ssltool.runs.audit_record import LEAST_SHARE, AuditRecord, Score, _percent

IMAGES = 100


def scores(mean: float, seed: int = 0, spread: float = 0.1) -> Tensor:
    values = torch.randn(IMAGES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + spread * (values - values.mean()) / values.std()


def plan_of(kind: Kind, *, error: bool = False, measure: str = "") -> Plan:
    conditions = dict.fromkeys([BASE, CHANCE, "with", "without"], constant(0.0))
    return Plan(
        "accuracy",
        "fraction",
        conditions,
        [Comparison("x", kind, "with", "without", measure)],
        error,
    )


@pytest.mark.parametrize("kind", list(LEAST_SHARE))
def test_the_rule_three_standard_errors_and_the_share_of_the_kind(kind: Kind) -> None:
    """The run has 0.5 above chance level; effects have a standard error of 0.01."""
    for part, expected in ((1.2, True), (0.8, False), (-1.2, False)):
        effect = 0.5 * part * LEAST_SHARE[kind]
        values = {BASE: scores(0.6), CHANCE: scores(0.1, spread=0.0)}
        values |= {"with": scores(0.5 + effect, 1), "without": scores(0.5, spread=0.0)}
        (found,) = findings(plan_of(kind), values)
        assert found.effect == pytest.approx(effect)
        assert found.standard_error == pytest.approx(0.01)
        assert found.share == pytest.approx(part * LEAST_SHARE[kind])
        assert found.found is expected


def test_an_effect_within_three_standard_errors_is_no_finding() -> None:
    values = {BASE: scores(0.6), CHANCE: scores(0.1, spread=0.0)}
    values |= {"with": scores(0.5, 1, spread=1.0), "without": scores(0.25, spread=0.0)}
    (found,) = findings(plan_of("cue"), values)
    assert found.share == pytest.approx(0.5)
    assert not found.found


def test_of_an_error_less_is_better() -> None:
    values = {BASE: scores(0.2), CHANCE: scores(1.0, spread=0.0)}
    values |= {"with": scores(0.2, 1), "without": scores(0.6, 2)}
    (found,) = findings(plan_of("cue", error=True), values)
    assert found.effect == pytest.approx(0.4)
    assert found.share == pytest.approx(0.5)


def test_a_run_at_chance_level_is_judged_by_measures_of_their_own_alone() -> None:
    values = {BASE: scores(0.1), CHANCE: scores(0.1, spread=0.0)}
    values |= {"with": scores(0.9, 1), "without": scores(0.1, spread=0.0)}
    (found,) = findings(plan_of("cue"), values)
    assert (found.share, found.found) == (None, False)
    (found,) = findings(plan_of("cue", measure="R^2"), values)
    assert (found.share, found.found) == (pytest.approx(0.8), True)


def test_gray_images_have_no_row_of_color() -> None:
    comparisons = [
        Comparison("color", "content", BASE, "gray", chromatic=True),
        Comparison("detail", "content", BASE, "blurred"),
    ]
    conditions = dict.fromkeys([BASE, CHANCE, "gray", "blurred", "alone"], constant(0.0))
    plan = Plan("accuracy", "fraction", conditions, comparisons)
    gray = torch.arange(4, dtype=torch.uint8).expand(2, 3, 4, 4)
    kept = without_color(plan, gray)
    assert [c.cue for c in kept.comparisons] == ["detail"]
    assert set(kept.conditions) == {BASE, CHANCE, "blurred", "alone"}
    colored = gray.clone()
    colored[0, 0, 0, 0] = 9
    assert without_color(plan, colored) == plan


def of(value: float) -> Tensor:
    return torch.full((16,), value, dtype=torch.float64)


def test_sixteen_images_that_agree_are_not_certain() -> None:
    values = {BASE: of(1.0), CHANCE: of(0.125), "with": of(1.0), "without": of(1.0)}
    plan = plan_of("cue")
    own = math.sqrt((1 / 32) * (31 / 32) / 16)
    (found,) = findings(plan, values)
    assert (found.effect, found.standard_error) == (0, pytest.approx(own * math.sqrt(2)))
    assert not found.found
    described = {score.name: score for score in _described(plan, values)}
    assert described[BASE].standard_error == pytest.approx(own)
    assert described[CHANCE].standard_error == 0
    (lost,) = findings(plan, values | {"without": of(0.0)})
    assert lost.found


def test_images_without_a_score_are_not_counted() -> None:
    few = torch.tensor([1.0] * 15 + [torch.nan] * 50, dtype=torch.float64)
    with pytest.raises(UsageError, match="colorization scores 15 of 65 images"):
        _check_count("colorization", few)
    _check_count("colorization", torch.cat([few, of(2.0)]))


def test_scores_that_no_cue_changes_have_no_effect_and_no_error() -> None:
    varied = scores(0.6)
    values = {BASE: varied, CHANCE: of(0.1).new_full((IMAGES,), 0.1)}
    (found,) = findings(plan_of("cue"), values | {"with": varied, "without": varied})
    assert (found.effect, found.standard_error) == (0, 0)
    silent = {"with": of(0.0), "without": of(0.0)}
    values = {BASE: scores(0.6)[:16], CHANCE: of(0.1), **silent}
    (structural,) = findings(plan_of("cue", measure="relative change"), values)
    assert (structural.effect, structural.standard_error) == (0, 0)


def record(found: Any, above: tuple[float, float] = (0.5, 0.01)) -> AuditRecord:
    names = {BASE: 0.6, CHANCE: 0.1, "with": 0.5, "without": 0.2}
    return AuditRecord(
        method="jigsaw",
        weights="runs/[a]",
        data="16 images",
        images=IMAGES,
        seed=0,
        metric="accuracy",
        unit="fraction",
        error=False,
        above_chance=above,
        scores=tuple(
            Score(name=n, value=v, standard_error=0.01, measure="") for n, v in names.items()
        ),
        findings=found,
        figure=None,
    )


def test_the_verdict_has_numbers_with_their_uncertainty() -> None:
    values = {BASE: scores(0.6), CHANCE: scores(0.1, spread=0.0)}
    used = values | {"with": scores(0.5, 1), "without": scores(0.2, spread=0.0)}
    lines = record(findings(plan_of("cue"), used)).verdict()
    assert len(lines) == 1
    assert lines[0].startswith("shortcut: x: 'without' costs +30.0 ± 1.0 points against 'with'")
    assert "60.0 ± " in lines[0]
    unused = values | {"with": scores(0.21, 1), "without": scores(0.2, spread=0.0)}
    found = record(findings(plan_of("cue"), unused))
    assert found.verdict() == [
        "no shortcut found: accuracy 60.0 ± 1.0 %, chance level 10.0 ± 1.0 %; at most x changes it "
        "by +1.0 ± 1.0 points"
    ]
    at_chance = record(findings(plan_of("cue"), unused), above=(0.01, 0.01)).verdict()
    assert at_chance[0].startswith("nothing to audit: accuracy 60.0")


def test_the_largest_change_is_one_of_the_score_and_not_of_another_measure() -> None:
    values = {BASE: scores(0.6), CHANCE: scores(0.1, spread=0.0)}
    values |= {"with": scores(0.25, 1), "without": scores(0.2, spread=0.0)}
    of_score = findings(plan_of("cue"), values)
    values["with"] = scores(0.35, 1)
    of_measure = findings(plan_of("cue", measure="R^2"), values)
    assert of_measure[0].share == pytest.approx(0.15)
    (line,) = record(of_measure + of_score).verdict()
    assert line.endswith("at most x changes it by +5.0 ± 1.0 points")
    (line,) = record(of_measure).verdict()
    assert line == "no shortcut found: accuracy 60.0 ± 1.0 %, chance level 10.0 ± 1.0 %"


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.0012, 0.0004, "0.12 ± 0.04 %"),
        (0.6, 0.0004, "60.00 ± 0.04 %"),
        (-0.0093, 0.129, "-0.9 ± 12.9 %"),
        (0.00043, 0.0, "0.043 %"),
        (0.25, 0.0, "25.0 %"),
        (0.5, 1e-9, "50.0 ± 0.0 %"),
    ],
)
def test_a_percentage_has_the_decimals_of_its_error(value: float, error: float, shown: str) -> None:
    assert _percent(value, error) == shown


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    options: dict[str, Any] = {"image_size": 32, "batch_size": 4, "steps": 2, "workers": 0}
    ssltool.pretrain("jigsaw", "demo:16", out=out, device="cpu", **options)
    return out


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_is_audited(
    trained_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["audit", "jigsaw", "--weights", str(trained_run), "--device", "cpu", "--quiet"]
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    kept = AuditRecord.read(trained_run / "audit.json")
    assert kept.to_dict() == document
    assert (trained_run / "figures" / "audit.png").stat().st_size > 10_000
    again = ssltool.audit(trained_run, device="cpu", to=tmp_path / "audit.svg")
    assert again.scores == kept.scores
    assert again.findings == kept.findings
    assert "edges and border pixels" in again._repr_html_()
    assert run(arguments) == 0
    assert "nothing to audit" in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_be_audited_is_one_line(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="a run of jigsaw, not of cpc"):
        ssltool.audit(trained_run, method="cpc", device="cpu")
    with pytest.raises(UsageError, match="8 images are too few"):
        ssltool.audit(trained_run, "demo:8", device="cpu")
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        ssltool.audit(trained_run, to="audit.jpg", device="cpu")
    monkeypatch.setattr(Jigsaw, "audit", None)
    with pytest.raises(UsageError, match="jigsaw has no audit"):
        ssltool.audit(trained_run, device="cpu")
