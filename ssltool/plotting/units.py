"""Units of metrics: how values are written and how axes are labeled."""

from __future__ import annotations

from typing import Literal

Unit = Literal["fraction", "dB", "nats", ""]

# Metrics that training and online evaluation report for every method, apart from plain numbers.
TRAINING_UNITS: dict[str, Unit] = {"knn": "fraction", "data_wait": "fraction"}


def display_scale(unit: str) -> float:
    """Factor from a stored to a displayed value: fractions are displayed in percent."""
    return 100.0 if unit == "fraction" else 1.0


def format_value(value: float, unit: str) -> str:
    """A value with its unit."""
    match unit:
        case "fraction":
            # A small fraction, such as the chance level among thousands, keeps two digits.
            return f"{value:.1%}" if value >= 0.01 or value <= 0 else f"{100 * value:.2g}%"
        case "nats":
            return f"{value:.3f} nats"
        case "dB":
            return f"{value:.1f} dB"
        case _:
            return f"{value:.4g}"


_TITLES = {"knn": "kNN accuracy", "lr": "learning rate", "grad_norm": "gradient norm"}


def metric_title(name: str) -> str:
    """A metric's name for display."""
    return _TITLES.get(name, name.replace("_", " "))


def axis_label(name: str, unit: str) -> str:
    """A metric's name with its unit, for an axis or a column."""
    shown = "%" if unit == "fraction" else unit
    return metric_title(name) + (f", {shown}" if shown else "")


def describe(
    name: str, value: float, unit: str, chance: float | None = None, label: str = "chance level"
) -> str:
    """A metric in words, with its chance level: ``accuracy 50.0% (chance level 12.5%)``."""
    level = "" if chance is None else f" ({label} {format_value(chance, unit)})"
    return f"{metric_title(name)} {format_value(value, unit)}{level}"
