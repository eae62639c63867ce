from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch

from ssltool.errors import UsageError
from ssltool.plotting import html
from ssltool.plotting.colors import BASELINE
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Plot, Points, Series

EVIL = '<b a="x">&%{y}\n'
NAMES = ["a", EVIL, "a name of more than sixteen letters"]
CURVES = Lines({"a": Series([10, 20], [3.5, 3.0])}, "step", "loss", [Level(4.6, "chance")])
PLOTS: dict[str, Plot] = {
    "lines": Lines({EVIL: Series([1], [1.0])}, EVIL, EVIL, [Level(1, EVIL)]),
    "stages": Lines({"a": Series([EVIL, "b"], [1.0, 2.0])}, "stage", "y"),
    "matrix": Matrix(torch.eye(3), NAMES, NAMES, EVIL, EVIL),
    "bars": Bars(dict.fromkeys(NAMES, 1.0), EVIL, {"a": 0.5}),
    "points": Points(
        torch.zeros(1), torch.ones(1), torch.tensor([[255, 0, 9]]), torch.ones(1), EVIL, EVIL
    ),
}


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for pair in value.items() for part in pair for s in strings(part)]
    if isinstance(value, list | tuple):
        return [s for part in value for s in strings(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", PLOTS)
def test_figures_are_strict_json_and_names_are_escaped(name: str) -> None:
    figure = html.plotly_figure(PLOTS[name])
    assert json.loads(json.dumps(figure, allow_nan=False))["data"]
    ours = ("<br>", "<b>", "</b>", "<extra>", "</extra>")  # in hover templates
    for text in strings(figure):
        for tag in ours:
            text = text.replace(tag, "")
        assert "<" not in text
        assert "\n" not in text
    templates = [t for t in strings(figure) if "<extra>" in t]
    assert not any("&amp;%{y}" in template for template in templates)


def test_curves_keep_their_values_and_levels_are_dashed_lines() -> None:
    figure = html.plotly_figure(CURVES)
    curve, invisible = figure["data"]
    assert (curve["x"], curve["y"], curve["line"]["dash"]) == ([10, 20], [3.5, 3.0], "solid")
    assert (invisible["y"], invisible["marker"]) == ([4.6], {"opacity": 0})
    (level,) = figure["layout"]["shapes"]
    assert (level["y0"], level["y1"], level["xref"]) == (4.6, 4.6, "paper")
    assert level["name"] == "chance 4.6"  # in the legend
    assert figure["layout"]["xaxis"]["title"]["text"] == "step"
    assert figure["layout"]["showlegend"]


def test_series_and_levels_share_colors_and_many_levels_have_no_labels() -> None:
    series = {f"run {i}": Series([1, 2], [0.0, 1.0], i) for i in range(9)}
    levels = [Level(i, f"chance of {i}", i) for i in range(9)]
    figure = html.plotly_figure(Lines(series, "step", "loss", levels))
    lines = [trace["line"] for trace in figure["data"][:9]]
    shapes = [shape["line"] for shape in figure["layout"]["shapes"]]
    assert [line["color"] for line in lines] == [shape["color"] for shape in shapes]
    assert lines[0]["color"] == lines[7]["color"]  # of seven colors
    assert lines[0]["dash"] != lines[7]["dash"]
    assert "annotations" not in figure["layout"]


def test_a_logarithmic_axis_has_a_tick_at_each_value() -> None:
    plot = Lines({"a": Series([9, 90], [1.0, 2.0]), "b": Series([90], [3.0])}, "x", "y", (), True)
    axis = html.plotly_figure(plot)["layout"]["xaxis"]
    assert (axis["type"], list(axis["tickvals"])) == ("log", [9, 90])


def test_matrices_read_from_the_top_and_long_names_are_shortened() -> None:
    figure = html.plotly_figure(PLOTS["matrix"])
    (heat,) = figure["data"]
    assert heat["z"] == torch.eye(3).tolist()
    axis = figure["layout"]["yaxis"]
    assert axis["autorange"] == "reversed"
    assert axis["labelalias"] == {NAMES[2]: "a name of more \u2026"}
    names = [str(i) for i in range(100)]
    tall = html.plotly_figure(Matrix(torch.eye(100), names, names, "r", "c"))
    assert tall["layout"]["height"] == 1500


def test_every_color_has_a_dark_counterpart() -> None:
    assert len(html.DARK_OF) == 5 + len(html.LIGHT.palette)  # no two colors are equal
    kept = {"rgba(0,0,0,0)", "rgb(255,0,9)"}
    for plot in PLOTS.values():
        figure = html.plotly_figure(plot)
        used = {s for s in strings(figure) if s.startswith(("#", "rgb"))} - kept
        scale = {color for _, color in figure["data"][0].get("colorscale", ())}
        assert used - scale <= set(html.DARK_OF)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(UsageError, match=r"ssltool\[report\]"):
        html.plotly_figure(CURVES)


def test_baselines_are_gray_and_errors_and_logarithmic_axes_are_kept() -> None:
    series = {"a": Series([1, 2], [1.0, 2.0], 0, [0.1, 0.2]), "b": Series([1], [1.0], BASELINE)}
    figure = html.plotly_figure(Lines(series, "step", "loss", log_y=True))
    ours, baseline = figure["data"]
    assert ours["error_y"]["array"] == [0.1, 0.2]
    assert baseline["line"]["color"] == html.LIGHT.soft
    assert figure["layout"]["yaxis"]["type"] == "log"
    bars = html.plotly_figure(Bars({"a": 2.0, "b": 1.0}, "y", color={"b": BASELINE}))
    assert bars["data"][0]["marker"]["color"] == [html.LIGHT.soft, html.LIGHT.palette[0]]
