"""Stored short runs of every method: a change that should not alter results reproduces them.

``PIN=1 pytest tests/methods/test_pinned_runs.py`` stores them anew, after a change that should.
The tolerance is for other processors; on one machine the losses are equal to the last digit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import Dataset

from ssltool.data.sources.dataset import DatasetSource
from ssltool.runs.config import RunConfig
from ssltool.training.start import new_run
from ssltool.training.trainer import Trainer

STORED = Path(__file__).with_name("pinned_runs.json")
RUNS = {
    "jigsaw": {"permutations_per_image": 2, "flip": 0.5},
    "context-prediction": {},
    "context-encoder": {"adversarial": 0.01},
    "colorization": {},
    "npid": {"loss": "nce", "negatives": 16},
    "cpc": {"augment": "v2"},
}


class Waves(Dataset[Tensor]):
    """Colored plane waves, the same on every machine."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Tensor:
        y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
        phases = [x * (index % 5 + c) + y * (index % 7 - c) for c in range(3)]
        waves = torch.sin(torch.stack(phases) / 9 + index)
        return (127.5 * (1 + waves)).round().to(torch.uint8)


def losses(name: str) -> list[float]:
    given = {"image_size": 48, "batch_size": 8, "steps": 3, "precision": "fp32", "device": "cpu"}
    config = RunConfig.merged(name, {**given, **RUNS[name], "workers": 0, "seed": 3})
    trainer = Trainer.build(new_run(config, DatasetSource(Waves())), Console(quiet=True))
    with trainer.batches:
        return [float(report.loss) for report in trainer.steps()]


@pytest.mark.parametrize("name", list(RUNS))
def test_the_first_losses_are_those_stored(name: str) -> None:
    stored = json.loads(STORED.read_text()) if STORED.is_file() else {}
    measured = losses(name)
    if os.environ.get("PIN"):
        STORED.write_text(json.dumps({**stored, name: measured}, indent=1) + "\n")
        return
    assert measured == pytest.approx(stored[name], rel=2e-3)
    assert len(set(measured)) == 3  # each step changed the weights
