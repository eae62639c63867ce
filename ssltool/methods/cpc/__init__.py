"""Contrastive predictive coding: from the patches above, pick the true patch some rows below out of
the whole batch.
"""

from ssltool.methods.cpc.task import Cpc

__all__ = ["Cpc"]
