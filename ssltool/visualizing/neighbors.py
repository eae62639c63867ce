"""Figure of nearest neighbors by an encoder's features, beside those by random init."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ssltool.plotting.figures import require_format
from ssltool.plotting.sheet import Column, Sheet
from ssltool.plotting.sheet_layout import save_sheet
from ssltool.probing.extraction import random_init
from ssltool.probing.features import POOLED, extract, recalibrate_batch_norm
from ssltool.visualizing.loading import load_pretrained, open_images
from ssltool.visualizing.results import FigureResult
from ssltool.visualizing.sampling import class_of, named, same_class

_SEARCHED = 2048  # images among which neighbors are searched
_PATCHES = 4  # of each image, when patches are compared
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
    class, and vermilion and dashed around others.

    Args:
        weights: Run folder or weights file.
        path: PNG, SVG or PDF to write.
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
    require_format(path)
    where = choose_device(device)
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
    found: dict[str, _Neighbors] = {}
    for name, network in {
        metadata.method: encoder,
        "random init": random_init(encoder, seed),
    }.items():
        vectors = _vectors(network.to(where), transform, gallery.images)
        found[name] = _nearest(vectors, queries, gallery.owner, shown)
    kind = "patches" if patch else "images"
    sheet = Sheet(
        _columns(gallery, queries, list(found.values())),
        f"Nearest {kind} by features of {metadata.method} and by random init",
        _captions(gallery, queries, found),
        f"Among {searched:,} {kind}, from {source.description}. Numbers: cosine similarity.",
    )
    save_sheet(sheet, path)
    fractions = {
        name: float(same.float().mean())
        for name, neighbors in found.items()
        if (same := _same_class(gallery, queries, neighbors.rows)) is not None
    }
    return NeighborsFigure(path=path, searched=searched, same_class=fractions)


class _Neighbors(NamedTuple):
    """The most similar images or patches of each query.

    Attributes:
        rows: int64 ``[Q, n]``, in the gallery.
        similarity: float ``[Q, n]``.
    """

    rows: Tensor
    similarity: Tensor


class _Gallery(NamedTuple):
    """Images or patches among which neighbors are searched.

    Attributes:
        images: uint8 ``[N, 3, s, s]``.
        owner: int64 ``[N]``, the image that each belongs to.
        classes: Name of each image's class, None where it is unknown.
    """

    images: Tensor
    owner: Tensor
    classes: list[str | None]

    def extended(self, queries: Tensor) -> _Gallery:
        """A gallery with queries from outside at its end; they are no neighbors of one another."""
        owner = torch.full((len(queries),), _OTHER)
        return self._replace(
            images=torch.cat([self.images, queries]), owner=torch.cat([self.owner, owner])
        )

    def class_of(self, row: int) -> str | None:
        """Class of an image or patch."""
        owner = int(self.owner[row])
        return None if owner == _OTHER else self.classes[owner]


def _gallery(source: Source, size: int, patch: int | None, seed: int) -> _Gallery:
    images, index = sample(source, size, _SEARCHED)
    classes = [class_of(source, i) for i in index.tolist()]
    owner = torch.arange(len(images))
    if patch is None:
        return _Gallery(images, owner, classes)
    if patch > size:
        raise UsageError(
            f"--patch {patch} is larger than the {size} px images; type --patch {size // 2} or less"
        )
    rng = PerImageRNG(index, torch.Generator().manual_seed(seed))
    corner = rng.integers(size - patch + 1, _PATCHES, 2)
    cut = patches.cut(images, corner[..., 0], corner[..., 1], patch).flatten(0, 1)
    return _Gallery(cut, owner.repeat_interleave(_PATCHES), classes)


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


def _nearest(vectors: Tensor, queries: Tensor, owner: Tensor, count: int) -> _Neighbors:
    """The ``count`` most similar vectors of other images."""
    unit = F.normalize(vectors - vectors.mean(dim=0), dim=1)
    similarity = unit[queries] @ unit.T
    similarity[owner[queries][:, None] == owner] = -torch.inf
    values, rows = similarity.topk(count, dim=1)
    return _Neighbors(rows, values)


def _same_class(gallery: _Gallery, queries: Tensor, rows: Tensor) -> Tensor | None:
    """Whether each neighbor has the query's class, bool ``[Q, n]``; None where none is known."""
    known = [gallery.class_of(int(query)) for query in queries]
    if all(name is None for name in known):
        return None
    return torch.tensor(
        [
            [name is not None and gallery.class_of(row) == name for row in neighbors]
            for name, neighbors in zip(known, rows.tolist(), strict=True)
        ]
    )


def _columns(gallery: _Gallery, queries: Tensor, found: Sequence[_Neighbors]) -> dict[str, Column]:
    """The query and its neighbors, a row for each query and encoder."""
    every = [
        (int(query), neighbors.rows[i].tolist(), neighbors.similarity[i].tolist())
        for i, query in enumerate(queries)
        for neighbors in found
    ]
    names = [gallery.class_of(query) or "" for query, _, _ in every]
    columns = {"query": Column([gallery.images[query] for query, _, _ in every], (), names)}
    for rank in range(found[0].rows.shape[1]):
        classes = [gallery.class_of(rows[rank]) for _, rows, _ in every]
        columns[f"nearest {rank + 1}"] = Column(
            [gallery.images[rows[rank]] for _, rows, _ in every],
            [same_class(n or None, c) for n, c in zip(names, classes, strict=True)],
            [named(c, values[rank]) for c, (_, _, values) in zip(classes, every, strict=True)],
        )
    return columns


def _captions(gallery: _Gallery, queries: Tensor, found: Mapping[str, _Neighbors]) -> list[str]:
    """The encoder of each row, and how many of its neighbors have the query's class."""
    lines = []
    for i, query in enumerate(queries):
        for name, neighbors in found.items():
            same = _same_class(gallery, query[None], neighbors.rows[i : i + 1])
            count = "" if same is None else f": {int(same.sum())} of {same.numel()} same class"
            lines.append(f"by {name}{count}")
    return lines
