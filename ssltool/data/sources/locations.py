"""Whether the images that ``--data`` names are there, before any is read.

Imports no torch, so that a mistyped path is answered at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from glob import glob

from ssltool.data.sources.extras import need
from ssltool.data.sources.urls import check_url, is_url, shown, zip_parts
from ssltool.errors import UsageError

ACCEPTED = (
    "give a folder of images, shards/{0000..0099}.tar, photos.zip, manifest.csv, photos.parquet, "
    "clip.mp4, hf:NAME, a URL, torchvision:NAME@ROOT, demo[:N] or demo-test[:N]"
)
DEMO = ("demo", "demo-test")
DEMO_COUNT = 4096
MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Endings, in lower case, of manifests of text."""
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
"""Endings, in lower case, of videos."""
_WITH_SPLIT = re.compile(r"(.+\.(?:csv|tsv|jsonl|ndjson|parquet)):([^:/\\]+)", re.I | re.S)


def check_specs(specs: Iterable[str]) -> None:
    """Make sure that folders and files are there; torchvision's sets, hubs and servers are left
    for later.

    Args:
        specs: As `ssltool.data.sources.registry.open_source` takes them.

    Raises:
        UsageError: One is not.
    """
    for spec in specs:
        kind = spec.partition(":")[0]
        if kind in DEMO:
            demo_count(spec)
        elif kind == "hf":
            hf_parts(spec)
        elif is_url(spec):
            check_url(spec)
            video_and_step(spec)
            _check_path(zip_parts(spec)[1])
        elif kind not in ("torchvision", "object"):
            _check_path(spec)


def _check_path(spec: str) -> None:
    path, _ = file_and_split(os.path.expanduser(spec))
    if is_url(spec):
        return
    video = video_and_step(spec)
    if video is not None:
        need("torchcodec", "a video")
        if not os.path.isdir(video[0]):
            existing_file(video[0])
        return
    if path.endswith(".tar"):
        listed_shards(path)
    elif is_parquet(path):
        need("pyarrow", "a .parquet file")
        listed_parquet(path)
    elif is_manifest(path) or is_zip(path):
        existing_file(path)
    else:
        existing_folder(path)


def is_zip(path: str) -> bool:
    """Whether a path names a zip file."""
    return path.lower().endswith(".zip") and not os.path.isdir(path)


def is_parquet(path: str) -> bool:
    """Whether a path names a Parquet file, or several by a pattern."""
    return path.lower().endswith((".parquet", "*parquet")) and not os.path.isdir(path)


def is_manifest(path: str) -> bool:
    """Whether a path names a manifest of text."""
    return path.lower().endswith(MANIFESTS) and not os.path.isdir(path)


def file_and_split(spec: str) -> tuple[str, str | None]:
    """File and split of ``manifest.csv:train``; of other specs the spec, and None."""
    match = _WITH_SPLIT.fullmatch(spec)
    return (match[1], match[2]) if match else (spec, None)


def video_and_step(spec: str) -> tuple[str, int] | None:
    """File, and N, of ``clip.mp4[?every=N]``, or folder of ``clips?every=N``; None of other specs.

    Raises:
        UsageError: What follows the question mark is not understood, or it is a URL.
    """
    if is_url(spec):
        if spec.partition("?")[0].lower().endswith(VIDEOS):
            raise UsageError(f"{shown(spec)}: videos are not read from servers; download it first")
        return None
    expanded = os.path.expanduser(spec)
    if os.path.isdir(expanded):
        return None
    if expanded.lower().endswith(VIDEOS):
        return expanded, 1
    path, mark, query = expanded.rpartition("?")
    if not mark or not (path.lower().endswith(VIDEOS) or os.path.isdir(path)):
        return None
    match = re.fullmatch("every=0*([1-9][0-9]{0,8})", query)
    if match is None:
        raise UsageError(
            f"{printable(spec)}: what follows the question mark is every=N, for each N-th frame, "
            f"as in {printable(path)}?every=10"
        )
    return path, int(match[1])


def hf_parts(spec: str) -> tuple[str, str | None]:
    """Name or path, and split or None, of ``hf:NAME_OR_PATH[:SPLIT]``.

    Raises:
        UsageError: It names nothing, or a path that does not exist, or ``datasets`` is missing.
    """
    need("datasets", "hf:")
    rest = spec.partition(":")[2]
    whole = os.path.expanduser(rest)
    if os.path.exists(whole):
        return whole, None
    name, colon, split = rest.rpartition(":")
    name, chosen = (name, split) if colon and split and "/" not in split else (rest, None)
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return path, chosen
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UsageError(
            f"{printable(spec)}: no folder at {printable(name) or 'an empty path'}; type "
            "hf:FOLDER[:SPLIT], or hf:OWNER/NAME[:SPLIT] for one of the hub"
        )
    return name, chosen


def existing_file(path: str) -> str:
    """Expand ``~`` and make sure that the file exists.

    Raises:
        UsageError: It does not.
    """
    expanded = os.path.expanduser(path)
    if not os.path.isfile(expanded):
        raise UsageError(f"no file at {printable(path)}; {ACCEPTED}")
    return expanded


def listed_parquet(pattern: str) -> list[str]:
    """The Parquet files of a pattern with ``*`` or braces.

    Raises:
        UsageError: One is missing, or none fits.
    """
    paths = list[str]()
    for path in expand_braces(os.path.expanduser(pattern)):
        found = [path] if os.path.isfile(path) else sorted(filter(os.path.isfile, glob(path)))
        if not found:
            raise UsageError(f"no Parquet file at {printable(path)}; {ACCEPTED}")
        paths += found
    return paths


def demo_count(spec: str) -> int:
    """Images of ``demo[:N]`` or ``demo-test[:N]``.

    Raises:
        UsageError: N is no such number.
    """
    _, colon, count = spec.partition(":")
    if not colon:
        return DEMO_COUNT
    if not re.fullmatch("0*[1-9][0-9]{0,8}", count):
        raise UsageError(
            f"{spec!r}: what follows the colon is a number of images below a billion, as in "
            f"demo:{DEMO_COUNT}"
        )
    return int(count)


def existing_folder(path: str) -> str:
    """Expand ``~`` and make sure that the folder exists.

    Raises:
        UsageError: It does not.
    """
    expanded = os.path.expanduser(path)
    if os.path.isdir(expanded):
        return expanded
    if not os.path.lexists(expanded):
        # Two letters at least: one letter and a colon is a Windows drive.
        kind = "source of this kind" if re.match(r"[\w-]{2,}:", path) else "folder"
        raise UsageError(f"no {kind} at {printable(path)}; {ACCEPTED}")
    if re.search(r"\.(tar\.\w+|tgz|tbz2?|txz)$", path.lower()):
        raise UsageError(
            f"{printable(path)} is compressed; shards are plain .tar files: decompress it"
        )
    raise UsageError(f"{printable(path)} is not a folder; {ACCEPTED}")


def listed_shards(pattern: str) -> list[str]:
    """The tar files of a pattern with braces.

    Raises:
        UsageError: One is missing.
    """
    paths = list(expand_braces(pattern))
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        among = f" ({len(missing)} of {len(paths)} are missing)" if len(paths) > 1 else ""
        raise UsageError(f"no shard at {missing[0]}{among}; {ACCEPTED}")
    return paths


def expand_braces(pattern: str) -> Iterator[str]:
    """Expand ``{0..9}``, ``{0000..0099}`` (zeros kept) and ``{a,b}`` as shells do; not nested."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if words is None:
        width = len(first) if first.startswith("0") or last.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        choices = [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
    else:
        choices = words.split(",")
    for rest in expand_braces(pattern[match.end() :]):
        for word in choices:
            yield pattern[: match.start()] + word + rest


def printable(path: str) -> str:
    """A path, with line breaks, control characters and undecodable bytes escaped."""
    return path if path.isprintable() and path else ascii(path)[1:-1] or "''"
