"""Nearest neighbors of images or patches in an encoder's eyes, beside those of random init."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.data.sample import sample
from ssltool.device import best_device
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import find_weights, load_encoder
from ssltool.errors import UsageError
from ssltool.ops import patches
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.plotting import frames
from ssltool.plotting.sheet import save_sheet
from ssltool.probing import features
from ssltool.probing.extraction import random_init
from ssltool.visualizing.sources import png, sources_of

_SEARCHED = 2048  # images among which neighbors are looked for
_PATCHES = 4  # of each image, when patches are compared
_TILE = 130  # px, about the side of a drawn image
_BATCH = 256


def draw_neighbors(
    weights: Path,
    path: Path,
    *,
    data: Sequence[str] = (),
    image: Sequence[Path] = (),
    patch: int | None = None,
    count: int = 6,
    nearest: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw queries with their nearest neighbors by cosine of mean-subtracted pooled features.

    Neighbors of random init stand beside, since those already look fair on some queries (Doersch et
    al. 2015, section 4.1). With class folders, frames are green around neighbors of the query's
    class and red around others.

    Args:
        weights: Run folder or weights file.
        path: PNG to write.
        data: Images; the run's own if empty.
        image: Look for the neighbors of these files, which need not be in ``data``.
        patch: Compare patches of this side in pixels instead of whole images; a patch's own image
            is left out.
        count: Queries.
        nearest: Neighbors of each.
        seed: Seed of the random init, the queries and the patches' places.

    Returns:
        The path, the number of images or patches searched and, with classes, the share of neighbors
        of the query's class for the encoder and for random init.
    """
    file = find_weights(weights)
    encoder = load_encoder(file)
    metadata = encoder.metadata
    assert metadata is not None, "load_encoder attaches it"
    if image and patch is not None:
        raise UsageError(
            "--image and --patch: neighbors of whole images are looked for; drop one of them"
        )
    own, around = sources_of(weights, data, image)
    source = around or own
    side = metadata.read_size
    images, places = sample(source, side, _SEARCHED)
    labels = [source.label(place) for place in places.tolist()]
    owner = torch.arange(len(images))
    if patch is not None:
        images, owner = _cut(images, places, patch, seed), owner.repeat_interleave(_PATCHES)
    queries = _queries(images, count, seed)
    if image:
        asked = sample(own, side, len(own))[0]
        queries = torch.arange(len(images), len(images) + len(asked))
        images, owner = (
            torch.cat([images, asked]),
            torch.cat([owner, torch.full((len(asked),), -1)]),
        )
    shown = min(nearest, len(images) - max(1, len(image)))
    columns, shares = {"query": _tiles(images[queries][:, None], None)}, {}
    for name, network in {
        metadata.method: encoder,
        "random init": random_init(encoder, seed),
    }.items():
        found = _nearest(_vectors(network, metadata, images, side), queries, owner, shown)
        same = None if image else _same_class(labels, owner, queries, found)
        columns[f"nearest by {name}"] = _tiles(images[found], same)
        if same is not None:
            shares[name] = float(same.float().mean())
    searched = len(images) - len(image)
    title = f"nearest among {searched:,} {'patches ' if patch else ''}of {source.description}"
    captions = (
        [_caption(source.classes, labels[int(owner[q])]) for q in queries] if shares else None
    )
    save_sheet(columns, png(path), captions=captions, title=title)
    return {"path": str(png(path)), "searched": searched, "same_class": shares}


def _cut(images: Tensor, places: Tensor, patch: int, seed: int) -> Tensor:
    """A few patches of each image at random places, ``[B * 4, 3, p, p]``."""
    side = images.shape[-1]
    if patch > side:
        raise UsageError(
            f"--patch {patch} is larger than the {side} px images; type --patch {side // 2} or less"
        )
    corner = PerImageRNG(places, torch.Generator().manual_seed(seed)).integers(
        side - patch + 1, _PATCHES, 2
    )
    return patches.cut(images, corner[..., 0], corner[..., 1], patch).flatten(0, 1)


def _queries(images: Tensor, count: int, seed: int) -> Tensor:
    """Random queries among the half with most contrast: nothing can be told about a piece of plain
    sky.
    """
    contrast = images.float().std(dim=(1, 2, 3))
    worthy = contrast.argsort(descending=True)[: max(1, len(images) // 2)]
    order = torch.randperm(len(worthy), generator=torch.Generator().manual_seed(seed))
    return worthy[order[:count]]


@torch.no_grad()
def _vectors(encoder: Encoder, metadata: EncoderMetadata, images: Tensor, side: int) -> Tensor:
    """Pooled features ``[N, D]`` at the scale the encoder was trained at, batch norm re-estimated
    on these images.
    """
    device = best_device()
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = max(1, round(images.shape[-1] * metadata.image_size / side))
    reader = InputTransform.of(metadata, size)
    parts = [part.to(device) for part in torch.split(images, _BATCH)]
    features.recalibrate_batch_norm(encoder, parts, reader)
    return features.extract(encoder, parts, reader)[features.POOLED].cpu()


def _nearest(vectors: Tensor, queries: Tensor, owner: Tensor, count: int) -> Tensor:
    """Indices ``[Q, count]`` of the most similar vectors of other images."""
    unit = F.normalize(vectors - vectors.mean(dim=0), dim=1)
    similarity = unit[queries] @ unit.T
    similarity[owner[queries][:, None] == owner] = -torch.inf
    return similarity.topk(count, dim=1).indices


def _same_class(
    labels: list[int | None], owner: Tensor, queries: Tensor, found: Tensor
) -> Tensor | None:
    """Whether each neighbor has the query's class, bool ``[Q, n]``; None without at least two
    classes.
    """
    if len({label for label in labels if label is not None}) < 2:
        return None
    known = torch.tensor([-1 if label is None else label for label in labels])[owner]
    return known[found] == known[queries][:, None]


def _tiles(stack: Tensor, same: Tensor | None) -> Tensor:
    """Images uint8 ``[Q, n, 3, s, s]`` enlarged and laid side by side, framed by class where it is
    known.
    """
    stack = frames.enlarged(stack, max(1, round(_TILE / stack.shape[-1])))
    if same is not None:
        stack = frames.border(
            stack, torch.where(same[..., None], frames.GREEN, frames.RED), width=3
        )
    return patches.assemble(stack, stack.shape[1], gap=4, fill=255)


def _caption(classes: Sequence[str], label: int | None) -> str:
    return "no class" if label is None else classes[label]
