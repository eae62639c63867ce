"""Polyak averaging: the recursion by hand, and runs that resume with the same bytes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import load_encoder, read_metadata
from ssltool.errors import CheckpointError, Interrupted, UsageError
from ssltool.runs import checkpoint
from ssltool.runs.config import RunConfig
from ssltool.training.average import MovingAverage
from ssltool.training.pretrain import pretrain
from ssltool.training.trainer import Trainer

QUIET = Console(quiet=True)
BASE = {
    "data": ("demo:24",),
    "image_size": 32,
    "batch_size": 4,
    "steps": 6,
    "checkpoint_every": 2,
    "workers": 0,
    "precision": "fp32",
    "ema": 0.6,
}


def run(out: Path, resume: bool = False, **changes: Any) -> None:
    given = {"out": out, **changes} if resume else {**BASE, "out": out, **changes}
    pretrain(RunConfig.merged("jigsaw", given), resume=resume, console=QUIET)


def test_the_average_by_hand() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet20")
    average = MovingAverage(encoder, None, 0.5)
    expected = [p.detach().double() for p in encoder.parameters()]
    for step in range(20):
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.normal_()
            encoder.backbone.bn1.running_mean.fill_(step)
        average.update(encoder, None, step)
        decay = min(0.5, (1 + step) / (10 + step))  # 1/10, 2/11, ..., 8/17, 1/2
        expected = [
            decay * old + (1 - decay) * new.detach().double()
            for old, new in zip(expected, encoder.parameters(), strict=True)
        ]
    for found, value in zip(average.encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-6)
        assert not found.requires_grad
    assert bool((average.encoder.backbone.bn1.running_mean == 19).all())
    assert not average.encoder.training


def test_a_long_run_averages_as_torch_does() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet20")
    average = MovingAverage(encoder, None, 0.9)
    reference = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    reference.update_parameters(encoder)  # the first call copies
    for step in range(1000, 1010):
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(encoder, None, step)
        reference.update_parameters(encoder)
    pairs = zip(average.encoder.parameters(), reference.module.parameters(), strict=True)
    assert all(torch.equal(found, other) for found, other in pairs)


@pytest.mark.slow
def test_the_average_is_saved_and_training_does_not_change(tmp_path: Path) -> None:
    run(tmp_path / "averaged", keep=3)
    run(tmp_path / "plain", ema=0.0)
    folders = checkpoint.checkpoints(tmp_path / "averaged")
    last, plain = folders[-1], checkpoint.newest(tmp_path / "plain")
    assert plain is not None
    assert (last / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert not (plain / "average.safetensors").exists()
    average = load_file(last / "average.safetensors")
    kept = load_file(tmp_path / "averaged" / "encoder.safetensors")
    assert {f"encoder.backbone.{key}" for key in kept} == average.keys()
    assert all(
        torch.equal(average[f"encoder.backbone.{key}"], value) for key, value in kept.items()
    )
    key = "conv1.weight"
    newest = [load_file(f / "model.safetensors")[f"encoder.backbone.{key}"] for f in folders]
    assert not torch.equal(kept[key], newest[-1])
    averages = [load_file(f / "average.safetensors")[f"encoder.backbone.{key}"] for f in folders]
    assert all(not torch.equal(*pair) for pair in pairwise(averages))
    training = read_metadata(tmp_path / "averaged").training
    assert training is not None
    assert training.ema == 0.6
    assert torch.equal(
        load_encoder(tmp_path / "averaged").backbone.get_parameter(key), averages[-1]
    )


@pytest.mark.slow
def test_an_averaged_run_resumes_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    steps = Trainer.steps

    def interrupted(self: Trainer) -> Any:
        for report in steps(self):
            yield report
            if report.step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "steps", interrupted)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            run(tmp_path / "cut")
    with pytest.raises(UsageError, match=r"--ema 0\.9 \(the run has 0\.6\)"):
        run(tmp_path / "cut", resume=True, ema=0.9)
    run(tmp_path / "cut", resume=True)
    for name in ("encoder.safetensors", "checkpoints/step-0000006/average.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_checkpoint_without_its_average_is_named(tmp_path: Path) -> None:
    run(tmp_path / "run", steps=2)
    (tmp_path / "run/checkpoints/step-0000002/average.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"average\.safetensors cannot be read"):
        run(tmp_path / "run", resume=True, steps=4)


@pytest.mark.slow
def test_a_projection_is_averaged_with_its_encoder(tmp_path: Path) -> None:
    given = {**BASE, "out": tmp_path / "run", "steps": 2}
    pretrain(RunConfig.merged("npid", given), console=QUIET)
    average = load_file(tmp_path / "run/checkpoints/step-0000002/average.safetensors")
    kept = load_file(tmp_path / "run/encoder.projection.safetensors")
    newest = load_file(tmp_path / "run/checkpoints/step-0000002/model.safetensors")
    assert all(torch.equal(average[f"projection.{key}"], value) for key, value in kept.items())
    assert not torch.equal(kept["linear.weight"], newest["head.weight"])
