"""Declaring options: described pydantic fields from which flags, help and files are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ssltool.documents import cut
from ssltool.errors import UsageError

LARGEST_SEED = 2**62
"""Every number that is added to a seed leaves it within 63 bits."""

SMALLEST_SIDE, LARGEST_SIDE = 8, 1024
"""Sides in pixels of the squares that images are read and encoded at."""

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


class Options(BaseModel):
    """Base of every set of options: frozen, described, finite; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_null_character(cls, value: Any) -> Any:
        return without_null(value)

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        """Divide what was typed as one comma-separated list."""
        if not isinstance(values, Mapping):
            return values
        typed = {
            name: tuple(part.strip() for part in value.split(",") if part.strip())
            for name, value in values.items()
            if isinstance(value, str)
            and name in cls.model_fields
            and declared(cls, name).get("comma")
        }
        return {**values, **typed}

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Validate values by field name.

        Raises:
            UsageError: Some are invalid; one line that names every faulty flag.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise UsageError(describe_faults(cls, error)) from error


def without_null(values: Any) -> Any:
    """The value of an option, if no text in it has a null character: no path and no name can.

    Raises:
        ValueError: It has one.
    """
    if isinstance(values, str) and "\0" in values:
        raise ValueError("text without null characters")
    if isinstance(values, list | tuple):
        for value in values:
            without_null(value)
    return values


def option(
    default: Any,
    description: str,
    *,
    panel: str = "",
    flag: str | None = None,
    positional: bool = False,
    comma: bool = False,
    metavar: str | None = None,
    images: bool = False,
    **constraints: Any,
) -> Any:
    """Declare one option of an `Options` model.

    Args:
        default: Its value if nothing is typed; ``...`` for a required option.
        description: What it does, in one sentence, with the unit.
        panel: Heading under which the help lists it.
        flag: Name on the command line, if it is not the field's own.
        positional: Typed without a flag.
        comma: Typed as one comma-separated list.
        metavar: What the help shows in place of the value.
        images: Its values are specs of images, in which a run stores absolute paths.
        **constraints: Of ``pydantic.Field``, such as ``ge`` and ``le``.
    """
    extra = {
        "panel": panel,
        "flag": flag,
        "positional": positional,
        "comma": comma,
        "metavar": metavar,
        "images": images,
    }
    return Field(
        default,
        description=description,
        json_schema_extra={name: value for name, value in extra.items() if value},
        **constraints,
    )


def seed_option(description: str, *, panel: str) -> Any:
    """Declare a seed, an integer from 0 to `LARGEST_SEED`."""
    return option(0, description, panel=panel, metavar="INT", ge=0, le=LARGEST_SEED)


class DeviceOption(Options):
    """The option of everything that computes; `ssltool.device.choose_device` resolves it."""

    device: DeviceName = option(
        "auto", "Where to compute; automatic: CUDA, else MPS, else the CPU", panel="Run"
    )


def declared(model: type[BaseModel], name: str) -> dict[str, Any]:
    """The arguments of `option` that pydantic has no place for, by name."""
    extra = model.model_fields[name].json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


def flag_of(model: type[BaseModel], name: str) -> str:
    """The flag of a field: ``--image-size`` for ``image_size``."""
    return str(declared(model, name).get("flag") or "--" + name.replace("_", "-"))


def refuse_unused(options: BaseModel, names: Iterable[str], reason: str) -> None:
    """Refuse options that were given although they have no effect beside others.

    Args:
        options: What was given.
        names: The fields that have no effect.
        reason: Why; follows "no effect".

    Raises:
        UsageError: One of them was given.
    """
    model = type(options)
    unused = [flag_of(model, name) for name in names if name in options.model_fields_set]
    if unused:
        raise UsageError(f"{', '.join(unused)}: no effect {reason}; drop one or the other")


def describe_faults(model: type[BaseModel], error: ValidationError) -> str:
    """Pydantic's error as one line, ``--flag VALUE: what is expected`` for each fault."""
    return "; ".join(_describe(model, fault) for fault in _one_per_field(error.errors()))


def _one_per_field(faults: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first fault of each field: a union reports one for each of its members."""
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for fault in faults:
        first.setdefault(fault["loc"][:1], fault)
    return list(first.values())


def _describe(model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    flag = flag_of(model, name) if name in model.model_fields else cut(name) or "options"
    if fault["type"] == "missing":
        return f"{flag} is required"
    message = str(fault["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    expected = f"should be {message}" if message[:1].islower() else message
    typed = fault["input"]
    if isinstance(typed, list | tuple):
        typed = ",".join(map(str, typed))
    return f"{flag} {cut(str(typed))}: {expected}"
