"""Encoders that read lightness, in forms that take other input.

A colorization encoder has one channel, L of CIE Lab. Three forms hand it on:

- ``lightness``: as it is. Exact; whoever uses it converts images to L.
- ``lab``: a first convolution of three channels whose kernels for a and b are zero. Exact; reads
  Lab.
- ``rgb``: a first convolution of three channels for images normalized as for ImageNet, which fits
  plain torchvision. Approximate, because L is not linear in R, G and B. Batch norm keeps its
  statistics but for the constant of that fit: re-estimating them moved features further from the
  exact form's than the whole approximation does.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.registry import reinitialized_copy
from ssltool.errors import UsageError, WeightsError

Form = Literal["lightness", "lab", "rgb"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
# L of nearly gray colors by least squares from R, G, B in 0..1: a constant and three slopes, off by
# 1.8 rms.
_CONSTANT, _SLOPES = 2.827, (22.306, 69.912, 7.658)
_TOLERANCE = 1e-4  # of the largest feature


def converted(encoder: Encoder, form: Form) -> Encoder:
    """An encoder that reads lightness in one of its forms, in evaluation mode, its card attached.

    Args:
        encoder: With its card, as `ssltool.encoders.weights.load_encoder` returns it; left as it is.
        form: See above.

    Raises:
        UsageError: The encoder does not read lightness.
        WeightsError: The ``lab`` form computes other features.
    """
    metadata = encoder.metadata
    assert metadata is not None, "load_encoder attaches it"
    if metadata.color_space != "lightness":
        raise UsageError(
            f"--form {form}: these weights read {metadata.color_space}, and only weights that "
            "read lightness have the "
            f"forms {', '.join(get_args(Form))}; drop --form"
        )
    if form == "lightness":
        return encoder.eval()
    with torch.random.fork_rng(devices=[]):
        copy = reinitialized_copy(encoder, in_channels=3, empty=True)
    state = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    name, _ = _first(encoder.backbone, nn.Conv2d)
    kernel = state[f"{name}.weight"]
    if form == "lab":
        state[f"{name}.weight"] = torch.cat(
            [kernel, torch.zeros_like(kernel).repeat(1, 2, 1, 1)], dim=1
        )
        space = {"color_space": "lab", "mean": (0.5, 0.0, 0.0), "std": (0.5, 1.0, 1.0)}
    else:
        slopes, constant = _in_network_units()
        state[f"{name}.weight"] = kernel * torch.tensor(slopes).view(1, 3, 1, 1)
        _shift(encoder.backbone, state, name, constant * kernel.sum(dim=(1, 2, 3)))
        space = {"color_space": "rgb", "mean": _MEAN, "std": _STD}
    copy.backbone.load_state_dict(state, assign=True)
    training = {
        **metadata.training,
        "form": "rgb, approximated from lightness" if form == "rgb" else "lab, from lightness",
    }
    copy.metadata = EncoderMetadata.model_validate(
        {**metadata.model_dump(), "in_channels": 3, **space, "training": training}
    )
    copy.eval()
    if form == "lab":
        _compare(encoder.eval(), copy)
    return copy


def _in_network_units() -> tuple[list[float], float]:
    """(L - 50) / 50 from R, G, B normalized as for ImageNet: three slopes and a constant."""
    slopes = [slope * std / 50 for slope, std in zip(_SLOPES, _STD, strict=True)]
    at_mean = _CONSTANT + sum(slope * mean for slope, mean in zip(_SLOPES, _MEAN, strict=True))
    return slopes, (at_mean - 50) / 50


def _shift(backbone: nn.Module, state: dict[str, Tensor], convolution: str, shift: Tensor) -> None:
    """Add ``shift`` ``[C]`` to what the first convolution gives: by its bias, or by the batch norm
    behind it.
    """
    bias = f"{convolution}.bias"
    if bias in state:
        state[bias] += shift
    else:
        norm, _ = _first(backbone, _BatchNorm)
        state[f"{norm}.running_mean"] -= shift


def _first(backbone: nn.Module, kind: type[nn.Module]) -> tuple[str, nn.Module]:
    """Path of the first module of a kind, and the module."""
    return next(
        (path, module) for path, module in backbone.named_modules() if isinstance(module, kind)
    )


@torch.no_grad()
def _compare(encoder: Encoder, copy: Encoder) -> None:
    """Make sure that the ``lab`` form computes what the encoder does."""
    assert encoder.metadata is not None
    side = encoder.metadata.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = encoder(images[:, :1])
    difference = float((copy(images) - expected).abs().max())
    if not difference <= _TOLERANCE * float(expected.abs().max()):
        raise WeightsError(
            f"the lab form computes features that differ by {difference:.2g}; use --form lightness"
        )
