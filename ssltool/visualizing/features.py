"""Images of a task, of what a network answers, of features, filters, permutation sets and training
curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssltool.data.sample import sample
from ssltool.device import best_device
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import find_weights, load_encoder
from ssltool.errors import UsageError
from ssltool.plotting.thumbnail_map import save_map
from ssltool.plotting.units import said as said
from ssltool.probing.features import POOLED, extract, recalibrate_batch_norm
from ssltool.visualizing.sources import png, sources_of

_READ = 128  # images of a map whose features are read at a time


def draw_features(
    weights: Path,
    path: Path,
    *,
    data: Sequence[str] = (),
    kind: str = "pca",
    count: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw a map of images by their pooled features; frames have the colors of the classes if there
    are any.

    Args:
        weights: Run folder or weights file.
        path: PNG to write.
        data: Images; those of the run if empty.
        kind: ``pca``, the plane of the largest variance, or ``tsne``, which keeps neighbors
            together.
        count: Most images, evenly spread over the data.
        seed: Of t-SNE.

    Returns:
        The path and the numbers of images; for ``pca`` the share of the variance that the map
        shows.

    Raises:
        UsageError: t-SNE's package is not installed, or there are too few images.
    """
    source, _ = sources_of(weights, data)
    encoder = load_encoder(find_weights(weights)).to(best_device())
    metadata = encoder.metadata
    assert metadata is not None, "load_encoder attaches it"
    images, places = sample(source, metadata.read_size, count)
    if len(images) < 4:
        raise UsageError(
            f"a map needs 4 images or more, but {source.description} has {len(images)}; name "
            "more --data"
        )
    reader = InputTransform.of(metadata)
    parts = torch.split(images.to(best_device()), _READ)
    recalibrate_batch_norm(encoder, parts, reader)
    # Cosine similarity is what neighbors are measured by, so lengths are left out of the map, too.
    features = nn.functional.normalize(extract(encoder, parts, reader)[POOLED]).double().cpu()
    points, share = principal_plane(features) if kind == "pca" else (_tsne(features, seed), None)
    labels = [label for place in places.tolist() if (label := source.label(place)) is not None]
    if len(labels) < len(images) or len(source.classes) < 2:
        labels = []
    kind_said = "t-SNE" if share is None else f"principal components, {share:.0%} of the variance"
    title = f"{metadata.method}, pooled features of {len(images):,} of {source.description}: {kind_said}"
    path = png(path)
    save_map(
        points.numpy(),
        images,
        path,
        labels=labels,
        classes=source.classes if labels else (),
        title=title,
    )
    found = {} if share is None else {"variance": share}
    return {
        "path": str(png(path)),
        "method": metadata.method,
        "images": len(images),
        "classes": len(source.classes),
        **found,
    }


def principal_plane(features: Tensor) -> tuple[Tensor, float]:
    """Coordinates ``[N, 2]`` of features ``[N, D]`` on their two principal components, and their
    share of the variance.

    Signs are chosen so that the largest weight of each component is positive: the same features
    give the same map.
    """
    centered = features - features.mean(dim=0)
    _, spread, axes = torch.linalg.svd(centered, full_matrices=False)
    axes = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(dim=1, keepdim=True)).sign()
    return centered @ axes.T, float(
        spread[:2].square().sum() / spread.square().sum().clamp_min(1e-12)
    )


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
    found = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(
        features.numpy()
    )
    return torch.from_numpy(found).double()
