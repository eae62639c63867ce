"""torch.export archives (``.pt2``): the encoder as a program for `torch.export.load`.

An archive holds the graph as JSON and the weights as bytes. The sample inputs that torch adds to it
would be a pickle, so they are left out; an archive that has a pickle all the same is refused.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch

from ssltool.encoders.encoder import Encoder
from ssltool.errors import SslToolError
from ssltool.exporting.graph import Graph

FILE = "encoder.pt2"


def write(encoder: Encoder, file: Path, *, uint8: bool) -> Graph:
    """Write an archive.

    Args:
        encoder: On the CPU, in evaluation mode, with its metadata.
        file: Where to write; its name ends in ``.pt2``.
        uint8: Whether images are uint8, see `Graph`.

    Returns:
        The graph that was written.

    Raises:
        SslToolError: The network cannot be exported, or only with a pickle inside.
    """
    graph = Graph(encoder, uint8=uint8)
    try:
        program = torch.export.export(
            graph, (graph.example(),), dynamic_shapes=graph.dynamic_shapes()
        )
    except Exception as error:  # of many classes, by what torch met
        raise SslToolError(
            f"--format torch: torch.export cannot write {encoder.name} "
            f"({type(error).__name__}); type --format safetensors"
        ) from error
    program.example_inputs = None
    torch.export.save(program, file, extra_files={"ssltool": encoder.metadata.to_json()})
    pickled = pickled_parts(file)
    if pickled:
        raise SslToolError(
            f"--format torch: torch {torch.__version__} writes {pickled[0]} as a pickle, which can "
            "run code; type --format safetensors or onnx"
        )
    return graph


def pickled_parts(file: Path) -> list[str]:
    """Names of the parts of an archive that are pickles."""
    with zipfile.ZipFile(file) as archive:
        found = []
        for name in archive.namelist():
            if name.endswith("_config.json"):
                payloads = json.loads(archive.read(name))["config"]
                found += [key for key, about in payloads.items() if about["use_pickle"]]
            elif "/data/weights/" not in name and "/data/constants/" not in name:
                start = archive.read(name)[:4]
                if start == b"PK\x03\x04" or start[:1] == b"\x80":
                    found.append(name)
    return found
