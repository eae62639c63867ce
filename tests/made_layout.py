"""What is drawn where: texts that cover one another, and what leaves the page."""

from __future__ import annotations

from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from ssltool.plotting.text import as_plain_text


def drawn_texts(figure: Figure) -> list[Text]:
    """Texts that can be seen, of visible axes."""
    hidden = {
        id(label)
        for axes in figure.findobj(Axes)
        if isinstance(axes, Axes)
        for part in (axes.xaxis, axes.yaxis)
        for tick in part.get_major_ticks()
        if not min(part.get_view_interval()) <= tick.get_loc() <= max(part.get_view_interval())
        for label in (tick.label1, tick.label2)
    }  # of ticks beyond the ends of an axis
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text)
        and id(text) not in hidden
        and text.get_text().strip()
        and text.get_visible()
        and (text.axes is None or text.axes.get_visible())
    ]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a tenth of a point in both directions."""
    as_plain_text(figure)  # as in a saved figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, slack = canvas.get_renderer(), figure.dpi / 72 / 10
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in drawn_texts(figure)]
    return [
        (a, b)
        for (a, first), (b, second) in combinations(boxes, 2)
        if min(first.x1, second.x1) - max(first.x0, second.x0) > slack
        and min(first.y1, second.y1) - max(first.y0, second.y0) > slack
    ]


def on_page(figure: Figure) -> bool:
    """Whether everything drawn is on the page."""
    as_plain_text(figure)  # as in a saved figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())  # in inches, as the size
    width, height = figure.get_size_inches()
    slack = 1 / 72
    return bool(
        box.x0 >= -slack
        and box.y0 >= -slack
        and box.x1 <= width + slack
        and box.y1 <= height + slack
    )


def smallest_text(figure: Figure) -> float:
    """Size in points of the smallest text."""
    return min(float(text.get_fontsize()) for text in drawn_texts(figure))
