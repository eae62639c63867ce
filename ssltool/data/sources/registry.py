"""From what is typed after ``--data`` to a source of images."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ssltool.data.sources.base import ACCEPTED, JoinedSource, Source
from ssltool.data.sources.demo import DemoSource
from ssltool.data.sources.folder import FolderSource
from ssltool.data.sources.shards import ShardSource, shard_paths
from ssltool.errors import UsageError

DEMO_COUNT = 4096
_DEMO_SEEDS = {"demo": 0, "demo-test": 1}


def open_source(specs: Sequence[str]) -> Source:
    """Open what was typed after ``--data``.

    Args:
        specs: Each a folder, tar shards (``shards/train-{0000..0099}.tar``, one ``.tar`` file, or a
            folder of nothing else), ``torchvision:NAME[:SPLIT]@ROOT[?download]``, ``demo[:N]``
            (``N`` images of the demo world, 4096 by default) or ``demo-test[:N]`` (others of the
            same classes). A folder that is itself called demo is written ``./demo``.

    Returns:
        One source over all of them, in the order given.

    Raises:
        UsageError: A path does not exist, is a file, or is nothing that can be opened.
        DataError: A folder has no image in it.
    """
    if not specs:
        raise UsageError(f"no images given; {ACCEPTED}")
    sources = [_open_one(spec) for spec in specs]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def _open_one(spec: str) -> Source:
    kind, _, count = spec.partition(":")
    if kind in _DEMO_SEEDS:
        return DemoSource(
            _demo_count(spec, count) if ":" in spec else DEMO_COUNT, seed=_DEMO_SEEDS[kind]
        )
    if kind == "torchvision":
        from ssltool.data.sources.torchvision import TorchvisionSource

        return TorchvisionSource(spec)
    shards = shard_paths(spec)
    return ShardSource(shards, spec) if shards else FolderSource(spec)


def _demo_count(spec: str, count: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", count):
        raise UsageError(
            f"{spec!r}: what follows the colon is a number of images below a billion, as in "
            f"demo:{DEMO_COUNT}"
        )
    return int(count)
