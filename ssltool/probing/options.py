"""Options of ``ssltool probe``, ``compare`` and ``embed``: a class per panel of the help.

The fields of a class's last base are listed first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ssltool.errors import UsageError
from ssltool.options import (
    LARGEST_SIDE,
    SMALLEST_SIDE,
    DeviceOption,
    FigurePath,
    Options,
    ending_in,
    option,
    refuse_unused,
    seed_option,
    weights_option,
)

Kind = Literal["linear", "layers", "knn", "svm", "mlp", "patch_linear", "finetune"]
Protocol = Literal["zhang2016"]
Recipe = Literal["wu2018"]
EmbeddingPath = Annotated[Path, ending_in(".safetensors", ".npz", ".parquet", ".csv")]
KnnSpace = Literal["cosine", "centered", "whitened"]


class LabeledData(Options):
    """Labeled images."""

    data: tuple[str, ...] = option(
        ...,
        "Labeled images, one folder per class; may be repeated",
        panel="Data",
        needed="--data DIR, a folder per class, or --data demo for synthetic images",
    )
    test_data: tuple[str, ...] = option(
        (), "Labeled test images; a fifth of --data is held out without it", panel="Data"
    )
    label_file: Path | None = option(
        None,
        "CSV file of lines such as 'a/1.jpg,dog', in place of a folder per class; several lines, "
        "or dog;grass, for several classes",
        panel="Data",
    )
    near_duplicates: bool = option(
        False,
        "Also name test images that nearly are a training image: resized, compressed, brightened",
        panel="Data",
    )
    content_hash: bool = option(
        False,
        "Tell images apart by their content, not by size and modification time, when cached "
        "features are looked up; reads every file",
        panel="Data",
    )


class Probes(Options):
    """What is measured."""

    kind: tuple[Kind, ...] = option(
        (),
        "What to measure; automatic: linear,layers,knn, or svm,layers where images have several "
        "classes; patch_linear is CPC's linear protocol on the grid of patches",
        panel="Probes",
        comma=True,
    )
    grid_dim: int = option(
        0,
        "Also probe each stage's map averaged over a grid of at most this dimension, such as 512; "
        "about 9000 in the papers; 0 for none",
        panel="Probes",
        ge=0,
    )
    protocol: Protocol | None = option(
        None,
        "Probe the stages as a paper did; zhang2016: maps resized bilinearly to grids of about "
        "9,600 dimensions, a linear classifier with weight decay 0.0005",
        panel="Probes",
    )
    baselines: bool = option(
        True, "Also measure random init, raw pixels and the majority class", panel="Probes"
    )
    random_inits: int = option(
        1,
        "Random initializations of that baseline; of several, such as 3, the table has mean and "
        "deviation",
        panel="Probes",
        ge=1,
        le=100,
    )
    knn_space: KnnSpace = option(
        "cosine",
        "Where neighbors are searched by cosine: among features as they are, centered, or "
        "whitened by the training features' covariance",
        panel="Probes",
    )
    recalibrate: bool = option(
        True, "Re-estimate batch-norm statistics on the training images first", panel="Probes"
    )

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        super().refuse_contradictions()
        if self.protocol:
            refuse_unused(self, ["grid_dim"], f"with --protocol {self.protocol}, which sets it")


class Loading(DeviceOption):
    """How images are read and where features are computed."""

    batch_size: int = option(256, "Images per batch", panel="Run", ge=1)
    workers: int | None = option(
        None, "Processes that decode images; automatic: from the cores", panel="Run", ge=0
    )


class FeatureCache(Options):
    """Which features and splits are reused."""

    seed: int = seed_option("Of splits, subsets and random init", panel="Run")
    cache: Path | None = option(
        None, "Folder of cached features; ~/.cache/ssltool/features without it", panel="Run"
    )
    keep_features: bool = option(True, "Cache the features for the next command", panel="Run")


class LabelEfficiency(Options):
    """How many labels are used, and how networks are fine-tuned."""

    label_fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = option(
        (),
        "Fractions of the labels, such as 0.01,0.1,1, for --kind linear and finetune",
        panel="Label efficiency",
        comma=True,
    )
    shots: tuple[Annotated[int, Field(ge=1)], ...] = option(
        (),
        "Labeled images per class, such as 1,5,10, in place of fractions",
        panel="Label efficiency",
        comma=True,
    )
    repeats: int = option(
        1,
        "Seeds of each point, of mlp and of finetune; several give a deviation over seeds",
        panel="Label efficiency",
        ge=1,
        le=100,
    )
    finetune_images: int = option(
        12_800,
        "Images seen in fine-tuning, repetitions included, in steps of 32",
        panel="Label efficiency",
        ge=1,
    )
    recipe: Recipe | None = option(
        None,
        "Fine-tune as a paper did; wu2018: SGD at 0.01 for 70 epochs, divided by ten every 30, on "
        "1, 2, 4, 10 and 20 % of the labels unless others are named",
        panel="Label efficiency",
    )
    mirror: bool = option(
        False, "Mirror half of the images in fine-tuning", panel="Label efficiency"
    )
    freeze_to: tuple[str, ...] = option(
        (),
        "With --kind finetune: stages, such as layer1,layer2; up to each of them, in turn, the "
        "weights are frozen and the rest is reinitialized and trained",
        panel="Label efficiency",
        comma=True,
    )
    scratch: bool = option(
        False,
        "Also train on all labels from random init for as many images as pretraining saw",
        panel="Label efficiency",
    )


class ProbedModel(Options):
    """The weights of ``probe``."""

    weights: Path = weights_option("Run folder, weights file or plain state dict, .safetensors")
    backbone: str | None = option(
        None, "Torchvision model that a plain state dict belongs to", panel="Model"
    )
    stem: Literal["imagenet", "small"] | None = option(
        None, "Stem of a plain state dict; imagenet without it", panel="Model"
    )
    image_size: int | None = option(
        None,
        "Side in px at which a plain state dict reads images; 224 without it",
        panel="Model",
        ge=SMALLEST_SIDE,
        le=LARGEST_SIDE,
    )


class ProbeOptions(FeatureCache, Loading, LabelEfficiency, Probes, ProbedModel, LabeledData):
    """Options of ``ssltool probe``."""

    to: Path | None = option(
        None, "Folder of probe.json and the plots; the run's own without it", panel="Output"
    )

    def refuse_contradictions(self) -> None:
        """See `Options.refuse_contradictions`."""
        super().refuse_contradictions()
        if self.recipe:
            refuse_unused(self, ["finetune_images"], "with --recipe, which says how many")
            if "finetune" not in self.kind:
                raise UsageError("--recipe is one of fine-tuning; type --kind finetune as well")


class ComparedRuns(Options):
    """The weights of ``compare``."""

    runs: tuple[Path, ...] = option(
        ...,
        "Run folders or weights files",
        panel="Model",
        positional=True,
        metavar="RUNS...",
        needed="the folders of runs, such as runs/*",
    )


class CompareOptions(FeatureCache, Loading, Probes, ComparedRuns, LabeledData):
    """Options of ``ssltool compare``."""

    sort: str = option(
        "linear",
        "Column to sort by: linear (of the best stage), pooled linear, knn20, effective rank ...",
        panel="Output",
    )
    csv: Path | None = option(None, "CSV file to write the table to", panel="Output")
    to: FigurePath | None = option(
        None, "Plot of the column to write, .png, .svg or .pdf", panel="Output"
    )

    def probe_options(self, weights: Path) -> ProbeOptions:
        """How one of the runs is probed."""
        shared = set(ProbeOptions.model_fields) & set(type(self).model_fields) - {"to"}
        given = {name: getattr(self, name) for name in shared & self.model_fields_set}
        return ProbeOptions(weights=weights, **given)


class EmbedImages(Options):
    """The input of ``embed``."""

    data: tuple[str, ...] = option(
        ...,
        "Images; may be repeated",
        panel="Data",
        needed="--data DIR, or --data demo for synthetic images",
    )
    classes_from: Path | None = option(
        None,
        "Embedding file, .npz or .safetensors, by whose classes labels are numbered",
        panel="Data",
    )
    weights: Path = weights_option()
    stage: str = option(
        "pooled", "pooled, or a stage such as layer3, whose map is averaged", panel="Model"
    )
    patches: bool = option(
        False,
        "A vector for each location of the stage's map (the patches of a vision transformer) in "
        "place of their average; pooled stands for the last stage",
        panel="Model",
    )
    framing: Literal["square", "whole"] = option(
        "square",
        "The center square of each image, or the whole image with both sides resized",
        panel="Data",
    )


class EmbedOptions(Loading, EmbedImages):
    """Options of ``ssltool embed``."""

    to: EmbeddingPath = option(
        ...,
        "File to write: .safetensors, .npz, .parquet or .csv",
        panel="Output",
        needed="--to FILE, such as features.npz",
    )
