"""Images of a task, of what a network answers, of features, filters, permutation sets and training
curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssltool.errors import UsageError
from ssltool.plotting import charts as chart
from ssltool.plotting.units import said as said
from ssltool.runs import metrics
from ssltool.runs.folder import Run, short_names


def draw_curves(folders: Sequence[Path], path: Path) -> dict[str, Any]:
    """Draw the metrics of one or more runs over their steps, with chance levels.

    Args:
        folders: Run folders.
        path: File to write, PNG, SVG or PDF by its suffix.

    Returns:
        The path and the steps taken by the longest run.

    Raises:
        UsageError: A run has no metrics yet.
    """
    curves, chance, methods = {}, {}, []
    for folder, name in zip(folders, short_names(folders), strict=True):
        run = Run.open(folder)
        lines = metrics.read(folder)
        if not lines:
            raise UsageError(
                f"{folder} has no metrics yet; they come with the first "
                f"{run.config.run.log_every} steps"
            )
        curves[name], chance[name] = lines, run.record.chance
        methods.append(run.config.method)
    title = (
        f"{methods[0]}, {folders[0].resolve().name}"
        if len(folders) == 1
        else ", ".join(dict.fromkeys(methods))
    )
    figure = chart.curves(curves, chance, title)
    return {
        "path": str(chart.save_figure(figure, path)),
        "steps": max(int(lines[-1]["step"]) for lines in curves.values()),
    }
