"""From a method's name to its class: the folders here, then entry points of packages.

The name typed is the folder opened: ``context-prediction`` is ``context_prediction/``. Only the
method asked for is imported; listing them imports none, so ``ssltool --help`` needs no torch.
"""

from __future__ import annotations

import ast
import importlib
import tokenize
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssltool.errors import SslToolError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from ssltool.methods.base import Method

GROUP = "ssltool.methods"


@dataclass(frozen=True)
class Listing:
    """One installed method, as `available` finds it without importing it.

    Attributes:
        name: What is typed after ``ssltool pretrain``.
        origin: ``built in``, or the package and version that brings it.
        summary: One line.
        target: ``module:Class`` for an entry point, the module's name for a built-in.
    """

    name: str
    origin: str
    summary: str
    target: str


def available() -> dict[str, Listing]:
    """Every installed method by name, sorted; imports none of them.

    Raises:
        UsageError: Two packages, or a package and ssltool, claim one name.
    """
    listings = {
        listing.name: listing for listing in map(_built_in, Path(__file__).parent.glob("*/task.py"))
    }
    for point in entry_points(group=GROUP):
        listing = _plugin(point)
        if point.name in listings:
            other = listings[point.name].origin
            raise UsageError(
                f"two methods are called {point.name!r}: one from {other}, one from "
                f"{listing.origin}; uninstall one of the packages"
            )
        listings[point.name] = listing
    return dict(sorted(listings.items()))


def find_method(name: str) -> type[Method[Any, Any]]:
    """Import and return the class of one method.

    Raises:
        UnknownNameError: No such method; the nearest names are suggested.
        SslToolError: A package's method cannot be imported, or is no `Method`.
    """
    listings = available()
    if name not in listings:
        raise UnknownNameError("method", name, listings, hint="'ssltool methods' lists them")
    listing = listings[name]
    if ":" in listing.target:
        return _load_plugin(listing)
    return _only_method(importlib.import_module(listing.target), listing)


def _built_in(task: Path) -> Listing:
    """The method whose story a file ``task.py`` tells."""
    folder = task.parent.name
    summary = _first_line(task)
    return Listing(folder.replace("_", "-"), "built in", summary, f"{__package__}.{folder}")


@cache
def _first_line(path: Path) -> str:
    """Of a module's docstring; nothing behind it is read, as every command lists the methods."""
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        first = next(token for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL))
    return (
        str(ast.literal_eval(first.string)).partition("\n")[0]
        if first.type == tokenize.STRING
        else ""
    )


def _plugin(point: EntryPoint) -> Listing:
    package = point.dist
    origin = f"{package.name} {package.version}" if package else "an unnamed package"
    summary = (
        package.metadata["Summary"] if package and "Summary" in package.metadata else None
    ) or ""
    return Listing(point.name, origin, summary, point.value)


def _load_plugin(listing: Listing) -> type[Method[Any, Any]]:
    module, _, attribute = listing.target.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SslToolError(
            f"method {listing.name!r} from {listing.origin} cannot be loaded: {error}"
        ) from error
    return _checked(loaded, listing)


def _only_method(module: Any, listing: Listing) -> type[Method[Any, Any]]:
    from ssltool.methods.base import Method

    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__.startswith(module.__name__)
    ]
    if len(classes) != 1:
        raise SslToolError(
            f"{module.__name__} must define exactly one Method, found {len(classes)}"
        )
    return _checked(classes[0], listing)


def _checked(loaded: Any, listing: Listing) -> type[Method[Any, Any]]:
    """Hold built-in and third-party methods to the same contract before anything is built."""
    from ssltool.methods.base import Method, MethodOptions

    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise SslToolError(
            f"method {listing.name!r} from {listing.origin} is not a subclass of "
            "ssltool.methods.base.Method"
        )
    missing = sorted(getattr(loaded, "__abstractmethods__", ()))
    options = getattr(loaded, "Options", None)
    if not (isinstance(options, type) and issubclass(options, MethodOptions)):
        missing.insert(0, "Options (a subclass of MethodOptions)")
    figures = getattr(loaded, "figures", None)
    functions = ("draw_task", "draw_predictions", "plots")
    missing += [f"figures.{name}" for name in functions if not hasattr(figures, name)]
    if missing:
        raise SslToolError(
            f"method {listing.name!r} from {listing.origin} lacks {', '.join(missing)}"
        )
    return loaded
