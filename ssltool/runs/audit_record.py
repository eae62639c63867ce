"""The record of an audit, ``audit.json``: conditions, findings and a verdict in words."""

from __future__ import annotations

import math
from typing import Any, Literal

from ssltool.methods.auditing import BASE, CHANCE, Kind
from ssltool.plotting.units import Unit
from ssltool.runs.records import Part, Record
from ssltool.runs.tables import Table

AUDIT_FILE = "audit.json"

LEAST_SHARE: dict[Kind, float] = {
    "cue": 0.2,
    "guard": 0.2,
    "answer": 0.8,
    "probe": 0.5,
    "content": 0.2,
}
"""Share of the score above chance level from which an effect counts, by kind."""


class Score(Part):
    """A condition.

    Attributes:
        name: Of the condition.
        value: Mean over the images.
        standard_error: Of the mean.
        measure: What it measures, if not the metric of the audit.
    """

    name: str
    value: float
    standard_error: float
    measure: str


class Finding(Part):
    """A comparison of two conditions.

    Attributes:
        cue: Name of the cue.
        kind: ``cue``, ``guard``, ``content``, ``probe`` or ``answer``.
        present: Name of the condition in which the cue is there.
        absent: Name of the condition in which it is not.
        measure: What both measure, if not the metric of the audit.
        effect: How much better the score is with the cue: for an error, how much less.
        standard_error: Of the paired difference.
        share: The effect as a share of what the run has above chance level; of a measure of its
            own, the effect itself. None if the run is not above chance level.
        share_error: Standard error of the share.
        found: Whether the effect is more than 3 standard errors above zero and its share more than
            `LEAST_SHARE` of the kind.
    """

    cue: str
    kind: Kind
    present: str
    absent: str
    measure: str
    effect: float
    standard_error: float
    share: float | None
    share_error: float | None
    found: bool


class AuditRecord(Record):
    """``audit.json``: how much of a run's pretext answer is a shortcut.

    Attributes:
        method: Name of the method.
        weights: The run audited.
        data: Its images, in words.
        images: Number of images.
        seed: Seed of the tasks.
        metric: Name of the score.
        unit: Of the score.
        error: Whether the score is an error, smaller where the network is better.
        above_chance: How much better than chance level the run is: mean and standard error.
        scores: Every condition.
        findings: Every comparison.
        figure: Path of the figure.
    """

    format: Literal[1] = 1
    method: str
    weights: str
    data: str
    images: int
    seed: int
    metric: str
    unit: Unit
    error: bool
    above_chance: tuple[float, float]
    scores: tuple[Score, ...]
    findings: tuple[Finding, ...]
    figure: str | None

    @property
    def learned(self) -> bool:
        """Whether the run is more than 3 standard errors above chance level."""
        return self.above_chance[0] > 3 * self.above_chance[1]

    @property
    def shortcuts(self) -> tuple[Finding, ...]:
        """What the run was found to use."""
        return tuple(f for f in self.findings if f.found and f.kind in ("cue", "guard", "answer"))

    def score(self, name: str) -> Score:
        """A condition by name."""
        return next(score for score in self.scores if score.name == name)

    def verdict(self) -> list[str]:
        """In words, with uncertainty: what was found, and what was not."""
        lines = [self._sentence(finding) for finding in self.findings if finding.found]
        scores = f"{self.metric} {self._written(BASE)}, chance level {self._written(CHANCE)}"
        if not self.learned:
            lines.insert(0, f"nothing to audit: {scores}: the task is not learned; train longer")
        elif not self.shortcuts:
            tested = [f for f in self.findings if f.kind in ("cue", "guard") and not f.measure]
            largest = max(tested, key=lambda f: f.effect, default=None)
            most = (
                f"; at most {largest.cue} changes it by {self._effect(largest)}" if largest else ""
            )
            lines.insert(0, f"no shortcut found: {scores}{most}")
        return lines

    def tables(self) -> list[Table]:
        """The findings, for display."""
        title = (
            f"{self.method}, {self.weights}: {self.metric} {self._written(BASE)} on {self.images} "
            f"images of {self.data}, chance level {self._written(CHANCE)}"
        )
        columns = ("kind", "cue", "with it", "without it", "effect", "share", "finding")
        kinds = list(LEAST_SHARE)
        ordered = sorted(self.findings, key=lambda finding: kinds.index(finding.kind))
        return [Table(title, columns, [self._row(f) for f in ordered], text_columns=2)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return {**self.model_dump(mode="json"), "verdict": self.verdict()}

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        return "".join(table.html() for table in self.tables())

    def _row(self, finding: Finding) -> tuple[str, ...]:
        share = "" if finding.share is None else _percent(finding.share, finding.share_error or 0.0)
        return (
            finding.kind,
            finding.cue,
            self._written(finding.present),
            self._written(finding.absent),
            self._effect(finding),
            share,
            _NAMES[finding.kind] if finding.found else "-",
        )

    def _sentence(self, finding: Finding) -> str:
        share = _percent(finding.share or 0.0, finding.share_error or 0.0)
        of = finding.measure or f"what {self.metric} has above chance level"
        effect = self._effect(finding)
        match finding.kind:
            case "answer":
                return f"shortcut: {finding.cue}: '{finding.present}' has {share} of {of}"
            case "probe":
                score = self._written(finding.present)
                return f"open: {finding.cue} alone: '{finding.present}' reaches {score}"
            case "guard":
                return f"shortcut: {finding.cue}: the score changes by {effect}, {share} of {of}"
            case "content":
                return f"relies on {finding.cue}: the score changes by {effect}, {share} of {of}"
        return (
            f"shortcut: {finding.cue}: '{finding.absent}' costs {effect} against "
            f"'{finding.present}', {share} of {of}"
        )

    def _written(self, name: str) -> str:
        score = self.score(name)
        if score.measure or self.unit == "fraction":
            return _percent(score.value, score.standard_error)
        error = f" ± {score.standard_error:.1g}" if score.standard_error else ""
        return f"{score.value:.4g}{error} {self.unit}".strip()

    def _effect(self, finding: Finding) -> str:
        if finding.measure or self.unit == "fraction":
            digits = _decimals(finding.standard_error)
            effect, error = 100 * finding.effect, 100 * finding.standard_error
            return f"{effect:+.{digits}f} ± {error:.{digits}f} points"
        return f"{finding.effect:+.3g} ± {finding.standard_error:.1g} {self.unit}".strip()


_NAMES: dict[Kind, str] = {
    "cue": "shortcut",
    "guard": "shortcut",
    "answer": "shortcut",
    "content": "relied on",
    "probe": "open",
}


def _percent(value: float, error: float) -> str:
    if error:
        digits = _decimals(error)
        return f"{100 * value:.{digits}f} ± {100 * error:.{digits}f} %"
    # A small fraction, such as the chance level among thousands, keeps two digits.
    return f"{100 * value:.2g} %" if 0 < abs(value) < 0.01 else f"{100 * value:.1f} %"


def _decimals(error: float) -> int:
    """Decimals of a percentage with a standard error 0..1: enough to show it if it is more than
    rounding.
    """
    return max(1, -math.floor(math.log10(100 * error))) if error >= 1e-6 else 1
