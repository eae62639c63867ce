"""Several runs side by side: probed alike where they were not yet, then one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ssltool.atomic import atomic_file
from ssltool.encoders.weights import find_weights
from ssltool.errors import UsageError
from ssltool.plotting.figures import save_plot
from ssltool.plotting.records import Bars
from ssltool.probing.features import POOLED
from ssltool.probing.measures import MEASURES, Scored
from ssltool.probing.probe import DOCUMENT, ProbeOptions, probe, protocol_of

# A table's columns: accuracy of the stage that is best in a linear probe, then of the whole vector.
BEST = "linear"
_POOLED = {"linear": "pooled linear", **{name: name for name in MEASURES if name != "linear"}}
COLUMNS = (BEST, *_POOLED.values(), "effective rank")


def compare(
    runs: Sequence[Path],
    options: ProbeOptions,
    *,
    sort: str = BEST,
    table: Path | None = None,
    image: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run ``ssltool compare``.

    Args:
        runs: Run folders, or weights files.
        options: How all of them are probed; ``weights`` and ``to`` are not looked at.
        sort: One of `COLUMNS`, the largest first.
        table: CSV file to write the table to.
        image: File for a chart of the column ``sort``.
        console: Where progress goes; stderr if not given.

    Returns:
        In JSON kinds: ``rows`` with ``name, method, backbone, steps, stage`` (the one that is best
        in a linear probe) and those of `COLUMNS` that were measured, in percent; ``classes``,
        numbers of images and ``protocol``.

    Raises:
        SslToolError: As `ssltool.probing.probe.probe`.
    """
    console = console or Console(stderr=True, highlight=False)
    if sort not in COLUMNS:
        raise UsageError(f"--sort {sort}: one of {', '.join(COLUMNS)} expected")
    names = _names(runs)
    rows: dict[str, dict[str, Any]] = {}
    document: dict[str, Any] = {}
    memory: dict[str, list[Scored]] = {}  # random init and pixels are the same for most runs
    for name, run in zip(names, runs, strict=True):
        document = _probed(run, options, memory, console)
        rows |= _rows(name, document)
    ordered = sorted(rows.values(), key=lambda row: -row.get(sort, -1.0))
    if table is not None:
        _write_csv(ordered, table)
    if image is not None:
        values = {row["name"]: row[sort] for row in ordered if sort in row}
        unit = "" if sort == "effective rank" else ", percent"
        save_plot(Bars(values, f"{sort}{unit}"), image, _title(document))
    return {
        "rows": ordered,
        "sort": sort,
        **{key: document[key] for key in ("classes", "train_images", "test_images", "protocol")},
        **({"table": str(table)} if table else {}),
        **({"chart": str(image)} if image else {}),
    }


def _probed(
    run: Path, options: ProbeOptions, memory: dict[str, list[Scored]], console: Console
) -> dict[str, Any]:
    """What a probe of this kind says: from the run folder if it was made before, else now."""
    weights = find_weights(run)
    one = options.model_copy(update={"weights": weights, "to": None})
    kept = weights.parent / DOCUMENT
    if kept.is_file():
        try:
            document: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            if document["protocol"] == json.loads(json.dumps(protocol_of(one))):
                console.print(f"{run}: was probed before")
                return document
        except (ValueError, KeyError, TypeError):
            pass  # damaged, or of another version: probed again
    console.print(f"{run}: probing")
    return probe(one, console, memory=memory)


def _rows(name: str, document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of one run: its own, and those it is measured against, by what they are of."""
    found = {}
    for features in dict.fromkeys(row["features"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["features"] == features]
        own = features.split(" (")[0] == document["method"]
        fresh = features.startswith("random init")
        way = f" ({features.split(' (')[1]}" if " (" in features else ""
        title = (
            f"{name}{way}" if own else f"{features}, {document['network']}" if fresh else features
        )
        row: dict[str, Any] = {
            "name": title,
            "method": document["method"] if own else "",
            "backbone": document["backbone"] if own or fresh else "",
            "steps": document["steps"] if own else 0,
        }
        best = max(rows, key=lambda r: r.get(BEST, -1.0))
        if BEST in best:
            row |= {"stage": best["stage"], BEST: best[BEST]}
        whole = next((r for r in rows if r["stage"] in (POOLED, "pixels", "")), rows[0])
        row |= {column: whole[measure] for measure, column in _POOLED.items() if measure in whole}
        if features in document["health"]:
            row["effective rank"] = document["health"][features]["effective_rank"]
        found[title] = row
    return found


def _names(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    places = [find_weights(run).absolute() for run in runs]
    whole = [place.parent if place.name == "encoder.safetensors" else place for place in places]
    if len(set(whole)) < len(whole):
        raise UsageError("a run is named twice; name each once")
    for length in range(1, max(len(place.parts) for place in whole) + 1):
        names = ["/".join(place.parts[-length:]) for place in whole]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in whole]


def _title(document: Mapping[str, Any]) -> str:
    images = f"{document['train_images']:,} training and {document['test_images']:,} test images"
    return f"{images}, {len(document['classes'])} classes"


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as opened,
    ):
        writer = csv.DictWriter(opened, columns)
        writer.writeheader()
        writer.writerows(rows)
