"""Two hosts, made of network namespaces: torchrun over both gives the bytes of two processes on one
machine.

Needs root and ``ip``; skipped without.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HOSTS = {"ssltool-a": "10.213.0.1", "ssltool-b": "10.213.0.2"}
RUN = (
    "pretrain npid --data demo:48 --image-size 32 --batch-size 4 --steps 10 --checkpoint-every 4 "
    "--log-every 2"
)
RUN += " --workers 0 --precision fp32 --loss nce --negatives 16"


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two namespaces with a cable between them."""
    if shutil.which("ip") is None or not all(ip("netns", "add", name) for name in HOSTS):
        remove()
        pytest.skip("cannot make network namespaces here")
    one, other = HOSTS
    made = ip(
        "link", "add", one, "netns", one, "type", "veth", "peer", "name", other, "netns", other
    )
    for name, address in HOSTS.items():
        made &= ip("-n", name, "address", "add", f"{address}/24", "dev", name)
        made &= ip("-n", name, "link", "set", name, "up") and ip(
            "-n", name, "link", "set", "lo", "up"
        )
    try:
        if not made:
            pytest.skip("cannot connect network namespaces here")
        yield
    finally:
        remove()


def remove() -> None:
    for name in HOSTS:
        ip("netns", "delete", name)


def torchrun(out: Path, *launcher: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *launcher,
        "-m",
        "ssltool",
        *RUN.split(),
        "--out",
        str(out),
    ]


def on(host: str, out: Path) -> subprocess.Popen[str]:
    """Start torchrun on one of the hosts."""
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "1"]
    meeting += [
        "--rdzv-endpoint",
        f"{HOSTS['ssltool-a']}:29400",
        "--local-addr",
        HOSTS[host],
        "--max-restarts",
        "2",
    ]
    # Elsewhere a host knows by its name that the meeting is at its own address; these two share one
    # name.
    meeting += ["--rdzv-conf", f"is_host={int(host == 'ssltool-a')}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": host}
    words = ["ip", "netns", "exec", host, *torchrun(out, *meeting)]
    with (out.parent / f"{host}.txt").open("w") as shown:
        return subprocess.Popen(words, env=env, stderr=shown)


def shown(folder: Path) -> str:
    """What both hosts printed."""
    return "\n".join(f"{host}: {(folder / f'{host}.txt').read_text()}" for host in HOSTS)


def worker_of(launcher: int) -> int:
    """The training process that a torchrun started."""
    found = subprocess.run(
        ["pgrep", "-P", str(launcher)], capture_output=True, text=True, check=True
    ).stdout
    return int(found.split()[0])


@pytest.mark.slow
def test_two_hosts_give_what_one_gives_even_if_one_fails(hosts: None, tmp_path: Path) -> None:
    single = torchrun(tmp_path / "one", "--standalone", "--nproc-per-node", "2")
    subprocess.run(
        single, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    two = tmp_path / "two"
    launchers = [on(host, two) for host in HOSTS]
    deadline = time.monotonic() + 120
    while not (two / "checkpoints" / "step-0000004").exists():
        assert time.monotonic() < deadline
        assert all(launcher.poll() is None for launcher in launchers), shown(tmp_path)
        time.sleep(0.02)
    os.kill(worker_of(launchers[1].pid), signal.SIGKILL)
    try:
        assert [launcher.wait(timeout=150) for launcher in launchers] == [0, 0], shown(tmp_path)
    finally:
        for launcher in launchers:
            launcher.terminate()
    assert "resumed after step" in shown(tmp_path)
    for file in (
        "encoder.safetensors",
        *(f"checkpoints/step-0000010/{n}.safetensors" for n in ("model", "optimizer")),
    ):
        assert (two / file).read_bytes() == (tmp_path / "one" / file).read_bytes()
