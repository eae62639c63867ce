"""Runs that several files of tests probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from ssltool.probing.options import ProbeOptions
from ssltool.probing.probe import probe
from ssltool.runs.config import RunConfig
from ssltool.runs.probe_record import ProbeRecord
from ssltool.training.pretrain import pretrain

Probe = Callable[..., ProbeRecord]


def pretrained(out: Path, method: str, **options: Any) -> Path:
    """A run of a few steps."""
    given = {"data": ("demo:16",), "batch_size": 4, "steps": 2, "workers": 0, "out": out}
    values = {**given, "precision": "fp32", **options}
    pretrain(RunConfig.merged(method, values), console=Console(quiet=True))
    return out


@pytest.fixture(scope="session")
def jigsaw_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the small network, at 32 px."""
    return pretrained(tmp_path_factory.mktemp("runs") / "jigsaw", "jigsaw", image_size=32)


@pytest.fixture(scope="session")
def cpc_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an encoder that is trained on patches."""
    out = tmp_path_factory.mktemp("runs") / "cpc"
    return pretrained(out, "cpc", image_size=20, directions=1, backbone="resnet20")


@pytest.fixture(scope="session")
def npid_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a projection and a memory bank of 16 images."""
    return pretrained(tmp_path_factory.mktemp("runs") / "npid", "npid", image_size=32)


@pytest.fixture
def probed() -> Probe:
    """Probe a run with few images and small grids, unless options say otherwise."""

    def run(weights: Path, **options: Any) -> ProbeRecord:
        given = {"data": ("demo:40",), "test_data": ("demo-test:20",), "workers": 0}
        given |= {"grid_dim": 64, "keep_features": False, "random_inits": 1}
        values = {**given, **options}
        return probe(ProbeOptions.checked(weights=weights, **values), Console(quiet=True))

    return run


@pytest.fixture
def multilabel(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of images with red stripes, a blue square, both or neither, and their labels."""
    lines = ["file,labels"]
    for i in range(24):
        red, blue = i % 2 == 0, i % 3 == 0
        image = Image.new("RGB", (40, 40), (0, 4 * i, 0))
        for left in range(0, 40, 8) if red else ():
            image.paste((200, 4 * i, 0), (left, 0, left + 4, 40))
        if blue:
            image.paste((0, 4 * i, 250), (10, 10, 30, 30))
        image.save(tmp_path / f"{i}.png")
        names = ["red"] * red + ["blue" if i % 12 else "?blue"] * blue
        lines.append(f"{i}.png,{';'.join(names)}")
    label_file = tmp_path / "labels.csv"
    label_file.write_text("\n".join(lines), encoding="utf-8")
    return tmp_path, label_file
