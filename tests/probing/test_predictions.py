"""The figure of a probe's most certain predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssltool.plotting import frames
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


def test_frames_say_which_predictions_are_correct(tmp_path: Path) -> None:
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
    sheet = draw_predictions(predictions, data, 16, tmp_path / "sheet.png", "title")
    pixels = torch.from_numpy(np.asarray(Image.open(sheet).convert("RGB")).copy())
    side = 16 * round(72 / 16)
    frame = side**2 - (side - 6) ** 2  # pixels of a frame 3 wide; the sheet doubles small rows
    for color, images in ((frames.GREEN, count - wrong), (frames.RED, wrong)):
        found = int((pixels == color).all(-1).sum())
        assert found == images * frame
