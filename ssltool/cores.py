"""How many cores this process may use, and how its threads wait where it shares them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_GROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_TIMES = Path("/proc/stat")
_SPARE = 0.5  # cores: what else runs on every machine, and what short a look cannot tell


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


def share_cores() -> None:
    """Let OpenMP's threads sleep where they wait for each other if other processes want the cores;
    before torch is imported, and unless the environment says otherwise.

    By default they spin, which on free cores is a quarter to a half faster. On wanted ones threads
    burn the time of those that they wait for, and a training step takes five times as long.
    """
    now = _Moment.now()
    if _BEGIN is None or now is None or "OMP_WAIT_POLICY" in os.environ:
        return
    free = (os.cpu_count() or 1) - now.others_since(_BEGIN)
    if free < available_cores() - _SPARE:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


class _Moment(NamedTuple):
    """Processor time in seconds until a moment: of all processes, and of this one."""

    busy: float
    own: float
    clock: float

    @classmethod
    def now(cls) -> _Moment | None:
        """This moment; None where the system does not tell."""
        try:
            user, nice, system, _, _, irq, softirq = map(int, _TIMES.read_text().split()[1:8])
        except (OSError, ValueError):  # no Linux
            return None
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return cls(busy, time.process_time(), time.monotonic())

    def others_since(self, before: _Moment) -> float:
        """Cores that other processes used on average since a moment before."""
        seconds = max(1e-3, self.clock - before.clock)
        return max(0.0, self.busy - before.busy - (self.own - before.own)) / seconds


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


_BEGIN = _Moment.now()
"""When this module was imported: at the start of a command."""
