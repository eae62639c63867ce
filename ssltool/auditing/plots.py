"""The figure of an audit: the score under each condition beside chance level."""

from __future__ import annotations

from ssltool.methods.auditing import BASE, CHANCE
from ssltool.plotting.colors import BASELINE
from ssltool.plotting.records import Bars, Level
from ssltool.plotting.units import axis_label, display_scale
from ssltool.runs.audit_record import AuditRecord, Score

_FOUND, _NAMED = 1, 5  # colors of the palette: what a shortcut was found by, and all else


def condition_bars(record: AuditRecord) -> list[Bars]:
    """Bars of the conditions in their order, one plot for each measure; those in which a shortcut
    was found are of another color, and what guessing scores is gray.
    """
    measures = dict.fromkeys(score.measure for score in record.scores)
    return [_bars(record, measure) for measure in measures]


def _bars(record: AuditRecord, measure: str) -> Bars:
    scores = [s for s in record.scores if s.measure == measure and s.name != CHANCE]
    unit = "fraction" if measure else record.unit
    scale = display_scale(unit)
    guesses = {f.absent for f in record.findings if f.kind == "probe"}
    removed = {
        finding.present if finding.kind in ("answer", "guard") else finding.absent
        for finding in record.shortcuts
    }

    def color(score: Score) -> int:
        if score.name in guesses:
            return BASELINE
        return _FOUND if score.name in removed else 0 if score.name == BASE else _NAMED

    return Bars(
        values={s.name: scale * s.value for s in scores},
        label=axis_label(measure or record.metric, unit),
        std={s.name: scale * s.standard_error for s in scores},
        levels=() if measure else (Level(scale * record.score(CHANCE).value, CHANCE),),
        in_order=True,
        color={s.name: color(s) for s in scores},
    )
