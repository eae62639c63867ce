"""Figures of instance discrimination: augmented views, nearest images, similarities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssltool.methods.base import Nearest, Predictions
from ssltool.plotting.records import Lines, Plot
from ssltool.plotting.sheet import Column, Sheet

if TYPE_CHECKING:
    from ssltool.methods.npid.task import Npid

_NEIGHBORS = 4  # drawn beside an image
_MAX_VECTORS = 4096  # of the bank in the histogram of similarities
_BINS = 80
_BATCH = 64
_EPOCHS = 3


def draw_task(method: Npid, images: Tensor, index: Tensor, generator: torch.Generator) -> Sheet:
    """The image and its augmented views of three epochs."""
    columns = {"image": Column(images)}
    for epoch in range(1, _EPOCHS + 1):
        augmented = method.augmented(images, index, generator)
        columns[f"view, epoch {epoch}"] = Column((augmented * 255).round().to(torch.uint8))
    return Sheet(columns, "Instance discrimination: recognize each image in its augmented views")


@torch.no_grad()
def draw_predictions(
    method: Npid, images: Tensor, index: Tensor, generator: torch.Generator
) -> Predictions:
    """The images whose memory vectors are nearest, and how near the image's own one is.

    With several processes only the vectors of this process's shard are compared.
    """
    features = method.embed(method.view(images, index, generator).images)
    in_bank = index < method.count
    own_index = torch.where(in_bank, method.bank.local_index(index * in_bank), -1)
    scores = features @ method.bank.rows.to(features.dtype).T  # [B, n]
    own = method.bank.similarity(features, own_index)
    rank = (scores > own[:, None]).sum(dim=1) + 1
    scores[own_index >= 0, own_index[own_index >= 0]] = -math.inf
    similarity, nearest = scores.topk(min(_NEIGHBORS, scores.shape[1] - 1), dim=1)
    captions = [
        f"similarity to own memory vector {s:.2f}, rank {r:,} of {scores.shape[1]:,}"
        if i >= 0
        else ""
        for s, r, i in zip(own.tolist(), rank.tolist(), own_index.tolist(), strict=True)
    ]
    title = "Instance discrimination: training images with the nearest memory vectors"
    note = "Numbers: cosine similarity to the memory vector; an image's own one is left out."
    sheet = Sheet({"query": Column(images)}, title, captions, note)
    return Predictions(sheet, Nearest(nearest + method.bank.start, similarity))


@torch.no_grad()
def plots(
    method: Npid, images: Tensor, index: Tensor, generator: torch.Generator
) -> dict[str, Plot]:
    """In evaluation mode: histograms of the similarity to the image's own and to other memory
    vectors.
    """
    if method.training or int(index.max()) >= method.count:
        return {}
    parts = zip(torch.split(images, _BATCH), torch.split(index, _BATCH), strict=True)
    features = torch.cat([method.embed(method.view(*part, generator).images) for part in parts])
    count = len(method.bank.rows)
    compared = torch.arange(0, count, -(-count // _MAX_VECTORS), device=index.device)
    scores = features @ method.bank.rows[compared].to(features.dtype).T
    own_index = method.bank.local_index(index)
    similarities = {
        "own memory vector": method.bank.similarity(features, own_index)[own_index >= 0],
        "other memory vectors": scores[own_index[:, None] != compared],
    }
    edges = torch.linspace(-1, 1, _BINS + 1)
    histograms = {
        name: (values.cpu().histc(_BINS, -1, 1) / max(1, values.numel())).tolist()
        for name, values in similarities.items()
    }
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    label = f"share of the pairs in bins of {2 / _BINS:g}"
    return {"similarities": Lines.shared_x(middles, histograms, "similarity (cosine)", label)}
