"""Which kinds of probes suit an encoder and the labels of the images."""

from __future__ import annotations

from pathlib import Path

from ssltool.encoders.encoder import Encoder
from ssltool.errors import UsageError
from ssltool.probing import label_efficiency
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.options import Kind, ProbeOptions


def choose_kinds(options: ProbeOptions, data: LabeledImages) -> frozenset[Kind]:
    """The kinds asked for, or those that suit the labels.

    Raises:
        UsageError: Images have several classes each, which a kind cannot use.
    """
    kinds = frozenset(options.kind)
    if not data.multilabel:
        return kinds or frozenset({"linear", "layers", "knn"})
    unfit = sorted(kinds - {"svm", "layers"})
    if unfit or label_efficiency.budgets(options) or options.scratch:
        what = ", ".join(unfit) or "label efficiency"
        raise UsageError(
            f"images have several classes each, which {what} cannot use; type --kind svm,layers"
        )
    return kinds or frozenset({"svm", "layers"})


def check_kinds(
    options: ProbeOptions, kinds: frozenset[Kind], encoder: Encoder, weights: Path
) -> None:
    """Refuse what does not suit the encoder.

    Raises:
        UsageError: Patches of an encoder of whole images, or a stage that it does not have.
    """
    if options.freeze_to and "finetune" not in kinds:
        raise UsageError("--freeze-to: no effect without --kind finetune; type both or neither")
    for stage in options.freeze_to:
        encoder.paths_up_to(stage)
    if "patch_linear" not in kinds:
        return
    if encoder.metadata.patch is None:
        raise UsageError(
            f"--kind patch_linear: {weights} was trained on whole images, not on a grid of "
            "patches; type --kind linear"
        )
    if label_efficiency.budgets(options):
        raise UsageError(
            "--kind patch_linear: with --label-fractions or --shots images are read whole; omit "
            "either"
        )
