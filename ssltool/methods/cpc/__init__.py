"""Contrastive predictive coding: identify the patch some rows ahead among all of the batch."""

from ssltool.methods.cpc.task import Cpc

__all__ = ["Cpc"]
