"""The figure of a probe's most certain predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssltool.plotting.colors import GREEN, ORANGE
from ssltool.plotting.sheet import Sheet
from ssltool.probing import predictions as module
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.predictions import Predictions, draw_predictions


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1, width=32)), max_size=12))
def test_the_most_certain_are_those_a_sort_puts_first(rows: list[tuple[int, float]]) -> None:
    predicted = torch.tensor([label for label, _ in rows], dtype=torch.int64)
    probability = torch.tensor([p for _, p in rows], dtype=torch.float32)
    indices = torch.arange(len(rows))
    predictions = Predictions(indices, torch.zeros_like(indices), predicted, probability)
    own = [i for i, (label, _) in enumerate(rows) if label == 1]
    expected = sorted(own, key=lambda i: -rows[i][1])[:3]
    assert predictions.most_certain(1, 3).tolist() == expected


def test_frames_say_which_predictions_are_correct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("a", 40), ("b", 200)):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((16, 16, 3), value + i, np.uint8)).save(folder / f"{i}.png")
    path = str(tmp_path / "data")
    data = LabeledImages((path,), (), workers=0)
    count = data.count("test")
    predictions = Predictions(
        torch.arange(count), data.labels("test"), torch.zeros(count).long(), torch.ones(count)
    )
    wrong = int((~predictions.correct()).sum())
    assert 0 < wrong < count
    drawn: list[Sheet] = []
    monkeypatch.setattr(module, "save_sheet", lambda sheet, path: drawn.append(sheet) or path)
    draw_predictions(predictions, data, 16, tmp_path / "sheet.png", "title")
    (sheet,) = drawn
    marks = [m for column in sheet.columns.values() for image in column.marks for m in image]
    colors = [mark.key.color for mark in marks if mark.key]
    assert colors.count(GREEN) == count - wrong
    assert colors.count(ORANGE) == wrong
    assert f"{count - wrong} of {count} shown are right" in sheet.note
    assert "predicted: a" in sheet.captions
