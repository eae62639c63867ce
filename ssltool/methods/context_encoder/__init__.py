"""Context encoders: paint the pixels that were removed from an image."""

from ssltool.methods.context_encoder.task import ContextEncoder

__all__ = ["ContextEncoder"]
