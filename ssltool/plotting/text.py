"""Text in figures as it is: installed fonts that have its characters, escapes for the others.

Class names and paths are user text: ``$a_$`` is no formula, and a character that no font has would
be drawn as the same box as any other.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import chain

from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import ImageFont

from ssltool.console import printable

_BASE = "DejaVu Sans"  # comes with matplotlib
# Boxes for every character, fonts of formulas with code points of their own, and bitmaps.
_UNFIT = re.compile(r"\.?Last ?Resort|STIX|cm[a-z]+10$|.*Color Emoji")

_MEASURED = 100  # px at which characters are measured

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def legible(text: str) -> str:
    r"""The text on one line, with escapes for what cannot be drawn, such as ``\u732b``.

    Different texts stay different.
    """
    return _escaped(printable(text), lambda char: char.isascii() or _font_of(char) is not None)


def as_plain_text(figure: Figure) -> None:
    """Have every text of a figure drawn without mathematics, in fonts that have its characters."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        families = {entry.name for char in text.get_text() if (entry := _font_of(char))}
        if families - {_BASE}:
            text.set_fontfamily([_BASE, *sorted(families - {_BASE})])


def image_text(text: str, size: int) -> tuple[str, Font]:
    """A text to draw on a Pillow image, legible in one font, and the font, of ``size`` px.

    The font is the installed one that has the most of its characters.
    """
    text = legible(text)
    if text.isascii():
        return text, ImageFont.load_default(size)

    def has(file: str, char: str) -> bool:
        return ord(char) in _characters(file)

    files = dict.fromkeys(font.fname for char in text if (font := _font_of(char)))
    best = max(files, key=lambda file: sum(has(file, char) for char in text))
    return _escaped(text, partial(has, best)), ImageFont.truetype(best, size)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a line as `as_plain_text` has it drawn, in the unit of ``size``."""
    return sum(_advance(char, bold) for char in text) * size


def wrapped(text: str, measure: Callable[[str], float], width: float) -> list[str]:
    """Wrap a text into lines of at most ``width`` by ``measure``, between words where possible."""
    lines: list[str] = []
    for word in chain.from_iterable(_pieces(whole, measure, width) for whole in text.split()):
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def wrap(text: str, size: float, width: float) -> list[str]:
    """Lines of at most ``width`` of a text of ``size`` in a figure, both in points."""
    return wrapped(text, lambda line: text_width(line, size), width)


def shortened(text: str, size: float, width: float) -> str:
    """The text, or its beginning and its end, of at most ``width`` at ``size``, both in points."""
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}\u2026{text[len(text) - kept // 2 :]}"
        if text_width(short, size) <= width:
            return short
    return f"{text[:1]}\u2026"


def _pieces(word: str, measure: Callable[[str], float], width: float) -> Iterator[str]:
    """A word in pieces of at most ``width``, such as a long path."""
    while len(word) > 1 and measure(word) > width:
        fitting = bisect_right(range(len(word)), width, key=lambda end: measure(word[:end]))
        yield word[: max(1, fitting - 1)]
        word = word[max(1, fitting - 1) :]
    yield word


@cache
def _advance(char: str, bold: bool) -> float:
    """Width of a character for a size of 1."""
    font = _font_of(char)
    file = font.fname if font else _base_file(False)
    if bold and file == _base_file(False):
        file = _base_file(True)
    return ImageFont.truetype(file, _MEASURED).getlength(char) / _MEASURED


@cache
def _base_file(bold: bool) -> str:
    return str(findfont(FontProperties(family=_BASE, weight="bold" if bold else "normal")))


def _escaped(text: str, drawable: Callable[[str], bool]) -> str:
    return "".join(char if drawable(char) else ascii(char)[1:-1] for char in text)


@cache
def _font_of(char: str) -> FontEntry | None:
    """The installed font to draw a character in, the base font if it can; None without one."""
    return next((font for font in _fonts() if ord(char) in _characters(font.fname)), None)


@cache
def _fonts() -> list[FontEntry]:
    """Installed fonts: the base font, then those of regular weight, then the others."""

    def rank(font: FontEntry) -> tuple[bool, bool, str, str]:
        regular = font.style == "normal" and font.weight in {400, "normal"}
        return font.name != _BASE or not regular, not regular, font.name, font.fname

    usable = (font for font in fontManager.ttflist if not _UNFIT.match(font.name))
    return sorted(usable, key=rank)


@cache
def _characters(file: str) -> frozenset[int]:
    """Code points that a font has a glyph for; none if it cannot be opened."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
