"""What did the encoder learn? Features are read once, then probed, beside random weights and raw pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from torch import Tensor

from ssltool.data.batches import AllPictures
from ssltool.data.source import Source, open_source
from ssltool.errors import DataError, UsageError
from ssltool.nn.encoders import Encoder, build_encoder
from ssltool.nn.weights import WeightsCard, find_weights, load_encoder
from ssltool.ops.random import mix
from ssltool.probing import features, linear
from ssltool.probing.knn import knn_accuracy
from ssltool.training.device import best_device
from ssltool.workflows.options import describe_fault

Kind = Literal["linear", "layers", "knn"]
_KS = (20, 200)  # neighbours: few labels and the paper's
_TEST_SHARE = 0.2  # of --data, when no test pictures are given
_RECALIBRATION = 1024  # pictures whose statistics batch norm is given


class ProbeOptions(BaseModel):
    """Options of ``ssltool probe``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path
    data: tuple[str, ...]
    test_data: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ("linear", "layers", "knn")
    baselines: bool = True
    recalibrate: bool = True
    batch_size: int = Field(256, ge=1)
    workers: int | None = Field(None, ge=0)
    seed: int = Field(0, ge=0)

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Validate, with faults as one line naming flags."""
        try:
            return cls(**values)
        except ValidationError as error:
            faults = "; ".join(describe_fault(fault) for fault in error.errors())
            raise UsageError(faults.replace("--kinds", "--kind")) from error


class Labelled:
    """Labelled pictures, split into training and test once for all encoders.

    Attributes:
        classes: Class names.
        train: Source and places in it of the training pictures.
        test: The same of the test pictures.
        skipped: Pictures that could not be read.
    """

    def __init__(self, options: ProbeOptions) -> None:
        source = open_source(options.data)
        self.classes = source.classes
        if len(self.classes) < 2:
            raise DataError(f"{source.description} has {len(self.classes)} class folders, probing needs 2 or more; put each class's pictures into a folder of its own")
        self.skipped: dict[str, str] = {}
        places = [i for i in range(len(source)) if source.label(i) is not None]
        if options.test_data:
            tested = open_source(options.test_data)
            self.train = (source, places)
            self.test = (tested, [i for i in range(len(tested)) if tested.label(i) is not None])
            self._same_classes(tested)
        else:
            labels = torch.tensor([source.label(i) for i in places])
            kept, held = linear.split(labels, _TEST_SHARE, options.seed)
            self.train = (source, [places[i] for i in kept.tolist()])
            self.test = (source, [places[i] for i in held.tolist()])

    def _same_classes(self, tested: Source) -> None:
        unknown = sorted(set(tested.classes) - set(self.classes))
        if unknown:
            raise DataError(f"--test-data has classes that --data lacks: {', '.join(unknown[:3])}; remove them or add training pictures")

    def labels(self, split: Literal["train", "test"], places: Tensor) -> Tensor:
        """Classes int64 ``[N]``, numbered as in ``classes``, of pictures by their place in the split's source."""
        source, _ = self.train if split == "train" else self.test
        number = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([number[source.classes[_label(source, int(i))]] for i in places])


def _label(source: Source, place: int) -> int:
    label = source.label(place)
    assert label is not None, "only labelled places are kept"
    return label
