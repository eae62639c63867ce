"""Convert an encoder trained on lightness to other input color spaces.

A colorization encoder has one input channel, L of CIE Lab. It can be exported in three forms:

- ``lightness``: as it is. Exact; images must be converted to L.
- ``lab``: a first convolution of three channels whose kernels for a and b are zero. Exact; images
  must be converted to Lab.
- ``rgb``: a first convolution of three channels for images normalized as for ImageNet, which fits
  plain torchvision. Approximate, because L is not linear in R, G and B. Batch norm keeps its
  statistics, up to the constant of the linear fit: re-estimating them moved features further from
  the exact ones than the approximation does.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import IMAGENET_NORM, EncoderMetadata
from ssltool.encoders.registry import reinitialized_copy
from ssltool.errors import UsageError, WeightsError
from ssltool.exporting.options import InputForm

# Least-squares fit of L, 0..100, of nearly gray colors to R, G, B in 0..1: a constant and three
# slopes, 1.8 rms off.
_CONSTANT, _SLOPES = 2.827, (22.306, 69.912, 7.658)
_TOLERANCE = 1e-4  # relative to the largest feature


def convert(encoder: Encoder, form: InputForm) -> Encoder:
    """Convert an encoder trained on lightness to one of its input forms.

    Args:
        encoder: On the CPU, with its metadata, as `ssltool.encoders.weights.load_encoder` returns
            it; not changed.
        form: See the top of this file.

    Returns:
        An encoder in evaluation mode with its metadata; ``encoder`` itself for ``lightness``.

    Raises:
        UsageError: The encoder does not read lightness.
        WeightsError: The ``lab`` form computes other features.
    """
    metadata = encoder.metadata
    if metadata.color_space != "lightness":
        raise UsageError(
            f"--form {form}: these weights read {metadata.color_space}, and only weights that "
            f"read lightness have the forms {', '.join(get_args(InputForm))}; drop --form"
        )
    if form == "lightness":
        return encoder.eval()
    with torch.random.fork_rng(devices=[]):
        copy = reinitialized_copy(encoder, in_channels=3, empty=True)
    copy.backbone.load_state_dict(_state(encoder.backbone, form), assign=True)
    mean, std = IMAGENET_NORM if form == "rgb" else ((0.5, 0.0, 0.0), (0.5, 1.0, 1.0))
    changes = {
        "color_space": form,
        "converted_from": "lightness",
        "in_channels": 3,
        "mean": mean,
        "std": std,
    }
    copy.metadata = EncoderMetadata.model_validate({**metadata.model_dump(), **changes})
    copy.eval()
    if form == "lab":
        _verify(encoder.eval(), copy)
    return copy


def expand_gray(encoder: Encoder) -> Encoder:
    """Give an encoder that reads the mean of R, G and B a first convolution for the three of them.

    A third of each kernel is applied to each color, which computes the same features.

    Args:
        encoder: On the CPU, with one input channel of ``rgb`` and its metadata; not changed.

    Returns:
        An encoder of three channels in evaluation mode with its metadata.
    """
    metadata = encoder.metadata
    with torch.random.fork_rng(devices=[]):
        copy = reinitialized_copy(encoder, in_channels=3, empty=True)
    state = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    convolution = _first(encoder.backbone, nn.Conv2d)
    state[f"{convolution}.weight"] = state[f"{convolution}.weight"].repeat(1, 3, 1, 1) / 3
    copy.backbone.load_state_dict(state, assign=True)
    changes = {"in_channels": 3, "mean": metadata.mean * 3, "std": metadata.std * 3}
    copy.metadata = EncoderMetadata.model_validate({**metadata.model_dump(), **changes})
    return copy.eval()


def with_fixed_norm(encoder: Encoder) -> Encoder:
    """Normalize by the data's mean and deviation what was normalized by each image's own.

    It is an approximation: features change with the contrast of an image.

    Args:
        encoder: On the CPU, with its metadata; not changed.

    Returns:
        A copy that differs in its metadata.

    Raises:
        UsageError: The encoder is normalized by fixed values already.
    """
    if encoder.metadata.standardize == "data":
        raise UsageError(
            "--fixed-norm: these weights are normalized by a fixed mean and deviation already; "
            "drop it"
        )
    with torch.random.fork_rng(devices=[]):
        copy = reinitialized_copy(encoder, empty=True)
    state = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    copy.backbone.load_state_dict(state, assign=True)
    copy.metadata = encoder.metadata.model_copy(update={"standardize": "data"})
    return copy.eval()


def _state(backbone: nn.Module, form: InputForm) -> dict[str, Tensor]:
    """State dict of the backbone with a first convolution for ``lab`` or ``rgb``."""
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    convolution = _first(backbone, nn.Conv2d)
    kernel = state[f"{convolution}.weight"]
    if form == "lab":
        zeros = torch.zeros_like(kernel).repeat(1, 2, 1, 1)
        state[f"{convolution}.weight"] = torch.cat([kernel, zeros], dim=1)
        return state
    slopes, constant = _normalized_fit()
    state[f"{convolution}.weight"] = kernel * torch.tensor(slopes).view(1, 3, 1, 1)
    # The constant is added by the convolution's bias, or by the batch norm after it.
    shift = constant * kernel.sum(dim=(1, 2, 3))
    if f"{convolution}.bias" in state:
        state[f"{convolution}.bias"] += shift
    else:
        state[f"{_first(backbone, nn.BatchNorm2d)}.running_mean"] -= shift
    return state


def _normalized_fit() -> tuple[list[float], float]:
    """Slopes and constant of (L - 50) / 50 as a function of ImageNet-normalized R, G, B."""
    means, stds = IMAGENET_NORM
    slopes = [slope * std / 50 for slope, std in zip(_SLOPES, stds, strict=True)]
    at_mean = _CONSTANT + sum(slope * mean for slope, mean in zip(_SLOPES, means, strict=True))
    return slopes, (at_mean - 50) / 50


def _first(backbone: nn.Module, kind: type[nn.Module]) -> str:
    """Path of the first module of a kind."""
    modules = backbone.named_modules()
    path: str = next(path for path, module in modules if isinstance(module, kind))
    return path


@torch.no_grad()
def _verify(encoder: Encoder, copy: Encoder) -> None:
    """Make sure that the ``lab`` form computes the features of the encoder."""
    side = encoder.metadata.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = encoder(images[:, :1])
    difference = float((copy(images) - expected).abs().max())
    if not difference <= _TOLERANCE * float(expected.abs().max()):
        raise WeightsError(
            f"the lab form computes features that differ by {difference:.2g}; use --form lightness"
        )
