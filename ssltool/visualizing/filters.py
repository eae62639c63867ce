"""Images of a task, of what a network answers, of features, filters, permutation sets and training
curves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ssltool.encoders.weights import find_weights, load_encoder
from ssltool.errors import UsageError
from ssltool.plotting import charts as chart
from ssltool.plotting.units import said as said


def draw_filters(weights: Path, path: Path) -> dict[str, Any]:
    """Draw the kernels of an encoder's first convolution."""
    encoder = load_encoder(find_weights(weights))
    first = next((module for module in encoder.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise UsageError(f"{encoder.name} has no convolution to draw")
    kernels = first.weight.detach().double().numpy()
    metadata = encoder.metadata
    assert metadata is not None, "load_encoder attaches it"
    size = f"{kernels.shape[-1]} x {kernels.shape[-2]} of {kernels.shape[1]} channel{'s' * (kernels.shape[1] != 1)}"
    title = (
        f"{metadata.method}, {metadata.backbone}: {len(kernels)} first kernels, {size}; gray is 0"
    )
    return {
        "path": str(chart.save_figure(chart.filters(kernels, title), path)),
        "kernels": len(kernels),
    }
