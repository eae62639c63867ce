"""Draw a task for a few pictures at a time, so that what lies between two steps stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

ViewT = TypeVar("ViewT", bound=tuple[Any, ...])
_View = Callable[[Any, Tensor, Tensor, torch.Generator], ViewT]


def piecewise(pictures: int) -> Callable[[_View[ViewT]], _View[ViewT]]:
    """Make a method's ``view`` run on ``pictures`` at a time on a CPU, where it is then two to five times as fast.

    The result is the same: random numbers belong to a picture and not to its batch (see `ssltool.ops.random`), so each
    piece begins with the generator in the same state. Every field of the view must be a tensor ``[B, ...]``. A GPU is
    given the whole batch.
    """

    def decorate(view: _View[ViewT]) -> _View[ViewT]:
        @wraps(view)
        def in_pieces(self: Any, images: Tensor, index: Tensor, generator: torch.Generator) -> ViewT:
            count = len(images)
            if images.device.type != "cpu" or count <= pictures:
                return view(self, images, index, generator)
            state = generator.get_state()
            whole: list[Tensor] = []
            for begin in range(0, count, pictures):
                generator.set_state(state)
                piece = view(self, images[begin : begin + pictures], index[begin : begin + pictures], generator)
                whole = whole or [_room(part, count) for part in piece]
                for field, part in zip(whole, piece, strict=True):
                    field[begin : begin + len(part)] = part
            kind: Callable[..., ViewT] = type(piece)
            return kind(*whole)

        return in_pieces

    return decorate


def _room(part: Tensor, count: int) -> Tensor:
    """An empty tensor like ``part``, memory format included, for more pictures."""
    channels_last = part.dim() == 4 and part.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if channels_last and not part.is_contiguous() else torch.contiguous_format
    return torch.empty((count, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=form)
