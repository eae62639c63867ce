"""What holds on a GPU alone: skipped where there is none. The other tests use one too where they
find it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, distributed, nn

from ssltool.data.gpu_jpeg import cuda_decoder
from ssltool.data.loader import TrainBatches
from ssltool.data.sources.registry import open_source
from ssltool.distributed import gradients
from ssltool.distributed.gradients import GradientReducer
from ssltool.encoders.layers.layer_norm import MapLayerNorm
from ssltool.methods.registry import available
from ssltool.runs.config import RunConfig
from ssltool.training.loop import train
from ssltool.training.start import new_run
from ssltool.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
NAMES = list(available())


def trainer(name: str, device: str, **options: Any) -> Trainer:
    given = {
        "data": ("demo:64",),
        "image_size": 96,
        "batch_size": 8,
        "steps": 100,
        "device": device,
        **options,
    }
    config = RunConfig.merged(name, given)
    return Trainer.build(new_run(config), Console(quiet=True), cache_bytes=0)


@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_gpu(name: str) -> None:
    """Whatever reads a number on the host, or copies from memory that is not pinned, is an error in
    this mode.
    """
    at_work = trainer(name, "cuda")
    with at_work.batches:
        first = next(at_work.batches.from_step(0))
        reports = train(
            at_work.method, repeat(first), at_work.optimizer, at_work.schedule, at_work.scaler
        )
        list(islice(reports, 3))  # constants are copied and kernels chosen in the first ones
        torch.cuda.set_sync_debug_mode("error")
        try:
            list(islice(reports, 2))
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_the_same_as_on_a_cpu(name: str) -> None:
    views = []
    for device in ("cpu", "cuda"):
        at_work = trainer(name, device, precision="fp32")
        with at_work.batches:
            first = next(at_work.batches.from_step(0))
            method = at_work.method.train()
            views.append(method.view(first.images, first.indices, torch.Generator().manual_seed(5)))
    for field, here, there in zip(views[0]._fields, *views, strict=True):
        if not isinstance(here, Tensor) or here.numel() == 0:
            continue
        if field in {
            "bins",
            "shares",
        }:  # those of a color change order at the slightest difference in it
            continue
        difference = (here.double() - there.cpu().double()).abs()
        if here.is_floating_point():  # rounded to bytes on a CPU and not on a GPU, say
            assert difference.mean() < 0.02 * here.double().std() + 1e-6, field
        elif here.dtype == torch.uint8:
            assert difference.mean() < 1, field
        else:  # numbers of places and orders
            assert (difference == 0).double().mean() > 0.99, field


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_two_runs_end_with_the_same_bytes(name: str, stem: str) -> None:
    """Threads of a GPU finish in no fixed order; sums that follow it differ in their last bits."""
    ends = []
    for _ in range(2):
        at_work = trainer(name, "cuda", backbone="resnet18", stem=stem, precision="bf16", workers=0)
        with at_work.batches:
            list(islice(at_work.steps(), 6))
        ends.append({key: value.cpu() for key, value in at_work.method.state_dict().items()})
    different = [key for key in ends[0] if not torch.equal(ends[0][key], ends[1][key])]
    assert not different


@pytest.mark.parametrize("whole", [False, True])
def test_the_decoder_of_jpeg_gives_nearly_the_pixels_of_the_cpu(
    tmp_path: Path, whole: bool
) -> None:
    decoder = cuda_decoder(torch.device("cuda"))
    if decoder is None:
        pytest.skip("torchvision was built without nvJPEG")
    generator = np.random.default_rng(0)
    for number in range(8):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
        size = [(120, 90), (90, 131)][number % 2]
        path = tmp_path / f"{number}.jpg"
        coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    batches = []
    for chosen in (None, decoder):
        loader = TrainBatches(
            open_source(tmp_path),
            size=64,
            batch_size=8,
            seed=0,
            device="cuda",
            whole=whole,
            decoder=chosen,
        )
        with loader:
            batches.append(next(loader.from_step(0)))
    assert batches[0].indices.equal(batches[1].indices)
    difference = (batches[0].images.int() - batches[1].images.int()).abs()
    assert difference.float().mean() < 1
    assert (difference <= 2).float().mean() > 0.99


def test_layer_norm_agrees_with_group_norm() -> None:
    torch.manual_seed(0)
    norm, usual = MapLayerNorm(64).cuda(), nn.GroupNorm(1, 64).cuda()
    maps = (
        (2 * torch.randn(32, 64, 8, 8, device="cuda") + 1)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    weights = torch.randn_like(maps)
    found = []
    for module in (norm, usual):
        out = module(maps)
        found.append(
            (out, *torch.autograd.grad((out * weights).sum(), [maps, module.weight, module.bias]))
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """A process group of this process alone, so that NCCL is at work on a single GPU."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=f"tcp://localhost:{port}", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.usefixtures("group_of_one")
def test_gradients_are_averaged_without_waiting_for_the_gpu(
    overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "world_size", lambda: 2)  # the mean of ours and of nothing
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers).cuda().to(memory_format=torch.channels_last)
    maps = torch.randn(8, 64, 32, 32, device="cuda").to(memory_format=torch.channels_last)
    expected = torch.autograd.grad(model(maps).square().mean(), list(model.parameters()))
    with GradientReducer(model.parameters(), overlap=overlap, bucket_bytes=2**18) as reducer:
        for step in range(4):
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            try:
                model.zero_grad()
                reducer.last_pass()
                model(maps).square().mean().backward()
                reducer.average()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    for parameter, whole in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, whole / 2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", NAMES)
def test_several_gpus(name: str, tmp_path: Path) -> None:
    """Buckets give the same bytes twice, and nearly what one sum gives; batch norm synchronizes."""
    kinds = {
        "overlap": [],
        "again": [],
        "single": ["--all-reduce", "single"],
        "synchronized": ["--sync-batchnorm", "--accumulate", "2"],
    }
    weights = {}
    for kind, flags in kinds.items():
        out = tmp_path / kind
        command = (
            f"pretrain {name} --data demo:64 --image-size 96 --batch-size 8 --steps 3 --quiet "
            f"--backbone resnet18 --precision fp32 --devices {min(4, torch.cuda.device_count())}"
        )
        words = [sys.executable, "-m", "ssltool", *command.split(), "--out", str(out), *flags]
        subprocess.run(words, check=True, timeout=300)
        weights[kind] = load_file(out / "encoder.safetensors")
    for key, value in weights["overlap"].items():
        assert torch.equal(value, weights["again"][key]), key
        torch.testing.assert_close(value, weights["single"][key], rtol=1e-2, atol=1e-3)
