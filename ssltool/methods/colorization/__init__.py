"""Colorization: from the lightness of an image, tell the distribution of colors at every place."""

from ssltool.methods.colorization.task import Colorization

__all__ = ["Colorization"]
