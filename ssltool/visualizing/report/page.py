"""Facts, numbers and images of runs -> one HTML page that needs no network.

The page is the template ``page/report.html`` with its style, its script and plotly's own JavaScript
written into it. Everything that comes from a run is escaped by the template; numbers for the charts
travel as JSON.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from ssltool.errors import UsageError
from ssltool.plotting.units import headed, is_share

_POINTS = 400  # of a curve, and rows of its table: more cannot be told apart on a screen
_PLUMBING = (
    "grad_norm",
    "lr",
    "images_per_s",
    "data_wait",
)  # about the training, not about the task
_HIDDEN = {"step", "epoch"}

Number = int | float
Numbers = Mapping[str, Number]


@dataclass(frozen=True)
class Frame:
    """One image of the page.

    Attributes:
        title: Words for it, shown and read aloud.
        kind: MIME type.
        data: The file.
        step: Step of training it was drawn at, -1 if it belongs to none.
    """

    title: str
    kind: str
    data: bytes
    step: int = -1

    @property
    def source(self) -> str:
        """The image as a ``data:`` address."""
        return f"data:{self.kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by its columns.

    Attributes:
        title: What it shows.
        columns: Names of the columns.
        rows: Cells; numbers are aligned and sorted as numbers, None is an empty cell.
        best: Number of the row to point out, or None.
        note: A line below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Number | None]]
    best: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Curves:
    """Lines over one axis, drawn by the page's script.

    Attributes:
        title: What y is.
        x_label: What x is.
        series: Curve's name -> (x, y).
        chance: Words -> y of a dashed line across.
        log_x: Whether x is drawn by its logarithm; x may also be names.
        color_of: Name of a curve or words of a dashed line -> number of its color; curves in their
            order if empty.
    """

    title: str
    x_label: str
    series: Mapping[str, tuple[Sequence[Any], Sequence[Number]]]
    chance: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    color_of: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HeatMap:
    """A table of numbers as colors, such as a confusion matrix.

    Attributes:
        title: What it shows.
        values: ``R`` rows of ``C`` numbers.
        rows: Names of the rows.
        columns: Names of the columns.
        row_label: What the rows are.
        column_label: What the columns are.
    """

    title: str
    values: Sequence[Sequence[Number]]
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str


@dataclass(frozen=True)
class RunPage:
    """What the page says of one run; whatever is not known is left empty and named in ``missing``.

    Attributes:
        name: Short and unlike the others'.
        method: Its pretext task.
        heading: Method and data in a few words.
        state: How far it has come.
        facts: Label -> what is worth comparing between runs, the same labels in each.
        highlights: Label -> what stands large on top, and a small line below it.
        data: Label -> fact about the images.
        options: Option -> value.
        environment: Label -> value.
        lines: Lines of ``metrics.jsonl``, finite numbers only, steps rising.
        chance: Number's name -> value for a network that knows nothing.
        samples: Some images of the data.
        task: The task as the network is given it.
        predictions: What it answered, over the steps.
        left_out: Images over time that are not shown, to keep the page small.
        others: Further images of the run folder.
        probes: Tables of what the encoder learned.
        charts: Charts that go with them.
        skipped: Images that could not be read, with reasons.
        missing: Sentences on what is not there and how to get it.
    """

    name: str
    method: str
    heading: str
    state: str
    facts: Mapping[str, str | Number | None] = field(default_factory=dict)
    highlights: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[Numbers] = ()
    chance: Numbers = field(default_factory=dict)
    samples: Frame | None = None
    task: Frame | None = None
    predictions: Sequence[Frame] = ()
    left_out: int = 0
    others: Sequence[Frame] = ()
    probes: Sequence[Table] = ()
    charts: Sequence[Curves | HeatMap] = ()
    skipped: Sequence[str] = ()
    missing: Sequence[str] = ()


def page(runs: Sequence[RunPage], title: str, made_by: str) -> str:
    """The whole page as text.

    Args:
        runs: At least one; several are compared.
        title: Of the page.
        made_by: The last line, such as the version.

    Raises:
        UsageError: The packages of the extra ``report`` are not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UsageError(
            "ssltool report needs plotly and jinja2; type pip install 'ssltool[report]'"
        ) from error
    surroundings = Environment(
        loader=PackageLoader("ssltool.visualizing.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    surroundings.filters["cell"] = cell
    task, plumbing = curves(runs)
    own = {run.name: [_drawable(chart) for chart in run.charts] for run in runs}
    drawn = [_drawable(chart) for chart in (*task, *plumbing)]
    for i, chart in enumerate([*drawn, *(chart for charts in own.values() for chart in charts)]):
        chart["id"] = f"chart-{i}"
    return surroundings.get_template("report.html").render(
        title=title,
        made_by=made_by,
        runs=runs,
        task_charts=drawn[: len(task)],
        plumbing_charts=drawn[len(task) :],
        run_charts=own,
        all_charts=[*drawn, *(chart for charts in own.values() for chart in charts)],
        anchors={run.name: i for i, run in enumerate(runs, start=1)},
        numbers={run.name: numbers(run) for run in runs},
        compared=compared(runs) if len(runs) > 1 else None,
        differences=differences(runs) if len(runs) > 1 else None,
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=get_plotlyjs(),
    )


def curves(runs: Sequence[RunPage]) -> tuple[list[Curves], list[Curves]]:
    """A chart for each number that any run has, all runs in it: first the task's numbers, then the
    training's.
    """
    names = list(
        dict.fromkeys(
            name for run in runs for line in run.lines for name in line if name not in _HIDDEN
        )
    )
    drawn = {}
    for name in names:
        scale = 100 if is_share(name) else 1
        series, levels, colors = {}, dict[float, list[str]](), {}
        for number, run in enumerate(runs):
            known = thinned([line for line in run.lines if name in line])
            if known:
                series[run.name] = (
                    [line["step"] for line in known],
                    [scale * line[name] for line in known],
                )
                colors[run.name] = number
                if name in run.chance:
                    levels.setdefault(scale * run.chance[name], []).append(run.name)
        whose = {
            level: f" of {', '.join(of)}" if len(of) < len(series) else ""
            for level, of in levels.items()
        }
        chance = {f"chance {level:.3g}{whose[level]}": level for level in levels}
        if len(levels) > 1:  # each in the color of its run
            colors |= {words: colors[levels[level][0]] for words, level in chance.items()}
        drawn[name] = Curves(headed(name), "step", series, chance, color_of=colors)
    return [drawn[name] for name in names if name not in _PLUMBING], [
        drawn[n] for n in names if n in _PLUMBING
    ]


def thinned(lines: Sequence[Numbers], most: int = _POINTS) -> list[dict[str, Number]]:
    """Averages of so many neighboring lines that at most ``most`` remain; steps and epochs are the
    last of each.
    """
    together = max(1, math.ceil(len(lines) / most))
    kept = []
    for start in range(0, len(lines), together):
        group = lines[start : start + together]
        names = dict.fromkeys(name for line in group for name in line)
        rows = {name: [line[name] for line in group if name in line] for name in names}
        kept.append(
            {
                n: values[-1] if n in _HIDDEN else sum(values) / len(values)
                for n, values in rows.items()
            }
        )
    return kept


def numbers(run: RunPage) -> Table | None:
    """The curves of a run as a table; None without any."""
    if not run.lines:
        return None
    lines = thinned(run.lines)
    names = list(dict.fromkeys(name for line in lines for name in line))
    each = math.ceil(len(run.lines) / len(lines))
    note = f"Each row is the average of {each} lines of metrics.jsonl." if each > 1 else ""
    rows = [[line.get(name) for name in names] for line in lines]
    return Table("Numbers of the curves", names, rows, note=note)


def compared(runs: Sequence[RunPage]) -> Table:
    """One row for each run: its last numbers, each beside what chance gives."""
    unlike = {"step", "epoch", "lr"}  # said by the state, or the same at the end of every run
    names = list(
        dict.fromkeys(
            name for run in runs if run.lines for name in run.lines[-1] if name not in unlike
        )
    )
    by_chance = {name for run in runs for name in run.chance if name in names}
    columns = [
        "run",
        "method",
        "state",
        *dict.fromkeys(label for run in runs for label in run.facts),
    ]
    for name in names:
        columns += [headed(name), "by chance"] if name in by_chance else [headed(name)]
    rows = []
    for run in runs:
        row: list[str | Number | None] = [run.name, run.method, run.state]
        row += [run.facts.get(label) for label in columns[3 : 3 + len(run.facts)]]
        for name in names:
            scale = 100 if is_share(name) else 1
            for known in (run.lines[-1] if run.lines else {}, run.chance)[
                : 2 if name in by_chance else 1
            ]:
                row.append(scale * known[name] if name in known else None)
        rows.append(row)
    return Table("Runs side by side", columns, rows, note="Numbers of the last line of each run.")


def differences(runs: Sequence[RunPage]) -> Table:
    """The options that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    unlike = [
        name for name in names if name != "out" and len({run.options.get(name) for run in runs}) > 1
    ]
    rows = [[name, *(run.options.get(name) for run in runs)] for name in unlike]
    note = "" if rows else "All options are the same."
    return Table("Options that differ", ["option", *(run.name for run in runs)], rows, note=note)


def cell(value: str | Number | None) -> str:
    """A cell's words: numbers with four digits, thousands apart."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _drawable(chart: Curves | HeatMap) -> dict[str, Any]:
    """A chart in JSON kinds. Plotly reads a little HTML in names, so names are escaped here once
    more.
    """
    if isinstance(chart, HeatMap):
        return {
            "kind": "heat",
            "title": chart.title,
            "z": [list(row) for row in chart.values],
            "rows": [html.escape(name) for name in chart.rows],
            "columns": [html.escape(name) for name in chart.columns],
            "row_label": html.escape(chart.row_label),
            "column_label": html.escape(chart.column_label),
        }
    return {
        "kind": "curves",
        "title": chart.title,
        "x_label": html.escape(chart.x_label),
        "series": [
            {
                "name": html.escape(name),
                "x": [html.escape(place) if isinstance(place, str) else place for place in x],
                "y": list(y),
                "color": chart.color_of.get(name, i),
            }
            for i, (name, (x, y)) in enumerate(chart.series.items())
        ],
        "chance": [
            {"name": html.escape(words), "y": y, "color": chart.color_of.get(words)}
            for words, y in chart.chance.items()
        ],
        "log_x": chart.log_x,
    }


def _asset(name: str) -> str:
    return (files("ssltool.visualizing.report") / "assets" / name).read_text(encoding="utf-8")
