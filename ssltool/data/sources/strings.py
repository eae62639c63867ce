"""`PackedStrings`: many strings in one block of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import overload

import numpy as np


class PackedStrings(Sequence[str]):
    """A list of strings as one block of bytes.

    A million file names take about 40 MB, which forked workers share; a list of str would be copied
    by reference counting. Undecodable bytes of file names are kept.

    Args:
        strings: The strings; gone through twice.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._bytes = "".join(strings).encode("utf-8", "surrogateescape")
        # A generator, so that there is no second list of a million.
        lengths = (len(string.encode("utf-8", "surrogateescape")) for string in strings)
        self._ends = np.fromiter(accumulate(lengths), np.int64, len(strings))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        return self._bytes[start : int(self._ends[index])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
