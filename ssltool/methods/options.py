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
        gray: True if every sampled image is gray (R = G = B), or has a single channel.
        mean: Mean of each channel over a sample, 0..1.
        std: Standard deviation of each channel over a sample, 0..1.
        batch_size: Images per batch over all processes; 0 = not decided yet. Chance levels may
            depend on it, the task must not.
        value_range: Of images that are read as they are: values of each channel that became 0 and
            255; None for RGB.
        value_type: Type of those values.
    """

    count: Annotated[int, Field(ge=0)]
    image_size: Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]
    gray: bool = False
    mean: tuple[_Share, ...] = (0.485, 0.456, 0.406)
    std: tuple[_Share, ...] = (0.229, 0.224, 0.225)
    batch_size: Annotated[int, Field(ge=0)] = 0
    value_range: tuple[tuple[float, float], ...] | None = None
    value_type: str | None = None

    @property
    def channels(self) -> int:
        """Channels of the images: 3 for RGB."""
        return len(self.mean)

    @property
    def rgb(self) -> bool:
        """Whether the images are RGB, and not read as they are."""
        return self.value_range is None

    def for_batches_of(self, batch_size: int) -> DataInfo:
        """A copy with another batch size."""
        return replace(self, batch_size=batch_size)


class MethodOptions(Options):
    """Base of every method's options: frozen, unknown names refused, each field described.

    Attributes:
        presets: Named sets of defaults.
        of_color: Options that change colors of RGB, with the values that switch them off: they are,
            for images that are read as they are.
        needs_color: Whether the method is of RGB images alone.
    """

    presets: ClassVar[Presets] = {}
    of_color: ClassVar[Mapping[str, Any]] = {}
    needs_color: ClassVar[bool] = False

    def with_defaults(self, data: DataInfo) -> Self:
        """Return a copy with every `Auto` field decided for this data.

        Raises:
            UsageError: The options do not fit the images, for example tiles that would be too
                small.
        """
        del data
        return self

    def without_color(self) -> tuple[Self, tuple[str, ...]]:
        """A copy with `of_color` switched off, and the names of what was on."""
        on = tuple(name for name, off in self.of_color.items() if getattr(self, name) != off)
        return self.model_copy(update={name: self.of_color[name] for name in on}), on

    def open_fields(self) -> list[str]:
        """Names of the `Auto` fields that are not decided yet."""
        return [
            name
            for name, field in type(self).model_fields.items()
            if getattr(self, name) is None
            and any(isinstance(m, _Automatic) for m in field.metadata)
        ]
