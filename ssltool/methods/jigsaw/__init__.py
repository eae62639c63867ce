"""Jigsaw puzzles: classify the permutation of the shuffled tiles of an image."""

from ssltool.methods.jigsaw.task import Jigsaw

__all__ = ["Jigsaw"]
