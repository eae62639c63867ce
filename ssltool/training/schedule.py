"""Learning-rate schedules as pure functions of the step: a resumed run needs no state."""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["cosine", "step", "constant"]


def learning_rate(
    step: int, *, base: float, total: int, warmup: int = 0, kind: Kind = "cosine", drops: int = 3
) -> float:
    """Learning rate of one step.

    Args:
        step: The step about to be taken, 0 to ``total - 1``.
        base: Peak learning rate.
        total: Steps of the whole run.
        warmup: Steps over which the rate rises linearly from ``base / warmup`` to ``base``.
        kind: ``cosine`` falls to zero along half a cosine (Loshchilov & Hutter 2017); ``step``
            divides by ten ``drops`` times at equal distances; ``constant`` stays.
        drops: Number of divisions of ``step``.

    Returns:
        A rate in (0, base].
    """
    if step < warmup:
        return base * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)  # in [0, 1)
    if kind == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * done))
    if kind == "step":
        return base * 0.1 ** int(done * (drops + 1))
    return base
