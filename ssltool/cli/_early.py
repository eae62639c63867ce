"""What is checked before torch is imported, and the line that says that it is being imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ssltool.console import echo
from ssltool.cores import share_cores
from ssltool.data.sources.locations import check_specs
from ssltool.encoders.catalog import check_name
from ssltool.encoders.files import find_weights
from ssltool.errors import UsageError


def check(*models: BaseModel) -> None:
    """Make sure that what options name is there: images, weights, runs, backbones.

    Raises:
        UsageError: Something is not.
    """
    for model in models:
        for name in model.model_fields_set & _CHECKS.keys():
            value = getattr(model, name)
            if value:
                _CHECKS[name](value)


def announce(*, quiet: bool = False) -> None:
    """Say on stderr that PyTorch is being loaded, which takes seconds, unless it is already; the
    last moment to decide how its threads wait.
    """
    share_cores()
    started = os.environ.get("RANK", "0") != "0" or os.environ.get("SSLTOOL_LAUNCHED")
    if not (quiet or started or "torch" in sys.modules):
        echo("loading PyTorch", err=True)
        sys.stderr.flush()


def _check_runs(runs: tuple[Path, ...]) -> None:
    for run in runs:
        if not run.exists():
            raise UsageError(f"there is no run at {run}; name a run folder, such as runs/jigsaw-1")


def _check_images(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if not path.expanduser().is_file():
            raise UsageError(
                f"--image {path} is no file; name an image, or a folder of them with --data"
            )


def _check_files(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if path.expanduser().is_dir():
            raise UsageError(f"{path} is a folder; name the images in it, such as {path}/*.jpg")
        if not path.expanduser().is_file():
            raise UsageError(f"there is no file {path}; name image files")


def _there(flag: str) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        if not path.exists():
            raise UsageError(f"{flag} {path}: there is no such file or folder")

    return check


_CHECKS: dict[str, Callable[[Any], object]] = {
    "data": check_specs,
    "positional": check_specs,  # of ``ssltool data``
    "test_data": check_specs,
    "probe_data": check_specs,
    "weights": find_weights,
    "init": find_weights,
    "runs": _check_runs,
    "image": _check_images,
    "files": _check_files,  # of ``ssltool predict``
    "backbone": check_name,
    "permutation_file": _there("--permutation-file"),
    "mask_files": _there("--mask-files"),
    "mask_file": _there("--mask"),  # of ``ssltool predict inpaint``
    "label_file": _there("--label-file"),
    "classes_from": _there("--classes-from"),
    "file": _there("--file"),  # of ``visualize permutations``
}
