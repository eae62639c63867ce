from __future__ import annotations

import pytest

from ssltool.plotting.units import axis_label, describe, display_scale, format_value


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5, "fraction", "50.0%"),
        (0.0, "fraction", "0.0%"),
        (1 / 4096, "fraction", "0.024%"),
        (18.58, "dB", "18.6 dB"),
        (5.746, "nats", "5.746 nats"),
        (2.07944, "", "2.079"),
        (0.00012345, "", "0.0001234"),
    ],
)
def test_values_are_written_with_their_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def test_only_fractions_are_displayed_in_percent() -> None:
    assert [display_scale(unit) for unit in ("fraction", "dB", "nats", "")] == [100, 1, 1, 1]


def test_axis_labels_have_the_unit() -> None:
    labels = [axis_label("psnr", "dB"), axis_label("top5", "fraction"), axis_label("grad_norm", "")]
    assert labels == ["psnr, dB", "top5, %", "gradient norm"]


def test_metrics_are_described_with_their_chance_level() -> None:
    assert (
        describe("tile_accuracy", 0.5, "fraction", 0.125)
        == "tile accuracy 50.0% (chance level 12.5%)"
    )
    assert describe("psnr", 18.58, "dB") == "psnr 18.6 dB"
