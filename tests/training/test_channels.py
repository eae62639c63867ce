"""Runs on images of five bands in 16 bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_channels import write_bands

import ssltool
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.registry import backbone_names, build_encoder, reinitialized_copy
from ssltool.errors import SslToolError, UsageError
from ssltool.methods.base import Method
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method, find_options
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.runs.config import RunConfig

CHANNELS = 5
METHODS = ("jigsaw", "context-prediction", "context-encoder", "npid", "cpc")
FAST: dict[str, Any] = {
    "channels": CHANNELS,
    "backbone": "resnet10_w32",
    "steps": 4,
    "batch_size": 8,
    "workers": 0,
    "precision": "fp32",
    "checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bands("demo:40", tmp_path_factory.mktemp("bands"), 32)


def info(channels: int = CHANNELS) -> DataInfo:
    return DataInfo(
        count=8,
        image_size=32,
        gray=channels == 1,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
        value_range=((0.0, 4095.0),) * channels,
        value_type="uint16",
    )


def built(name: str, channels: int = CHANNELS) -> Method[Any, Any]:
    data, method = info(channels), find_method(name)
    options, _ = find_options(name)().with_defaults(data).without_color()
    inputs = method.inputs(options, data)
    encoder = inputs.build_encoder("resnet10_w32", stem="small", in_channels=channels)
    return method(options, encoder, data)


def images(channels: int = CHANNELS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 32, 32, channels), dtype=torch.uint8, generator=generator)
    return pixels.permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("name", METHODS)
def test_every_channel_reaches_the_encoder(name: str, channels: int) -> None:
    method = built(name, channels).train()
    view = method.view(images(channels), torch.arange(8), torch.Generator().manual_seed(0))
    loss = method(view)
    loss.value.backward()
    first = next(m for m in method.encoder.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.weight.grad is not None
    by_channel = first.weight.grad.abs().sum(dim=(0, 2, 3))
    assert by_channel.shape == (channels,)
    assert bool((by_channel > 0).all())


def test_augmentation_treats_channels_alike() -> None:
    """With the channels in another order the views are the same, in that order."""
    method, order = built("npid").train(), [3, 1, 4, 0, 2]
    views = [
        method.view(pixels, torch.arange(8), torch.Generator().manual_seed(0)).images
        for pixels in (images(), images()[:, order].contiguous())
    ]
    torch.testing.assert_close(views[0][:, order], views[1])


def test_colors_of_rgb_are_left_out() -> None:
    on = {"npid": ("hue", "grayscale"), "jigsaw": ("grayscale",)}
    data = DataInfo(count=8, image_size=64, **{k: getattr(info(), k) for k in ("mean", "std")})
    for name, expected in on.items():
        assert find_options(name)().with_defaults(data).without_color()[1] == expected
    projected = find_options("context-prediction")(color_guard="project").with_defaults(data)
    assert projected.without_color()[0].color_guard == "drop"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["colorization"])
def test_colorization_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--channels 5: colorization learns from the colors"):
        RunConfig.merged(name, {"channels": 5})
    with pytest.raises(UsageError, match="learns from the colors"):
        RunConfig.merged(name, {"channels": 3, "value_range": "auto"})


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("name", backbone_names())
def test_every_backbone_takes_channels(name: str, channels: int) -> None:
    encoder = build_encoder(name, in_channels=channels, empty=True)
    assert encoder.in_channels == channels
    with pytest.raises(UsageError, match=f"takes float .B, {channels}, H, W."):
        encoder(torch.zeros(2, channels + 1, 64, 64))


@pytest.mark.slow
def test_initial_weights_keep_the_distribution_of_the_backbone() -> None:
    def deviation(encoder: Encoder) -> float:
        first = next(m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d))
        return float(first.weight.detach().std() * first.weight[0].numel() ** 0.5)

    torch.manual_seed(0)
    # Its fan-out is what scales a ResNet's weights: their deviation is that of three channels.
    three, five = (build_encoder("resnet18", in_channels=n) for n in (3, 5))
    ratio = deviation(five) / deviation(three)
    assert ratio == pytest.approx((5 / 3) ** 0.5, rel=0.05)
    # VGG's and AlexNet's by the fan-in: the deviation of what comes out stays.
    three, five = (build_encoder("alexnet", in_channels=n) for n in (3, 5))
    assert deviation(five) == pytest.approx(deviation(three), rel=0.05)
    assert reinitialized_copy(five).in_channels == 5


@pytest.mark.slow
@pytest.mark.ci
def test_pretrained_resumed_probed_embedded_and_drawn(folder: Path, tmp_path: Path) -> None:
    whole = ssltool.pretrain("npid", data=str(folder), out=tmp_path / "whole", **FAST)
    copy = shutil.copytree(whole.folder, tmp_path / "cut")
    shutil.rmtree(copy / "checkpoints" / "step-0000004")
    ssltool.pretrain("npid", out=copy, resume=True)
    same = [(path / "encoder.safetensors").read_bytes() for path in (whole.folder, copy)]
    assert same[0] == same[1]
    encoder = ssltool.load_encoder(whole)
    ranges, data = encoder.metadata.value_range, whole.record.data
    assert (encoder.metadata.color_space, encoder.in_channels) == ("channels", CHANNELS)
    assert ranges == data.value_range
    assert encoder.metadata.value_type == "uint16"
    rows = ssltool.probe(whole, data=str(folder), kind=("knn",), workers=0).rows
    assert {row.source.kind for row in rows} >= {"pretrained", "random_init", "pixels"}
    embedded = ssltool.embed(whole, data=str(folder), workers=0)
    assert embedded.features.shape[0] == 40
    assert np.isfinite(embedded.features.numpy()).all()
    for what in ("predictions", "features", "attribution"):
        figure = ssltool.visualize(
            what, whole, to=tmp_path / f"{what}.png", show_channels=(5, 4, 1)
        )
        assert figure.path.is_file()
    with pytest.raises(SslToolError, match="the images have 5 channels"):
        ssltool.visualize("features", whole, to=tmp_path / "x.png", show_channels=(6,))
    with pytest.raises(UsageError, match="cues of an audit"):
        ssltool.audit(whole)


def test_noise_of_channel_dropping_is_that_of_rgb() -> None:
    from ssltool.methods.context_prediction.guards import replace_other_channels

    rng = PerImageRNG(torch.arange(2), torch.Generator().manual_seed(0))
    planes, kept = torch.full((2, 3, 1, 8, 8), 7.0), torch.tensor([[0, 1, 4], [2, 3, 4]])
    filled = replace_other_channels(rng, planes, kept, 5)
    for i in range(2):
        for n in range(3):
            others = [c for c in range(5) if c != kept[i, n]]
            assert bool((filled[i, n, kept[i, n]] == 7).all())
            assert 0.005 < float(filled[i, n, others].std()) < 0.015
