"""Declaring options: described pydantic fields from which flags, help and files are made."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ssltool.atomic import refuse_input
from ssltool.documents import cut
from ssltool.errors import UnknownNameError, UsageError
from ssltool.faults import first_of_each, in_words

LARGEST_SEED = 2**62
"""Every number that is added to a seed leaves it within 63 bits."""

SMALLEST_SIDE, LARGEST_SIDE = 8, 1024
"""Sides in pixels of the squares that images are read and encoded at."""

LARGEST_CHANNELS = 256
"""Of images that are read as they are."""

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def ending_in(*suffixes: str) -> AfterValidator:
    """A constraint on a path: it ends in one of a few suffixes."""

    def check(path: Path) -> Path:
        if path.suffix.lower() not in suffixes:
            *first, last = suffixes
            listed = f"{', '.join(first)} or {last}" if first else last
            raise ValueError(f"a file that ends in {listed}")
        return path

    return AfterValidator(check)


FigurePath = Annotated[Path, ending_in(".png", ".svg", ".pdf")]


class Options(BaseModel):
    """Base of every set of options: frozen, described, finite; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_null_character(cls, value: Any) -> Any:
        return without_null(value)

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, values: Any) -> Any:
        """Divide what was typed as one comma-separated list, and read choices of numbers."""
        if not isinstance(values, Mapping):
            return values
        typed = {
            name: _read(cls, name, value)
            for name, value in values.items()
            if isinstance(value, str) and name in cls.model_fields
        }
        return {**values, **typed}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.refuse_contradictions()
        self._refuse_replacing_input()
        return self

    def refuse_contradictions(self) -> None:
        """Refuse options that have no effect beside others; see `refuse_unused`.

        Raises:
            UsageError: Such were given.
        """

    def _refuse_replacing_input(self) -> None:
        """Refuse ``to`` that is a file which the other options name, or weights of a run."""
        to = getattr(self, "to", None)
        if not isinstance(to, Path):
            return
        named = [getattr(self, name) for name in type(self).model_fields if name != "to"]
        values = chain.from_iterable(each if isinstance(each, tuple) else (each,) for each in named)
        texts = [str(value) for value in values if isinstance(value, str | Path)]
        files = [text.rpartition(":")[0] or text for text in texts]  # of list.csv:train
        weights = [Path(text, "encoder.safetensors") for text in texts]
        refuse_input(to, [*map(Path, texts), *map(Path, files), *weights])

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


def _read(model: type[BaseModel], name: str, text: str) -> Any:
    if declared(model, name).get("comma"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    numbers = [choice for choice in choices(model, name) if isinstance(choice, int)]
    return next((number for number in numbers if str(number) == text), text)


def choices(model: type[BaseModel], name: str) -> tuple[Any, ...]:
    """The values that a field may have, if it is one of a few or a list of such; else none."""
    kinds: list[Any] = [model.model_fields[name].annotation]
    while kinds:
        kind = kinds.pop()
        if get_origin(kind) is Literal:
            return get_args(kind)
        kinds += [part for part in get_args(kind) if part is not type(None)]
    return ()


def item_of(annotation: Any) -> tuple[Any, list[Any]]:
    """The type of a value, or of a tuple's items, and the constraints annotated to it."""
    if get_origin(annotation) in {Union, types.UnionType}:
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    constraints: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        constraints += [m for part in extra for m in getattr(part, "metadata", [part])]
    return annotation, constraints


def limits(model: type[BaseModel], name: str) -> str:
    """The range of a field: ``2 to 5``, ``>= 2`` or ``> 0, < 1``; empty without bounds."""
    field = model.model_fields[name]
    constraints = [*field.metadata, *item_of(field.annotation)[1]]
    bounds = {type(m): m for m in constraints}
    if Ge in bounds and Le in bounds:
        return f"{bounds[Ge].ge} to {bounds[Le].le}"
    signs = ((Ge, ">=", "ge"), (Gt, ">", "gt"), (Le, "<=", "le"), (Lt, "<", "lt"))
    limits = [f"{sign} {getattr(bounds[k], name)}" for k, sign, name in signs if k in bounds]
    return ", ".join(limits)


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
    needed: str | None = None,
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
        needed: What to type, for the message that a required option is missing.
        images: Its values are specs of images, in which a run stores absolute paths.
        **constraints: Of ``pydantic.Field``, such as ``ge`` and ``le``.
    """
    extra = {
        "panel": panel,
        "flag": flag,
        "positional": positional,
        "comma": comma,
        "metavar": metavar,
        "needed": needed,
        "images": images,
    }
    return Field(
        default,
        description=description,
        json_schema_extra={name: value for name, value in extra.items() if value},
        **constraints,
    )


def weights_option(description: str = "Run folder or weights file") -> Any:
    """Declare the weights that a command reads."""
    return option(
        ...,
        description,
        panel="Model",
        needed="--weights RUN, such as runs/jigsaw-1, or a .safetensors file",
    )


def seed_option(description: str, *, panel: str) -> Any:
    """Declare a seed, an integer from 0 to `LARGEST_SEED`."""
    return option(0, description, panel=panel, metavar="INT", ge=0, le=LARGEST_SEED)


def devices_option(work: str) -> Any:
    """Declare how many processes of this machine do some work."""
    return option(
        None,
        f"Processes on this machine that {work}, one per GPU; on a CPU they share the cores; "
        "automatic: 1, or as torchrun says",
        panel="Run",
        ge=1,
        le=1024,
    )


class DevicesOption(Options):
    """The option of commands that processes share the images of."""

    devices: int | None = devices_option("share the images")


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
    return "; ".join(_describe(model, fault) for fault in first_of_each(error.errors()))


def _describe(model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        flags = [flag_of(model, field) for field in model.model_fields]
        return str(UnknownNameError("option", "--" + cut(name).replace("_", "-"), flags))
    known = name in model.model_fields
    flag = _shown(model, name) if known else cut(name) or "options"
    if fault["type"] == "missing":
        needed = declared(model, name).get("needed") if known else None
        return f"{flag} is required" + (f": type {needed}" if needed else "")
    typed = fault["input"]
    if isinstance(typed, list | tuple):
        typed = ",".join(map(str, typed))
    # A validator of ours raises what it expects, such as "ascending fractions".
    expected = ("should be " if fault["type"] == "value_error" else "") + in_words(fault)
    return f"{flag} {cut(str(typed))}: {expected}"


def _shown(model: type[BaseModel], name: str) -> str:
    """A field as a user knows it: its flag, or what stands for it in the usage."""
    about = declared(model, name)
    metavar = str(about.get("metavar") or name.upper()).strip("[].")
    return metavar if about.get("positional") else flag_of(model, name)
