"""Colorization: predict the color distribution at every location from the lightness."""

from ssltool.methods.colorization.task import Colorization

__all__ = ["Colorization"]
