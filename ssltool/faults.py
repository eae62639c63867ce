"""Pydantic's validation errors in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

# Type of an error -> what the value should be, filled in from the error's context.
_EXPECTED = {
    "int_parsing": "an integer",
    "int_parsing_size": "an integer of at most 64 bits",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_long": "text of at most {max_length} characters",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dataclass_type": "a table",
    "none_required": "left out",
}


def in_words(fault: Mapping[str, Any]) -> str:
    """What is expected in place of a value, such as ``should be a number``.

    Args:
        fault: One of ``ValidationError.errors()``.
    """
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is unknown"
    if kind == "literal_error":
        return _choice(str(fault["input"]), _names(context["expected"]))
    if kind in _EXPECTED:
        if isinstance(limit := next(iter(context.values()), None), int) and limit > 10**6:
            return f"should be {_EXPECTED[kind].replace(':g', '')}".format(**context)
        return f"should be {_EXPECTED[kind]}".format(**context)
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message.replace("Input should be", "should be", 1)


def first_of_each(faults: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first fault of each field: a union reports one for each of its members."""
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for fault in faults:
        first.setdefault(fault["loc"][:1], fault)
    return list(first.values())


def _choice(typed: str, names: list[str]) -> str:
    near = get_close_matches(typed[:100].lower(), names, n=1, cutoff=0.5)
    listed = ", ".join(names)
    if len(names) == 1:
        return f"should be {listed}"
    return f"did you mean {near[0]}? choices: {listed}" if near else f"should be one of {listed}"


def _names(expected: str) -> list[str]:
    """The choices in pydantic's ``'sgd', 'adamw' or 'lars'``."""
    return [name.strip("'") for name in re.split(r", | or ", expected)]
