"""A Weights & Biases run of a run's options, metrics and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ssltool.training.tracking.tracker import TrackedRun


class WandB:
    """Writes to ``RUN/wandb`` without a network, for ``wandb sync``; ``WANDB_MODE=online`` sends.

    Offline each resume begins a folder of its own, with the same run's id.

    Args:
        run: The run; its options are the configuration.
    """

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_meta=True, x_disable_stats=True
        )
        self._run = wandb.init(
            project="ssltool",
            id=run.id,
            name=run.name,
            resume="allow",
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            config={
                **{name: str(v) if isinstance(v, Path) else v for name, v in run.options.items()},
                **{f"chance.{name}": value for name, value in run.chance.items()},
            },
            settings=settings,
        )

    def line(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker.line`."""
        self._run.log(dict(metrics), step=step)

    def figure(self, name: str, path: Path, step: int) -> None:
        """See `Tracker.figure`."""
        import wandb

        self._run.log({name: wandb.Image(str(path))}, step=step)

    def close(self, *, finished: bool) -> None:
        """See `Tracker.close`."""
        self._run.finish(exit_code=0 if finished else 1)
