"""Every figure by name, as the command line and the Python API draw it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssltool.options import DeviceName, Options
from ssltool.visualizing.attribution import draw_attribution
from ssltool.visualizing.bank import draw_bank
from ssltool.visualizing.curves import draw_curves
from ssltool.visualizing.discovery import draw_discovery
from ssltool.visualizing.features import draw_features
from ssltool.visualizing.filters import draw_filters
from ssltool.visualizing.neighbors import draw_neighbors
from ssltool.visualizing.options import (
    AttributionOptions,
    CurvesOptions,
    DiscoveryOptions,
    FeaturesOptions,
    FiltersOptions,
    NeighborsOptions,
    PCAOptions,
    PermutationsOptions,
    PredictionsOptions,
)
from ssltool.visualizing.pca import draw_pca
from ssltool.visualizing.permutations import compare_permutations, draw_permutations
from ssltool.visualizing.predictions import draw_predictions
from ssltool.visualizing.results import FigureResult


def draw(name: str, options: Options, device: DeviceName = "auto") -> FigureResult:
    """Draw a figure.

    Args:
        name: One of ``ssltool.visualizing.options.FIGURES``.
        options: An instance of its options.
        device: Where features are computed.
    """
    return _DRAWERS[name](options, device)


def _predictions(options: PredictionsOptions, device: DeviceName) -> FigureResult:
    return draw_predictions(
        options.weights,
        options.to or _beside(options.weights, "predictions.png"),
        method=options.method,
        data=options.data,
        image=options.image,
        count=options.count,
        seed=options.seed,
        device=device,
    )


def _neighbors(options: NeighborsOptions, device: DeviceName) -> FigureResult:
    if options.vectors == "bank":
        path = options.to or _beside(options.weights, "bank.png")
        return draw_bank(options.weights, path, count=options.count, device=device)
    return draw_neighbors(
        options.weights,
        options.to or _beside(options.weights, "neighbors.png"),
        data=options.data,
        image=options.image,
        patch=options.patch,
        count=options.count,
        nearest=options.nearest,
        seed=options.seed,
        device=device,
    )


def _discovery(options: DiscoveryOptions, device: DeviceName) -> FigureResult:
    return draw_discovery(
        options.weights,
        options.to or _beside(options.weights, "discovery.png"),
        data=options.data,
        patch=options.patch,
        images=options.images,
        constellations=options.constellations,
        count=options.count,
        seed=options.seed,
        device=device,
    )


def _features(options: FeaturesOptions, device: DeviceName) -> FigureResult:
    return draw_features(
        options.weights,
        options.to or _beside(options.weights, f"features-{options.map}.png"),
        data=options.data,
        kind=options.map,
        count=options.count,
        seed=options.seed,
        device=device,
    )


def _attribution(options: AttributionOptions, device: DeviceName) -> FigureResult:
    return draw_attribution(
        options.weights,
        options.to or _beside(options.weights, "attribution.png"),
        data=options.data,
        image=options.image,
        count=options.count,
        stages=options.stage,
        device=device,
    )


def _pca(options: PCAOptions, device: DeviceName) -> FigureResult:
    return draw_pca(
        options.weights,
        options.to or _beside(options.weights, "pca.png"),
        data=options.data,
        image=options.image,
        count=options.count,
        stages=options.stage,
        size=options.size,
        joint=options.joint,
        device=device,
    )


def _filters(options: FiltersOptions, device: DeviceName) -> FigureResult:
    del device
    return draw_filters(options.weights, options.to or _beside(options.weights, "filters.png"))


def _permutations(options: PermutationsOptions, device: DeviceName) -> FigureResult:
    del device
    path = options.to or Path("permutations.png")
    count, grid, seed = options.count, options.grid, options.seed
    if options.compare:
        return compare_permutations(path, count=count, grid=grid, seed=seed)
    return draw_permutations(
        path, mode=options.mode, count=count, grid=grid, seed=seed, file=options.file
    )


def _curves(options: CurvesOptions, device: DeviceName) -> FigureResult:
    del device
    single = len(options.runs) == 1
    path = _beside(options.runs[0], "curves.png") if single else Path("curves.png")
    return draw_curves(options.runs, options.to or path)


def _beside(weights: Path, name: str) -> Path:
    """Default path of a figure: in the run folder, or beside the weights file."""
    folder = weights if weights.is_dir() else weights.parent
    return folder / "figures" / name


_DRAWERS: dict[str, Callable[[Any, DeviceName], FigureResult]] = {
    "predictions": _predictions,
    "neighbors": _neighbors,
    "discovery": _discovery,
    "features": _features,
    "attribution": _attribution,
    "pca": _pca,
    "filters": _filters,
    "permutations": _permutations,
    "curves": _curves,
}
