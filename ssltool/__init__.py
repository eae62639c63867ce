"""ssltool: pretrain image encoders with the six classic self-supervised pretext tasks.

::

    run = ssltool.pretrain("jigsaw", data="photos/")
    result = ssltool.probe(run, data="labeled/")
    encoder = ssltool.load_encoder(run)

Importing the package imports no torch; the names below load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that has it.
_PUBLIC = {
    "audit": "ssltool.api",
    "embed": "ssltool.api",
    "export": "ssltool.api",
    "load_encoder": "ssltool.api",
    "predict": "ssltool.api",
    "pretrain": "ssltool.api",
    "probe": "ssltool.api",
    "visualize": "ssltool.api",
    "AuditRecord": "ssltool.runs.audit_record",
    "DataInfo": "ssltool.methods.options",
    "EncoderInput": "ssltool.methods.base",
    "InputTransform": "ssltool.encoders.transform",
    "Loss": "ssltool.methods.base",
    "Method": "ssltool.methods.base",
    "MethodOptions": "ssltool.methods.options",
    "Metric": "ssltool.methods.base",
    "ProbeRecord": "ssltool.runs.probe_record",
    "Run": "ssltool.runs.folder",
    "SslToolError": "ssltool.errors",
}
__all__ = [
    "AuditRecord",
    "DataInfo",
    "EncoderInput",
    "InputTransform",
    "Loss",
    "Method",
    "MethodOptions",
    "Metric",
    "ProbeRecord",
    "Run",
    "SslToolError",
    "__version__",
    "audit",
    "embed",
    "export",
    "load_encoder",
    "predict",
    "pretrain",
    "probe",
    "visualize",
]

if TYPE_CHECKING:
    from ssltool.api import (
        audit,
        embed,
        export,
        load_encoder,
        predict,
        pretrain,
        probe,
        visualize,
    )
    from ssltool.encoders.transform import InputTransform
    from ssltool.errors import SslToolError
    from ssltool.methods.base import EncoderInput, Loss, Method, Metric
    from ssltool.methods.options import DataInfo, MethodOptions
    from ssltool.runs.audit_record import AuditRecord
    from ssltool.runs.folder import Run
    from ssltool.runs.probe_record import ProbeRecord


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ssltool' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
