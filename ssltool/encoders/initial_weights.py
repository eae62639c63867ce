"""Initial weights from files of timm, torchvision and DINO-style training, adapted to an encoder.

The keys may have a prefix, such as ``module.``, ``encoder_q.`` or ``teacher.backbone.``; of several
copies the teacher is taken. Position embeddings and relative position biases of another size are
interpolated, and the first convolution is converted to another number of channels. Every tensor of
the encoder must be in the file. What else is in it may be left out if it is a classifier or another
head, belongs to stages that were cut off, or to batch norm that was replaced.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.files import find_weights
from ssltool.encoders.metadata import InitialWeights
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import fill, read_tensors
from ssltool.errors import WeightsError

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def initialize(encoder: Encoder, path: Path | str) -> InitialWeights:
    """Load initial weights into an encoder. torch's global generator is left as it was.

    Args:
        encoder: Changed in place.
        path: A run folder, or a safetensors file of ours or of another library.

    Returns:
        What was loaded, left out and converted.

    Raises:
        UsageError: There is no such file.
        WeightsError: A tensor is missing, unexpected or misshapen, or a value is not finite;
            ``encoder`` is unchanged.
    """
    file = find_weights(path)
    tensors = read_tensors(file)
    expected = encoder.backbone.state_dict()
    prefix = find_prefix(tensors, expected)
    own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    if not own.keys() & expected.keys():
        raise WeightsError(
            f"{file} holds no tensor of {encoder.name}: its keys are {_some(tensors)}, those of "
            f"{encoder.name} {_some(expected)}; name the --backbone that it was trained with"
        )
    others = [key for key in tensors if not key.startswith(prefix)]
    plain = _plain_keys(encoder)
    unknown = own.keys() - expected.keys()
    heads = {key for key in unknown if _is_spare(key, plain, encoder.classifier)}
    loaded = {key: tensor for key, tensor in own.items() if key not in heads}
    converted = [
        *_convert_channels(loaded, expected, encoder),
        *_interpolate_positions(loaded, expected, encoder),
    ]
    fill(encoder, loaded, file)
    groups = Counter(map(_group, [*others, *(prefix + key for key in heads)]))
    return InitialWeights(
        loaded=len(loaded),
        prefix=prefix,
        left_out=tuple(f"{name} ({count})" for name, count in sorted(groups.items())),
        converted=tuple(converted),
    )


def find_prefix(keys: Iterable[str], expected: Iterable[str]) -> str:
    """What stands before the encoder's keys in a file; the teacher's, of several copies."""
    keys, expected = set(keys), list(expected)
    anchors = (expected[0], max(expected, key=len))
    found = {
        key.removesuffix(anchor) for key in keys for anchor in anchors if key.endswith(f".{anchor}")
    }

    def rank(prefix: str) -> tuple[int, bool, int, str]:
        matched = sum(prefix + key in keys for key in expected)
        return matched, "teacher" in prefix or "ema" in prefix, -len(prefix), prefix

    return max({"", *found}, key=rank)


def gray_kernels(kernels: Tensor) -> Tensor:
    """Kernels ``[O, C, h, w]`` for gray images, ``[O, 1, h, w]``, with the outputs of the color
    kernels on images whose C channels are equal.
    """
    return kernels.sum(dim=1, keepdim=True)


def interpolate_grid(grid: Tensor, side: int) -> Tensor:
    """Resize a square grid of vectors, bicubic with antialiasing.

    Args:
        grid: ``[n * n, D]``, row by row.
        side: Of the new grid, m.

    Returns:
        ``[m * m, D]``, with the dtype of ``grid``.
    """
    before = math.isqrt(len(grid))
    maps = grid.float().T.reshape(1, -1, before, before)
    resized = F.interpolate(maps, (side, side), mode="bicubic", antialias=True)
    return resized.flatten(2)[0].T.to(grid.dtype)


def _plain_keys(encoder: Encoder) -> set[str]:
    """Keys of the backbone as published: with all stages and batch norm."""
    with torch.random.fork_rng(devices=[]):
        plain = build_encoder(
            encoder.name,
            stem=encoder.stem,
            in_channels=encoder.in_channels,
            image_size=encoder.position_size,
            empty=True,
        )
    return set(plain.backbone.state_dict())


def _is_spare(key: str, plain: set[str], classifier: str | None) -> bool:
    """Whether a key that the encoder does not have may be left out."""
    if key in plain or (classifier and key.startswith(f"{classifier}.")):
        return True
    return key.split(".")[0] not in {each.split(".")[0] for each in plain}


def _convert_channels(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor], encoder: Encoder
) -> list[str]:
    """Give the first convolution as many input channels as the encoder has; say so."""
    modules = encoder.backbone.named_modules()
    path = next((path for path, module in modules if isinstance(module, nn.Conv2d)), "")
    key = f"{path}.weight"
    kernels, wanted = tensors.get(key), expected.get(key)
    if kernels is None or wanted is None or kernels.dim() != 4:
        return []
    before, after = kernels.shape[1], wanted.shape[1]
    if before == after:
        return []
    gray = gray_kernels(kernels)
    tensors[key] = gray.expand(-1, after, -1, -1) / after
    return [f"{key} from {before} to {after} channels"]


def _interpolate_positions(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor], encoder: Encoder
) -> list[str]:
    """Resize position embeddings and tables of relative position biases; say so."""
    done = []
    for key, wanted in expected.items():
        found = tensors.get(key)
        if found is None or found.shape == wanted.shape or found.dim() != wanted.dim():
            continue
        if key.endswith(("pos_embed", "pos_embedding")) and found.dim() == 3:
            grid = (encoder.position_size or 0) // (encoder.patch or 1)
            extra = wanted.shape[1] - grid**2  # class token and registers
            rows, side = found[0], grid
        elif key.endswith("relative_position_bias_table"):
            rows, extra, side = found, 0, math.isqrt(len(wanted))
        else:
            continue
        before = math.isqrt(max(0, len(rows) - extra))
        if extra < 0 or before**2 + extra != len(rows) or rows.shape[1] != wanted.shape[-1]:
            continue
        resized = torch.cat([rows[:extra], interpolate_grid(rows[extra:], side)])
        tensors[key] = resized.view(*found.shape[:-2], *resized.shape)
        done.append(f"{key} from {before}x{before} to {side}x{side} positions")
    return done


def _group(key: str) -> str:
    """What a tensor that is left out belongs to, in few words."""
    if key.endswith(_STATISTICS):
        return "batch norm statistics"
    parts = key.split(".")[:-1] or [key]
    numbered = len(parts) > 1 and parts[1].isdecimal()
    return ".".join(parts[:2] if numbered else parts[:1])


def _some(keys: Iterable[str]) -> str:
    first, *rest = list(keys)[:2] or ["none"]
    return ", ".join([first, *rest]) + " ..."
