"""Options of the ``ssltool visualize`` and ``ssltool report`` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from ssltool.options import (
    FigurePath,
    Options,
    ending_in,
    option,
    refuse_unused,
    seed_option,
    weights_option,
)

Mode = Literal["max_min", "max_mean", "min_mean", "random", "code", "all"]

# Options that several commands share.
_DATA: Any = option((), "Images; automatic: those of the run; may be repeated", panel="Data")
_IMAGE: Any = option((), "Draw this image file instead; may be repeated", panel="Data")
_WEIGHTS: Any = weights_option()
_COUNT: Any = option(6, "Images to draw", panel="Figure", ge=1, le=64)
_SEED: Any = seed_option("Seed of what is sampled", panel="Figure")


class ShownOption(Options):
    """The option of figures that show images."""

    show_channels: tuple[Annotated[int, Field(ge=1)], ...] = option(
        (),
        "Of images with other channels than R, G and B: those drawn as red, green and blue, such "
        "as 3,2,1, or one in gray; automatic: the first three",
        panel="Figure",
        comma=True,
    )

    @field_validator("show_channels")
    @classmethod
    def _one_or_three(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) not in (0, 1, 3):
            raise ValueError("one channel or three, such as 3,2,1")
        return value


_TO: Any = option(None, "File to write: .png, .svg or .pdf", panel="Output")
_RUNS: Any = option(
    ...,
    "Run folders; several are compared",
    panel="Data",
    positional=True,
    metavar="RUN...",
    needed="a run folder, such as runs/jigsaw-1",
)


class PermutationsOptions(Options):
    """Which permutation sets to draw."""

    mode: Mode = option("max_min", "How the set is selected", panel="Permutations")
    count: int = option(100, "Number of permutations", panel="Permutations", flag="--permutations")
    grid: int = option(3, "Tiles along a side", panel="Permutations", ge=2, le=5)
    seed: int = seed_option("Relabels the canonical set; 0 leaves it", panel="Permutations")
    file: Path | None = option(
        None, "Draw the set of a .npy or .bin file instead", panel="Permutations"
    )
    compare: bool = option(
        False, "Compare the distances of the sets of all modes instead", panel="Figure"
    )
    to: FigurePath | None = _TO

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if self.compare:
            refuse_unused(self, ["mode", "file"], "with --compare, which draws all modes")
        elif self.file is not None:
            refuse_unused(self, ["mode", "count", "grid", "seed"], "with --file, which is the set")


class TaskOptions(Options):
    """What is drawn of a task, beside options of the run and of the method."""

    image: tuple[Path, ...] = _IMAGE
    count: int = _COUNT
    to: FigurePath | None = _TO


class PredictionsOptions(Options):
    """What is drawn of a run's predictions."""

    method: str | None = option(
        None, "Method that the run should be of", panel="Model", positional=True
    )
    data: tuple[str, ...] = _DATA
    image: tuple[Path, ...] = _IMAGE
    weights: Path = _WEIGHTS
    count: int = _COUNT
    seed: int = _SEED
    to: FigurePath | None = _TO

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if self.image:
            refuse_unused(self, ["data"], "with --image, which is drawn instead")


class NeighborsOptions(Options):
    """Which nearest neighbors to draw."""

    data: tuple[str, ...] = _DATA
    image: tuple[Path, ...] = option(
        (), "Find the neighbors of this image file; may be repeated", panel="Data"
    )
    weights: Path = _WEIGHTS
    vectors: Literal["encoder", "bank"] = option(
        "encoder",
        "Vectors compared: the encoder's features of --data, or the run's memory bank (npid): its "
        "near-duplicate pairs and hardest instances",
        panel="Figure",
        flag="--from",
    )
    patch: int | None = option(
        None, "Compare patches of this side in px instead of whole images", panel="Figure", ge=4
    )
    count: int = option(6, "Queries to draw", panel="Figure", ge=1, le=64)
    nearest: int = option(5, "Neighbors of each query", panel="Figure", ge=1, le=20)
    seed: int = _SEED
    to: FigurePath | None = _TO

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if self.vectors == "bank":
            unused = ["data", "image", "patch", "nearest", "seed"]
            refuse_unused(self, unused, "with --from bank, which is of the run's own images")
        elif self.image:
            refuse_unused(self, ["count"], "with --image, whose every file is a query")


class DiscoveryOptions(Options):
    """Which recurring constellations of patches to draw."""

    data: tuple[str, ...] = _DATA
    weights: Path = _WEIGHTS
    patch: int | None = option(
        None,
        "Side of the patches in px; automatic: a quarter of the images'",
        panel="Figure",
        ge=4,
    )
    images: int = option(500, "Images to search", panel="Figure", ge=8, le=20_000)
    constellations: int = option(
        200, "Constellations of four patches to sample", panel="Figure", ge=1, le=5000
    )
    count: int = option(6, "Constellations to draw", panel="Figure", ge=1, le=64)
    seed: int = _SEED
    to: FigurePath | None = _TO


class FiltersOptions(Options):
    """Whose filters to draw."""

    weights: Path = _WEIGHTS
    to: FigurePath | None = _TO


class AttributionOptions(Options):
    """Which stages to draw, over which images."""

    data: tuple[str, ...] = _DATA
    image: tuple[Path, ...] = _IMAGE
    weights: Path = _WEIGHTS
    stage: tuple[str, ...] = option((), "Draw this stage only; may be repeated", panel="Figure")
    count: int = _COUNT
    to: FigurePath | None = _TO

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if self.image:
            refuse_unused(self, ["count"], "with --image, whose every file is drawn")


class PCAOptions(Options):
    """Which dense features to draw, over which images."""

    data: tuple[str, ...] = _DATA
    image: tuple[Path, ...] = _IMAGE
    weights: Path = _WEIGHTS
    stage: tuple[str, ...] = option(
        (), "Draw this stage; automatic: the last three; may be repeated", panel="Figure"
    )
    size: int | None = option(
        None,
        "Side in px at which the encoder reads the images: a larger one gives finer maps; "
        "automatic: that of the weights",
        panel="Figure",
        ge=8,
        le=2048,
    )
    joint: bool = option(
        True,
        "Components and scale of all images together, so that colors compare between images; else "
        "of each image by itself",
        panel="Figure",
    )
    count: int = _COUNT
    to: FigurePath | None = _TO

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if self.image:
            refuse_unused(self, ["count"], "with --image, whose every file is drawn")


class FeaturesOptions(Options):
    """Which map of features to draw."""

    data: tuple[str, ...] = _DATA
    weights: Path = _WEIGHTS
    map: Literal["pca", "tsne", "umap"] = option(
        "pca",
        "Principal components; or t-SNE or UMAP, which need ssltool[maps]",
        panel="Figure",
    )
    count: int = option(1000, "Largest number of images", panel="Figure", ge=4, le=20_000)
    seed: int = seed_option("Seed of t-SNE and UMAP", panel="Figure")
    to: FigurePath | None = _TO

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        if self.map == "pca":
            refuse_unused(self, ["seed"], "with --map pca, which samples nothing")


class CurvesOptions(Options):
    """Whose metrics to draw."""

    runs: tuple[Path, ...] = _RUNS
    to: FigurePath | None = _TO


class Figure(NamedTuple):
    """A subcommand of ``ssltool visualize``.

    Attributes:
        options: Its options.
        summary: What it draws.
        example: A command line.
        computes: Whether it runs an encoder, and so takes ``--device``.
    """

    options: type[Options]
    summary: str
    example: str
    computes: bool = True


# Every figure by its name on the command line; ``task`` is apart, as its options are the method's.
FIGURES = {
    "predictions": Figure(
        PredictionsOptions,
        "Draw a run's predictions beside the ground truth, and score them.",
        "ssltool visualize predictions --weights runs/jigsaw-1 --data photos/",
    ),
    "neighbors": Figure(
        NeighborsOptions,
        "Draw nearest neighbors by an encoder's features, beside those by random init.",
        "ssltool visualize neighbors --weights runs/npid-1 --data labeled/",
    ),
    "discovery": Figure(
        DiscoveryOptions,
        "Draw constellations of patches that recur in other images in the same layout.",
        "ssltool visualize discovery --weights runs/context-prediction-1 --data labeled/",
    ),
    "features": Figure(
        FeaturesOptions,
        "Draw a map of images by their features, in the colors of their classes.",
        "ssltool visualize features --weights runs/npid-1 --data labeled/ --map tsne",
    ),
    "attribution": Figure(
        AttributionOptions,
        "Draw over images where each stage of an encoder responds.",
        "ssltool visualize attribution --weights runs/jigsaw-1 --image cat.jpg",
    ),
    "pca": Figure(
        PCAOptions,
        "Draw dense features as colors: their principal components as red, green and blue.",
        "ssltool visualize pca --weights runs/npid-1 --data photos/ --size 224",
    ),
    "filters": Figure(
        FiltersOptions,
        "Draw the kernels of the first convolution.",
        "ssltool visualize filters --weights runs/colorization-1",
        computes=False,
    ),
    "permutations": Figure(
        PermutationsOptions,
        "Draw a permutation set, its Hamming-distance matrix and histogram.",
        "ssltool visualize permutations --permutations 1000 --mode code",
        computes=False,
    ),
    "curves": Figure(
        CurvesOptions,
        "Draw the metrics of runs over their steps, with chance levels.",
        "ssltool visualize curves runs/jigsaw-1 runs/jigsaw-2 --to curves.svg",
        computes=False,
    ),
}


class ReportOptions(Options):
    """Which runs to report on."""

    runs: tuple[Path, ...] = _RUNS
    frames: int = option(16, "Largest number of predictions over time", panel="Page", ge=2)
    to: Annotated[Path, ending_in(".html")] | None = option(
        None,
        "HTML file to write; automatic: RUN/report.html, or report.html for several runs",
        panel="Output",
    )
