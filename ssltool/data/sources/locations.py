"""Whether the images that ``--data`` names are there, before any is read.

Imports no torch, so that a mistyped path is answered at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from ssltool.errors import UsageError

ACCEPTED = (
    "give a folder of images, shards/{0000..0099}.tar, torchvision:NAME@ROOT, demo[:N] or "
    "demo-test[:N]"
)
DEMO = ("demo", "demo-test")
DEMO_COUNT = 4096


def check_specs(specs: Iterable[str]) -> None:
    """Make sure that folders and shards are there; torchvision's sets are left for later.

    Args:
        specs: As `ssltool.data.sources.registry.open_source` takes them.

    Raises:
        UsageError: One is not.
    """
    for spec in specs:
        kind = spec.partition(":")[0]
        if kind in DEMO:
            demo_count(spec)
        elif kind not in ("torchvision", "object"):
            path = os.path.expanduser(spec)
            if path.endswith(".tar"):
                listed_shards(path)
            else:
                existing_folder(path)


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
