"""Figure of images arranged by their features: principal components or t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssltool.data.sample import sample
from ssltool.device import choose_device
from ssltool.errors import UsageError
from ssltool.options import DeviceName
from ssltool.plotting.thumbnail_map import save_map
from ssltool.probing.features import POOLED, extract, recalibrate_batch_norm
from ssltool.visualizing.loading import load_pretrained, open_images, sheet_path
from ssltool.visualizing.results import FigureResult

_BATCH = 128


class FeaturesFigure(FigureResult):
    """What `draw_features` drew.

    Attributes:
        method: Pretext task of the weights.
        images: Number of images.
        classes: Number of classes of the data; 0 without labels.
        variance: Fraction of the variance along the two principal components; None for t-SNE.
    """

    method: str
    images: int
    classes: int
    variance: float | None

    def summary(self) -> list[str]:
        """Variance along the map's axes."""
        return [] if self.variance is None else [f"variance {self.variance:.1%}"]


def draw_features(
    weights: Path,
    path: Path,
    *,
    data: Sequence[str] = (),
    kind: Literal["pca", "tsne"] = "pca",
    count: int = 1000,
    seed: int = 0,
    device: DeviceName = "auto",
) -> FeaturesFigure:
    """Draw a map of images by their pooled features, framed in the colors of their classes.

    Args:
        weights: Run folder or weights file.
        path: PNG to write.
        data: Images; the run's own if empty.
        kind: ``pca`` for the two principal components, ``tsne`` to preserve neighborhoods.
        count: Largest number of images, evenly spread over the data.
        seed: Seed of t-SNE.
        device: Where to compute, see `ssltool.device.choose_device`.

    Raises:
        UsageError: scikit-learn is not installed, there are fewer than 4 images, or the weights
            belong to no run and no images were named.
    """
    sheet, where = sheet_path(path), choose_device(device)
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
    variance = None
    if kind == "pca":
        points, variance = principal_plane(features)
    else:
        points = _tsne(features, seed)
    labels = [label for i in index.tolist() if (label := source.label(i)) is not None]
    if len(labels) < len(images) or len(source.classes) < 2:
        labels = []
    axes = "t-SNE"
    if variance is not None:
        axes = f"principal components, {variance:.0%} of the variance"
    title = f"{metadata.method}, pooled features of {len(images):,} of {source.description}: {axes}"
    classes = source.classes if labels else ()
    save_map(points.numpy(), images, sheet, labels=labels, classes=classes, title=title)
    return FeaturesFigure(
        path=sheet,
        method=metadata.method,
        images=len(images),
        classes=len(source.classes),
        variance=variance,
    )


def principal_plane(features: Tensor) -> tuple[Tensor, float]:
    """Project features on their two principal components.

    The largest weight of each component is positive, so that the same features give the same map.

    Args:
        features: float ``[N, D]``.

    Returns:
        Coordinates ``[N, 2]``, and the fraction of the variance along them.
    """
    centered = features - features.mean(dim=0)
    _, spread, axes = torch.linalg.svd(centered, full_matrices=False)
    axes = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(dim=1, keepdim=True)).sign()
    variances = spread.square()
    return centered @ axes.T, float(variances[:2].sum() / variances.sum().clamp_min(1e-12))


def _tsne(features: Tensor, seed: int) -> Tensor:
    """Coordinates ``[N, 2]`` by t-SNE."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UsageError(
            "--map tsne needs scikit-learn, which is not installed; type pip install "
            "'ssltool[maps]', or --map pca"
        ) from error
    perplexity = min(30.0, (len(features) - 1) / 3)
    state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    embedding = TSNE(init="pca", perplexity=perplexity, random_state=state)
    return torch.from_numpy(embedding.fit_transform(features.numpy())).double()
