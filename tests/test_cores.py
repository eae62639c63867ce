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


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_the_command_waits_without_spinning_unless_told(given: str | None) -> None:
    script = (
        "import contextlib, os, sys\n"
        "import ssltool.cli\n"
        "sys.argv[1:] = ['methods']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    ssltool.cli.main()\n"
        "print(os.environ.get('OMP_WAIT_POLICY'))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == (given or "PASSIVE")
