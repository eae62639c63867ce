"""The layout of raw shards: decoded uint8 images of one size in safetensors files, and their index.

A shard holds ``squares`` uint8 ``[n, S, S, 3]``, the center squares as training reads them;
``wholes`` uint8 ``[m, S, S, 3]``, the m whole images that are not square, stretched, in the same
order (none where only squares were packed); ``aspects`` float64 ``[n]``, width / height of the
whole image; ``labels`` int32 ``[n]``, -1 for none; ``names`` uint8, the relative paths in UTF-8,
concatenated; and ``ends`` int64 ``[n]``, the end of each. Its metadata has the reason of each image
that could not be read, whose pixels are zeros. ``index.json`` lists the shards and the classes, and
has the statistics of the images that were packed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import save_file

from ssltool.arrays import open_tensors
from ssltool.data.options import LARGEST_RAW_SIZE
from ssltool.data.sources.shard_index import INDEX
from ssltool.documents import DocumentError, parse_json, read_json, validated

RAW_FORMAT: Literal["ssltool-raw-shards-1"] = "ssltool-raw-shards-1"

_TABLE = ("aspects", "labels", "names", "ends")
_LARGEST_INDEX = 2**30  # bytes: it lists the classes
_LARGEST_HEADER = 100 * 2**20  # bytes, the limit of the safetensors library

_Natural = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
_Share = Annotated[float, Field(ge=0, le=1)]


class RawEntry(BaseModel):
    """A shard in ``index.json``.

    Attributes:
        url: Name of its file.
        nsamples: Number of images, unreadable ones included.
        filesize: Size of the file.
        sha256: Digest of the names, labels and aspects of its images.
    """

    model_config = ConfigDict(frozen=True)

    url: Annotated[str, Field(pattern=r"^[\w.-]+\.safetensors$")]
    nsamples: Annotated[_Natural, Field(ge=1)]
    filesize: _Natural
    sha256: str


class RawIndex(BaseModel):
    """``index.json`` of raw shards.

    Attributes:
        format: `RAW_FORMAT`.
        size: Side S of the squares in pixels.
        framing: ``whole`` if whole images are beside the center squares.
        gray_fraction: Of the images that were packed, as `ssltool.data.sources.base.Survey` has it.
        mean: Mean of red, green and blue of these, 0..1.
        std: Their standard deviation.
        classes: Class names by label.
        shardlist: The shards, in order.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["ssltool-raw-shards-1"] = RAW_FORMAT
    size: Annotated[int, Field(ge=8, le=LARGEST_RAW_SIZE)]
    framing: Literal["square", "whole"]
    gray_fraction: _Share
    mean: tuple[_Share, _Share, _Share]
    std: tuple[_Share, _Share, _Share]
    classes: tuple[str, ...]
    shardlist: Annotated[tuple[RawEntry, ...], Field(min_length=1)]


@dataclass(frozen=True)
class RawTable:
    """What a shard holds beside its pixels.

    Attributes:
        aspects: float64 ``[n]``, width / height of each whole image.
        labels: int32 ``[n]``, class numbers; -1 for none.
        names: The relative paths, concatenated, in UTF-8.
        ends: int64 ``[n]``, end of each path in ``names``.
        unreadable: Reason by place in the shard of the images that could not be read.
        squares: First byte of the center squares in the file.
        wholes: First byte of the whole images.
    """

    aspects: NDArray[np.float64]
    labels: NDArray[np.int32]
    names: bytes
    ends: NDArray[np.int64]
    unreadable: dict[int, str]
    squares: int = 0
    wholes: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """int64 ``[n]``, row of each image in ``wholes``; -1 for those that are square."""
        others = self.aspects != 1
        return np.where(others, np.cumsum(others) - 1, -1)

    @property
    def sha256(self) -> str:
        """Digest in hex of all but the pixels."""
        digest = hashlib.sha256(json.dumps(sorted(self.unreadable.items())).encode())
        for column in (self.aspects, self.labels, self.ends):
            digest.update(np.ascontiguousarray(column).tobytes())
        digest.update(self.names)
        return digest.hexdigest()

    def name(self, index: int) -> str:
        """Relative path of an image, undecodable bytes as surrogates."""
        start = int(self.ends[index - 1]) if index else 0
        return self.names[start : int(self.ends[index])].decode("utf-8", "surrogateescape")


def read_raw_index(folder: str) -> RawIndex | None:
    """``index.json`` of a folder of raw shards; None if it is not one of these."""
    try:
        document = read_json(Path(folder, INDEX), _LARGEST_INDEX)
        if not isinstance(document, dict) or document.get("format") != RAW_FORMAT:
            return None
        return validated(RawIndex, document)
    except DocumentError:
        return None


def write_raw_shard(
    path: Path, table: RawTable, squares: NDArray[np.uint8], wholes: NDArray[np.uint8]
) -> None:
    """Write one shard.

    Args:
        path: The file.
        table: Of n images.
        squares: uint8 ``[n, S, S, 3]``.
        wholes: uint8 ``[m, S, S, 3]``.
    """
    columns: dict[str, NDArray[Any]] = {
        "aspects": table.aspects,
        "labels": table.labels,
        "ends": table.ends,
        "names": np.frombuffer(table.names, np.uint8),
    }
    reasons = json.dumps(table.unreadable)
    save_file({**columns, "squares": squares, "wholes": wholes}, path, {RAW_FORMAT: reasons})


def read_raw_table(path: Path, size: int) -> RawTable:
    """All of a shard but its pixels.

    Raises:
        DocumentError: It is damaged, or holds images of another size.
    """
    with open_tensors(path, "numpy") as file:
        reasons = parse_json((file.metadata() or {}).get(RAW_FORMAT, ""))
        shapes = {name: file.get_slice(name).get_shape() for name in (*_TABLE, "squares", "wholes")}
        aspects, labels, names, ends = (file.get_tensor(name) for name in _TABLE)
    count = len(labels)
    if not isinstance(reasons, dict):
        raise DocumentError("its metadata are no table")
    unreadable = {int(index): str(reason) for index, reason in reasons.items() if index.isdigit()}
    table = RawTable(
        aspects, labels, names.tobytes(), ends, unreadable, *_offsets(path, "squares", "wholes")
    )
    square, others = [size, size, 3], int((aspects != 1).sum())
    sound = (
        shapes["squares"] == [count, *square]
        and shapes["wholes"] == [others, *square]
        and [aspects.shape, ends.shape] == [(count,)] * 2
        and [c.dtype for c in (aspects, labels, ends)] == [np.float64, np.int32, np.int64]
        and bool((np.diff(ends, prepend=0) >= 0).all())
        and (not count or int(ends[-1]) <= len(names))
    )
    if not sound:
        raise DocumentError(f"it holds no images of {size} px with their names and labels")
    return table


def _offsets(path: Path, *names: str) -> list[int]:
    """First byte of each of these tensors of uint8 in a safetensors file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(min(length, _LARGEST_HEADER)))
    if not isinstance(header, dict) or any(header[name]["dtype"] != "U8" for name in names):
        raise DocumentError("its pixels are no bytes")
    return [8 + length + int(header[name]["data_offsets"][0]) for name in names]
