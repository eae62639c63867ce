"""From a method's name to its options and its class: the folders here, then entry points.

The name typed is the folder opened: ``context-prediction`` is ``context_prediction/``. Only the
method asked for is imported. Listing them imports none, and `find_options` imports the module
``options`` beside the one with the class, so that neither needs torch.
"""

from __future__ import annotations

import ast
import importlib
import tokenize
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssltool.errors import SslToolError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from ssltool.methods.base import Method
    from ssltool.methods.options import MethodOptions

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
    listing = _listing(name)
    if ":" in listing.target:
        return _load_plugin(listing)
    return _only_method(importlib.import_module(listing.target), listing)


def find_options(name: str) -> type[MethodOptions]:
    """The options and presets of one method, without its class where they are in an ``options.py``.

    Raises:
        UnknownNameError: No such method; the nearest names are suggested.
        SslToolError: A package's method cannot be imported, or is no `Method`.
    """
    return _declared_options(_listing(name).target) or find_method(name).Options


def methods_with(option: str) -> list[str]:
    """The methods that have an option, by its field's name; only ``options.py`` files are read."""
    found = []
    for name, listing in available().items():
        with suppress(Exception):  # of a package that this command has nothing to do with
            model = _declared_options(listing.target)
            if model and option in model.model_fields:
                found.append(name)
    return found


def _listing(name: str) -> Listing:
    listings = available()
    if name not in listings:
        raise UnknownNameError("method", name, listings, hint="'ssltool methods' lists them")
    return listings[name]


def _declared_options(target: str) -> type[MethodOptions] | None:
    """The one `MethodOptions` of the module ``options`` beside a method's own; None if there is no
    such module, or it declares none or several.
    """
    from ssltool.methods.options import MethodOptions

    package, _, _ = target.partition(":")[0].rpartition(".")
    if not package:  # a module of its own
        return None
    try:
        module = importlib.import_module(f"{package}.options")
    except ImportError:
        return None
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, MethodOptions)
        and value.__module__ == f"{package}.options"
    ]
    return classes[0] if len(classes) == 1 else None


def _built_in(task: Path) -> Listing:
    """The method whose story a file ``task.py`` tells."""
    folder = task.parent.name
    summary = _first_line(task)
    return Listing(folder.replace("_", "-"), "built in", summary, f"{__package__}.{folder}.task")


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
        and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise SslToolError(
            f"{module.__name__} must define exactly one Method, found {len(classes)}"
        )
    return _checked(classes[0], listing)


def _checked(loaded: Any, listing: Listing) -> type[Method[Any, Any]]:
    """Hold built-in and third-party methods to the same contract before anything is built."""
    from ssltool.methods.base import Method
    from ssltool.methods.options import MethodOptions

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
    if _declared_options(listing.target) not in (None, options):
        raise SslToolError(
            f"method {listing.name!r} from {listing.origin}: its Options are not those of the "
            "module options beside it"
        )
    return loaded
