"""The headline of probes: accuracies of pretrained encoders beside their baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ssltool.runs.probe_record import MEASURES, POOLED, FeatureKind, Measure, ProbeRecord, ProbeRow
from ssltool.visualizing.report.parts import Headline, ScoreBar


def headline(probe: ProbeRecord) -> Headline | None:
    """The chosen stage and the pooled features of a run, each beside its baselines; None without
    accuracies.
    """
    measure = headline_measure(probe)
    if measure is None:
        return None
    pretrained, random_init = chosen_row(probe), baseline_row(probe, "random_init", measure)
    rows = [
        pretrained,
        _pooled(probe, pretrained, measure),
        random_init,
        _pooled(probe, random_init, measure),
        baseline_row(probe, "pixels", measure),
        baseline_row(probe, "majority", measure),
    ]
    found = dict.fromkeys(probe.rows.index(row) for row in rows if row is not None)
    bars = [_bar(probe.rows[i], measure, probe.rows[i].source.label()) for i in found]
    return Headline(_title(measure), bars, _note(probe))


def headlines(probes: Mapping[str, ProbeRecord]) -> list[Headline]:
    """The chosen stages of several runs beside their baselines; probes of different images,
    measures or rules are kept apart.

    Args:
        probes: By the name of the run.
    """
    groups: dict[tuple[Measure, str], dict[str, ProbeRecord]] = {}
    for name, probe in probes.items():
        if measure := headline_measure(probe):
            conditions = json.dumps(probe.protocol.conditions, sort_keys=True)
            groups.setdefault((measure, conditions), {})[name] = probe
    return [_of_several(measure, group) for (measure, _), group in groups.items()]


def headline_measure(probe: ProbeRecord) -> Measure | None:
    """What the headline shows: the linear probe, or the first measure there is."""
    chosen = chosen_row(probe)
    return next((name for name in MEASURES if chosen and name in chosen.accuracy), None)


def chosen_row(probe: ProbeRecord) -> ProbeRow | None:
    """The row of the pretrained weights that did best on held-out training images."""
    return None if probe.chosen is None else probe.rows[probe.chosen]


def baseline_row(probe: ProbeRecord, kind: FeatureKind, measure: Measure) -> ProbeRow | None:
    """A baseline at its own best stage, likewise chosen; its pooled features, or its only row, if
    none was chosen.
    """
    chosen = chosen_row(probe)
    variant = chosen.source.variant if chosen else "image"
    rows = [row for row in probe.rows if row.source.kind == kind and measure in row.accuracy]
    same = [row for row in rows if row.source.variant == variant] or rows
    ranked = sorted(same, key=lambda row: (not row.chosen, not row.is_whole))
    return ranked[0] if ranked else None


def _pooled(probe: ProbeRecord, row: ProbeRow | None, measure: Measure) -> ProbeRow | None:
    """The pooled features of the same source."""
    rows = (r for r in probe.rows if row and r.source == row.source and r.stage == POOLED)
    return next((r for r in rows if measure in r.accuracy), None)


def _of_several(measure: Measure, probes: Mapping[str, ProbeRecord]) -> Headline:
    bars = [_bar(row, measure, name) for name, p in probes.items() if (row := chosen_row(p))]
    bars.sort(key=lambda bar: -bar.percent)
    for kind in ("random_init", "pixels", "majority"):
        bars += _shared_bars(kind, measure, probes)
    first = next(iter(probes.values()))
    return Headline(_title(measure), bars, _note(first))


def _shared_bars(
    kind: FeatureKind, measure: Measure, probes: Mapping[str, ProbeRecord]
) -> list[ScoreBar]:
    """A baseline of several runs, once if it is the same; else with the names of its runs."""
    owners: dict[ScoreBar, list[str]] = {}
    for name, probe in probes.items():
        if row := baseline_row(probe, kind, measure):
            owners.setdefault(_bar(row, measure, row.source.label()), []).append(name)
    if len(owners) < 2:
        return list(owners)
    return [bar._replace(label=f"{bar.label}, {', '.join(names)}") for bar, names in owners.items()]


def _title(measure: Measure) -> str:
    name = "Linear probe" if measure == "linear" else f"{MEASURES[measure]} probe"
    return f"{name}, accuracy in %"


def _note(probe: ProbeRecord) -> str:
    chance = 100 / max(len(probe.classes), 1)
    return (
        f"{probe.test_images:,} test images, {len(probe.classes):,} classes, chance level "
        f"{chance:.3g} %; {probe.table_legend()}"
    )


def _bar(row: ProbeRow, measure: Measure, label: str) -> ScoreBar:
    stage = f"{row.stage} *" if row.chosen and row.stage else row.stage
    return ScoreBar(
        label,
        stage,
        row.accuracy[measure],
        row.standard_error.get(measure, 0.0),
        row.score(measure),
        row.source.kind != "pretrained",
    )
