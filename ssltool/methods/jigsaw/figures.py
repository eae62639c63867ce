"""Figures of the jigsaw task: tiles, shuffled tiles, and the arrangement that was predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Predictions
from ssltool.ops import patches
from ssltool.plotting import frames
from ssltool.plotting.records import Plot

if TYPE_CHECKING:
    from ssltool.methods.jigsaw.task import Jigsaw, JigsawView

_GAP_GRAY = 200  # between tiles, which may be white


def draw_task(
    method: Jigsaw, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """The image with its tiles outlined, the tiles in place, and the tiles shuffled."""
    view = method.view(images, index, generator)
    tile = view.raw.shape[-1]
    outlined = frames.outline(
        view.image, view.corner[..., 0], view.corner[..., 1], tile, frames.YELLOW
    )
    encoded = frames.to_uint8(view.tiles).expand(-1, -1, 3, -1, -1)
    return {
        "image and tiles": outlined,
        "tiles in place": _assembled(method, view.raw),
        "shuffled tiles": _assembled(method, _shuffled(method, view, view.raw)),
        "network input": _assembled(method, _shuffled(method, view, encoded)),
    }


@torch.no_grad()
def draw_predictions(
    method: Jigsaw, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The shuffled tiles, the predicted arrangement with each tile framed by whether it is correct,
    and the ground truth.
    """
    view = method.view(images, index, generator)
    logits = method.logits(view).view(len(images), -1, len(method.orders))
    confidence, predicted = logits[:, 0].softmax(dim=1).max(dim=1)  # an image's first permutation
    true_cells, predicted_cells = method.orders[view.target[:, 0]], method.orders[predicted]
    correct = true_cells == predicted_cells  # [B, N], by slot
    shuffled = _shuffled(method, view, view.raw)
    colors = torch.where(
        correct[..., None], frames.GREEN.to(correct.device), frames.RED.to(correct.device)
    )
    framed = frames.border(shuffled, colors, width=max(1, shuffled.shape[-1] // 16))
    # solved[p[i]] = shown[i] is a gather with the inverse of p.
    solved = _taken(framed, predicted_cells.argsort(dim=1))
    captions = [
        f"{int(count)} of {method.tiles} tiles correct, confidence {c:.0%}"
        for count, c in zip(correct.sum(dim=1), confidence.tolist(), strict=True)
    ]
    columns = {
        "shuffled tiles": _assembled(method, shuffled),
        "prediction": _assembled(method, solved),
        "ground truth": _assembled(method, view.raw),
    }
    return Predictions(columns, captions)


def plots(
    method: Jigsaw, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Plot]:
    """None; ``ssltool visualize permutations`` plots the permutation set."""
    del method, images, index, generator
    return {}


def _assembled(method: Jigsaw, tiles: Tensor) -> Tensor:
    """Tiles uint8 ``[B, N, 3, t, t]`` in reading order as one image each, with gray gaps."""
    return patches.assemble(tiles, method.grid, gap=2, fill=_GAP_GRAY)


def _shuffled(method: Jigsaw, view: JigsawView, tiles: Tensor) -> Tensor:
    """The tiles ``[B, N, 3, t, t]`` in the slots of each image's first permutation."""
    return _taken(tiles, method.orders[view.target[:, 0]])


def _taken(tiles: Tensor, cells: Tensor) -> Tensor:
    """Tiles ``cells`` int64 ``[B, N]`` of each image's own ``[B, N, ...]``."""
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], cells]
