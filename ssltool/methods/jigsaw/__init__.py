"""Jigsaw puzzles: name the permutation of the shuffled tiles of a picture."""

from ssltool.methods.jigsaw.task import Jigsaw

__all__ = ["Jigsaw"]
