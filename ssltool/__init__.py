"""ssltool: pretrain image encoders with the six classic self-supervised pretext tasks, probe, export and look at them.

Importing it imports no torch; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Reader", "__version__", "load_encoder"]

if TYPE_CHECKING:
    from ssltool.nn.weights import load_encoder
    from ssltool.probing.features import Reader


def __getattr__(name: str) -> Any:
    if name == "load_encoder":
        from ssltool.nn.weights import load_encoder

        return load_encoder
    if name == "Reader":
        from ssltool.probing.features import Reader

        return Reader
    raise AttributeError(f"module 'ssltool' has no attribute {name!r}")
