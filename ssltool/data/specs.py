"""Specs of images, as typed after ``--data``, that name the same images from any folder."""

from __future__ import annotations

import os

OBJECT = "object:"
"""Start of the spec of a dataset that is no path; only the program that made it can open it."""

_PLACELESS = {"demo", "demo-test", OBJECT[:-1]}


def absolute_spec(spec: str) -> str:
    """A spec with an absolute path; URLs, ``demo[:N]``, datasets of a hub and objects have none.

    Args:
        spec: A folder, a file, a pattern, ``zip://MEMBER::FILE``, ``hf:PATH[:SPLIT]`` or
            ``torchvision:NAME[:SPLIT]@ROOT[?download]``; ``~`` is expanded.
    """
    kind = spec.partition(":")[0]
    if spec.lower().startswith("zip://"):
        member, chain, archive = spec.partition("::")
        return f"{member}{chain}{absolute_spec(archive)}" if archive else spec
    if kind in _PLACELESS or "://" in spec:
        return spec
    if kind == "hf":
        path = spec.partition(":")[2]
        name = os.path.expanduser(path if os.path.exists(path) else path.rpartition(":")[0] or path)
        return f"hf:{absolute_path(path)}" if os.path.exists(name) else spec
    if kind == "torchvision":
        name, at, root = spec.partition("@")
        return f"{name}{at}{absolute_path(root)}" if root else spec
    return absolute_path(spec)


def absolute_path(path: str) -> str:
    """A path from the root of the file system; links and ``..`` are left as they are."""
    return os.path.join(os.getcwd(), os.path.expanduser(path))
