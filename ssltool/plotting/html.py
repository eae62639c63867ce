"""Plot records to plotly figures for HTML pages; needs the extra ``ssltool[report]``."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from ssltool.console import printable
from ssltool.errors import UsageError
from ssltool.plotting.colors import BASELINE
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Plot, Points

_DASHES = ("solid", "dot", "dashdot", "longdash")
_LEVEL_DASHES = ("dash", "dot", "dashdot")
_MARKED = 30  # points up to which a curve has markers
_LONGEST = 16  # characters of a name on an axis; the hover shows all of it


class Theme(NamedTuple):
    """Colors of a page; those of one theme differ from one another."""

    ink: str
    soft: str
    grid: str
    level: str
    panel: str
    palette: tuple[str, ...]


LIGHT = Theme(
    ink="#1d2129",
    soft="#59616e",
    grid="#d9dde4",
    level="#b34700",
    panel="#f5f6f8",
    palette=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b37400", "#56b4e9", "#000000"),
)
DARK = Theme(
    ink="#e6e9ee",
    soft="#a3acb9",
    grid="#353c47",
    level="#f0a26b",
    panel="#1d2128",
    palette=("#56b4e9", "#f0884a", "#2fc79a", "#e0a0c4", "#e6b84c", "#8fb8ff", "#ffffff"),
)
# Figures have the light colors; a page that turns dark replaces each by its counterpart.
DARK_OF: dict[str, str] = dict(
    zip((*LIGHT[:5], *LIGHT.palette), (*DARK[:5], *DARK.palette), strict=True)
)
CONFIG: dict[str, Any] = {
    "responsive": True,
    "displaylogo": False,
    # Only buttons that stay on the page.
    "modeBarButtons": [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
}


def plotlyjs() -> str:
    """The JavaScript of plotly, to be embedded once in a page.

    Raises:
        UsageError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _missing() from error
    return str(get_plotlyjs())


def plotly_figure(plot: Plot) -> dict[str, Any]:
    """Build the JSON of a plotly figure, without a title and in the light theme.

    Plotly renders a subset of HTML in its texts, so names and labels are escaped.

    Returns:
        ``data`` and ``layout``, in JSON types.

    Raises:
        UsageError: plotly is not installed.
    """
    try:
        from plotly.graph_objects import Figure
    except ImportError as error:
        raise _missing() from error
    match plot:
        case Lines():
            data, layout = _lines(plot)
        case Matrix():
            data, layout = _matrix(plot)
        case Points():
            data, layout = _points(plot)
        case Bars():
            data, layout = _bars(plot)
    # Validates the names and the values of every property.
    document = Figure(data=data, layout={"template": "none", **_base(), **layout}).to_plotly_json()
    document["layout"].pop("template")
    return {"data": document["data"], "layout": document["layout"]}


def _text(text: str) -> str:
    """Text as plotly shows it: it renders a subset of HTML, and ``%{...}`` in hover templates."""
    return html.escape(printable(text)).replace("%{", "&#37;{")


def _missing() -> UsageError:
    return UsageError("ssltool report needs plotly and jinja2; type pip install 'ssltool[report]'")


def _base() -> dict[str, Any]:
    """Layout of every plot."""
    clear = "rgba(0,0,0,0)"
    hover = {"bgcolor": LIGHT.panel, "bordercolor": LIGHT.soft, "font": {"color": LIGHT.ink}}
    return {
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "margin": {"l": 44, "r": 12, "t": 28, "b": 40},
        "modebar": {"bgcolor": clear, "color": LIGHT.soft, "activecolor": LIGHT.ink},
        "font": {"family": "system-ui, sans-serif", "color": LIGHT.ink},
        "hoverlabel": {**hover, "namelength": -1},
        "showlegend": False,
    }


def _axis(label: str = "", **properties: Any) -> dict[str, Any]:
    grid = dict.fromkeys(("gridcolor", "zerolinecolor", "linecolor"), LIGHT.grid)
    font = {"color": LIGHT.soft, "size": 12}
    return {
        **grid,
        "tickfont": {"color": LIGHT.soft, "size": 11},
        "automargin": True,
        "title": {"text": _text(label), "font": font, "standoff": 8},
        **properties,
    }


def _lines(plot: Lines) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Curves; the y label is left to the heading of the plot."""
    several = len(plot.series) > 1
    data: list[dict[str, Any]] = []
    following, used = count(), Counter[str]()
    for name, series in plot.series.items():
        index = next(following) if series.color is None else series.color
        color = _color(index)
        dash = _DASHES[used[color] % len(_DASHES)]
        used[color] += 1
        data.append(
            {
                "type": "scatter",
                "name": _text(name),
                "showlegend": several,
                "x": [_text(x) if isinstance(x, str) else x for x in series.x],
                "y": list(series.y),
                "mode": "lines+markers" if len(series.y) < _MARKED else "lines",
                "marker": {"size": 6},
                "line": {"color": color, "width": 2, "dash": dash},
                "hovertemplate": f"<b>%{{y:.4~g}}</b><extra>{_text(name) * several}</extra>",
            }
        )
        if series.error:
            data[-1]["error_y"] = {"array": list(series.error), "thickness": 1, "width": 2}
    xs = [x for series in plot.series.values() for x in series.x]
    x_axis: dict[str, Any] = {"unifiedhovertitle": {"text": f"{_text(plot.x_label)} %{{x}}"}}
    if plot.log_x:
        x_axis |= {"type": "log", "tickmode": "array", "tickvals": sorted(set(xs))}
    elif xs and isinstance(xs[0], str):
        x_axis["type"] = "category"
    # Shapes do not widen an axis: an invisible point keeps each level inside.
    data += [
        {
            "type": "scatter",
            "x": xs[:1],
            "y": [level.value],
            "mode": "markers",
            "marker": {"opacity": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }
        for level in plot.levels
    ]
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
    return data, {
        "showlegend": several or bool(plot.levels),
        "legend": {**legend, "font": {"color": LIGHT.ink, "size": 12}},
        "hovermode": "x unified",
        "xaxis": _axis(plot.x_label, **x_axis),
        "yaxis": _axis(**({"type": "log"} if plot.log_y else {})),
        "shapes": _levels(plot.levels),
    }


def _levels(levels: Sequence[Level]) -> list[dict[str, Any]]:
    """Dashed lines across, named in the legend: a label beside a line would cover curves."""
    return [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": level.value,
            "y1": level.value,
            "line": {
                "color": LIGHT.level if level.color is None else _color(level.color),
                "width": 1.5,
                "dash": _LEVEL_DASHES[i % len(_LEVEL_DASHES)],
            },
            "layer": "below",
            "name": _text(level.text),
            "showlegend": True,
        }
        for i, level in enumerate(levels)
    ]


def _matrix(plot: Matrix) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows, columns = list(map(_text, plot.rows)), list(map(_text, plot.columns))
    row_label, column_label = _text(plot.row_label), _text(plot.column_label)
    heat = {
        "type": "heatmap",
        "z": plot.values.double().tolist(),
        **(dict(zip(("zmin", "zmax"), plot.limits, strict=True)) if plot.limits else {}),
        "x": columns,
        "y": rows,
        "colorscale": "Viridis",
        "colorbar": {
            "thickness": 10,
            "outlinewidth": 0,
            "tickfont": {"color": LIGHT.soft, "size": 11},
        },
        "hovertemplate": f"{row_label} %{{y}}<br>{column_label} %{{x}}<br>%{{z}}<extra></extra>",
    }
    # Margins are computed, because searching for them is slow with many names.
    margin = {"l": _room(plot.rows), "r": 12, "t": 28, "b": _room(plot.columns)}
    layout: dict[str, Any] = {
        "margin": margin,
        "xaxis": _axis(plot.column_label, **_names(plot.columns), tickangle=-90),
        "yaxis": _axis(plot.row_label, **_names(plot.rows), autorange="reversed"),
    }
    if len(rows) > _LONGEST:  # a line of text for each row
        layout["height"] = 200 + 13 * len(rows)
    return [heat], layout


def _bars(plot: Bars) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    names = plot.names
    bars: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "x": [plot.values[name] for name in names],
        "y": list(map(_text, names)),
        "marker": {"color": [_color(plot.color.get(name, 0)) for name in names]},
        "hovertemplate": "%{y}<br><b>%{x:.4~g}</b><extra></extra>",
    }
    if plot.std:
        bars["error_x"] = {"array": [plot.std.get(name, 0.0) for name in names]}
    margin = {"l": _room(names), "r": 12, "t": 28, "b": 40}
    layout: dict[str, Any] = {
        "margin": margin,
        "xaxis": _axis(plot.label),
        "yaxis": _axis(**_names(names)),
    }
    if len(names) > _LONGEST:
        layout["height"] = 100 + 13 * len(names)
    return [bars], layout


def _points(plot: Points) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    areas = [4 + 120 * size for size in plot.sizes.tolist()]
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": plot.x.tolist(),
        "y": plot.y.tolist(),
        "marker": {
            "color": [f"rgb({r},{g},{b})" for r, g, b in plot.colors.tolist()],
            "size": areas,
            "sizemode": "area",
            "sizeref": 0.5,
        },
        "hovertemplate": "%{x:.4~g}, %{y:.4~g}<extra></extra>",
    }
    return [points], {
        "xaxis": _axis(plot.x_label),
        "yaxis": _axis(plot.y_label, scaleanchor="x"),
    }


def _color(index: int) -> str:
    return LIGHT.soft if index == BASELINE else LIGHT.palette[index % len(LIGHT.palette)]


def _names(names: Sequence[str]) -> Mapping[str, Any]:
    """A category axis, on which long names are shortened and dropped where there is no room."""
    aliases = {_text(name): _text(_shortened(name)) for name in names if len(name) > _LONGEST}
    return {
        "type": "category",
        "showgrid": False,
        "automargin": False,
        "labelalias": aliases,
        "tickfont": {"color": LIGHT.soft, "size": 8 if len(names) > 20 else 11},
    }


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\u2026"


def _room(names: Sequence[str]) -> float:
    """Margin in px for names beside an axis and its label."""
    return 40 + 5.5 * max((len(_shortened(name)) for name in names), default=0)
