"""ssltool: pretrain image encoders with the six classic self-supervised pretext tasks, probe,
export and look at them.

Importing it imports no torch; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["InputTransform", "__version__", "load_encoder"]

if TYPE_CHECKING:
    from ssltool.encoders.transform import InputTransform
    from ssltool.encoders.weights import load_encoder


def __getattr__(name: str) -> Any:
    if name == "load_encoder":
        from ssltool.encoders.weights import load_encoder

        return load_encoder
    if name == "InputTransform":
        from ssltool.encoders.transform import InputTransform

        return InputTransform
    raise AttributeError(f"module 'ssltool' has no attribute {name!r}")
