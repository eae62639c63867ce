"""`JoinedSource`: several sources as one."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssltool.data.sources.base import Source
from ssltool.data.sources.class_names import class_order
from ssltool.data.sources.fingerprints import encode, fingerprint_of

_FOLDER_CHUNK = 4096


class JoinedSource(Source):
    """Several sources, concatenated; classes of the same name are one class.

    Args:
        parts: The sources, at least one.
        folders: The splits of a folder that the parts are, one for each; none by default. Relative
            paths begin with them.
        classes: Classes that are numbered too, though the parts may have none of their images.
    """

    def __init__(
        self, parts: Sequence[Source], folders: Sequence[str] = (), classes: Sequence[str] = ()
    ) -> None:
        self._parts = tuple(parts)
        self._folders = tuple(folders)
        self._ends = list(accumulate(len(part) for part in parts))
        names = {name for part in parts for name in part.classes}.union(classes)
        self.classes = tuple(sorted(names, key=class_order))
        number = {name: label for label, name in enumerate(self.classes)}
        self._labels = [[number[name] for name in part.classes] for part in parts]
        self.unlisted = {
            folder: reason for part in parts for folder, reason in part.unlisted.items()
        }
        self.notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        self.description = " + ".join(part.description for part in parts)
        self.location = os.pathsep.join(part.location for part in parts)
        self.in_order = any(part.in_order for part in parts)
        self.cacheable = all(part.cacheable for part in parts)

    @property
    def chunks(self) -> Sequence[int]:
        if not any(part.chunks for part in self._parts):
            return ()
        ends, start = list[int](), 0
        for part in self._parts:
            # A source without chunks, such as a folder, is divided into some.
            chunks = part.chunks or (*range(_FOLDER_CHUNK, len(part), _FOLDER_CHUNK), len(part))
            ends += [start + end for end in chunks]
            start += len(part)
        return ends

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, size: int) -> NDArray[np.uint8]:
        part, local = self._locate(index)
        return self._parts[part].read(local, size)

    def read_whole(self, index: int, size: int) -> tuple[NDArray[np.uint8], float]:
        part, local = self._locate(index)
        return self._parts[part].read_whole(local, size)

    def image(self, index: int, short_side: int) -> Image.Image:
        part, local = self._locate(index)
        return self._parts[part].image(local, short_side)

    def values(self, index: int) -> NDArray[Any]:
        part, local = self._locate(index)
        return self._parts[part].values(local)

    def jpeg(self, index: int) -> bytes | None:
        part, local = self._locate(index)
        return self._parts[part].jpeg(local)

    def short_side(self, index: int) -> int:
        part, local = self._locate(index)
        return self._parts[part].short_side(local)

    def name(self, index: int) -> str:
        part, local = self._locate(index)
        return self._parts[part].name(local)

    def label(self, index: int) -> int | None:
        part, local = self._locate(index)
        label = self._parts[part].label(local)
        return None if label is None else self._labels[part][label]

    def relative_path(self, index: int) -> str:
        part, local = self._locate(index)
        relative = self._parts[part].relative_path(local)
        return f"{self._folders[part]}/{relative}" if self._folders else relative

    def split(self, index: int) -> str | None:
        part, local = self._locate(index)
        return self._folders[part] if self._folders else self._parts[part].split(local)

    def path(self, index: int) -> str:
        part, local = self._locate(index)
        return self._parts[part].path(local)

    def nbytes(self, index: int) -> int | None:
        part, local = self._locate(index)
        return self._parts[part].nbytes(local)

    def content(self, index: int) -> bytes:
        part, local = self._locate(index)
        return self._parts[part].content(local)

    def fingerprint(self, *, content: bool = False) -> str:
        parts = [part.fingerprint(content=content).partition("-") for part in self._parts]
        names = [f"{folder}\0" for folder in self._folders] + [own for _, _, own in parts]
        return fingerprint_of(map(encode, names), (encode(every) for every, _, _ in parts))

    def _locate(self, index: int) -> tuple[int, int]:
        """Number of the source that holds an image, and the index of the image in it."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)
