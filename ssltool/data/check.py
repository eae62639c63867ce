"""Look at a set of images before training on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from ssltool.data.sources.registry import open_source
from ssltool.errors import UnreadableImage

_SIZE = 32  # px at which images are compared


def check(data: Sequence[str], console: Console) -> dict[str, Any]:
    """Run ``ssltool data check``: decode every image and count what there is.

    Args:
        data: Sources, as for ``pretrain --data``.
        console: Where progress goes.

    Returns:
        ``images, classes, short_side`` (least, median, most), ``gray, unreadable`` (name -> reason)
        and ``duplicates`` (groups of names whose images are equal at 32 px).
    """
    source = open_source(data)
    sides, gray, unreadable = [], 0, dict(source.unlisted)
    labels: Counter[str] = Counter()
    seen: dict[bytes, list[str]] = {}
    for i in track(
        range(len(source)), "decoding", console=console, disable=console.quiet, transient=True
    ):
        name = source.name(i)
        try:
            sides.append(source.short_side(i))
            square = source.read(i, _SIZE)
        except UnreadableImage as error:
            unreadable[name] = str(error)
            continue
        gray += bool((square == square[..., :1]).all())
        seen.setdefault(hashlib.sha256(square.tobytes()).digest(), []).append(name)
        label = source.label(i)
        if label is not None:
            labels[source.classes[label]] += 1
    return {
        "images": len(source),
        "readable": len(sides),
        "classes": dict(sorted(labels.items())),
        "short_side": [int(f(sides)) for f in (min, np.median, max)] if sides else [],
        "gray": gray,
        "unreadable": unreadable,
        "duplicates": [names for names in seen.values() if len(names) > 1],
    }
