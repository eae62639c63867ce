"""Instance discrimination: every image is a class of its own, to be told from all others by one
remembered vector.
"""

from ssltool.methods.npid.task import Npid

__all__ = ["Npid"]
