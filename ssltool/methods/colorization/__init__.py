"""Colorization: from the lightness of a picture, tell the distribution of colours at every place."""

from ssltool.methods.colorization.task import Colorization

__all__ = ["Colorization"]
