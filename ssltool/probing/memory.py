"""Memory vectors of labeled training images, from the checkpoint of the run that is probed.

Wu et al. 2018, section 3.4: test images are classified by the memory bank's vectors of training
images. Row i of the bank belongs to image i of the run, so the labeled images must be the run's.

Shapes: N labeled training images, D dimensions of the projection.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ssltool.errors import CheckpointError
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.extraction import Features
from ssltool.probing.store import cache_key
from ssltool.runs.folder import WEIGHTS, Run
from ssltool.runs.probe_record import BANK, PROJECTION
from ssltool.runs.records import RUN_FILE


class MemoryVectors(NamedTuple):
    """Memory vectors of the labeled training images, or why there are none.

    Attributes:
        vectors: float32 ``[N, D]``, by index in the split; None if there are none.
        note: One line; empty with vectors, and for weights outside of a run.
    """

    vectors: Tensor | None
    note: str = ""


def memory_vectors(weights: Path, data: LabeledImages) -> MemoryVectors:
    """Read the memory vectors of the labeled training images.

    Args:
        weights: The weights file, in its run folder.
        data: Labeled images.
    """
    if not (weights.parent / RUN_FILE).is_file():
        return MemoryVectors(None)
    try:
        run = Run.open(weights.parent)
    except CheckpointError as error:
        return MemoryVectors(None, f"no bank row: {error}")
    source, indices = data.rows_of("train")
    if not run.trained_on(source):
        return MemoryVectors(
            None,
            f"no bank row: the memory bank is of {run.record.source.description}, and --data is "
            f"{source.description}",
        )
    if weights.name != WEIGHTS:
        return MemoryVectors(None, f"no bank row: the memory bank is that of {WEIGHTS}")
    try:
        memory = run.load_method().memory
    except CheckpointError as error:
        return MemoryVectors(None, f"no bank row: {error}")
    return MemoryVectors(None if memory is None else memory.vectors[indices].float())


def with_memory(features: Features, vectors: Tensor) -> Features:
    """Features with one more stage: memory vectors of training images, projections of test images.

    Args:
        features: With projections.
        vectors: float32 ``[N, D]``, by index in the training split.
    """
    own = vectors[features.train.indices]
    train = features.train._replace(stages={**features.train.stages, BANK: own})
    projected = features.test.stages[PROJECTION]
    test = features.test._replace(stages={**features.test.stages, BANK: projected})
    digest = hashlib.sha256(own.contiguous().numpy().data).hexdigest()
    return Features(train, test, cache_key(features=features.key, bank=digest))
