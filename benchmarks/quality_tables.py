"""Tables and figures of the results of `quality.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import suites

BEGIN, END = "<!-- quality -->", "<!-- end of quality -->"


def rows_of(cell: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Rows of a result's frozen features from whole images, such as ``pretrained`` ones."""
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
        for row in rows_of(cell, kind)
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
            f"{record['test_images']:,} test images; {_length(own)}. Percent ± standard error / "
            "deviation over seeds.\n"
        )
        titles = ["pooled linear", "its random init", "best stage, linear", "its random init"]
        titles += ["pooled kNN, k = 20", "its random init", "CPU-min", "memory"]
        yield "| features | seeds | " + " | ".join(titles) + " |"
        yield "|---" * (2 + len(titles)) + "|"
        for method in _methods(own):
            yield _line(method, [cell for cell in own if cell["method"] == method], "pretrained")
        yield _line("raw pixels", own[:1], "pixels")
        yield _line("majority class", own[:1], "majority")
        yield ""
        yield from _option_lines(own)
        yield f"![Pooled linear accuracy on {dataset}](quality-{dataset}.png)\n"
        yield from _label_lines(own)
        yield from _published_lines(dataset, own)


def _length(cells: Sequence[dict[str, Any]]) -> str:
    if cells[0]["minutes"] is None:
        return "recipes of `suites.py`"
    minutes = sorted({cell["minutes"] for cell in cells})
    *fewer, most = (f"{each:g}" for each in minutes)
    numbers = " or ".join(filter(None, [", ".join(fewer), most]))
    return f"{numbers} CPU-minutes of pretraining on one thread"


def _published_lines(dataset: str, cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What was published of a public data set, beside what was measured."""
    if dataset not in suites.SUITES or not suites.SUITES[dataset].published:
        return
    yield "| method | measure | here | published | by |"
    yield "|---" * 5 + "|"
    for each in suites.SUITES[dataset].published:
        own = [cell for cell in cells if cell["method"] == each.method]
        here = score(own, "pretrained", each.measure, "pooled")
        name = {"linear": "pooled linear", "knn200": "kNN, k = 200"}[each.measure]
        texts = [each.method, name, str(here or ""), each.accuracy, each.source]
        yield "| " + " | ".join(texts) + " |"
    yield ""


def _line(name: str, cells: Sequence[dict[str, Any]], kind: str) -> str:
    texts = []
    for measure, stage in (("linear", "pooled"), ("linear", "chosen"), ("knn20", "pooled")):
        texts.append(str(score(cells, kind, measure, stage) or ""))
        own = score(cells, "random_init", measure, stage) if kind == "pretrained" else None
        texts.append(str(own or ""))
    cost = ["", "", ""]
    if kind == "pretrained":
        minutes = fmean(cell["cpu_seconds"] for cell in cells) / 60
        memory = max(cell["peak_memory"] for cell in cells) / 1e9
        cost = [str(len(cells)), f"{minutes:.1f}", f"{memory:.1f} GB"]
    return "| " + " | ".join([name, cost[0], *texts, *cost[1:]]) + " |"


def _option_lines(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Options that were given beside the preset."""
    for method, options in dict.fromkeys((c["method"], tuple(c["options"])) for c in cells):
        if options:
            listed = ", ".join(f"`{option}`" for option in options)
            yield f"{method} with {listed} beside the preset.\n"


def _label_lines(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Label efficiency: a line per method and number of labels."""
    points: dict[tuple[str, int, str], dict[str, str]] = {}
    for cell in cells:
        for row in cell.get("labels", {}).get("label_efficiency", []):
            share = f"{100 * (row['fraction'] or 0):g} %"
            if row["protocol"] == "scratch":
                share = "all, as many images as in pretraining"
            key = (cell["method"], row["images"], share)
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
    from ssltool.plotting.colors import BASELINE
    from ssltool.plotting.figures import save_plot
    from ssltool.plotting.records import Bars

    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        own = [cell for cell in cells if cell["dataset"] == dataset]
        values, errors = dict[str, float](), dict[str, float]()
        bars = [(m, [c for c in own if c["method"] == m], "pretrained") for m in _methods(own)]
        best = max(own, key=lambda cell: _random_init(cell))
        bars += [(f"random init ({best['method']}, the best)", [best], "random_init")]
        bars += [("raw pixels", own[:1], "pixels")]
        for name, group, kind in bars:
            pooled = score(group, kind, "linear", "pooled")
            if pooled is not None:
                values[name], errors[name] = pooled.mean, pooled.error
        gray = {name: BASELINE for name, _, kind in bars if kind != "pretrained"}
        plot = Bars(values, "test accuracy of pooled features, linear probe, %", errors, color=gray)
        save_plot(plot, folder / f"quality-{dataset}.png", f"Frozen features on {dataset}")


def _random_init(cell: dict[str, Any]) -> float:
    scored = score([cell], "random_init", "linear", "pooled")
    return -1.0 if scored is None else scored.mean


def _methods(cells: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(cell["method"] for cell in cells))


def write_results(folder: Path, methods: Sequence[str], page: Path | None = None) -> None:
    """Write tables and figures of all results that are there.

    Args:
        folder: Where the cells are; tables and figures are written beside them.
        methods: In the order of the tables.
        page: Markdown file that also gets the tables, between `BEGIN` and `END`.
    """
    paths = sorted((folder / "cells").glob("*.json"))
    cells = [json.loads(path.read_text()) for path in paths]
    if not cells:
        return
    order = {name: number for number, name in enumerate(methods)}
    cells.sort(key=lambda cell: (cell["dataset"], order.get(cell["method"], 99), cell["seed"]))
    text = "\n".join(report(cells))
    (folder / "results.md").write_text(text)
    draw(cells, folder)
    if page is not None:
        place = os.path.relpath(folder, page.parent)
        put_into(page, text.replace("](quality-", f"]({place}/quality-"), BEGIN, END)
    print(text)


def put_into(page: Path, text: str, begin: str, end: str) -> None:
    """Put a text between two marks of a Markdown page, in place of what is there."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
