"""The contract of a method's options, and what a method knows of the data.

Nothing here, nor in the ``options.py`` of a method, imports torch when it is imported: a command
line is checked in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field

from ssltool.options import LARGEST_SIDE, SMALLEST_SIDE, Options

T = TypeVar("T")
_Share = Annotated[float, Field(ge=0, le=1)]

Presets = Mapping[str, Mapping[str, Any]]
"""Preset name -> option name -> value, over the run's and the method's options."""


class _Automatic:
    """Marks an option that `MethodOptions.with_defaults` fills in."""


# ``name: Auto[int] = Field(AUTO, ...)`` declares an option that is None until
# `MethodOptions.with_defaults` decides it. Type checkers see the plain type, because methods are
# only built from options that are decided.
AUTO: Any = None
if TYPE_CHECKING:
    Auto = Annotated[T, _Automatic()]
else:
    Auto = Annotated[T | None, _Automatic()]


@dataclass(frozen=True)
class DataInfo:
    """What a method knows of the data when it is built.

    Attributes:
        count: Number of images; the ``index`` of an image is in 0..count-1.
        image_size: Side S in pixels of the squares that `Method.view` receives.
        gray: True if every sampled image is gray (R = G = B).
        mean: Mean of each channel over a sample, 0..1.
        std: Standard deviation of each channel over a sample, 0..1.
        batch_size: Images per batch over all processes; 0 = not decided yet. Chance levels may
            depend on it, the task must not.
    """

    count: Annotated[int, Field(ge=0)]
    image_size: Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]
    gray: bool = False
    mean: tuple[_Share, _Share, _Share] = (0.485, 0.456, 0.406)
    std: tuple[_Share, _Share, _Share] = (0.229, 0.224, 0.225)
    batch_size: Annotated[int, Field(ge=0)] = 0

    def for_batches_of(self, batch_size: int) -> DataInfo:
        """A copy with another batch size."""
        return replace(self, batch_size=batch_size)


class MethodOptions(Options):
    """Base of every method's options: frozen, unknown names refused, each field described.

    Attributes:
        presets: Named sets of defaults.
    """

    presets: ClassVar[Presets] = {}

    def with_defaults(self, data: DataInfo) -> Self:
        """Return a copy with every `Auto` field decided for this data.

        Raises:
            UsageError: The options do not fit the images, for example tiles that would be too
                small.
        """
        del data
        return self

    def open_fields(self) -> list[str]:
        """Names of the `Auto` fields that are not decided yet."""
        return [
            name
            for name, field in type(self).model_fields.items()
            if getattr(self, name) is None
            and any(isinstance(m, _Automatic) for m in field.metadata)
        ]
