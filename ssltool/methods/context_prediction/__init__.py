"""Context prediction: name which of its eight neighbors a second patch is."""

from ssltool.methods.context_prediction.task import ContextPrediction

__all__ = ["ContextPrediction"]
