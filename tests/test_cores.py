"""Cores: quotas of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssltool import cores


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_MEMBERSHIP", tmp_path / "membership")
    return tmp_path


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("max 100000", "max 100000", 8),
        ("200000 100000", "max 100000", 2),
        ("max 100000", "350000 100000", 3),
        ("600000 100000", "450000 100000", 4),
        ("50000 100000", "max 100000", 1),
        ("1600000 100000", "max 100000", 8),
    ],
)
def test_quotas_of_version_two(machine: Path, inner: str, outer: str, expected: int) -> None:
    (machine / "membership").write_text("0::/pods/one\n")
    group(machine / "cgroup" / "pods", cpu__max=outer)
    group(machine / "cgroup" / "pods" / "one", cpu__max=inner)
    assert cores.available_cores() == expected


def test_quotas_of_version_one(machine: Path) -> None:
    (machine / "membership").write_text("4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n")
    times = {"cpu__cfs_quota_us": "300000", "cpu__cfs_period_us": "100000"}
    group(machine / "cgroup" / "cpu,cpuacct" / "a", **times)
    assert cores.available_cores() == 3
    group(machine / "cgroup" / "cpu,cpuacct" / "a", cpu__cfs_quota_us="-1")
    assert cores.available_cores() == 8


def test_a_container_whose_path_is_not_mounted(machine: Path) -> None:
    (machine / "membership").write_text("0::/../host/path\n")
    group(machine / "cgroup", cpu__max="400000 100000")
    assert cores.available_cores() == 4


def test_no_control_groups(machine: Path) -> None:
    assert cores.available_cores() == 8


@pytest.mark.parametrize(
    ("given", "others", "expected"),
    [
        (None, 0.0, None),
        (None, 0.4, None),
        (None, 2.0, "PASSIVE"),
        ("ACTIVE", 2.0, "ACTIVE"),
    ],
)
def test_threads_sleep_where_others_want_the_cores(
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    others: float,
    expected: str | None,
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # restored at the end
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cores, "_TIMES", machine / "stat")
    ticks = os.sysconf("SC_CLK_TCK")
    (machine / "stat").write_text(f"cpu {100 * ticks} 0 0 7 7 0 0 0 0 0\ncpu0 1 1\n")
    began = cores._Moment.now()
    assert began is not None
    monkeypatch.setattr(cores, "_BEGIN", began)
    # Ten seconds later, of which this process computed for three.
    monkeypatch.setattr("time.monotonic", lambda: began.clock + 10)
    monkeypatch.setattr("time.process_time", lambda: began.own + 3)
    spent = round((103 + 10 * others) * ticks)
    (machine / "stat").write_text(f"cpu {spent - 50} 20 20 9 9 5 5 0 0 0\n")
    cores.share_cores()
    assert os.environ.get("OMP_WAIT_POLICY") == expected


def test_systems_that_do_not_tell_are_left_alone(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_TIMES", machine / "nothing")
    assert cores._Moment.now() is None


def test_a_quota_of_free_cores_is_all_that_counts(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may use the rest of a large machine."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    began = cores._Moment(0.0, 0.0, 0.0)
    monkeypatch.setattr(cores, "_BEGIN", began)
    for busy, expected in ((50.0, None), (60.0, "PASSIVE")):
        now = cores._Moment(busy, 0.0, 1.0)
        monkeypatch.setattr(cores._Moment, "now", lambda now=now: now)
        cores.share_cores()
        assert os.environ.get("OMP_WAIT_POLICY") == expected
