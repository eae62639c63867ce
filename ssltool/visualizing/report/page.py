"""Sections and charts to one HTML page that needs no network.

The page is ``assets/report.html`` with its style, its script and plotly's JavaScript written into
it. The template escapes everything that comes from a run; charts travel as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from ssltool.errors import UsageError
from ssltool.plotting.html import CONFIG, DARK_OF, plotly_figure, plotlyjs
from ssltool.plotting.records import Bars, Matrix
from ssltool.visualizing.curves import RunMetrics, metric_plots
from ssltool.visualizing.report.headline import headlines
from ssltool.visualizing.report.parts import Chart, Frame, Link, Table, format_cell, thumbnail
from ssltool.visualizing.report.sections import RunSection
from ssltool.visualizing.report.tables import differences, last_metrics, overview, thinned

_WIDE = 600  # px: a chart of so many rows takes two columns
# Metrics of the training, not of the task.
_TRAINING = {"grad_norm", "lr", "images_per_s", "data_wait"}


class Placed(NamedTuple):
    """A chart on the page.

    Attributes:
        id: Of its HTML element.
        title: Its heading.
        tall: Whether it has rows with names.
        height: In px; 0 for that of the style.
        figure: JSON of plotly.
    """

    id: str
    title: str
    tall: bool
    height: int
    figure: dict[str, Any]

    @property
    def wide(self) -> bool:
        """Whether it takes two columns."""
        return self.height > _WIDE

    @classmethod
    def of(cls, chart: Chart, id: str) -> Placed:
        """Build the figure of a chart."""
        figure = plotly_figure(chart.plot)
        height = figure["layout"].pop("height", 0)
        return cls(id, chart.title, isinstance(chart.plot, Matrix | Bars), height, figure)


class MethodGroup(NamedTuple):
    """The runs of one method: only these share axes and tables.

    Attributes:
        method: Its name.
        runs: At least one.
        metrics: Their last metrics side by side; None for one run.
        differences: The options that differ between them; None for one run.
        task: Curves of the task's metrics.
        training: Curves of speed, learning rate and gradients.
    """

    method: str
    runs: Sequence[RunSection]
    metrics: Table | None
    differences: Table | None
    task: Sequence[Placed]
    training: Sequence[Placed]

    @property
    def several(self) -> bool:
        """Whether there is something to compare."""
        return len(self.runs) > 1

    @classmethod
    def of(cls, method: str, runs: Sequence[RunSection], id: str) -> MethodGroup:
        """Compare the runs of a method; ``id`` begins those of the charts."""
        summaries, several = [run.summary for run in runs], len(runs) > 1
        curves = _curves(runs)
        task = [chart for name, chart in curves.items() if name not in _TRAINING]
        training = [chart for name, chart in curves.items() if name in _TRAINING]
        return cls(
            method or "unknown method",
            runs,
            last_metrics(summaries) if several else None,
            differences(summaries) if several else None,
            _placed(f"{id}-task", task),
            _placed(f"{id}-training", training),
        )


def render_page(runs: Sequence[RunSection], title: str, footer: str) -> str:
    """The whole page.

    Args:
        runs: At least one; several are compared, those of one method with one another.
        title: Of the page.
        footer: Last line of the page.

    Raises:
        UsageError: The packages of the extra ``report`` are not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise UsageError(
            "ssltool report needs plotly and jinja2; type pip install 'ssltool[report]'"
        ) from error
    script = plotlyjs()
    environment = Environment(
        loader=PackageLoader("ssltool.visualizing.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = format_cell
    environment.tests["link"] = lambda cell: isinstance(cell, Link)
    groups = _groups(runs)
    probes = {run.name: _placed(f"run-{i}", run.charts) for i, run in enumerate(runs, start=1)}
    curves = [chart for group in groups for chart in (*group.task, *group.training)]
    charts = [*curves, *(chart for of_run in probes.values() for chart in of_run)]
    anchors = {f"run-{i}": run.summary for i, run in enumerate(runs, start=1)}
    several = len(runs) > 1
    return environment.get_template("report.html").render(
        title=title,
        footer=footer,
        runs=runs,
        groups=groups,
        run_charts=probes,
        charts={
            "figures": [{"id": chart.id, **chart.figure} for chart in charts],
            "config": CONFIG,
            "dark": DARK_OF,
        },
        numbers={run.name: i for i, run in enumerate(runs, start=1)},
        thumbnails=_thumbnails(runs) if several else {},
        overview=overview(anchors) if several else None,
        headlines=headlines({run.name: run.probe for run in runs if run.probe}) if several else [],
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=script,
    )


def _groups(runs: Sequence[RunSection]) -> list[MethodGroup]:
    """The runs by their method, in the order in which each was named first."""
    by_method: dict[str, list[RunSection]] = {}
    for run in runs:
        by_method.setdefault(run.summary.method, []).append(run)
    return [
        MethodGroup.of(method, group, f"method-{i}")
        for i, (method, group) in enumerate(by_method.items(), start=1)
    ]


def _thumbnails(runs: Sequence[RunSection]) -> dict[str, Frame]:
    """The top of the newest predictions of each run."""
    return {run.name: thumbnail(run.preview) for run in runs if run.preview}


def _curves(runs: Sequence[RunSection]) -> dict[str, Chart]:
    """A chart by metric, all runs of one method in it."""
    thin: dict[str, RunMetrics] = {}
    for run in runs:
        metrics = run.summary.metrics
        thin[run.name] = metrics._replace(lines=thinned(metrics.lines))
    return {name: Chart(plot.y_label, plot) for name, plot in metric_plots(thin).items()}


def _placed(group: str, charts: Sequence[Chart]) -> list[Placed]:
    return [Placed.of(chart, f"chart-{group}-{i}") for i, chart in enumerate(charts)]


def _asset(name: str) -> str:
    return (files("ssltool.visualizing.report") / "assets" / name).read_text(encoding="utf-8")
