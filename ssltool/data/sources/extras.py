"""Libraries that some sources need: whether they are installed, and what to type if not."""

from __future__ import annotations

from importlib.util import find_spec

from ssltool.errors import UsageError

_EXTRA_OF = {
    "aiohttp": "remote",
    "datasets": "huggingface",
    "fsspec": "remote",
    "gcsfs": "gs",
    "pyarrow": "parquet",
    "s3fs": "s3",
    "torchcodec": "video",
}


def need(module: str, what: str) -> None:
    """Make sure that a library is installed, without importing it.

    Args:
        module: Name of the library.
        what: What needs it, for the message.

    Raises:
        UsageError: It is not.
    """
    if find_spec(module) is None:
        extra = _EXTRA_OF[module]
        raise UsageError(f"{what} needs {module}; type pip install 'ssltool[{extra}]'")
