"""Context encoders: paint the pixels that were removed from a picture."""

from ssltool.methods.context_encoder.task import ContextEncoder

__all__ = ["ContextEncoder"]
