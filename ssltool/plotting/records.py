"""Plot records: the data of curves, heat maps, bars or points, independent of the renderer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from torch import Tensor


class Series(NamedTuple):
    """One curve.

    Attributes:
        x: n ascending values, or n category names.
        y: n values.
        color: Index into the palette, or `ssltool.plotting.colors.BASELINE`; the next color if
            None.
        error: Half the widths of n error bars; none if empty.
    """

    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    color: int | None = None
    error: Sequence[float] = ()


class Level(NamedTuple):
    """A reference level, such as chance.

    Attributes:
        value: On the value axis.
        label: What it is; the renderer adds the value.
        color: Index into the palette; gray if None.
        owner: The curve it belongs to, if not to all of them.
    """

    value: float
    label: str
    color: int | None = None
    owner: str = ""

    @property
    def written(self) -> str:
        """The value, for display."""
        return f"{self.value:.3g}"

    @property
    def text(self) -> str:
        """What it is and its value, for display."""
        owner = f" of {self.owner}" if self.owner else ""
        return f"{self.label} {self.written}{owner}"


class Lines(NamedTuple):
    """Curves with reference levels.

    Attributes:
        series: Curve by name.
        x_label: Label of the x axis, with the unit.
        y_label: Label of the y axis, with the unit.
        levels: Dashed horizontal lines.
        log_x: Logarithmic x axis with a tick at every value of x.
        log_y: Logarithmic y axis; all values are positive.
    """

    series: Mapping[str, Series]
    x_label: str
    y_label: str
    levels: Sequence[Level] = ()
    log_x: bool = False
    log_y: bool = False

    @classmethod
    def shared_x(
        cls,
        x: Sequence[float],
        y: Mapping[str, Sequence[float]],
        x_label: str,
        y_label: str,
        *,
        log_x: bool = False,
    ) -> Self:
        """Build curves over one x axis.

        Args:
            x: n ascending values.
            y: Name of each curve -> its n values.
            x_label: Label of the x axis, with the unit.
            y_label: Label of the y axis, with the unit.
            log_x: See the class.
        """
        series = {name: Series(x, values) for name, values in y.items()}
        return cls(series, x_label, y_label, log_x=log_x)


class Matrix(NamedTuple):
    """A table of values drawn as a heat map, such as a confusion matrix.

    Attributes:
        values: float ``[R, C]``.
        rows: Names of the R rows.
        columns: Names of the C columns.
        row_label: Label of the row axis.
        column_label: Label of the column axis.
        digits: Decimals of the values written into small tables.
        value_label: Label of the color scale, with the unit.
        limits: Values at the ends of the color scale; those of the table if None.
        small_values: Whether the scale shows the square root, so that small values can be seen
            beside large ones; no value is negative.
    """

    values: Tensor
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str
    digits: int = 2
    value_label: str = ""
    limits: tuple[float, float] | None = None
    small_values: bool = False


class Points(NamedTuple):
    """Colored points in a plane with equal axes.

    Attributes:
        x: float ``[n]``.
        y: float ``[n]``.
        colors: uint8 ``[n, 3]``, RGB.
        sizes: float ``[n]`` in 0..1, relative area of each point.
        x_label: Label of the x axis, with the unit.
        y_label: Label of the y axis, with the unit.
    """

    x: Tensor
    y: Tensor
    colors: Tensor
    sizes: Tensor
    x_label: str
    y_label: str


class Bars(NamedTuple):
    """Horizontal bars, drawn from the largest to the smallest.

    Attributes:
        values: Length of each bar by name.
        label: Label of the value axis, with the unit.
        std: Half the width of the error bar by name, where there is one.
        levels: Dashed vertical lines.
        in_order: Draw the bars in the order of ``values``, the first one at the top.
        color: Index into the palette by name, where it is not the first color;
            `ssltool.plotting.colors.BASELINE` for baselines.
    """

    values: Mapping[str, float]
    label: str
    std: Mapping[str, float] = {}
    levels: Sequence[Level] = ()
    in_order: bool = False
    color: Mapping[str, int] = {}

    @property
    def names(self) -> list[str]:
        """Names of the bars from the bottom to the top."""
        if self.in_order:
            return list(self.values)[::-1]
        return sorted(self.values, key=lambda name: self.values[name])


Plot = Lines | Matrix | Points | Bars
