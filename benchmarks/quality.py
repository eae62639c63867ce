"""What each method learns on each data set in one budget of CPU time: a table with standard errors.

    python benchmarks/quality.py --set letters=LETTERS --set clipart=CLIPART --minutes 40 --to DIR
        [--methods jigsaw,npid] [--seeds 0,1] [--labels 0.01,0.1] [--scratch npid]
        [--option jigsaw:lr=0.002]
    python benchmarks/quality.py --suite cifar10 --to DIR

A set is a folder with train/CLASS/* and test/CLASS/*, or ``demo``. For each set, method and seed
the encoder is pretrained with the preset ``small`` on the training images without labels for so
many minutes of CPU time on one thread. It is then probed: linear and kNN on pooled features, linear
on every stage, beside random init, raw pixels and the majority class; with --labels also frozen,
fine-tuned and trained from scratch on some of the labels; with --scratch also trained from scratch
on all labels for as many images as that method saw. The method ``simclr`` is lightly's with the
same backbone and time, if it is installed (`peers.py`).

A suite is a public data set that is downloaded (`suites.py`), for a machine with a network and a
GPU: each method is trained with the recipe that is given there, and the table has the published
numbers beside. ``--option all:epochs=20`` shortens it.

Each result is a document in DIR/cells, written when it is complete. The command can be stopped at
any moment and repeated, with more sets, methods or seeds, and does only what is missing; runs
continue from their checkpoints. The number of steps comes from timing some in CPU seconds, so other
jobs on the machine change the wall time only. Tables and figures are written to DIR/results.md, and
with ``--to docs/quality --page docs/results.md`` into the documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import quality_tables
from suites import SUITES, Images

METHODS = ("jigsaw", "context-prediction", "context-encoder", "colorization", "npid", "cpc")
PEERS = ("simclr",)
DEMO = Images("demo:8000", "demo:8000", "demo-test:2000")
TIMED_SECONDS = 20.0


class Cell(NamedTuple):
    """One result: a method on a set with a seed, and the name of a variant of its options."""

    dataset: str
    method: str
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        """Name of its files."""
        return "-".join([self.dataset, self.method, *filter(None, [self.variant]), str(self.seed)])


class Sizes(NamedTuple):
    """How long a run is, and the side of its images in pixels."""

    steps: int
    image_size: int


class Used(NamedTuple):
    """CPU seconds and peak memory in bytes of a command, and what it printed."""

    cpu: float
    memory: float
    output: str


def command(words: Sequence[object], folder: Path, *, one_thread: bool = True) -> Used:
    """Run a command; its errors are appended to a log."""
    env = dict(os.environ)
    if one_thread:
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(
            [str(word) for word in words], stdout=subprocess.PIPE, stderr=log, env=env, text=True
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed, see {folder / 'log.txt'}")
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0, output)


def images_of(root: str) -> Images:
    """Images of a set that is given by --set."""
    if root == "demo":
        return DEMO
    train, test = str(Path(root) / "train"), str(Path(root) / "test")
    return Images(train, train, test)


def print_steps(method: str, data: str, seconds: float, options: Sequence[str]) -> None:
    """Print image size and number of steps of a run of the preset that takes CPU seconds."""
    from rich.console import Console

    from ssltool.runs.config import RunConfig
    from ssltool.training import budget, start

    given = dict(option.split("=", 1) for option in options)
    values = {name.replace("-", "_"): _value(text) for name, text in given.items()}
    config = RunConfig.merged(method, {**values, "data": (data,), "workers": 0}, "small")
    source = start.open_images(config)
    config, info = budget.cheapest(config, start.inspected(config, source))
    pace = budget.time_steps(
        config,
        info,
        source,
        Console(quiet=True),
        read=budget.seconds_per_image(source, info.image_size),
        clock=time.process_time,
        seconds=TIMED_SECONDS,
    )
    print(json.dumps({"image_size": info.image_size, "steps": pace.steps(seconds)}))


def pretrain(
    cell: Cell, folder: Path, images: Images, length: float | Sizes, options: list[str]
) -> Used:
    """Pretrain with the preset for CPU seconds or steps, or continue to; what all attempts used."""
    run = folder / "run"
    words: list[object] = [sys.executable, "-m", "ssltool", "pretrain", cell.method, "--out", run]
    if (run / "run.json").exists():
        words.append("--resume")
    else:
        sizes = length
        if not isinstance(sizes, Sizes):
            timed = [cell.method, images.pretrain, str(sizes), *options]
            printed = command([sys.executable, __file__, "--time", *timed], folder).output
            sizes = Sizes(**json.loads(printed.splitlines()[-1]))
        words += ["--preset", "small", "--data", images.pretrain, "--seed", cell.seed]
        words += ["--steps", sizes.steps, "--image-size", sizes.image_size, "--workers", 0]
        words += [word for option in options for word in _flag(option)]
    return _sum(folder, command([*words, "--quiet"], folder))


def pretrain_recipe(cell: Cell, folder: Path, images: Images, options: list[str]) -> Used:
    """Pretrain with the recipe of a suite, or continue to."""
    run = folder / "run"
    words: list[object] = [sys.executable, "-m", "ssltool", "pretrain", cell.method, "--out", run]
    if (run / "run.json").exists():
        words.append("--resume")
    else:
        words += ["--data", images.pretrain, "--seed", cell.seed]
        words += SUITES[cell.dataset].words[cell.method].split()
        words += [word for option in options for word in _flag(option)]
    return _sum(folder, command([*words, "--quiet"], folder, one_thread=False))


def _value(text: str) -> Any:
    """The number or truth value that a text stands for, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _flag(option: str) -> list[str]:
    name, _, value = option.partition("=")
    flag = f"--{name.replace('_', '-')}"
    return {"true": [flag], "false": [f"--no-{flag[2:]}"]}.get(value, [flag, value])


def _sum(folder: Path, used: Used) -> Used:
    """Add what a command used to what earlier attempts did."""
    path = folder / "used.json"
    before = json.loads(path.read_text()) if path.exists() else {"cpu": 0.0, "memory": 0.0}
    total = Used(before["cpu"] + used.cpu, max(before["memory"], used.memory), used.output)
    path.write_text(json.dumps({"cpu": total.cpu, "memory": total.memory}))
    return total


def peer(cell: Cell, folder: Path, images: Images, seconds: float) -> Used:
    """Train a peer for as long."""
    words: list[object] = [sys.executable, Path(__file__).parent / "peers.py", cell.method]
    words += [images.pretrain, "--seconds", seconds, "--seed", cell.seed]
    return _sum(folder, command([*words, "--to", folder / "peer.safetensors"], folder))


def probe(
    cell: Cell, folder: Path, images: Images, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Probe what was trained: records of frozen features and of label efficiency."""
    weights = ["--weights", folder / "run"]
    if cell.method in PEERS:
        about = json.loads((folder / "peer.json").read_text())
        weights = ["--weights", folder / "peer.safetensors", "--backbone", about["backbone"]]
        weights += ["--image-size", about["image_size"]]
    words = [sys.executable, "-m", "ssltool", "probe", *weights, "--json", "--quiet"]
    words += ["--data", images.train, "--test-data", images.test]
    words += ["--cache", arguments.to / "features", "--to", folder]
    kinds: list[object] = ["--kind", arguments.kind, "--grid-dim", 512]
    inits = arguments.random_inits
    kinds += ["--random-inits", inits] if inits else ["--no-baselines"]
    one_thread = cell.dataset not in SUITES
    output = command([*words, *kinds], folder, one_thread=one_thread).output
    record = {"probe": _kept(json.loads(output))}
    extra: list[object] = []
    if arguments.labels:
        extra += ["--label-fractions", arguments.labels, "--repeats", arguments.repeats]
    if cell.method == arguments.scratch:
        extra.append("--scratch")
    if extra:
        extra += ["--kind", "linear,finetune", "--random-inits", 1]
        output = command([*words, *extra], folder, one_thread=one_thread).output
        record["labels"] = _kept(json.loads(output))
    return record


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a probe's record: numbers and how they came about, no paths."""
    left_out = {"weights", "plots", "skipped", "notes", "details", "near_duplicates"}
    kept = {name: value for name, value in record.items() if name not in left_out}
    protocol = {name: value for name, value in record["protocol"].items() if name != "data"}
    return {**kept, "protocol": protocol}


def measure(
    cell: Cell,
    images: Images,
    arguments: argparse.Namespace,
    sizes: Sizes | None = None,
) -> None:
    """Produce one result, unless it is there.

    Args:
        cell: Which one.
        images: Of its set.
        arguments: Of the command line.
        sizes: Of a run of the preset; None for those that take ``arguments.minutes``.
    """
    path = arguments.to / "cells" / f"{cell.name}.json"
    if path.exists():
        return
    folder = arguments.to / "work" / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(exist_ok=True)
    mine = (option.partition(":") for option in arguments.option)
    options = [option for name, _, option in mine if name in {cell.method, "all"}]
    print(f"{cell.name}: pretraining", flush=True)
    if cell.dataset in SUITES:
        used = pretrain_recipe(cell, folder, images, options)
    elif cell.method in PEERS:
        used = peer(cell, folder, images, 60 * arguments.minutes)
    else:
        used = pretrain(cell, folder, images, sizes or 60 * arguments.minutes, options)
    print(f"{cell.name}: {used.cpu / 60:.1f} CPU-minutes; probing", flush=True)
    document = {
        "dataset": cell.dataset,
        "method": cell.method,
        "seed": cell.seed,
        "minutes": None if cell.dataset in SUITES else arguments.minutes,
        "options": options,
        "cpu_seconds": round(used.cpu, 1),
        "peak_memory": used.memory,
        **probe(cell, folder, images, arguments),
    }
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=1))
    unfinished.replace(path)
    rows = {row["stage"]: row for row in quality_tables.rows_of(document, "pretrained")}
    print(f"{cell.name}: pooled {rows['pooled']['accuracy']}", flush=True)


def write_results(folder: Path, page: Path | None = None) -> None:
    """Write tables and figures of all results that are there."""
    quality_tables.write_results(folder, (*METHODS, *PEERS), page)


def main() -> None:
    """Measure what is missing, then write the results."""
    if sys.argv[1:2] == ["--time"]:
        print_steps(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--suite", action="append", default=[], choices=sorted(SUITES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--minutes", type=float, default=40.0, help="CPU time of each pretraining")
    parser.add_argument("--labels", default="", help="fractions of the labels, such as 0.01,0.1")
    parser.add_argument("--scratch", default="", metavar="METHOD")
    parser.add_argument("--repeats", type=int, default=3, help="subsets of the labels")
    parser.add_argument("--kind", default="linear,layers,knn")
    parser.add_argument("--random-inits", type=int, default=3, help="0 for no baselines")
    parser.add_argument(
        "--option", action="append", default=[], metavar="METHOD:NAME=VALUE", help="or all:..."
    )
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="Markdown file between whose marks tables go")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    given = (each.split("=", 1) for each in arguments.set)
    sets = {name: images_of(root) for name, root in given}
    sets |= {name: SUITES[name].fetch(arguments.to / "data") for name in arguments.suite}
    for seed in map(int, arguments.seeds.split(",")):
        for dataset, images in sets.items():
            for method in filter(None, arguments.methods.split(",")):
                if dataset not in SUITES or method in SUITES[dataset].words:
                    measure(Cell(dataset, method, seed), images, arguments)
                write_results(arguments.to)
    write_results(arguments.to, arguments.page)


if __name__ == "__main__":
    main()
