"""How many cores this process may use, and how long its threads spin when they wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_IDLE = 0.5  # processes that want a core, averaged over the last minute
_SPINS = "30000"  # a tenth of a thread's 300,000
_GROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cores() -> int:
    """Cores of this process: those it is bound to, or fewer where its control group, as of a
    container or a batch system, has a quota of processor time.

    A quota of a fraction is rounded down: threads beyond it would stand still for a part of each
    period, and the others wait for them.
    """
    bound = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [bound, *(int(quota) for quota in _quotas(_GROUPS, _MEMBERSHIP))]
    return max(1, min(quotas))


def wait_briefly() -> None:
    """Let OpenMP's threads spin at barriers for a moment only, or not at all while other processes
    want the cores; before torch is imported, and unless the environment says otherwise.

    By default they spin for milliseconds: on shared cores threads so burn the time of those that
    they wait for, and a training step takes up to ten times as long.
    """
    if any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        return
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > _IDLE:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    """Quotas in cores of this process's control group and of those around it, of either version."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        unified = not controllers
        if not unified and "cpu" not in controllers.split(","):
            continue
        mounted = groups if unified else groups / controllers
        inside = PurePosixPath(path).relative_to("/")
        for group in (inside, *inside.parents):
            quota = _quota(mounted / group, unified=unified)
            if quota is not None:
                yield quota


def _quota(group: Path, *, unified: bool) -> float | None:
    """Quota in cores of one control group; None if it has none."""
    try:
        if unified:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # there is none, or it is "max"
        return None
