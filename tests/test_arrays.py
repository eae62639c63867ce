from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ssltool.arrays import open_tensors, parse_array
from ssltool.documents import DocumentError


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: str, data: bytes = b"\0" * 64) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def tensors(path: Path) -> dict[str, Any]:
    with open_tensors(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        np.array(["a", "longer"]),
        np.array(3.0),
        np.zeros((0, 4)),
    ],
)
def test_arrays_are_read_as_numpy_reads_them(array: np.ndarray[Any, Any]) -> None:
    read = parse_array(npy(array))
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy(np.arange(6))[:-1],
        npy(np.array([{}], dtype=object)),
        npy(np.zeros(2, [("a", "<i4")])),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000000000,)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775808)}", b""),
        header("{'descr': '<U1000000000', 'fortran_order': False, 'shape': (1,)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 16)}"),
        header("{'descr': '|V0', 'fortran_order': False, 'shape': (8,)}"),
        header("(" * 2000),
        header("{'descr': "),
        header("__import__('os').abort()"),
    ],
)
def test_damaged_arrays_are_refused(content: bytes) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_array(content)
    assert "\n" not in str(caught.value)


def test_damaged_safetensors_are_one_kind_of_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": np.zeros((4, 4), np.float32)}, path)
    assert tensors(path)["a"].shape == (4, 4)
    one = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    empty = {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [64, 64]}
    for faulty in (
        {"a": {**one, "data_offsets": [-64, 0]}},
        {"a": {**one, "data_offsets": [0, 2**70]}},
        {"a": {**one, "shape": [2**62, 4]}},
        {"a": {**one, "dtype": "F8_E4M3", "shape": [64]}},
        {"a": one, "b": one},
        {"a": one, "b": empty},
        {"a": {**one, "shape": [1] * 100 + [16]}},
        [],
    ):
        text = json.dumps(faulty).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
        with pytest.raises(DocumentError):
            tensors(path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(DocumentError):
        tensors(path)
