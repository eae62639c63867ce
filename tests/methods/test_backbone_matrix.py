"""Every backbone with every method takes a step, or one line names what does."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_backbones import outcome
from rich.console import Console

from ssltool.encoders.registry import backbone_names
from ssltool.methods.registry import available
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain

METHODS = [name for name, listing in available().items() if listing.origin == "built in"]
WHOLE = {"colorization", "context-encoder", "npid"}  # these give the encoder whole images
SLOW = ("vgg11", "caffenet", "colornet", "convnext_tiny", "resnet10_w32", "vit_b_32")
SMALLEST = {"alexnet": 63, "caffenet": 25, "convnext_tiny": 32, "vgg11": 32}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "backbone", ["alexnet", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_small_images(backbone: str, method: str) -> None:
    line = outcome(method, backbone, 32)
    needed = SMALLEST.get(backbone, 1)
    if method in WHOLE:
        assert (line == "runs") == (needed <= 32)
    elif method != "cpc":  # which cuts the backbone
        assert (line == "runs") == (needed == 1 and backbone != "vit_b_32")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", backbone_names())
def test_every_backbone(backbone: str, method: str) -> None:
    outcome(method, backbone, 32)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "backbone", ["alexnet", "convnext_tiny", "regnet_x_400mf", "shufflenet_v2_x0_5", "swin_t"]
)
def test_two_real_steps(backbone: str, method: str, tmp_path: Path) -> None:
    """What runs on the meta device does so on a real one: 128 px give each of them enough."""
    options = {
        "backbone": backbone,
        "data": ("demo:16",),
        "image_size": 128,
        "batch_size": 4,
        "steps": 2,
        "workers": 0,
        "precision": "fp32",
        "out": tmp_path / "run",
    }
    line = outcome(method, backbone, 128)
    if line == "runs":
        pretrain(RunConfig.merged(method, options), console=Console(quiet=True))
        assert (tmp_path / "run" / "encoder.safetensors").is_file()
