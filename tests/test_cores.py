"""Cores: quotas of control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
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
    ("given", "load", "expected"),
    [
        ({}, 0.1, {"GOMP_SPINCOUNT": "30000"}),
        ({}, 3.0, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 3.0, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "5"}, 3.0, {"GOMP_SPINCOUNT": "5"}),
    ],
)
def test_threads_spin_briefly_unless_told_or_cores_are_wanted(
    given: dict[str, str], load: float, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in names:
        monkeypatch.setenv(name, "")  # restored at the end
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    cores.wait_briefly()
    assert {name: os.environ[name] for name in names if name in os.environ} == expected


def test_the_command_decides_before_torch_is_imported() -> None:
    script = (
        "import contextlib, os, sys\n"
        "import ssltool.cli\n"
        "sys.argv[1:] = ['methods']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    ssltool.cli.main()\n"
        "print('torch' in sys.modules, {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & set(os.environ))\n"
    )
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={k: v for k, v in os.environ.items() if k not in names},
        capture_output=True,
        text=True,
        check=True,
    )
    last = done.stdout.splitlines()[-1]
    assert last in ("False {'OMP_WAIT_POLICY'}", "False {'GOMP_SPINCOUNT'}")
