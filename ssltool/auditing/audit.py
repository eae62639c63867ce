"""The audit of a run: how much of its pretext answer is a shortcut."""

from __future__ import annotations

import math

from rich.console import Console
from torch import Tensor

from ssltool.auditing import statistics
from ssltool.auditing.options import AuditOptions
from ssltool.auditing.plots import condition_bars
from ssltool.auditing.statistics import Estimate
from ssltool.console import stderr_console
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.device import choose_device
from ssltool.errors import UsageError
from ssltool.methods.auditing import BASE, CHANCE, Comparison, Plan
from ssltool.plotting.bars import bar_panels
from ssltool.plotting.figures import require_format, save_figure
from ssltool.runs.audit_record import AUDIT_FILE, LEAST_SHARE, AuditRecord, Finding, Score
from ssltool.runs.evaluation import Evaluation
from ssltool.runs.folder import FIGURES

LEAST_IMAGES = 16


def audit(
    options: AuditOptions, console: Console | None = None, source: Source | None = None
) -> AuditRecord:
    """Audit a run; writes ``audit.json`` into it, and the figure.

    Args:
        options: Which run, on which images.
        console: Where progress goes; stderr if not given.
        source: The images, if they are an object and not named.

    Raises:
        UsageError: There is no such run, its method has no audit, or there are too few images.
        CheckpointError: The run has no checkpoint yet, or it is damaged.
    """
    console = console or stderr_console()
    if options.to is not None:
        require_format(options.to)
    if source is None and options.data:
        source = open_source(options.data)
    device = choose_device(options.device)
    opened = Evaluation.open(options.weights, source, options.images, device, options.method)
    name, method = opened.run.config.method, opened.method
    if not opened.run.config.data.rgb:
        raise UsageError(
            f"{options.weights} was trained on images read as they are, and the cues of an audit "
            "are those of RGB images"
        )
    if method.audit is None:
        raise UsageError(
            f"{name} has no audit; a method gets one from a module 'audit' with a function "
            "plan(method, seed)"
        )
    if len(opened.images) < LEAST_IMAGES:
        raise UsageError(
            f"{len(opened.images)} images are too few for standard errors; name at least "
            f"{LEAST_IMAGES} with --data"
        )
    plan = without_color(method.audit.plan(method, options.seed), opened.images)
    scores: dict[str, Tensor] = {}
    for number, (condition, score) in enumerate(plan.conditions.items(), start=1):
        console.print(f"{number} of {len(plan.conditions)}: {condition}")
        scores[condition] = score(opened.images, opened.index)
        if condition == BASE:
            _check_count(name, scores[BASE])
    figure = options.to or opened.run.folder / FIGURES / "audit.png"
    record = AuditRecord(
        method=name,
        weights=str(options.weights),
        data=opened.source.description,
        images=_count(scores[BASE]),
        seed=options.seed,
        metric=plan.metric,
        unit=plan.unit,
        error=plan.error,
        above_chance=_mean(plan, _gain(plan, scores), scores[BASE]),
        scores=_described(plan, scores),
        findings=findings(plan, scores),
        figure=str(figure),
    )
    record.write(opened.run.folder / AUDIT_FILE)
    legend = "; vermilion: a shortcut was found" if record.shortcuts else ""
    save_figure(bar_panels(condition_bars(record), f"Audit of {opened.title}{legend}"), figure)
    return record


def _count(scores: Tensor) -> int:
    """Images ``[n]`` with a score."""
    return int(scores.isfinite().sum())


def _check_count(method: str, scores: Tensor) -> None:
    if _count(scores) < LEAST_IMAGES:
        raise UsageError(
            f"{method} scores {_count(scores)} of {len(scores)} images (others may be gray), too "
            f"few for standard errors; name at least {LEAST_IMAGES} that it scores with --data"
        )


def without_color(plan: Plan, images: Tensor) -> Plan:
    """The plan without what is about color if all images uint8 ``[n, 3, S, S]`` are gray, and
    without the conditions that no comparison is left for.
    """
    gray = bool((images == images[:, :1]).all())
    dropped = {c for c in plan.comparisons if gray and c.chromatic}
    kept = [c for c in plan.comparisons if c not in dropped]
    unused = {name for c in dropped for name in (c.present, c.absent)}
    unused -= {BASE, CHANCE} | {name for c in kept for name in (c.present, c.absent)}
    conditions = {n: score for n, score in plan.conditions.items() if n not in unused}
    return plan._replace(comparisons=kept, conditions=conditions)


def findings(plan: Plan, scores: dict[str, Tensor]) -> tuple[Finding, ...]:
    """Every comparison of a plan.

    Args:
        plan: Of the method.
        scores: float64 ``[n]`` of each condition, NaN for images that it does not score.
    """
    whole = _gain(plan, scores)
    return tuple(_finding(plan, comparison, scores, whole) for comparison in plan.comparisons)


def _finding(
    plan: Plan, comparison: Comparison, scores: dict[str, Tensor], whole: Tensor
) -> Finding:
    present, absent = scores[comparison.present], scores[comparison.absent]
    part = present - absent if comparison.measure or not plan.error else absent - present
    of_metric = () if comparison.measure else (present, absent)
    effect = _mean(plan, part, *of_metric)
    share = effect if comparison.measure else statistics.share(part, whole)
    least = LEAST_SHARE[comparison.kind]
    return Finding(
        cue=comparison.cue,
        kind=comparison.kind,
        present=comparison.present,
        absent=comparison.absent,
        measure=comparison.measure,
        effect=effect.value,
        standard_error=effect.error,
        share=share.value if share else None,
        share_error=share.error if share else None,
        found=effect.is_positive and share is not None and share.value > least,
    )


def _mean(plan: Plan, values: Tensor, *shares: Tensor) -> Estimate:
    """Mean of the images' values ``[n]``, computed from shares of right predictions, which may not
    differ from image to image.
    """
    estimate = statistics.mean(values)
    if estimate.error or plan.unit != "fraction":
        return estimate
    error = math.hypot(*map(statistics.half_an_image, shares))
    return estimate._replace(error=error)


def _gain(plan: Plan, scores: dict[str, Tensor]) -> Tensor:
    """How much better than chance level each image is scored, ``[n]``."""
    gain = scores[BASE] - scores[CHANCE]
    return -gain if plan.error else gain


def _described(plan: Plan, scores: dict[str, Tensor]) -> tuple[Score, ...]:
    measures = {name: c.measure for c in plan.comparisons for name in (c.present, c.absent)}
    estimates = {
        name: _mean(plan, values, *(() if measures.get(name) else (values,)))
        for name, values in scores.items()
    }
    return tuple(
        Score(
            name=name,
            value=estimate.value,
            standard_error=estimate.error,
            measure=measures.get(name, ""),
        )
        for name, estimate in estimates.items()
    )
