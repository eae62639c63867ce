"""The best encoder of a run by its online kNN accuracy, kept beside the newest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ssltool.atomic import atomic_file
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.projection import Projection, projection_path, save_projection
from ssltool.encoders.weights import save_encoder
from ssltool.runs.folder import BEST, BestWeights, best_weights


class BestEncoder:
    """Keeps the encoder with the highest accuracy so far; the earliest of several.

    A checkpoint keeps its files as well, so that a resumed run goes on from what was best then,
    whatever was written after it.

    Args:
        folder: The run folder.
        checkpoint: The checkpoint that the run is resumed from; None for a new run.
        same_images: Whether the accuracies before were measured on the images of those to come;
            otherwise the next one is the best so far.

    Raises:
        WeightsError: The file that a checkpoint keeps is damaged.
        CheckpointError: The run folder cannot be written to.
    """

    def __init__(self, folder: Path, checkpoint: Path | None, *, same_images: bool) -> None:
        self._folder = folder
        for path in _files(folder):
            kept = checkpoint / path.name if checkpoint else None
            if kept is None or not kept.is_file():
                path.unlink(missing_ok=True)
            elif not (path.is_file() and os.path.samefile(kept, path)):
                with atomic_file(path) as temporary:
                    shutil.copyfile(kept, temporary)
        best = best_weights(folder)
        self._accuracy = best.knn if best and same_images else None

    @property
    def best(self) -> BestWeights | None:
        """What is kept; None before the first accuracy."""
        return best_weights(self._folder)

    @property
    def files(self) -> list[Path]:
        """What a checkpoint keeps of it."""
        return [path for path in _files(self._folder) if path.is_file()]

    def offer(
        self,
        accuracy: float,
        encoder: Encoder,
        projection: Projection | None,
        metadata: EncoderMetadata,
    ) -> None:
        """Keep an encoder if it is better than those before it.

        Args:
            accuracy: Online kNN accuracy, 0..1.
            encoder: The encoder.
            projection: Its projection, if the method has one.
            metadata: Of the encoder.

        Raises:
            DiskFullError, CheckpointError: It cannot be written.
        """
        if self._accuracy is not None and accuracy <= self._accuracy:
            return
        assert metadata.training is not None
        training = metadata.training.model_copy(update={"knn": accuracy})
        metadata, path = metadata.model_copy(update={"training": training}), self._folder / BEST
        save_encoder(encoder, metadata, path)
        if projection is not None:
            save_projection(projection, metadata, path)
        self._accuracy = accuracy


def _files(folder: Path) -> list[Path]:
    return [folder / BEST, projection_path(folder / BEST)]
