"""Exact resume: a run killed at random moments and resumed, against an uninterrupted run.

    python benchmarks/resume.py [--kills 20] [--seed 0] [--steps 600] [--json]

Trains once without interruption, then again with SIGKILL at random moments, and compares the bytes
of encoder.safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(out: Path, steps: int, *more: str) -> list[str]:
    """A short jigsaw run that saves a checkpoint every third step."""
    return [
        *(
            sys.executable,
            "-m",
            "ssltool",
            "pretrain",
            "jigsaw",
            "--data",
            "demo:256",
            "--image-size",
            "32",
        ),
        *(
            "--steps",
            str(steps),
            "--batch-size",
            "32",
            "--checkpoint-every",
            "3",
            "--log-every",
            "2",
            "--workers",
            "1",
        ),
        *("--precision", "bf16", "--out", str(out), "--quiet", *more),
    ]


def digest(out: Path) -> str:
    """SHA-256 of a run's weights."""
    return hashlib.sha256((out / "encoder.safetensors").read_bytes()).hexdigest()


def interrupted(out: Path, steps: int, kills: int, startup: float, rng: random.Random) -> list[str]:
    """Run to the end with ``kills`` kills; return the newest checkpoint at each."""
    moments: list[str] = []
    while True:
        more = ["--resume"] if (out / "run.json").is_file() else ["--overwrite"]
        process = subprocess.Popen(
            command(out, steps, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if len(moments) < kills:
            time.sleep(
                rng.uniform(0.2 * startup, startup + 2)
            )  # while starting, or up to two seconds into the steps
            process.kill()
        _, errors = process.communicate()
        if len(moments) == kills or process.returncode == 0:
            if process.returncode:
                raise SystemExit(f"a resumed run failed: {errors}")
            return moments
        saved = (
            sorted((out / "checkpoints").glob("step-*")) if (out / "checkpoints").is_dir() else []
        )
        moments.append(saved[-1].name if saved else "nothing")


def main() -> None:
    """Print one line per repetition, or a JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        start = time.monotonic()
        subprocess.run(command(Path(folder) / "one", 1), check=True, stdout=subprocess.DEVNULL)
        startup = time.monotonic() - start
        subprocess.run(command(whole, args.steps), check=True, stdout=subprocess.DEVNULL)
        moments = interrupted(killed, args.steps, args.kills, startup, rng)
        equal = digest(whole) == digest(killed)
        lines = [(run / "metrics.jsonl").read_text().count("\n") for run in (whole, killed)]
    result = {
        "kills": len(moments),
        "checkpoints": moments,
        "identical": equal,
        "metrics_lines": lines,
    }
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            "\n".join(
                f"kill {i + 1}: newest checkpoint {moment}" for i, moment in enumerate(moments)
            )
        )
        print(
            f"{len(moments)} kills; weights identical: {equal}; lines of metrics {lines[0]} and "
            f"{lines[1]}"
        )
    sys.exit(0 if equal and len(moments) == args.kills else 1)


if __name__ == "__main__":
    main()
