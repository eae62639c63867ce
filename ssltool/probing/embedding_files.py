"""Embedding files: features of images with their names and classes, written block by block.

``.npz`` holds ``features`` float32 ``[N, D]``, or ``[N, h, w, D]`` with a vector for each location
of a map, ``names`` (paths), ``labels`` int64 ``[N]`` (-1 for none), the ``classes`` that they
number, and ``class_names`` of each image (empty for none). In ``.safetensors`` names, classes and
the stage are JSON in the metadata. ``.parquet`` and ``.csv`` are tables with a row for each vector:
``name``, ``class_name``, ``label`` (both empty for none), with a grid also ``y`` and ``x`` from the
top left, and the vector: a list ``features`` in Parquet, columns ``0``, ``1`` ... in CSV, each
number as short as gives the same float32 again. Images are in the order of their source.

Letters: N images, D dimensions of a vector, h and w rows and columns of a grid.
"""

from __future__ import annotations

import csv
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from ssltool.arrays import DAMAGED, open_tensors, parse_array
from ssltool.atomic import atomic_file, translated_os_errors
from ssltool.documents import LARGEST, DocumentError, cut, parse_json, validated
from ssltool.errors import SslToolError, UsageError

_BLOCK = 2**24  # bytes of features in memory at a time
_TEXT_BLOCK = 2**19  # bytes of features that are text at a time: it takes fifty times as much
_NAMES = 4096  # names in memory as an array at a time
_HEADER = 100_000_000  # bytes, the most that readers of safetensors take


class Embedding(NamedTuple):
    """Features of images, with their names and classes.

    Attributes:
        features: float32 ``[N, D]``, or ``[N, h, w, D]`` with a vector for each location of a map.
        names: Of the N images.
        labels: int64 ``[N]``; -1 for none.
        classes: Class names, in the order of the labels.
        stage: Of the encoder.
    """

    features: Tensor
    names: list[str]
    labels: Tensor
    classes: tuple[str, ...]
    stage: str


class Spool:
    """Rows of float32 in a temporary file that vanishes with this object, or with the process.

    Args:
        folder: Where the file is made; None for the system's temporary folder.

    Raises:
        DiskFullError, CheckpointError: It cannot be made.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        with translated_os_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self.shape: tuple[int, ...] = (0,)

    def append(self, rows: Tensor) -> None:
        """Append float ``[B, ...]``, of the same shape each time but for B.

        Raises:
            DiskFullError: There is no space.
        """
        with translated_os_errors(self._folder / "features"):
            self._file.write(rows.float().cpu().contiguous().numpy().data)
        self.shape = (self.shape[0] + len(rows), *rows.shape[1:])

    def blocks(self, size: int = 0) -> Iterator[NDArray[np.float32]]:
        """The rows in order, as many at a time as fit into ``size`` bytes; 0 for the usual."""
        row = 4 * int(np.prod(self.shape[1:]))  # 4 of no rows, whose length is not known
        most = max(1, (size or _BLOCK) // row)
        self._file.seek(0)
        for start in range(0, self.shape[0], most):
            count = min(most, self.shape[0] - start)
            yield np.frombuffer(self._file.read(count * row), np.float32).reshape(
                count, *self.shape[1:]
            )

    def mapped(self) -> Tensor:
        """All rows, mapped from the file, which stays for as long as they do."""
        self._file.flush()
        if not self.shape[0]:
            return torch.empty(self.shape)
        return torch.from_numpy(np.memmap(self._file, np.float32, mode="c", shape=self.shape))


class EmbeddingRows(NamedTuple):
    """What is written: an `Embedding` whose features are in a file.

    Attributes:
        features: N rows.
        names: Of the images.
        labels: Likewise; -1 for none.
        classes: Class names, in the order of the labels.
        stage: Of the encoder.
    """

    features: Spool
    names: Sequence[str]
    labels: Sequence[int]
    classes: tuple[str, ...]
    stage: str

    def embedding(self) -> Embedding:
        """The same, with the features mapped."""
        return Embedding(
            self.features.mapped(),
            list(self.names),
            torch.tensor(self.labels),
            self.classes,
            self.stage,
        )

    @property
    def class_names(self) -> list[str]:
        """Class name of each image; empty for none."""
        return [self.classes[label] if label >= 0 else "" for label in self.labels]


def write(rows: EmbeddingRows, to: Path) -> None:
    """Write a .safetensors, .npz, .parquet or .csv file, completely or not at all.

    Raises:
        SslToolError: A package is missing, the names do not fit, or the file cannot be written.
    """
    try:
        with atomic_file(to) as temporary:
            _WRITERS[to.suffix.lower()](temporary, rows)
    except UnicodeEncodeError as error:
        raise SslToolError(
            f"--to {to}: {error.object!r} is not UTF-8; type --to with .npz or .csv"
        ) from error


def check_packages(to: Path) -> None:
    """Refuse a file whose package is not installed.

    Raises:
        SslToolError: It is not.
    """
    if to.suffix.lower() == ".parquet":
        _parquet()


def _write_safetensors(path: Path, rows: EmbeddingRows) -> None:
    """8 bytes of length, the header as JSON, and the tensors one behind the other."""
    document = {
        "stage": rows.stage,
        "names": rows.names,
        "classes": rows.classes,
        "class_names": rows.class_names,
    }
    labels, shape = np.array(rows.labels, np.int64), rows.features.shape
    end = labels.nbytes + 4 * int(np.prod(shape))
    header = {
        "__metadata__": {"ssltool_embedding": json.dumps(document)},
        "labels": {"dtype": "I64", "shape": labels.shape, "data_offsets": [0, labels.nbytes]},
        "features": {"dtype": "F32", "shape": shape, "data_offsets": [labels.nbytes, end]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _HEADER:
        raise SslToolError(
            f"the names of {len(rows.names):,} images do not fit into a .safetensors file; type "
            "--to with .npz or .parquet"
        )
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(labels.data)
        for block in rows.features.blocks():
            file.write(block.data)


def _write_npz(path: Path, rows: EmbeddingRows) -> None:
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:

        def add(name: str, dtype: str, shape: tuple[int, ...], blocks: Iterator[Any]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _write_array(file, dtype, shape, blocks)  # type: ignore[arg-type]

        labels = np.array(rows.labels, np.int64)
        add("features", "<f4", rows.features.shape, rows.features.blocks())
        add("labels", "<i8", labels.shape, iter([labels]))
        texts = {"names": rows.names, "classes": rows.classes, "class_names": rows.class_names}
        for name, values in texts.items():
            dtype = f"<U{max(1, *map(len, values), 1)}"
            add(name, dtype, (len(values),), _name_blocks(values, dtype))


def _write_array(
    file: BinaryIO, dtype: str, shape: tuple[int, ...], blocks: Iterator[NDArray[Any]]
) -> None:
    """A ``.npy`` file of blocks whose shape together is known."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(block.tobytes())


def _name_blocks(names: Sequence[str], dtype: str) -> Iterator[NDArray[np.str_]]:
    for start in range(0, len(names), _NAMES):
        yield np.array(names[start : start + _NAMES], dtype)


def _write_parquet(path: Path, rows: EmbeddingRows) -> None:
    pa, parquet = _parquet()
    *_, dim = rows.features.shape
    grid = [("y", pa.int32()), ("x", pa.int32())] if len(rows.features.shape) > 2 else []
    columns = [("name", pa.string()), ("class_name", pa.string()), ("label", pa.int64())]
    schema = pa.schema([*columns, *grid, ("features", pa.list_(pa.float32(), dim))])
    with parquet.ParquetWriter(path, schema) as writer:
        for facts, vectors in _tables(rows):
            of_rows = zip(*facts, strict=True)
            arrays = [pa.array(v, f.type) for v, f in zip(of_rows, schema, strict=False)]
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
            writer.write_table(pa.table([*arrays, lists], schema=schema))


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SslToolError(
            "a .parquet file needs pyarrow; type pip install 'ssltool[parquet]'"
        ) from error
    return pyarrow, parquet


def _write_csv(path: Path, rows: EmbeddingRows) -> None:
    grid = ["y", "x"] if len(rows.features.shape) > 2 else []
    # Names that are no UTF-8 are written as the bytes that they are.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        columns = map(str, range(rows.features.shape[-1]))
        writer.writerow(["name", "class_name", "label", *grid, *columns])
        for facts, vectors in _tables(rows, _TEXT_BLOCK):
            texts = vectors.astype(np.str_).tolist()
            writer.writerows([*fact, *text] for fact, text in zip(facts, texts, strict=True))


def _tables(
    rows: EmbeddingRows, size: int = 0
) -> Iterator[tuple[list[tuple[Any, ...]], NDArray[np.float32]]]:
    """Block by block: name, class name, label and place of each vector, and float32 ``[n, D]``."""
    start, class_names = 0, rows.class_names
    for block in rows.features.blocks(size):
        places = list(product(*map(range, block.shape[1:-1])))
        facts = [
            (rows.names[i], class_names[i] or None, label if label >= 0 else None, *place)
            for i in range(start, start + len(block))
            for label in [rows.labels[i]]
            for place in places
        ]
        yield facts, block.reshape(-1, block.shape[-1])
        start += len(block)


_WRITERS = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}


def read_classes(path: Path) -> tuple[str, ...]:
    """The classes of an embedding file.

    Raises:
        UsageError: It is no such file.
    """
    try:
        if path.suffix.lower() == ".npz":
            return _npz_classes(path)
        if path.suffix.lower() == ".safetensors":
            with open_tensors(path) as file:
                text = (file.metadata() or {}).get("ssltool_embedding", "{}")
            return validated(_Classes, parse_json(text)).classes
    except DocumentError as error:
        raise UsageError(
            f"--classes-from {path}: {error}; a file that 'ssltool embed' wrote is expected"
        ) from error
    raise UsageError(f"--classes-from {path}: a .safetensors or .npz file is expected")


class _Classes(BaseModel):
    """The part of an embedding's metadata that `read_classes` needs."""

    classes: tuple[str, ...]


def _npz_classes(path: Path) -> tuple[str, ...]:
    """The array of class names of a ``.npz`` file; the others stay packed.

    Raises:
        DocumentError: It is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("classes.npy") as file:
            content = file.read(LARGEST + 1)
    except (*DAMAGED, zipfile.BadZipFile, NotImplementedError) as error:
        raise DocumentError(cut(str(error)) or type(error).__name__) from error
    if len(content) > LARGEST:
        raise DocumentError(f"its class names take more than {LARGEST:,} bytes")
    names = parse_array(content)
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DocumentError("its classes are no list of names")
    try:
        return tuple(map(str, names.tolist()))
    except (ValueError, SystemError) as error:  # beyond the last character of Unicode
        raise DocumentError("its classes are no text") from error
