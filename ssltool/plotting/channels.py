"""Which three channels of images with others than R, G and B figures show, and as what color."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ssltool.errors import UsageError

_FIRST = (0, 1, 2)
_shown: ContextVar[tuple[int, ...]] = ContextVar("shown", default=_FIRST)


@contextmanager
def showing(numbers: Sequence[int]) -> Iterator[None]:
    """Show other channels than the first three, for the length of a block.

    Args:
        numbers: Of the channels shown as red, green and blue, from 1; one is shown in gray. Empty
            for the first three.
    """
    token = _shown.set(tuple(number - 1 for number in numbers) or _FIRST)
    try:
        yield
    finally:
        _shown.reset(token)


def as_rgb(images: Tensor) -> Tensor:
    """Images ``[..., C, h, w]`` as ``[..., 3, h, w]`` to be drawn.

    One channel becomes gray, and three are R, G and B. Of two the third color is black, unless
    `showing` says otherwise, and of more than three those are shown that it says.

    Raises:
        UsageError: The images have no such channel.
    """
    count = images.shape[-3]
    if count == 3:
        return images
    if count == 1:
        return torch.cat([images] * 3, dim=-3)
    chosen = _shown.get()
    if count == 2 and chosen == _FIRST:
        return torch.cat([images, torch.zeros_like(images[..., :1, :, :])], dim=-3)
    if max(chosen) >= count:
        raise UsageError(
            f"--show-channels {','.join(str(channel + 1) for channel in chosen)}: the images have "
            f"{count} channels"
        )
    return torch.cat([images[..., [channel], :, :] for channel in _triple(chosen)], dim=-3)


def legend(count: int) -> str:
    """What `as_rgb` does with so many channels, as a sentence; empty for one channel or RGB."""
    if count in (1, 3):
        return ""
    shown = [str(channel + 1) for channel in _shown.get()[:count]]
    if len(shown) == 1:
        return f"Channel {shown[0]} of {count} in gray."
    colors = ("red", "green", "blue")[: len(shown)]
    return f"Channels {', '.join(shown)} of {count} as {', '.join(colors)}."


def _triple(chosen: tuple[int, ...]) -> tuple[int, ...]:
    return chosen * 3 if len(chosen) == 1 else chosen
