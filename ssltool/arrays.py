"""NumPy and safetensors files read back from disk, checked before memory is taken."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ssltool.documents import DocumentError, cut

# What the parsers of the standard library, of NumPy, Pillow and safetensors raise on damaged data.
DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    SyntaxError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    SafetensorError,
)


def parse_array(content: bytes) -> NDArray[Any]:
    """The array of a ``.npy`` file, whose size is checked before memory is taken.

    Raises:
        DocumentError: It is no such file, is cut off, or holds Python objects.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(file)
        if dtype.hasobject or dtype.names is not None:
            raise DocumentError(f"it holds {cut(str(dtype))} instead of plain values")
        data = content[file.tell() :]
        if math.prod(shape) * dtype.itemsize != len(data) or min(shape, default=0) < 0:
            raise DocumentError(
                f"it has {len(data):,} bytes of values, which are not "
                f"{cut(str(list(shape)))} of {dtype}"
            )
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
    except (*DAMAGED, TokenError) as error:
        raise DocumentError("it is no .npy file") from error


@contextmanager
def open_tensors(path: Path, framework: str = "pt") -> Iterator[Any]:
    """Open a safetensors file; what reading a damaged one raises becomes `DocumentError`.

    The library checks that the tensors lie in the file side by side and maps them, so that none
    takes memory before it is used.
    """
    try:
        with safe_open(path, framework) as file:
            yield file
    except DAMAGED as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DocumentError(cut(text)) from error
