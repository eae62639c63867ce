"""`FolderSource`: the images of a folder, at any depth."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssltool.data.sources.base import FilePerImageSource
from ssltool.data.sources.class_names import class_order, nfc
from ssltool.data.sources.formats import ARRAYS, extension_of, is_hidden, is_image
from ssltool.data.sources.locations import ACCEPTED, existing_folder, printable
from ssltool.data.sources.strings import PackedStrings
from ssltool.documents import DocumentError, read_json
from ssltool.errors import DataError

# Mark a run folder, see `ssltool.runs.folder`.
_RUN_FILE, _METRICS_FILE = "run.json", "metrics.jsonl"
_NAMED = 3  # folders and kinds of files that a note names


class FolderSource(FilePerImageSource):
    """Every image below a folder, ordered by relative path; first-level folders are the classes.

    Hidden and system files and folders, run folders of ours and files without an image's extension
    are left out, and counted in ``notes``. Links are followed, each real folder once. Images of
    formats that cannot be decoded here are images that cannot be read.

    Args:
        path: The folder; ``~`` is expanded.
        arrays: Whether ``.npy`` files are images.

    Raises:
        UsageError: There is no such folder.
        DataError: The folder holds no image file.
    """

    def __init__(self, path: str | os.PathLike[str], *, arrays: bool = False) -> None:
        self._further = ARRAYS if arrays else frozenset[str]()
        self._root = existing_folder(os.fspath(path))
        self.location = os.path.realpath(self._root)
        self.unlisted = {}
        left_out = _LeftOut()
        names = self._walk(left_out)
        if not names:
            raise DataError(_no_images(self._root, left_out, self.unlisted))
        names.sort()
        if not all(map(str.isascii, names)):
            names.sort(key=nfc)  # stable
        # Generators below, so that there is no second list of a million.
        folders = {name.partition("/")[0] for name in names if "/" in name}
        self.classes = tuple(sorted(set(map(nfc, folders)), key=class_order))
        label = {name: number for number, name in enumerate(self.classes)}
        number = {folder: label[nfc(folder)] for folder in folders}
        labels = (number[name.partition("/")[0]] if "/" in name else -1 for name in names)
        self._labels = np.fromiter(labels, np.int32, len(names))
        self._names = PackedStrings(names)
        self.description = f"{len(names):,} images in {printable(self._root)}"
        self.notes = left_out.notes(self.unlisted, folders)

    def _walk(self, left_out: _LeftOut) -> list[str]:
        """List relative image names, with ``/`` between folders."""
        names: list[str] = []
        seen: set[tuple[int, int]] = set()
        # Links are walked after all real folders, so that an image has its real name if possible.
        real, linked = [""], list[str]()
        while real or linked:
            folder = real.pop() if real else linked.pop(0)
            entries = self._entries(folder, seen, left_out)
            if folder and _is_run(os.path.join(self._root, folder), entries):
                left_out.runs.append(folder[:-1])
                continue
            for entry in entries:
                is_folder, is_file = _kind(entry)
                if is_hidden(entry.name):
                    left_out.hide(entry.name, is_folder)
                elif is_folder:
                    if not folder and not entry.is_symlink():
                        left_out.first_level.add(entry.name)
                    (linked if entry.is_symlink() else real).append(f"{folder}{entry.name}/")
                elif not is_image(entry.name, self._further):
                    left_out.files[extension_of(entry.name)] += 1
                # A dead link counts as an image, reported as unreadable later; pipes and devices do
                # not.
                elif is_file or not os.path.exists(entry.path):
                    names.append(folder + entry.name)
                else:
                    left_out.special.append(folder + entry.name)
        return names

    def _entries(
        self, folder: str, seen: set[tuple[int, int]], left_out: _LeftOut
    ) -> list[os.DirEntry[str]]:
        """Sorted entries of a folder; none if it was seen before or cannot be listed."""
        path = os.path.join(self._root, folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                left_out.repeated.append(folder[:-1])
                return []
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.unlisted = {
                **self.unlisted,
                printable(path): (error.strerror or str(error)).lower(),
            }
            return []

    def __len__(self) -> int:
        return len(self._names)

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def relative_path(self, index: int) -> str:
        return nfc(self._names[index])

    def path(self, index: int) -> str:
        return os.path.join(self._root, self._names[index])


class _LeftOut:
    """What a walk found that is no image of the dataset."""

    def __init__(self) -> None:
        self.files = Counter[str]()
        self.runs = list[str]()
        self.special = list[str]()
        self.repeated = list[str]()
        self.first_level = set[str]()
        self._hidden_folders = Counter[str]()
        self._hidden_images = list[str]()

    def hide(self, name: str, is_folder: bool) -> None:
        """Count a hidden or system folder, or a hidden image."""
        if is_folder:
            self._hidden_folders[name] += 1
        elif is_image(name):
            self._hidden_images.append(name)

    def notes(self, unlisted: Mapping[str, str], used: set[str]) -> tuple[str, ...]:
        """One line for each kind of thing that was left out.

        Args:
            unlisted: See `Source.unlisted`.
            used: Folders of the first level that hold images.
        """
        empty = self.first_level - used - {run.partition("/")[0] for run in self.runs}
        endings = sorted(self.files.items(), key=lambda item: (-item[1], item[0]))
        files = [
            f"{number} {'.' + ending if ending else 'without any'}" for ending, number in endings
        ]
        hidden = [name for name, _ in self._hidden_folders.most_common()]
        kinds = (
            ("run folders of ssltool", len(self.runs), sorted(self.runs)),
            ("hidden or system folders", self._hidden_folders.total(), hidden),
            ("hidden image files", len(self._hidden_images), sorted(self._hidden_images)),
            ("links to folders read already", len(self.repeated), sorted(self.repeated)),
            ("folders without an image", len(empty), sorted(empty)),
            ("pipes and devices", len(self.special), sorted(self.special)),
            ("files without an image's extension", self.files.total(), files),
        )
        unread = [f"left out {path}: cannot be listed, {why}" for path, why in unlisted.items()]
        return (
            *unread,
            *(f"left out {what} ({n:,}): {_some(names)}" for what, n, names in kinds if n),
        )


def _some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(printable, names[:_NAMED])) + more


def _is_run(folder: str, entries: list[os.DirEntry[str]]) -> bool:
    """Whether a folder is a run of ssltool's: its figures are no images of the dataset."""
    names = {entry.name for entry in entries}
    if _RUN_FILE not in names:
        return False
    try:
        record = read_json(Path(folder, _RUN_FILE))
    except DocumentError:
        return _METRICS_FILE in names  # damaged
    return isinstance(record, dict) and {"ssltool", "method"} <= record.keys()


def _no_images(root: str, left_out: _LeftOut, unlisted: Mapping[str, str]) -> str:
    """Message for a folder without images."""
    start = f"no images in {printable(root)}"
    if unlisted:
        folder, reason = next(iter(unlisted.items()))
        return (
            f"{start}, and {folder} cannot be listed ({reason}); change its permissions or "
            f"{ACCEPTED}"
        )
    others = left_out.files.total()
    if left_out.runs:
        return f"{start} but those of run folders of ssltool, which are left out; {ACCEPTED}"
    if others:
        noun = "file has" if others == 1 else "files have"
        return (
            f"{start}: its {others} {noun} no image's ending (.jpg, .png, .webp, ...); {ACCEPTED}"
        )
    return f"{start}: it holds no files; {ACCEPTED}"


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry, links followed, is a folder, and whether it is a file."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself
        return False, False
