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
from ssltool.visualizing.report.parts import Chart, format_cell
from ssltool.visualizing.report.sections import RunSection
from ssltool.visualizing.report.tables import comparison, differences, thinned

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

    @classmethod
    def of(cls, chart: Chart, id: str) -> Placed:
        """Build the figure of a chart."""
        figure = plotly_figure(chart.plot)
        height = figure["layout"].pop("height", 0)
        return cls(id, chart.title, isinstance(chart.plot, Matrix | Bars), height, figure)


def render_page(runs: Sequence[RunSection], title: str, footer: str) -> str:
    """The whole page.

    Args:
        runs: At least one; several are compared.
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
    curves = _curves(runs)
    task = _placed("task", [chart for name, chart in curves.items() if name not in _TRAINING])
    training = _placed("training", [curves[name] for name in curves if name in _TRAINING])
    probes = {run.name: _placed(f"run-{i}", run.charts) for i, run in enumerate(runs, start=1)}
    charts = [*task, *training, *(chart for of_run in probes.values() for chart in of_run)]
    summaries = [run.summary for run in runs]
    return environment.get_template("report.html").render(
        title=title,
        footer=footer,
        runs=runs,
        task_charts=task,
        training_charts=training,
        run_charts=probes,
        charts={
            "figures": [{"id": chart.id, **chart.figure} for chart in charts],
            "config": CONFIG,
            "dark": DARK_OF,
        },
        comparison=comparison(summaries) if len(runs) > 1 else None,
        differences=differences(summaries) if len(runs) > 1 else None,
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=script,
    )


def _curves(runs: Sequence[RunSection]) -> dict[str, Chart]:
    """A chart by metric, all runs in it."""
    thin: dict[str, RunMetrics] = {}
    for run in runs:
        metrics = run.summary.metrics
        thin[run.name] = metrics._replace(lines=thinned(metrics.lines))
    return {name: Chart(plot.y_label, plot) for name, plot in metric_plots(thin).items()}


def _placed(group: str, charts: Sequence[Chart]) -> list[Placed]:
    return [Placed.of(chart, f"chart-{group}-{i}") for i, chart in enumerate(charts)]


def _asset(name: str) -> str:
    return (files("ssltool.visualizing.report") / "assets" / name).read_text(encoding="utf-8")
