"""Killed runs against undisturbed ones: every method, at random moments, and each kind of process.

    python benchmarks/kills.py [--kills 20] [--starts 50] [--seed 0] [--steps 12] [--json]

Each method is trained once without interruption. Then, as often as --kills says, a run is killed
with SIGKILL at a random moment after its first checkpoint and resumed, and its weights, run.json
and metrics (speeds left out) are compared byte for byte. A rank, the launcher and a decoding
process are killed as well. Last, two runs are started at the same moment, with and without --out.
After each kill and start no process may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = ("jigsaw", "context-prediction", "context-encoder", "colorization", "npid", "cpc")
SPEEDS = {"images_per_s", "data_wait"}  # of a line of metrics, which depend on the clock
# Measured and drawn at every checkpoint. Ranks whose launcher was killed stop in order, with one
# checkpoint more.
MONITORED = {"effective_rank", "feature_std"}
DRAWN = "figures/predictions-"
MARK = "SSLTOOL_KILLS"  # in the environment of every process started here


def start(name: str, out: Path | None, steps: int, *more: str, cwd: Path) -> subprocess.Popen[str]:
    """Start a small run."""
    words = (
        f"pretrain {name} --data demo:32 --image-size 32 --batch-size 8 --steps {steps} "
        "--checkpoint-every 2 --log-every 1 --workers 1 --precision fp32 --quiet"
    ).split()
    place = [] if out is None else ["--out", str(out)]
    return _command([*words, *place, *more], cwd)


def resume(name: str, out: Path, cwd: Path) -> str:
    """Resume a run to its end; its error, or an empty string."""
    process = _command(["pretrain", name, "--out", str(out), "--resume", "--quiet"], cwd)
    errors = process.communicate()[1]
    return errors if process.returncode else ""


def _command(words: list[str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ssltool", *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", MARK: str(cwd)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def left(cwd: Path, patience: float = 150.0) -> list[int]:
    """Processes of this benchmark that are still there after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while alive := family(cwd):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return alive


def family(cwd: Path, variable: str = "") -> list[int]:
    """Living processes that were started here, by a variable of their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_text(errors="replace").split("\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"{MARK}={cwd}" in words and state != "Z" and (not variable or variable in words):
            found.append(int(folder.name))
    return sorted(found)


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run has saved once, or has ended."""
    while process.poll() is None and not list(out.glob("checkpoints/step-*")):
        time.sleep(0.01)


def difference(one: Path, other: Path, *, orderly: bool = False) -> str:
    """What differs between two runs, of which the other may have stopped in order; empty if
    nothing does.
    """
    but = MONITORED if orderly else set()
    for name in ("encoder.safetensors", "run.json"):
        first, second = ((run / name).read_bytes() for run in (one, other))
        if first.replace(bytes(one), b"") != second.replace(bytes(other), b""):
            return name
    lines = [
        [
            {key: value for key, value in json.loads(text).items() if key not in {*SPEEDS, *but}}
            for text in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (one, other)
    ]
    if lines[0] != lines[1]:
        return "metrics.jsonl"
    files = [{str(path.relative_to(run)) for path in run.rglob("*")} for run in (one, other)]
    differing = files[0] ^ files[1]
    return " ".join(sorted(name for name in differing if not (orderly and DRAWN in name)))


def kill_main(name: str, whole: Path, out: Path, steps: int, span: float) -> str:
    """Kill a run once at a random moment, resume it, and compare; what went wrong, or empty."""
    process = start(name, out, steps, cwd=out.parent)
    wait_for_checkpoint(out, process)
    time.sleep(random.uniform(0, span))
    process.kill()
    process.communicate()
    return _ending(name, whole, out)


def kill_one(name: str, whole: Path, out: Path, steps: int, kind: str) -> str:
    """Kill one process of a run on two processes; what went wrong, or empty."""
    process = start(name, out, steps, "--devices", "2", cwd=out.parent)
    wait_for_checkpoint(out, process)
    ranks = family(out.parent, "RANK=1")
    victims = {"launcher": [process.pid], "rank": ranks[:1], "worker": ranks[1:2]}[kind]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    if not victims:
        return "nothing to kill"
    return _ending(name, whole, out, orderly=kind == "launcher")


def _ending(name: str, whole: Path, out: Path, *, orderly: bool = False) -> str:
    alive = left(out.parent)
    errors = resume(name, out, out.parent)
    found = (
        f"processes left: {alive}" if alive else errors or difference(whole, out, orderly=orderly)
    )
    shutil.rmtree(out, ignore_errors=True)
    return found


def start_two(cwd: Path, out: Path | None) -> str:
    """Start two runs at once; what went wrong, or empty."""
    processes = [start("jigsaw", out, 1, cwd=cwd) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    runs = list(cwd.glob("runs/*/run.json" if out is None else f"{out.name}/run.json"))
    lines = [len((run.parent / "metrics.jsonl").read_text().splitlines()) for run in runs]
    wanted = ([0, 0], [1, 1]) if out is None else ([0, 2], [1])
    for run in runs:
        shutil.rmtree(run.parent)
    return "" if (codes, lines) == wanted else f"codes {codes}, lines {lines}: {errors}"


def main() -> None:
    """Print one line per kind of kill, or a JSON document; exit code 1 if anything differed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of each method")
    parser.add_argument("--others", type=int, default=3, help="of a rank, launcher and worker each")
    parser.add_argument("--starts", type=int, default=50, help="of two runs, with and without out")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    random.seed(args.seed)
    results: dict[str, list[str]] = {}

    def note(kind: str, found: str) -> None:
        results.setdefault(kind, []).append(found)
        if not args.json:
            print(f"{kind} {len(results[kind])}: {found.strip() or 'identical'}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for name in args.methods.split(","):
            whole = here / f"{name}-whole"
            process = start(name, whole, args.steps, cwd=here)
            wait_for_checkpoint(whole, process)
            began = time.monotonic()
            process.communicate()
            span = time.monotonic() - began
            for _ in range(args.kills):
                note(name, kill_main(name, whole, here / "killed", args.steps, span))
        if args.others:
            whole = here / "two-whole"
            start("jigsaw", whole, args.steps, "--devices", "2", cwd=here).communicate()
            for kind in ("rank", "launcher", "worker"):
                for _ in range(args.others):
                    note(kind, kill_one("jigsaw", whole, here / "killed", args.steps, kind))
        for _ in range(args.starts):
            for out in (None, here / "same"):
                found = start_two(here, out)
                alive = left(here)
                note("two starts", f"processes left: {alive}" if alive else found)
    failed = {kind: sum(map(bool, found)) for kind, found in results.items()}
    counts = {
        kind: {"tried": len(found), "failed": failed[kind]} for kind, found in results.items()
    }
    print(json.dumps(counts, indent=2) if args.json else f"{counts}")
    sys.exit(1 if any(failed.values()) else 0)


if __name__ == "__main__":
    main()
