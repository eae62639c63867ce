"""Instance discrimination: each image is its own class, recognized by its memory vector."""

from ssltool.methods.npid.task import Npid

__all__ = ["Npid"]
