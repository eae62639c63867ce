"""`VideoSource`: the frames of a video, every one or each N-th, as images without a class.

Frames are read by their exact number with torchcodec, which FFmpeg's libraries decode, in any order
and by any process. A frame that is no key frame is decoded from the key frame before it, so that
frames far from the last one that was read cost more than those that follow it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from threading import get_ident
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssltool.data.opening import check_size
from ssltool.data.sources.base import PixelSource, Source
from ssltool.data.sources.class_names import nfc
from ssltool.data.sources.extras import need
from ssltool.data.sources.fingerprints import encode, file_content, file_state, fingerprint_of
from ssltool.data.sources.formats import is_hidden
from ssltool.data.sources.joined import JoinedSource
from ssltool.data.sources.locations import VIDEOS, existing_file, printable
from ssltool.errors import DataError, UnreadableImage, UsageError

_OPEN = 32  # decoders that a process keeps
_MISSING = 0.5  # seconds without frames at the end that are not worth a note
_PLACE = re.compile(r"^.*?\.cpp:\d+,\s*", re.S)
"""Start of torchcodec's messages: the line of its code."""


class VideoSource(PixelSource):
    """The frames of a video in the order in which they are shown, as torchcodec counts them.

    Frames are 8-bit RGB, turned upright by the rotation that the file states; pixels that are not
    square are not stretched. A decoder is opened in the process that reads, when it first reads.

    Args:
        path: The file; ``~`` is expanded.
        every: Only frames 0, N, 2N, ...

    Raises:
        UsageError: There is no such file, or torchcodec or FFmpeg are missing.
        DataError: It holds no video that can be read.
    """

    in_order = True

    def __init__(self, path: str, every: int = 1) -> None:
        self._path, self._every = existing_file(path), every
        self._state_of_file = file_state(self._path)
        shown = printable(self._path)
        try:
            metadata = self._decoder().metadata
        except UnreadableImage as error:
            raise DataError(f"no frames in {shown}: {error}") from error
        self._total: int = metadata.num_frames or 0
        self._size: tuple[int, int] = (metadata.width, metadata.height)
        if not self._total:
            raise DataError(f"no frames in {shown}: its video is empty; copy it again")
        which = f", one of each {every}" if every > 1 else ""
        self.description = f"{len(self):,} frames in {shown}{which}"
        self.location = os.path.realpath(self._path) + (f"?every={every}" if every > 1 else "")
        self.notes = _truncated(metadata, shown, self._total)

    def __len__(self) -> int:
        return -(-self._total // self._every)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        if file_state(self._path) != self._state_of_file:
            raise UnreadableImage("its video is gone or has changed since it was opened")
        decoder = self._decoder()
        try:
            pixels = decoder.get_frame_at(index * self._every).data.numpy()
        except (RuntimeError, ValueError, IndexError) as error:
            # What a decoder returns next may depend on what it failed at.
            _decoder.cache_clear()
            raise UnreadableImage(f"cannot be decoded ({_reason(error)})") from error
        check_size(pixels.shape[1], pixels.shape[0])
        return np.ascontiguousarray(pixels)

    def short_side(self, index: int) -> int:
        del index
        width, height = self._size
        check_size(width, height)
        return min(width, height)

    def name(self, index: int) -> str:
        return f"frame {index * self._every} of {printable(self._path)}"

    def label(self, index: int) -> int | None:
        del index
        return None

    def relative_path(self, index: int) -> str:
        return f"{nfc(os.path.basename(self._path))}/{index * self._every}"

    def path(self, index: int) -> str:
        return f"{self._path}/{index * self._every}"

    def fingerprint(self, *, content: bool = False) -> str:
        name = f"{self.relative_path(0)}\0{len(self)} frames, one of each {self._every}\0"
        state = b"content " + file_content(self._path) if content else file_state(self._path)
        return fingerprint_of([encode(name)], [state])

    def _decoder(self) -> Any:
        return _decoder(self._path, self._state_of_file, os.getpid(), get_ident())


def open_videos(paths: Sequence[str], every: int = 1) -> Source:
    """One source of the frames of several videos, in order; at least one.

    Raises:
        UsageError, DataError: As `VideoSource`.
    """
    sources = [VideoSource(path, every) for path in paths]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def videos_of(folder: str) -> list[str]:
    """The videos of a folder that holds nothing else, by name; none of other folders."""
    try:
        names = [name for name in os.listdir(folder) if not is_hidden(name)]
    except OSError:
        return []
    if not all(name.lower().endswith(VIDEOS) for name in names):
        return []
    paths = [os.path.join(folder, name) for name in sorted(names, key=lambda n: (nfc(n), n))]
    return paths if all(map(os.path.isfile, paths)) else []


@lru_cache(_OPEN)
def _decoder(path: str, state: bytes, process: int, thread: int) -> Any:
    """The decoder of a file as it was, of one thread; a forked process opens its own."""
    del state, process, thread
    return _opened(path)


def _opened(path: str) -> Any:
    """A decoder of torchcodec.

    Raises:
        UsageError: torchcodec, or the FFmpeg that it needs, is missing.
        UnreadableImage: It is no video.
    """
    need("torchcodec", "a video")
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise UsageError(
            "a video needs FFmpeg, version 4 or newer, with its shared libraries, and a torchcodec "
            f"made for the installed torch, which cannot be loaded ({type(error).__name__}); type "
            "apt install ffmpeg, brew install ffmpeg or conda install ffmpeg"
        ) from error
    try:
        # One thread: others would be missing in forked processes.
        return VideoDecoder(
            path, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact"
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UnreadableImage(_unopened(path, error)) from error


def _unopened(path: str, error: Exception) -> str:
    """Why a file is no video, and what to do."""
    try:
        if os.path.getsize(path) == 0:
            return "it is empty; copy it again"
    except OSError as missing:
        return (missing.strerror or str(missing)).lower()
    if "best video stream" in str(error):
        return "it has no video, such as a file of sound alone"
    return f"it is no video, damaged or cut off ({_reason(error)}); copy it again"


def _reason(error: Exception) -> str:
    """The first line of a message of torchcodec's, without the place in its code."""
    text = _PLACE.sub("", str(error)).strip()
    if "Could not open input file" in text:
        text = text.rpartition(" Invalid")[2]
        text = f"invalid{text}" if text else "cannot be opened"
    return printable(text.partition("\n")[0][:80].strip(" .")) if text else type(error).__name__


def _truncated(metadata: Any, shown: str, frames: int) -> tuple[str, ...]:
    """A note that a video ends before the time that its header states."""
    stated, end = metadata.duration_seconds_from_header, metadata.end_stream_seconds_from_content
    if stated is None or end is None or end >= stated - max(_MISSING, 0.02 * float(stated)):
        return ()
    return (
        f"{shown} may be cut off: its header states {float(stated):.1f} s, its {frames:,} frames "
        f"end after {float(end):.1f} s; copy it again",
    )
