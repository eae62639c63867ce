"""Context encoders: inpaint a region that was removed from an image."""

from ssltool.methods.context_encoder.task import ContextEncoder

__all__ = ["ContextEncoder"]
