"""Plot records: the data of a heat map, curves or points, independent of how they are rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


class Matrix(NamedTuple):
    """A table of values drawn as a heat map, such as a confusion matrix.

    Attributes:
        values: float ``[R, C]``.
        rows: Names of the R rows.
        columns: Names of the C columns.
        row_label: Label of the row axis.
        column_label: Label of the column axis.
    """

    values: Tensor
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str


class Lines(NamedTuple):
    """Curves over a shared x axis.

    Attributes:
        x: n ascending values.
        y: Name of each curve -> its n values.
        x_label: Label of the x axis, with the unit.
        y_label: Label of the y axis, with the unit.
    """

    x: Sequence[float]
    y: Mapping[str, Sequence[float]]
    x_label: str
    y_label: str


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


Plot = Matrix | Lines | Points
