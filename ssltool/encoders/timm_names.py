"""Names of timm's networks, ``timm/NAME`` or ``timm/NAME,patch_size=8``; imports no torch."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import NamedTuple

from ssltool.errors import UsageError

PREFIX = "timm/"
INSTALL = "pip install 'ssltool[timm]'"
_FORM = re.compile(r"timm/(?P<model>\w+)(,patch_size=(?P<patch>[1-9]\d?))?", re.ASCII)


class TimmName(NamedTuple):
    """A network of timm.

    Attributes:
        model: Its name in timm, without tag.
        patch_size: Side in pixels of its patches, if not its own.
    """

    model: str
    patch_size: int | None = None

    @classmethod
    def parse(cls, name: str) -> TimmName:
        """Take a name apart.

        Raises:
            UsageError: It is not of the form above.
        """
        found = _FORM.fullmatch(name)
        if found:
            return cls(found["model"], int(found["patch"]) if found["patch"] else None)
        model, dot, _ = name.partition(".")
        if dot and _FORM.fullmatch(model):
            raise UsageError(
                f"{name!r:.100} names weights, and none are downloaded; type --backbone {model}, "
                "and --init FILE for weights that you have"
            )
        raise UsageError(
            f"{name!r:.100} is no name of a timm network; type timm/NAME, such as "
            "timm/vit_tiny_patch16_224, or timm/NAME,patch_size=8"
        )


def is_timm(name: str) -> bool:
    """Whether a backbone's name is one of timm's."""
    return name.startswith(PREFIX)


def check_timm(name: str) -> None:
    """Make sure that a name is well formed and that timm is installed, which is not imported.

    Raises:
        UsageError: It is not.
    """
    TimmName.parse(name)
    if find_spec("timm") is None:
        raise UsageError(f"{name} needs timm, which is not installed; type {INSTALL}")
