"""Fingerprints: what identifies the images of a source, by their files or their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from ssltool.errors import UnreadableImage


def fingerprint_of(names: Iterable[bytes], states: Iterable[bytes]) -> str:
    """Two SHA-256 in hex, ``ALL-NAMES``.

    Args:
        names: Names and labels of the images, in order.
        states: What identifies the content of each.
    """
    listing, everything = hashlib.sha256(), hashlib.sha256()
    for name in names:
        listing.update(name)
    everything.update(listing.digest())
    for state in states:
        everything.update(state)
    return f"{everything.hexdigest()}-{listing.hexdigest()}"


def file_state(path: str) -> bytes:
    """Size and modification time of a file, or that there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return b"missing\n"
    return b"%d %d\n" % (status.st_size, status.st_mtime_ns)


def file_content(path: str) -> bytes:
    """SHA-256 of a file.

    Raises:
        UnreadableImage: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UnreadableImage((error.strerror or str(error)).lower()) from error


def file_size(path: str) -> int | None:
    """Length of a file; None if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def encode(text: str) -> bytes:
    """Text as UTF-8; bytes of file names that are not UTF-8 stay as they are."""
    return text.encode("utf-8", "surrogateescape")
