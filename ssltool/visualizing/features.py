"""Figure of images arranged by their features: principal components, t-SNE or UMAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.device import choose_device
from ssltool.errors import UsageError
from ssltool.ops.principal import principal_components
from ssltool.options import DeviceName
from ssltool.plotting.figures import require_format, save_figure
from ssltool.plotting.thumbnail_map import thumbnail_map
from ssltool.probing.features import POOLED, extract, recalibrate_batch_norm
from ssltool.visualizing.loading import load_pretrained, open_images
from ssltool.visualizing.results import FigureResult

_BATCH = 128
Embedding = Callable[[Tensor], Tensor]
_NAMES = {"tsne": "t-SNE", "umap": "UMAP"}


class FeaturesFigure(FigureResult):
    """What `draw_features` drew.

    Attributes:
        method: Pretext task of the weights.
        images: Number of images.
        classes: Number of classes of the data; 0 without labels.
        shown: Number of images drawn as thumbnails.
        variance: Fraction of the variance along the two principal components; None for t-SNE and
            UMAP.
    """

    method: str
    images: int
    classes: int
    shown: int
    variance: float | None

    def summary(self) -> list[str]:
        """Variance along the map's axes, and how many images are thumbnails."""
        lines = [] if self.variance is None else [f"variance {self.variance:.1%}"]
        return [*lines, f"{self.images:,} images as points, {self.shown:,} as thumbnails"]


def draw_features(
    weights: Path,
    path: Path,
    *,
    data: Sequence[str] = (),
    kind: Literal["pca", "tsne", "umap"] = "pca",
    count: int = 1000,
    seed: int = 0,
    device: DeviceName = "auto",
) -> FeaturesFigure:
    """Draw a map of images by their pooled features, in the colors of their classes.

    All images are points; below, the same map has as many of them as thumbnails as do not cover
    one another.

    Args:
        weights: Run folder or weights file.
        path: File to write, PNG, SVG or PDF by its suffix.
        data: Images; the run's own if empty.
        kind: ``pca`` for the two principal components; ``tsne`` or ``umap`` to preserve
            neighborhoods.
        count: Largest number of images, evenly spread over the data.
        seed: Seed of t-SNE and UMAP.
        device: Where to compute, see `ssltool.device.choose_device`.

    Raises:
        UsageError: scikit-learn or umap-learn is not installed, there are fewer than 4 images, or
            the weights belong to no run and no images were named.
    """
    require_format(path)
    # Before all else: what it imports may change how features are rounded, which UMAP amplifies.
    embed = None if kind == "pca" else {"tsne": tsne_embedding, "umap": umap_embedding}[kind](seed)
    where = choose_device(device)
    source = open_images(weights, data).source
    encoder, metadata, transform, size = load_pretrained(weights, where)
    images, index = sample(source, size, count)
    if len(images) < 4:
        raise UsageError(
            f"a map needs 4 images or more, but {source.description} has {len(images)}; name "
            "more --data"
        )
    recalibrate_batch_norm(encoder, images, transform)
    batches = torch.split(images.to(where), _BATCH)
    # Neighbors are compared by cosine similarity, so the map leaves lengths out as well.
    features = nn.functional.normalize(extract(encoder, batches, transform)[POOLED]).double().cpu()
    arranged = _principal_map(features) if embed is None else _embedded_map(features, embed, kind)
    labels = _labels(source, index)
    drawn = thumbnail_map(
        arranged.points.numpy(),
        images,
        labels=labels,
        classes=source.classes if labels else (),
        title=f"{metadata.method}, {metadata.backbone}: pooled features of {len(images):,} of "
        f"{source.description}",
        axes=arranged.axes,
    )
    return FeaturesFigure(
        path=save_figure(drawn.figure, path),
        shown=drawn.shown,
        method=metadata.method,
        images=len(images),
        classes=len(source.classes),
        variance=arranged.variance,
    )


class _Map(NamedTuple):
    """Images arranged in a plane.

    Attributes:
        points: float64 ``[N, 2]``.
        axes: Titles of the axes.
        variance: Fraction of the variance along both, of principal components.
    """

    points: Tensor
    axes: tuple[str, str]
    variance: float | None = None


def _principal_map(features: Tensor) -> _Map:
    points, shares = principal_plane(features)
    first, second = (
        f"principal component {i}, {share:.0%} of the variance"
        for i, share in enumerate(shares, start=1)
    )
    return _Map(points, (first, second), sum(shares))


def _embedded_map(features: Tensor, embed: Embedding, kind: str) -> _Map:
    first, second = (f"{_NAMES[kind]} dimension {i}, no unit" for i in (1, 2))
    return _Map(embed(features), (first, second))


def _labels(source: Source, index: Tensor) -> list[int]:
    """Labels of the images; none at all unless every image has one, of two classes or more."""
    labels = [label for i in index.tolist() if (label := source.label(i)) is not None]
    return labels if len(labels) == len(index) and len(source.classes) > 1 else []


def principal_plane(features: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Coordinates ``[N, 2]`` of features ``[N, D]`` along their two principal components, and the
    fraction of the variance along each.
    """
    points, shares = principal_components(features, 2)
    return points, (shares[0], shares[1])


def tsne_embedding(seed: int) -> Embedding:
    """Coordinates by t-SNE; imports it."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise _missing("tsne", "scikit-learn") from error

    def embed(features: Tensor) -> Tensor:
        perplexity = min(30.0, (len(features) - 1) / 3)
        state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
        embedding = TSNE(init="pca", perplexity=perplexity, random_state=state)
        return torch.from_numpy(embedding.fit_transform(features.numpy())).double()

    return embed


def umap_embedding(seed: int) -> Embedding:
    """Coordinates by UMAP; imports it."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise _missing("umap", "umap-learn") from error

    def embed(features: Tensor) -> Tensor:
        neighbors = min(15, len(features) - 1)
        # One thread: with a seed UMAP has no more, and would warn.
        embedding = UMAP(n_neighbors=neighbors, init="pca", random_state=seed, n_jobs=1)
        return torch.from_numpy(embedding.fit_transform(features.numpy())).double()

    return embed


def _missing(kind: str, package: str) -> UsageError:
    return UsageError(
        f"--map {kind} needs {package}, which is not installed; type pip install 'ssltool[maps]', "
        "or --map pca"
    )
