"""`ManifestSource`: images listed in a CSV, JSON-lines or Parquet file, with labels and splits.

A line names an image by its path, absolute or relative to the folder of the manifest, in the column
``path`` (or ``file_name``, ``filename``, ``file``); ``label`` (or ``class``) and ``split`` are
optional. The order of the lines is the order of the images.
"""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ssltool.data.sources.base import FilePerImageSource
from ssltool.data.sources.class_names import nfc, numbered
from ssltool.data.sources.columns import (
    LABELS,
    PATHS,
    SPLITS,
    class_name,
    find_column,
    need_column,
    refuse_repeated,
)
from ssltool.data.sources.extras import need
from ssltool.data.sources.locations import existing_file, printable
from ssltool.data.sources.splits import canonical_splits
from ssltool.data.sources.strings import PackedStrings
from ssltool.data.sources.urls import is_url, joined, shown
from ssltool.documents import DocumentError, parse_json
from ssltool.errors import DataError, UsageError

_LONGEST = 2**16  # characters of a field


class Row(NamedTuple):
    """A line of a manifest.

    Attributes:
        line: Its number in the file, from 1.
        path: As written.
        label: Class name; None without one.
        split: Name of the split; None without one.
    """

    line: int
    path: str
    label: str | None
    split: str | None


class ManifestSource(FilePerImageSource):
    """The images that a manifest lists, in its order.

    Args:
        path: The manifest; its ending says what it is: ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``
            or ``.parquet``. ``~`` is expanded.
        split: Only the lines of this split.
        url: Where the manifest was downloaded from; its relative paths are relative to it then.

    Raises:
        UsageError: There is no such file or split.
        DataError: It cannot be read, lacks a column, or lists a file that is not there, or twice.
    """

    def __init__(self, path: str, split: str | None = None, url: str | None = None) -> None:
        path = existing_file(path)
        self._shown = shown(url) if url else printable(path)
        rows = list(read_manifest(path, self._shown))
        if split is not None:
            rows = _of_split(rows, split, self._shown)
        if not rows:
            raise DataError(f"no images in {self._shown}: it has no lines below its header")
        folder = os.path.dirname(os.path.abspath(path))
        paths = _absolute_paths(rows, folder, url, self._shown)
        _refuse_duplicates(rows, paths, self._shown)
        names = _local(paths)
        _refuse_missing(rows, names, self._shown)
        self._paths = PackedStrings(names)
        self._relative = PackedStrings(_relative_paths(paths, folder, url))
        self._splits = [row.split for row in rows] if any(row.split for row in rows) else None
        self.classes, self._labels = numbered([row.label for row in rows])
        of = f" ({printable(split)})" if split else ""
        self.description = f"{len(rows):,} images in {self._shown}{of}"
        self.location = (shown(url) if url else os.path.realpath(path)) + (
            f":{split}" if split else ""
        )

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> int | None:
        label = int(self._labels[index])
        return None if label < 0 else label

    def split(self, index: int) -> str | None:
        return self._splits[index] if self._splits else None

    def relative_path(self, index: int) -> str:
        return nfc(self._relative[index])

    def path(self, index: int) -> str:
        return self._paths[index]


def manifest_splits(path: str) -> dict[str, str]:
    """Of the splits of a manifest, those that are ``train``, ``val`` and ``test`` -> their names;
    empty unless there are training images and another split.
    """
    where = printable(path)
    rows = read_manifest(existing_file(path), where)
    return canonical_splits(row.split for row in rows if row.split)


def read_manifest(path: str, where: str) -> Iterator[Row]:
    """Yield the lines of a manifest.

    Args:
        path: The file.
        where: What it is called in messages.

    Raises:
        DataError: It cannot be read, or lacks the column of paths.
    """
    ending = path.lower().rpartition(".")[2]
    try:
        if ending == "parquet":
            yield from _parquet_rows(path, where)
        elif ending in ("jsonl", "ndjson"):
            yield from _json_rows(path, where)
        else:
            yield from _csv_rows(path, where, "\t" if ending == "tsv" else ",")
    except OSError as error:
        raise DataError(f"cannot read {where}: {(error.strerror or str(error)).lower()}") from error


def _csv_rows(path: str, where: str, delimiter: str) -> Iterator[Row]:
    # Names of files may hold bytes that are no UTF-8.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(lines, [])
            refuse_repeated(header, where)
            columns = _Columns.of(header, where)
            for fields in lines:
                if not fields:  # an empty line
                    continue
                if len(fields) != len(header):
                    raise DataError(
                        f"{where} line {lines.line_num}: {len(fields)} fields, but its header has "
                        f"{len(header)}; put names with commas into double quotes"
                    )
                values = dict(zip(header, fields, strict=True))
                yield columns.row(lines.line_num, values, where)
        except csv.Error as error:
            raise DataError(f"{where} line {lines.line_num}: {error}") from error


def _json_rows(path: str, where: str) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = parse_json(line)
            except DocumentError as error:
                raise DataError(f"{where} line {number}: {error}") from error
            if not isinstance(values, dict):
                raise DataError(
                    f'{where} line {number} is no JSON object; write {{"path": ..., "label": ...}}'
                )
            yield _Columns.of(list(values), f"{where} line {number}").row(number, values, where)


def _parquet_rows(path: str, where: str) -> Iterator[Row]:
    need("pyarrow", "a .parquet file")
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = _Columns.of(file.schema_arrow.names, where)
            wanted = [name for name in columns if name is not None]
            number = 0
            for batch in file.iter_batches(columns=wanted):
                for values in batch.to_pylist():
                    number += 1
                    yield columns.row(number, values, where)
    except pa.ArrowException as error:
        raise DataError(f"{where} is no readable Parquet file: {_one_line(error)}") from error


class _Columns(NamedTuple):
    """Names of the columns that are read."""

    path: str
    label: str | None
    split: str | None

    @classmethod
    def of(cls, names: list[str], where: str) -> _Columns:
        """Choose among the columns that there are.

        Raises:
            DataError: None holds paths.
        """
        return cls(
            need_column(names, PATHS, "paths", where),
            find_column(names, LABELS),
            find_column(names, SPLITS),
        )

    def row(self, line: int, values: dict[str, Any], where: str) -> Row:
        """A line from its values by column.

        Raises:
            DataError: A value is of another kind.
        """
        path = values[self.path]
        if not isinstance(path, str) or not path or "\0" in path or len(path) > _LONGEST:
            raise DataError(f"{where} line {line}: its {self.path} is no path of a file")
        try:
            label = class_name(values.get(self.label)) if self.label else None
            split = class_name(values.get(self.split)) if self.split else None
        except TypeError as error:
            raise DataError(f"{where} line {line}: {error}") from error
        return Row(line, path, nfc(label) if label else None, split)


def _of_split(rows: list[Row], split: str, where: str) -> list[Row]:
    """The lines of a split."""
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        names = sorted({printable(row.split) for row in rows if row.split})
        there = f"its splits are {', '.join(names[:8])}" if names else "it has no column of splits"
        raise UsageError(f"{where} has no split {split!r:.100}; {there}")
    return chosen


def _absolute_paths(rows: Iterable[Row], folder: str, url: str | None, where: str) -> list[str]:
    """The path, or URL, of each image."""
    if url is None:
        return [
            row.path if is_url(row.path) else os.path.normpath(os.path.join(folder, row.path))
            for row in rows
        ]
    paths = []
    for row in rows:
        try:
            paths.append(row.path if is_url(row.path) else joined(url, row.path))
        except UsageError as error:  # a server's list shall not name files of this machine
            raise DataError(f"{where} line {row.line}: {error}") from error
    return paths


def _refuse_duplicates(rows: list[Row], paths: list[str], where: str) -> None:
    first = dict[str, int]()
    for row, path in zip(rows, paths, strict=True):
        if first.setdefault(path, row.line) != row.line:
            raise DataError(
                f"{where}: lines {first[path]} and {row.line} both name {shown(path)}; list each "
                "image once"
            )


def _local(paths: list[str]) -> list[str]:
    """The files of the images; those with a URL are downloaded."""
    if not any(map(is_url, paths)):
        return paths
    from ssltool.data.sources.remote import fetch_all

    fetched = iter(fetch_all([path for path in paths if is_url(path)]))
    return [next(fetched) if is_url(path) else path for path in paths]


def _refuse_missing(rows: list[Row], paths: list[str], where: str) -> None:
    missing = [
        (row, path) for row, path in zip(rows, paths, strict=True) if not os.path.isfile(path)
    ]
    if missing:
        row, path = missing[0]
        among = f" ({len(missing):,} of {len(rows):,} are missing)" if len(rows) > 1 else ""
        raise DataError(
            f"{where} line {row.line}: no file at {printable(path)}{among}; paths are absolute or "
            "relative to the folder of the manifest"
        )


def _relative_paths(paths: list[str], folder: str, url: str | None) -> list[str]:
    """Paths below the folder of the manifest, or else below the last folder that holds them all."""
    if any(map(is_url, paths)):
        parents = [posixpath.dirname(path) for path in paths]
        root = url.rpartition("/")[0] if url else posixpath.commonprefix(parents).rpartition("/")[0]
        inside = all(path.startswith(f"{root}/") for path in paths)
        return [path[len(root) + 1 :] if inside else path.replace("://", "/") for path in paths]
    if not all(path.startswith(os.path.join(folder, "")) for path in paths):
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, folder).replace(os.sep, "/") for path in paths]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
