"""What each method learns on each data set in one budget of CPU time: a table with standard errors.

    python benchmarks/quality.py --set letters=LETTERS --set clipart=CLIPART --minutes 40 --to DIR
        [--methods jigsaw,npid] [--seeds 0,1] [--labels 0.01,0.1] [--option jigsaw:lr=0.002]

A set is a folder with train/CLASS/* and test/CLASS/*, or ``demo``. For each set, method and seed
the encoder is pretrained with the preset ``small`` on the training images without labels for so
many minutes of CPU time on one thread. It is then probed: linear and kNN on pooled features, linear
on every stage, beside random init, raw pixels and the majority class; with --labels also frozen,
fine-tuned and trained from scratch on some of the labels. The method ``simclr`` is lightly's with
the same backbone and time, if it is installed (`peers.py`).

Each result is a document in DIR/cells, written when it is complete. The command can be stopped at
any moment and repeated, with more sets, methods or seeds, and does only what is missing; runs
continue from their checkpoints. The number of steps comes from timing some in CPU seconds, so other
jobs on the machine change the wall time only. Tables, figures and the commands are written to
DIR/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

METHODS = ("jigsaw", "context-prediction", "context-encoder", "colorization", "npid", "cpc")
PEERS = ("simclr",)
DEMO = {"train": "demo:8000", "test": "demo-test:2000"}
TIMED_SECONDS = 20.0
_MEASURES = {"linear": "linear", "knn20": "kNN, k = 20"}


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


class Used(NamedTuple):
    """CPU seconds and peak memory in bytes of a command, and what it printed."""

    cpu: float
    memory: float
    output: str


def command(words: Sequence[object], folder: Path) -> Used:
    """Run a command on one thread; its errors are appended to a log."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
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


def images(root: str, split: str) -> str:
    """What to type after --data."""
    return DEMO[split] if root == "demo" else str(Path(root) / split)


def print_steps(method: str, data: str, seconds: float, options: Sequence[str]) -> None:
    """Print image size and number of steps of a run of the preset that takes CPU seconds."""
    from rich.console import Console

    from ssltool.runs.config import RunConfig
    from ssltool.training import budget, start

    given = dict(option.split("=", 1) for option in options)
    values = {name.replace("-", "_"): value for name, value in given.items()}
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


def pretrain(cell: Cell, folder: Path, root: str, seconds: float, options: list[str]) -> Used:
    """Pretrain, or continue to; what all attempts used."""
    run, train = folder / "run", images(root, "train")
    words: list[object] = [sys.executable, "-m", "ssltool", "pretrain", cell.method, "--out", run]
    if (run / "run.json").exists():
        words.append("--resume")
    else:
        timed = [sys.executable, __file__, "--time", cell.method, train, str(seconds), *options]
        sizes = json.loads(command(timed, folder).output.splitlines()[-1])
        words += ["--preset", "small", "--data", train, "--seed", cell.seed, "--workers", 0]
        words += ["--steps", sizes["steps"], "--image-size", sizes["image_size"]]
        words += [word for option in options for word in _flag(option)]
    return _sum(folder, command([*words, "--quiet"], folder))


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


def peer(cell: Cell, folder: Path, root: str, seconds: float) -> Used:
    """Train a peer for as long."""
    script, train = Path(__file__).parent / "peers.py", images(root, "train")
    words = [sys.executable, script, cell.method, train, "--seconds", seconds, "--seed", cell.seed]
    return _sum(folder, command([*words, "--to", folder / "peer.safetensors"], folder))


def probe(cell: Cell, folder: Path, root: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Probe what was trained: records of frozen features and of label efficiency."""
    weights = ["--weights", folder / "run"]
    if cell.method in PEERS:
        about = json.loads((folder / "peer.json").read_text())
        weights = ["--weights", folder / "peer.safetensors", "--backbone", about["backbone"]]
        weights += ["--image-size", about["image_size"]]
    words = [sys.executable, "-m", "ssltool", "probe", *weights, "--json", "--quiet"]
    words += ["--data", images(root, "train"), "--test-data", images(root, "test")]
    words += ["--cache", arguments.to / "features", "--to", folder]
    kinds = ["--kind", arguments.kind, "--random-inits", arguments.random_inits]
    record = {"probe": _kept(json.loads(command([*words, *kinds], folder).output))}
    if arguments.labels:
        fractions = ["--kind", "linear,finetune", "--label-fractions", arguments.labels]
        fractions += ["--repeats", arguments.repeats, "--random-inits", 1]
        record["labels"] = _kept(json.loads(command([*words, *fractions], folder).output))
    return record


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a probe's record: numbers and how they came about, no paths."""
    left_out = {"weights", "plots", "skipped", "notes", "details", "near_duplicates"}
    kept = {name: value for name, value in record.items() if name not in left_out}
    protocol = {name: value for name, value in record["protocol"].items() if name != "data"}
    return {**kept, "protocol": protocol}


def measure(cell: Cell, root: str, arguments: argparse.Namespace) -> None:
    """Produce one result, unless it is there."""
    path = arguments.to / "cells" / f"{cell.name}.json"
    if path.exists():
        return
    folder = arguments.to / "work" / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(exist_ok=True)
    seconds = 60 * arguments.minutes
    mine = (option.partition(":") for option in arguments.option)
    options = [option for name, _, option in mine if name in {cell.method, "all"}]
    print(f"{cell.name}: pretraining", flush=True)
    used = (
        peer(cell, folder, root, seconds)
        if cell.method in PEERS
        else pretrain(cell, folder, root, seconds, options)
    )
    print(f"{cell.name}: {used.cpu / 60:.1f} CPU-minutes; probing", flush=True)
    document = {
        "dataset": cell.dataset,
        "method": cell.method,
        "seed": cell.seed,
        "minutes": arguments.minutes,
        "options": options,
        "cpu_seconds": round(used.cpu, 1),
        "peak_memory": used.memory,
        **probe(cell, folder, root, arguments),
    }
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=1))
    unfinished.replace(path)
    rows = {row["stage"]: row for row in _rows(document, "pretrained")}
    print(f"{cell.name}: pooled {rows['pooled']['accuracy']}", flush=True)


def _rows(cell: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    rows = cell["probe"]["rows"]
    return [r for r in rows if r["source"]["kind"] == kind and r["source"]["variant"] == "image"]


class Score(NamedTuple):
    """A mean over seeds, percent.

    Attributes:
        mean: The accuracy.
        error: Its standard error, from the number of test images.
        std: Deviation over the seeds; None for one.
    """

    mean: float
    error: float
    std: float | None

    def __str__(self) -> str:
        text = f"{self.mean:.1f} ± {self.error:.1f}"
        return text if self.std is None else f"{text} / {self.std:.1f}"


def score(cells: Sequence[dict[str, Any]], kind: str, measure: str, stage: str) -> Score | None:
    """Accuracy of one kind of features; ``stage`` is pooled, or chosen on held-out images."""
    rows = [
        row
        for cell in cells
        for row in _rows(cell, kind)
        if measure in row["accuracy"]
        and (row["chosen"] if stage == "chosen" else row["stage"] in {stage, ""})
    ]
    if not rows:
        return None
    values = [row["accuracy"][measure] for row in rows]
    errors = [row["standard_error"].get(measure, 0.0) for row in rows]
    spread = stdev(values) if len(values) > 1 else rows[0]["std"].get(measure)
    return Score(fmean(values), fmean(errors), spread)


def report(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The tables, as Markdown."""
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        own = [cell for cell in cells if cell["dataset"] == dataset]
        record = own[0]["probe"]
        yield f"### {dataset}\n"
        yield (
            f"{len(record['classes'])} classes, {record['train_images']:,} training and "
            f"{record['test_images']:,} test images; {own[0]['minutes']:g} CPU-minutes of "
            "pretraining on one thread. Percent ± standard error / deviation over seeds.\n"
        )
        titles = ["pooled linear", "best stage, linear", "pooled kNN, k = 20"]
        yield "| features | seeds | " + " | ".join(titles) + " | CPU-min | memory |"
        yield "|---" * 7 + "|"
        for method in dict.fromkeys(cell["method"] for cell in own):
            yield _line(method, [cell for cell in own if cell["method"] == method], "pretrained")
        yield _line("random init", own[:1], "random_init")
        yield _line("raw pixels", own[:1], "pixels")
        yield _line("majority class", own[:1], "majority")
        yield ""
        yield from _label_lines(own)


def _line(name: str, cells: Sequence[dict[str, Any]], kind: str) -> str:
    columns = [("linear", "pooled"), ("linear", "chosen"), ("knn20", "pooled")]
    scores = [score(cells, kind, measure, stage) for measure, stage in columns]
    texts = ["" if each is None else str(each) for each in scores]
    cost = ["", "", ""]
    if kind == "pretrained":
        minutes = fmean(cell["cpu_seconds"] for cell in cells) / 60
        memory = max(cell["peak_memory"] for cell in cells) / 1e9
        cost = [str(len(cells)), f"{minutes:.1f}", f"{memory:.1f} GB"]
    return "| " + " | ".join([name, cost[0], *texts, *cost[1:]]) + " |"


def _label_lines(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Label efficiency: a line per method and number of labels."""
    points: dict[tuple[str, int, str], dict[str, str]] = {}
    for cell in cells:
        for row in cell.get("labels", {}).get("label_efficiency", []):
            key = (cell["method"], row["images"], f"{100 * (row['fraction'] or 0):g} %")
            curve = (
                "frozen"
                if row["protocol"] == "linear"
                else "from scratch"
                if row["source"]["kind"] == "random_init"
                else "fine-tuned"
            )
            text = f"{row['accuracy']:.1f} ± {row['standard_error']:.1f}"
            if row["std"] is not None:
                text += f" / {row['std']:.1f}"
            points.setdefault(key, {})[curve] = text
    if not points:
        return
    yield "| method | labels | images | frozen, linear | fine-tuned | from scratch, equal time |"
    yield "|---" * 6 + "|"
    for (method, count, share), curves in points.items():
        texts = [curves.get(name, "") for name in ("frozen", "fine-tuned", "from scratch")]
        yield "| " + " | ".join([method, share, f"{count:,}", *texts]) + " |"
    yield ""


def draw(cells: Sequence[dict[str, Any]], folder: Path) -> None:
    """A figure for each set: pooled linear accuracy of methods and baselines."""
    from ssltool.plotting.figures import save_plot
    from ssltool.plotting.records import Bars

    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        own = [cell for cell in cells if cell["dataset"] == dataset]
        values, errors = dict[str, float](), dict[str, float]()
        bars = [(m, [c for c in own if c["method"] == m], "pretrained") for m in _methods(own)]
        bars += [("random init", own[:1], "random_init"), ("raw pixels", own[:1], "pixels")]
        for name, group, kind in bars:
            pooled = score(group, kind, "linear", "pooled")
            if pooled is not None:
                values[name], errors[name] = pooled.mean, pooled.error
        bars_plot = Bars(values, "linear accuracy of pooled features (%)", errors)
        save_plot(bars_plot, folder / f"quality-{dataset}.png", f"{dataset}, frozen features")


def _methods(cells: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(cell["method"] for cell in cells))


def write_results(arguments: argparse.Namespace) -> None:
    """Write tables and figures of all results that are there."""
    paths = sorted((arguments.to / "cells").glob("*.json"))
    cells = [json.loads(path.read_text()) for path in paths]
    if not cells:
        return
    order = {name: number for number, name in enumerate((*METHODS, *PEERS))}
    cells.sort(key=lambda cell: (cell["dataset"], order.get(cell["method"], 99), cell["seed"]))
    text = "\n".join(report(cells))
    (arguments.to / "results.md").write_text(text)
    draw(cells, arguments.to)
    print(text)


def main() -> None:
    """Measure what is missing, then write the results."""
    if sys.argv[1:2] == ["--time"]:
        print_steps(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--minutes", type=float, default=40.0, help="CPU time of each pretraining")
    parser.add_argument("--labels", default="", help="fractions of the labels, such as 0.01,0.1")
    parser.add_argument("--repeats", type=int, default=3, help="subsets of the labels")
    parser.add_argument("--kind", default="linear,layers,knn")
    parser.add_argument("--random-inits", type=int, default=3)
    parser.add_argument(
        "--option", action="append", default=[], metavar="METHOD:NAME=VALUE", help="or all:..."
    )
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    sets = dict(each.split("=", 1) for each in arguments.set)
    for seed in map(int, arguments.seeds.split(",")):
        for dataset, root in sets.items():
            for method in filter(None, arguments.methods.split(",")):
                measure(Cell(dataset, method, seed), root, arguments)
                write_results(arguments)
    write_results(arguments)


if __name__ == "__main__":
    main()
