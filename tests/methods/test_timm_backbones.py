"""Every built-in method trains networks of timm, whose weights plain timm then loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

timm = pytest.importorskip("timm")

from ssltool.encoders.weights import load_encoder  # noqa: E402
from ssltool.errors import UsageError  # noqa: E402
from ssltool.methods.registry import available  # noqa: E402
from ssltool.runs.config import RunConfig  # noqa: E402
from ssltool.training.pretrain import pretrain  # noqa: E402

METHODS = [name for name, listing in available().items() if listing.origin == "built in"]
PARTS: dict[str, dict[str, Any]] = {  # 32 px for methods that encode parts of images
    "jigsaw": {"tile_input": 32, "image_size": 96},
    "context-prediction": {"patch_input": 32, "image_size": 96},
    "cpc": {"patch": 32, "image_size": 128},
}


def trained(method: str, backbone: str, out: Path, **options: Any) -> Path:
    given = {
        "backbone": backbone,
        "data": ("demo:8",),
        "image_size": 64,
        "batch_size": 4,
        "steps": 1,
        "workers": 0,
        "precision": "fp32",
        "out": out,
        **PARTS.get(method, {}),
        **options,
    }
    pretrain(RunConfig.merged(method, given), console=Console(quiet=True))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm/test_vit,patch_size=8", "timm/test_convnext"])
@pytest.mark.parametrize("method", METHODS)
def test_one_step(method: str, backbone: str, tmp_path: Path) -> None:
    folder = trained(method, backbone, tmp_path / "run")
    encoder = load_encoder(folder)
    assert encoder.metadata.backbone == backbone
    assert encoder.metadata.timm == timm.__version__
    model, _, patch = backbone.removeprefix("timm/").partition(",patch_size=")
    options = {"patch_size": int(patch), "img_size": encoder.position_size} if patch else {}
    plain = timm.create_model(model, num_classes=0, in_chans=encoder.in_channels, **options).eval()
    tensors = load_file(folder / "encoder.safetensors")
    if encoder.stages[-1].name in ("block6", "stage4"):  # not cut
        plain.load_state_dict(tensors)
        side = encoder.metadata.image_size
        x = torch.randn(2, encoder.in_channels, side, side)
        with torch.no_grad():
            assert torch.allclose(plain(x), encoder(x), rtol=0, atol=1e-6)
    else:
        assert tensors.keys() < plain.state_dict().keys()


@pytest.mark.slow
def test_inputs_that_are_no_multiple_of_the_patch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no multiple of its 16 px patch.*--tile-input 32"):
        trained("jigsaw", "timm/test_vit", tmp_path / "run", tile_input=20)


@pytest.mark.slow
def test_an_unknown_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown backbone 'timm/test_vitt'.*did you mean"):
        trained("npid", "timm/test_vitt", tmp_path / "run")


@pytest.mark.slow
def test_what_was_initialized_is_kept(tmp_path: Path) -> None:
    first = trained("npid", "timm/test_vit", tmp_path / "a")
    second = trained("npid", "timm/test_vit", tmp_path / "b", init=first, image_size=32, channels=1)
    record = json.loads((second / "run.json").read_text())["initial_weights"]
    assert record["converted"] == [
        "patch_embed.proj.weight from 3 to 1 channels",
        "pos_embed from 4x4 to 2x2 positions",
    ]
    assert (record["prefix"], record["left_out"]) == ("", [])
