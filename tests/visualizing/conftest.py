"""Runs and images that the tests of figures share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from PIL import Image
from rich.console import Console

from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain


class Pretrain(Protocol):
    def __call__(self, out: Path, method: str = "jigsaw", steps: int = 2) -> Path: ...


@pytest.fixture(scope="session")
def pretrained() -> Pretrain:
    """Trains a method for a few steps on 16 demo images."""

    def train(out: Path, method: str = "jigsaw", steps: int = 2) -> Path:
        options: dict[str, Any] = {
            "data": ("demo:16",),
            "image_size": 32,
            "batch_size": 4,
            "steps": steps,
            "log_every": 1,
            "workers": 0,
            "precision": "fp32",
            "out": out,
        }
        pretrain(RunConfig.merged(method, options), console=Console(quiet=True))
        return out

    return train


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, pretrained: Pretrain) -> Path:
    """A run of jigsaw."""
    return pretrained(tmp_path_factory.mktemp("runs") / "run", steps=4)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image file that is no square."""
    side = torch.arange(60, dtype=torch.uint8)
    planes = [side[:, None].expand(60, 80), (2 * side)[:, None].expand(60, 80)]
    image = torch.stack([*planes, torch.full((60, 80), 9)]).to(torch.uint8)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(scope="session")
def figure_bytes() -> Any:
    """Reads a figure after a look at whether anything is drawn on it."""

    def read(path: Path) -> bytes:
        with Image.open(path) as image:
            assert min(image.size) > 100
            assert len(image.convert("L").getcolors() or [0] * 99) > 3
        return path.read_bytes()

    return read
