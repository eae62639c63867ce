"""Learning-rate schedules as pure functions of the step: a resumed run needs no state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Kind = Literal["cosine", "step", "constant"]


def learning_rate(
    step: int,
    *,
    base: float,
    total: int,
    warmup: int = 0,
    kind: Kind = "cosine",
    milestones: Sequence[float] = (),
    factor: float = 0.1,
) -> float:
    """Learning rate of one step.

    Args:
        step: The step about to be taken, 0 to ``total - 1``.
        base: Peak learning rate.
        total: Steps of the whole run.
        warmup: Steps over which the rate rises linearly from ``base / warmup`` to ``base``.
        kind: ``cosine`` falls to zero along half a cosine (Loshchilov & Hutter 2017); ``step``
            multiplies by ``factor`` at each milestone; ``constant`` stays.
        milestones: Fractions of the run, 0..1, warm-up included, after which ``step`` drops.
        factor: Of a drop, 0..1.

    Returns:
        A rate in (0, base].
    """
    if step < warmup:
        return base * (step + 1) / warmup
    if kind == "cosine":
        done = (step - warmup) / max(1, total - warmup)  # in [0, 1)
        return base * 0.5 * (1 + math.cos(math.pi * done))
    if kind == "step":
        return base * factor ** sum(step >= round(each * total) for each in milestones)
    return base
