"""`RowSource`: encoded images in the rows of a table: Parquet files and Hugging Face datasets.

Rows are read by number from memory-mapped Arrow files, of which ``datasets`` makes a copy of
Parquet files in its own cache. Images are decoded here, by the rules of `ssltool.data.decode`.
No pickle is read: builders of ``datasets`` other than Parquet, Arrow and image folders are refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from glob import escape
from io import BytesIO
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssltool.data.opening import ImagePath
from ssltool.data.sources.base import EncodedSource
from ssltool.data.sources.class_names import in_class_order, nfc, numbered
from ssltool.data.sources.columns import (
    IMAGES,
    LABELS,
    PATHS,
    SPLITS,
    class_name,
    find_column,
    need_column,
)
from ssltool.data.sources.extras import need
from ssltool.data.sources.fingerprints import file_content, file_size, file_state, fingerprint_of
from ssltool.data.sources.formats import check_file, check_readable
from ssltool.data.sources.locations import hf_parts, printable
from ssltool.data.sources.splits import canonical_splits
from ssltool.data.sources.urls import is_url
from ssltool.errors import DataError, UnreadableImage, UsageError

_BUILDERS = {"arrow", "imagefolder", "parquet"}


class RowSource(EncodedSource):
    """The images, and labels if there are any, of a ``datasets.Dataset``, in its order.

    The image column is the first of type Image, or one named ``image`` of bytes, of
    ``{bytes, path}`` or of paths; the label column is the first of type ClassLabel, or one named
    ``label`` or ``class`` of integers or text.

    Args:
        rows: The dataset; its transforms and format are ignored.
        where: What it is called in messages, printable.
        location: Real path, or what stands for it.
        folder: What paths of images in it are relative to; empty: they are not read.
        files: The files that identify it; those that it is read from by default.

    Raises:
        DataError: It is empty, or has no column of images.
    """

    def __init__(
        self,
        rows: Any,
        where: str,
        location: str,
        folder: str = "",
        files: Sequence[str] = (),
    ) -> None:
        if not len(rows):
            raise DataError(f"no images in {where}: it has no rows")
        column = _image_column(rows, where)
        self._column, self._folder = column, folder
        self._rows = _undecoded(rows, column)
        self._where = where
        self._files = list(files) or [each["filename"] for each in rows.cache_files]
        self.cacheable = bool(self._files)
        self._selection = _selection(rows)
        self.classes, self._labels = _labels(rows, where)
        self.description = f"{len(rows):,} images in {where}"
        self.location = location

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, index: int) -> ImagePath:
        data, path = self._cell(index)
        if data is None:
            check_file(path)
            return path
        check_readable(path, data[:16])
        return BytesIO(data)

    def name(self, index: int) -> str:
        return f"row {index} of {self._where}"

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def relative_path(self, index: int) -> str:
        return f"row/{index}"

    def nbytes(self, index: int) -> int | None:
        length = int(self._lengths[index])
        if length >= 0:
            return length
        try:
            return file_size(self._cell(index)[1])
        except UnreadableImage:
            return None

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        """Bytes of each encoded image, of which none is read; -1 where a path stands instead."""
        import pyarrow as pa
        from pyarrow import compute

        column = self._rows.data.column(self._column)
        if pa.types.is_struct(column.type):
            column = compute.struct_field(column, "bytes")
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            return np.full(len(self), -1, np.int64)
        stated = compute.fill_null(compute.binary_length(column), -1).to_numpy()
        lengths: NDArray[np.int64] = stated.astype(np.int64)
        indices = getattr(self._rows, "_indices", None)
        return lengths if indices is None else lengths[np.asarray(indices.column(0))]

    def content(self, index: int) -> bytes:
        data, path = self._cell(index)
        return file_content(path) if data is None else hashlib.sha256(data).digest()

    def fingerprint(self, *, content: bool = False) -> str:
        if content or not self._files:
            return super().fingerprint(content=True)
        names = [f"{len(self)} {self._column} {self.classes}".encode(), self._labels.tobytes()]
        states = chain(map(file_state, self._files), [self._selection], self._states_of_paths())
        return fingerprint_of(names, states)

    def _states_of_paths(self) -> Iterator[bytes]:
        """What identifies the images that rows name by a path: the rows' own files do not."""
        for index in np.flatnonzero(self._lengths < 0).tolist():
            with suppress(UnreadableImage):
                data, path = self._cell(index)
                if data is None:
                    yield b"%d " % index + file_state(path)

    def _cell(self, index: int) -> tuple[bytes | None, str]:
        """Bytes of an image, or None, and its path, which may be empty where there are bytes."""
        try:
            value = self._rows[index][self._column]
        except Exception as error:  # whatever Arrow raises on a damaged file
            raise UnreadableImage(f"its row cannot be read ({type(error).__name__})") from error
        data, path = value, ""
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path") or ""
        elif isinstance(value, str):
            data, path = None, value
        if data is not None:
            return bytes(data), path
        if not path:
            raise UnreadableImage("its row has no image")
        if is_url(path):
            raise UnreadableImage("its row names a URL, which is not fetched")
        if not os.path.isabs(path) and not self._folder:
            raise UnreadableImage("its row names a path that is relative to no folder")
        return None, os.path.join(self._folder, path)


def is_dataset(data: object) -> bool:
    """Whether an object is a ``datasets.Dataset``; the library is not imported for it."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(data, library.Dataset)


def open_dataset(rows: Any) -> RowSource:
    """The source of a ``datasets.Dataset``."""
    return RowSource(rows, "the dataset", f"datasets:{rows._fingerprint}")


def open_hf(spec: str) -> RowSource:
    """The images of ``hf:NAME_OR_PATH[:SPLIT]`` with one split.

    Raises:
        UsageError: There is no such dataset or split, or it has several and none is named.
        DataError: It cannot be read.
    """
    name, split = hf_parts(spec)
    parts = _load(name)
    if split is None and len(parts) == 1:
        split = next(iter(parts))
    if split not in parts:
        found = ", ".join(map(printable, parts))
        raise UsageError(f"{printable(spec)}: its splits are {found}; type hf:{name}:SPLIT")
    local = os.path.exists(name)
    of = f" ({printable(split)})" if len(parts) > 1 else ""
    return RowSource(
        parts[split],
        f"{printable(name)}{of}",
        f"hf:{os.path.realpath(name) if local else name}:{split}",
        os.path.abspath(name) if local else "",
    )


def hf_splits(spec: str) -> tuple[str, dict[str, str]]:
    """Name or path of a dataset, and its splits, as `canonical_splits`; none if one is typed."""
    name, split = hf_parts(spec)
    return name, {} if split is not None else canonical_splits(_load(name))


def open_parquet(files: Sequence[str], split: str | None, where: str) -> RowSource:
    """The images of Parquet files.

    Args:
        files: The files, in order.
        split: Only the rows of this split, by the column of splits.
        where: What they are called in messages, printable.

    Raises:
        UsageError: There is no such split.
        DataError: They cannot be read.
    """
    need("datasets", "images in a .parquet file")
    import datasets
    from pyarrow import parquet

    with _quiet(where):
        if not sum(parquet.read_metadata(file).num_rows for file in files):
            raise DataError(f"no images in {where}: it has no rows")
        rows = datasets.Dataset.from_parquet(list(files))
    if split is not None:
        column = need_column(rows.column_names, SPLITS, "splits", where)
        chosen = [number for number, value in enumerate(_values(rows, column)) if value == split]
        if not chosen:
            raise UsageError(f"{where} has no split {split!r:.100}")
        rows, where = rows.select(chosen), f"{where} ({printable(split)})"
    location = os.pathsep.join(map(os.path.realpath, files)) + (f":{split}" if split else "")
    return RowSource(rows, where, location, os.path.dirname(os.path.abspath(files[0])), files)


def parquet_has_images(files: Sequence[str]) -> bool:
    """Whether Parquet files hold images themselves, not paths of them.

    Raises:
        DataError: They cannot be read.
    """
    need("pyarrow", "a .parquet file")
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(files[0])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{printable(files[0])} is no readable Parquet file: {_one_line(error)}"
        ) from error
    encoded = any(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        for kind in schema.types
    )
    return encoded or find_column(schema.names, PATHS) is None


def parquet_splits(files: Sequence[str]) -> dict[str, str]:
    """The splits in the split column of Parquet files, as `canonical_splits`."""
    from pyarrow import parquet

    values = dict[str, None]()
    for file in files:
        column = find_column(parquet.read_schema(file).names, SPLITS)
        if column is None:
            return {}
        values |= dict.fromkeys(parquet.read_table(file, columns=[column])[column].to_pylist())
    return canonical_splits(value for value in values if isinstance(value, str))


_NAMED_SPLIT = re.compile(r"([A-Za-z]+)[-_.0-9]")


def parquet_folder(path: str) -> dict[str, str]:
    """Of a folder of nothing but Parquet files, the patterns of its files by the split that their
    names begin with, such as ``train-00000-of-00002.parquet``.

    Returns:
        Split -> pattern; with ``""`` alone for all files if they are no splits; empty for other
        folders.
    """
    names = list[str]()
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.lower().endswith(".parquet"):
                    names.append(entry.name)
                elif not entry.name.startswith((".", "_")):
                    return {}
    except OSError:
        return {}
    if not names:
        return {}
    words = [match[1] if (match := _NAMED_SPLIT.match(name)) else "" for name in names]
    splits = canonical_splits(words)
    if set(words) != set(splits.values()):
        splits = {"": ""}
    root = os.path.join(escape(path), "")
    return {
        split: f"{root}{word}{'[!A-Za-z]' * bool(word)}*parquet" for split, word in splits.items()
    }


def _load(name: str) -> dict[str, Any]:
    """The splits of a dataset of the hub or of a folder."""
    need("datasets", "hf:")
    import datasets

    with _quiet(f"hf:{printable(name)}"):
        if os.path.isdir(name) and {"state.json", "dataset_dict.json"} & set(os.listdir(name)):
            saved = datasets.load_from_disk(name)  # written by save_to_disk
        else:
            builder = datasets.load_dataset_builder(name)
            kind = type(builder).__module__.rpartition(".")[2]
            if kind not in _BUILDERS:
                raise DataError(
                    f"hf:{printable(name)} is read by the {kind} builder of datasets, which is not "
                    "used; expected Parquet, Arrow or an image folder"
                )
            builder.download_and_prepare()
            saved = builder.as_dataset()
    return dict(saved) if isinstance(saved, dict) else {str(saved.split or "train"): saved}


@contextmanager
def _quiet(what: str) -> Iterator[None]:
    """No progress bars, warnings and log lines of ``datasets``; its errors become ours."""
    import datasets

    silent, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, UsageError):
        raise
    except Exception as error:  # of any of the libraries that it calls
        reason = _one_line(error.__cause__ or error)
        raise DataError(f"{what} cannot be opened: {reason}") from error
    finally:
        datasets.logging.set_verbosity(level)
        if not silent:
            datasets.enable_progress_bars()


def _image_column(rows: Any, where: str) -> str:
    """Name of the column of images."""
    import datasets

    kinds = rows.features
    typed = [str(name) for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    if typed:
        return typed[0]
    held = [name for name, kind in kinds.items() if _holds_images(kind)]
    kinds_shown = [f"{name} ({getattr(kind, 'dtype', 'nested')})" for name, kind in kinds.items()]
    wanted = (*IMAGES, *PATHS)
    return find_column(held, wanted) or need_column(kinds_shown, wanted, "images", where)


def _holds_images(kind: Any) -> bool:
    """Whether values of a column may be encoded images or paths."""
    if isinstance(kind, dict):
        return "bytes" in kind
    return getattr(kind, "dtype", None) in ("binary", "large_binary", "string", "large_string")


def _undecoded(rows: Any, column: str) -> Any:
    """The image column alone, of encoded images."""
    import datasets

    rows = rows.with_format(None).select_columns([column])
    if isinstance(rows.features[column], datasets.Image):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _labels(rows: Any, where: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names, and the class number of each row, -1 without one."""
    import datasets

    kinds = rows.features
    typed = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    column = find_column(typed, LABELS) or find_column(list(kinds), LABELS) or next(iter(typed), "")
    if not column or not (column in typed or hasattr(kinds[column], "dtype")):
        return (), np.full(len(rows), -1, np.int64)
    values = _values(rows, column)
    if column in typed:
        numbers = np.array([-1 if value is None else value for value in values], np.int64)
        return in_class_order(kinds[column].names, numbers)
    try:
        names = [class_name(value) for value in values]
    except TypeError as error:
        raise DataError(f"{where}: in its column {printable(column)} {error}") from error
    names = [nfc(name) if name else None for name in names]
    classes, labels = numbered(names)
    return classes, labels.astype(np.int64)


def _values(rows: Any, column: str) -> list[Any]:
    """All values of a column, as Python has them."""
    table = rows.select_columns([column]).with_format("arrow")[:]
    return list(table[column].to_pylist())


def _selection(rows: Any) -> bytes:
    """Which rows of its files a dataset has, in which order."""
    indices = getattr(rows, "_indices", None)
    if indices is None:
        return f"all {len(rows)}".encode()
    return hashlib.sha256(np.asarray(indices.column(0), np.int64).tobytes()).digest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
