"""ONNX files: one graph with the pooled feature and the map of every stage as outputs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch

from ssltool.encoders.encoder import Encoder
from ssltool.errors import SslToolError, UsageError
from ssltool.exporting.graph import INPUT, Graph

FILE = "encoder.onnx"
_LARGEST = 2 * 10**9  # bytes of the weights: a protocol buffer holds 2 GiB


def write(encoder: Encoder, file: Path, *, uint8: bool) -> Graph:
    """Write an ONNX file that holds its weights and, under ``ssltool``, the encoder's metadata.

    Args:
        encoder: On the CPU, in evaluation mode, with its metadata.
        file: Where to write.
        uint8: Whether images are uint8, see `Graph`.

    Returns:
        The graph that was written.

    Raises:
        SslToolError: A package is not installed, or the exporter cannot write this network.
        UsageError: The weights are larger than such a file can be.
    """
    if sum(parameter.numel() * 4 for parameter in encoder.parameters()) > _LARGEST:
        raise UsageError(
            f"--format onnx: {encoder.name} has more weights than an ONNX file holds, 2 GB; type "
            "--format safetensors"
        )
    _require("onnx", "onnxscript", "onnxruntime")
    graph = Graph(encoder, uint8=uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (graph.example(),),
                dynamo=True,
                dynamic_shapes=graph.dynamic_shapes(),
                input_names=[INPUT],
                output_names=list(graph.outputs),
                verbose=False,
            )
    except Exception as error:  # of many classes, by what the exporter met
        raise SslToolError(
            f"--format onnx: torch's exporter cannot write {encoder.name} "
            f"({type(error).__name__}); type --format safetensors"
        ) from error
    assert program is not None  # with dynamo=True
    program.model.metadata_props["ssltool"] = encoder.metadata.to_json()
    program.save(file, external_data=False)
    return graph


def _require(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise SslToolError(
                f"--format onnx needs {package}; type pip install 'ssltool[onnx]'"
            ) from error


class _quiet:  # noqa: N801
    """No warnings and no logging of the exporter: what it says is of no use to who exports."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)

    def __exit__(self, *error: object) -> None:
        logging.disable(logging.NOTSET)
        self._warnings.__exit__(*error)  # type: ignore[arg-type]
