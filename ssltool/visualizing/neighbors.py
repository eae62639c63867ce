"""Figure of nearest neighbors by an encoder's features, beside those by random init."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.device import choose_device
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import UsageError
from ssltool.ops import patches
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.options import DeviceName
from ssltool.plotting import frames
from ssltool.plotting.sheet import save_sheet
from ssltool.probing.extraction import random_init
from ssltool.probing.features import POOLED, extract, recalibrate_batch_norm
from ssltool.visualizing.loading import load_pretrained, open_images, sheet_path
from ssltool.visualizing.results import FigureResult

_SEARCHED = 2048  # images among which neighbors are searched
_PATCHES = 4  # of each image, when patches are compared
_TILE = 130  # px, about the side of a drawn image
_BATCH = 256
_OTHER = -1  # owner of queries that are not among the searched images


class NeighborsFigure(FigureResult):
    """What `draw_neighbors` drew and measured.

    Attributes:
        searched: Number of images or patches among which neighbors were searched.
        same_class: Fraction of the neighbors that have the query's class, by encoder; empty
            without classes.
    """

    searched: int
    same_class: dict[str, float]

    def summary(self) -> list[str]:
        """Fraction of same-class neighbors by encoder."""
        fractions = self.same_class.items()
        return [f"of the query's class by {name}: {value:.1%}" for name, value in fractions]


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
    device: DeviceName = "auto",
) -> NeighborsFigure:
    """Draw queries with their nearest neighbors by cosine of mean-subtracted pooled features.

    Neighbors by random init stand beside, since those are already fair for some queries (Doersch et
    al. 2015, section 4.1). With class folders, frames are green around neighbors of the query's
    class and vermilion around others.

    Args:
        weights: Run folder or weights file.
        path: PNG to write.
        data: Images; the run's own if empty.
        image: Find the neighbors of these files, which need not be in ``data``.
        patch: Compare patches of this side in pixels instead of whole images; patches of the
            query's own image are left out.
        count: Queries.
        nearest: Neighbors of each.
        seed: Seed of the random init, the queries and the positions of the patches.
        device: Where to compute, see `ssltool.device.choose_device`.

    Raises:
        UsageError: A patch is larger than the images or combined with ``image``, or the weights
            belong to no run and no images were named.
    """
    if image and patch is not None:
        raise UsageError("--image and --patch: neighbors of files are whole images; drop one")
    sheet, where = sheet_path(path), choose_device(device)
    encoder, metadata, _, size = load_pretrained(weights, torch.device("cpu"))
    own, background = open_images(weights, data, image)
    source = background or own
    gallery = _gallery(source, size, patch, seed)
    searched = len(gallery.images)
    if image:
        gallery = gallery.extended(sample(own, size, len(own))[0])
        queries = torch.arange(searched, len(gallery.images))
    else:
        queries = _queries(gallery.images, count, seed)
    shown = min(nearest, len(gallery.images) - max(1, len(image)))
    # The scale that the encoder was trained at.
    side = max(1, round(gallery.images.shape[-1] * metadata.image_size / size))
    transform = InputTransform.of(metadata, side)
    columns, fractions = {"query": _tiles(gallery.images[queries][:, None], None)}, {}
    networks = {metadata.method: encoder, "random init": random_init(encoder, seed)}
    for name, network in networks.items():
        vectors = _vectors(network.to(where), transform, gallery.images)
        neighbors = _nearest(vectors, queries, gallery.owner, shown)
        same = None if image else _same_class(gallery, queries, neighbors)
        columns[f"nearest by {name}"] = _tiles(gallery.images[neighbors], same)
        if same is not None:
            fractions[name] = float(same.float().mean())
    captions = None
    if fractions:
        captions = [_class_name(source, gallery.label_of(int(q))) for q in queries]
    title = f"nearest among {searched:,} {'patches ' if patch else ''}of {source.description}"
    save_sheet(columns, sheet, captions=captions, title=title)
    return NeighborsFigure(path=sheet, searched=searched, same_class=fractions)


class _Gallery(NamedTuple):
    """Images or patches among which neighbors are searched.

    Attributes:
        images: uint8 ``[N, 3, s, s]``.
        owner: int64 ``[N]``, the image that each belongs to.
        labels: Class of each image, None where it has none.
    """

    images: Tensor
    owner: Tensor
    labels: list[int | None]

    def extended(self, queries: Tensor) -> _Gallery:
        """A gallery with queries from outside at its end; they are no neighbors of one another."""
        owner = torch.full((len(queries),), _OTHER)
        return self._replace(
            images=torch.cat([self.images, queries]), owner=torch.cat([self.owner, owner])
        )

    def label_of(self, row: int) -> int | None:
        """Class of an image or patch."""
        return self.labels[int(self.owner[row])]


def _gallery(source: Source, size: int, patch: int | None, seed: int) -> _Gallery:
    images, index = sample(source, size, _SEARCHED)
    labels = [source.label(i) for i in index.tolist()]
    owner = torch.arange(len(images))
    if patch is None:
        return _Gallery(images, owner, labels)
    if patch > size:
        raise UsageError(
            f"--patch {patch} is larger than the {size} px images; type --patch {size // 2} or less"
        )
    rng = PerImageRNG(index, torch.Generator().manual_seed(seed))
    corner = rng.integers(size - patch + 1, _PATCHES, 2)
    cut = patches.cut(images, corner[..., 0], corner[..., 1], patch).flatten(0, 1)
    return _Gallery(cut, owner.repeat_interleave(_PATCHES), labels)


def _queries(images: Tensor, count: int, seed: int) -> Tensor:
    """Indices of random queries among the half of the images with most contrast."""
    contrast = images.float().std(dim=(1, 2, 3))
    contrasted = contrast.argsort(descending=True)[: max(1, len(images) // 2)]
    order = torch.randperm(len(contrasted), generator=torch.Generator().manual_seed(seed))
    return contrasted[order[:count]]


@torch.no_grad()
def _vectors(encoder: Encoder, transform: InputTransform, images: Tensor) -> Tensor:
    """Pooled features ``[N, D]`` on the CPU, batch norm re-estimated on these images."""
    device = next(encoder.parameters()).device
    encoder.to(memory_format=torch.channels_last)
    recalibrate_batch_norm(encoder, images, transform)
    batches = [batch.to(device) for batch in torch.split(images, _BATCH)]
    return extract(encoder, batches, transform)[POOLED].cpu()


def _nearest(vectors: Tensor, queries: Tensor, owner: Tensor, count: int) -> Tensor:
    """Indices ``[Q, count]`` of the most similar vectors of other images."""
    unit = F.normalize(vectors - vectors.mean(dim=0), dim=1)
    similarity = unit[queries] @ unit.T
    similarity[owner[queries][:, None] == owner] = -torch.inf
    return similarity.topk(count, dim=1).indices


def _same_class(gallery: _Gallery, queries: Tensor, neighbors: Tensor) -> Tensor | None:
    """Whether each neighbor has the query's class, bool ``[Q, n]``; None with fewer than two
    classes.
    """
    if len({label for label in gallery.labels if label is not None}) < 2:
        return None
    of_images = torch.tensor([-1 if label is None else label for label in gallery.labels])
    labels = of_images[gallery.owner]
    return labels[neighbors] == labels[queries][:, None]


def _tiles(stack: Tensor, same: Tensor | None) -> Tensor:
    """Images uint8 ``[Q, n, 3, s, s]`` enlarged and side by side, framed by class where known."""
    stack = frames.enlarged(stack, max(1, round(_TILE / stack.shape[-1])))
    if same is not None:
        colors = torch.where(same[..., None], frames.GREEN, frames.RED)
        stack = frames.border(stack, colors, width=3)
    return patches.assemble(stack, stack.shape[1], gap=4, fill=255)


def _class_name(source: Source, label: int | None) -> str:
    return "no class" if label is None else source.classes[label]
