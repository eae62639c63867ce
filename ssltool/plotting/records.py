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
        color: Index into the palette; the next color if None.
    """

    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    color: int | None = None


class Level(NamedTuple):
    """A horizontal reference level, such as chance.

    Attributes:
        value: On the y axis.
        label: Written beside the line.
        color: Index into the palette; the renderer's reference color if None.
    """

    value: float
    label: str
    color: int | None = None


class Lines(NamedTuple):
    """Curves with reference levels.

    Attributes:
        series: Curve by name.
        x_label: Label of the x axis, with the unit.
        y_label: Label of the y axis, with the unit.
        levels: Dashed horizontal lines.
        log_x: Logarithmic x axis with a tick at every value of x.
    """

    series: Mapping[str, Series]
    x_label: str
    y_label: str
    levels: Sequence[Level] = ()
    log_x: bool = False

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
    """

    values: Tensor
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str
    digits: int = 2


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
        color: Index into the palette by name, where it is not the first color.
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
