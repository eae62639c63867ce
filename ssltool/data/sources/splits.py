"""Recognize a folder that is divided into training, validation and test images."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ssltool.data.sources.formats import is_hidden, is_image
from ssltool.data.sources.shard_index import INDEX
from ssltool.errors import UsageError

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Split -> the folder names that it goes by, in lower case."""

_SPLIT_OF = {folder: split for split, folders in SPLITS.items() for folder in folders}


def split_folders(path: str | os.PathLike[str]) -> dict[str, str] | None:
    """The splits of a folder, if all its first-level folders with images are splits.

    A class folder called ``train`` beside ``bus`` and ``car`` is a class.

    Args:
        path: The folder; ``~`` is expanded.

    Returns:
        ``train``, ``val`` and ``test``, as far as they are there, and their paths; None unless
        there are training images and another split.

    Raises:
        UsageError: Two folders stand for the same split, such as ``val`` and ``validation``.
    """
    root = os.path.expanduser(os.fspath(path))
    try:
        with os.scandir(root) as entries:
            folders = sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    except OSError:
        return None
    named = [(name, split) for name in folders if (split := _SPLIT_OF.get(name.lower()))]
    if len({split for _, split in named}) < 2:  # the usual case needs no walk
        return None
    others = [name for name in folders if name.lower() not in _SPLIT_OF]
    named = [(name, split) for name, split in named if _holds_images(os.path.join(root, name))]
    present = {split for _, split in named}
    if "train" not in present or len(present) < 2:
        return None
    if any(_holds_images(os.path.join(root, name)) for name in others):
        return None
    return _one_folder_each(root, named)


def canonical_splits(names: Iterable[str]) -> dict[str, str]:
    """``train``, ``val`` and ``test``, as far as names stand for them -> the names.

    Returns:
        In the order of `SPLITS`; empty unless there are training images and another split.

    Raises:
        UsageError: Two names stand for the same split, such as ``val`` and ``validation``.
    """
    found = dict[str, str]()
    for name in dict.fromkeys(names):
        split = _SPLIT_OF.get(name.lower())
        if split and found.setdefault(split, name) != name:
            raise UsageError(
                f"both {found[split]} and {name} are splits; name the one to use after a colon"
            )
    if "train" not in found or len(found) < 2:
        return {}
    return {split: found[split] for split in SPLITS if split in found}


def _one_folder_each(root: str, named: list[tuple[str, str]]) -> dict[str, str]:
    """The path of each split, in the order of `SPLITS`, from names of folders and their splits."""
    splits = dict[str, str]()
    for split in SPLITS:
        names = [name for name, of in named if of == split]
        if len(names) > 1:
            raise UsageError(
                f"{root} holds both {names[0]} and {names[1]}; name the folders to use one by one"
            )
        if names:
            splits[split] = os.path.join(root, names[0])
    return splits


def _holds_images(folder: str) -> bool:
    """Whether there is an image or a shard below a folder; stops at the first."""
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        endings = (".tar", ".safetensors") if INDEX in files else ".tar"
        if any(not is_hidden(n) and (is_image(n) or n.endswith(endings)) for n in files):
            return True
    return False
