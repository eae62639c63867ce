"""User text in figures: no mathematics, no boxes, no name left out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, findfont, fontManager
from matplotlib.text import Text
from PIL import Image

from ssltool.plotting import text as module
from ssltool.plotting.figures import figure, save_figure
from ssltool.plotting.lines import panels
from ssltool.plotting.records import Bars, Level, Lines, Matrix, Plot, Series
from ssltool.plotting.sheet import Column, Sheet
from ssltool.plotting.sheet_layout import save_sheet
from ssltool.plotting.text import as_plain_text, image_text, legible

NAMES = ["$5_bill$", "$a_$", r"\$x\$", "50 %", "_hidden", "a\nb", "x\u202ey", "\udcff", "{}^{", "$"]


def texts(drawn: Figure) -> set[str]:
    FigureCanvasAgg(drawn).draw()
    return {text.get_text() for text in drawn.findobj(Text)}  # type: ignore[attr-defined]


def plots(names: list[str]) -> list[Plot]:
    return [
        Lines({n: Series([1, 2], [0, i]) for i, n in enumerate(names)}, names[0], names[1]),
        Lines({"a": Series([1, 2], [0, 1])}, "x", "y", [Level(0.5, names[0])]),
        Matrix(torch.eye(len(names)), names, names, names[0], names[1]),
        Bars({n: float(i) for i, n in enumerate(names)}, names[0]),
    ]


@pytest.mark.parametrize(("number", "suffix"), [(0, ".svg"), (1, ".png"), (2, ".png"), (3, ".pdf")])
def test_names_are_drawn_as_they_are(number: int, suffix: str, tmp_path: Path) -> None:
    """Mathtext refuses ``$a_$`` and draws ``$5_bill$`` as a formula."""
    drawn = figure(plots(NAMES)[number], "a title of $a_$")
    save_figure(drawn, tmp_path / f"a{suffix}")
    shown = texts(drawn)
    assert "a title of $a_$" in shown
    assert any(text.startswith("$5_bill$") for text in shown)
    if number != 1:
        assert {legible(name) for name in NAMES} <= shown
    assert not any(text.get_parse_math() for text in drawn.findobj(Text))  # type: ignore[attr-defined]


def test_a_legend_leaves_no_name_out() -> None:
    several = {name: Series([1, 2], [0, 1]) for name in NAMES}
    (legend,) = panels([Lines(several, "x", "y")], "runs").legends
    assert [text.get_text() for text in legend.get_texts()] == list(map(legible, NAMES))


def test_unprintable_characters_are_escaped_and_others_kept() -> None:
    assert [legible(n) for n in NAMES[:5]] == NAMES[:5]
    assert [legible(n) for n in NAMES[5:8]] == [r"a\nb", r"x\u202ey", r"\udcff"]
    assert legible("Größe, цвет, αβγ") == "Größe, цвет, αβγ"


def only(monkeypatch: pytest.MonkeyPatch, characters: dict[str, str]) -> None:
    """As if these fonts were installed, by the characters they have beside ASCII."""
    monkeypatch.setattr(module, "_fonts", lambda: [FontEntry(fname=f, name=f) for f in characters])
    ascii_characters = {chr(code) for code in range(128)}
    monkeypatch.setattr(
        module, "_characters", lambda file: {ord(c) for c in {*characters[file], *ascii_characters}}
    )
    module._font_of.cache_clear()


@pytest.fixture(autouse=True)
def _forget() -> None:
    module._font_of.cache_clear()


def test_a_font_that_has_the_characters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"DejaVu Sans": "é", "Some CJK": "猫犬"})
    assert legible("猫é犬🐈") == r"猫é犬\U0001f408"
    drawn = Figure()
    drawn.suptitle("猫 é")
    drawn.supxlabel("é")
    as_plain_text(drawn)
    families = {text.get_text(): text.get_fontfamily() for text in drawn.findobj(Text)}  # type: ignore[attr-defined]
    assert families["猫 é"] == ["DejaVu Sans", "Some CJK"]
    assert families["é"] == ["sans-serif"]


def test_without_such_a_font_names_stay_different(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = findfont("DejaVu Sans")
    only(monkeypatch, {base: ""})
    monkeypatch.setattr(module, "_fonts", lambda: [FontEntry(fname=base, name="DejaVu Sans")])
    module._font_of.cache_clear()
    assert (legible("猫"), legible("犬")) == (r"\u732b", r"\u72ac")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of missing glyphs
        save_figure(figure(plots(["猫", "犬"])[2], "猫"), tmp_path / "a.png")


def test_an_image_sheet_escapes_what_its_font_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = findfont("DejaVu Sans")
    only(monkeypatch, {base: "éя"})
    assert image_text("猫 я", 14)[0] == r"\u732b я"
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    sheets = []
    for name in ("猫", "犬"):
        path = save_sheet(Sheet({name: Column(images)}, name, [name]), tmp_path / "a.png")
        with Image.open(path) as image:
            sheets.append(np.asarray(image))
    assert sheets[0].shape != sheets[1].shape or (sheets[0] != sheets[1]).any()


def test_fonts_of_boxes_and_formulas_are_not_used() -> None:
    names = {font.name for font in module._fonts()}
    assert module._fonts()[0].name == "DejaVu Sans"
    assert names < {font.name for font in fontManager.ttflist}
    assert not {"cmsy10", "STIXNonUnicode", "Last Resort High-Efficiency"} & names


@settings(max_examples=30)
@given(st.text(max_size=20))
def test_legible_text_is_one_printable_line(text: str) -> None:
    shown = legible(text)
    assert shown.isprintable()
    assert legible(shown) == shown
    assert image_text(text, 14)[0].isprintable()
