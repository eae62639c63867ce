"""Context prediction: classify the relative position of two neighboring patches."""

from ssltool.methods.context_prediction.task import ContextPrediction

__all__ = ["ContextPrediction"]
