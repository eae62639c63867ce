"""Run folders -> one HTML page. What a folder lacks is said on the page; only one with nothing of a
run is refused.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import ssltool
from ssltool.atomic import atomic_file
from ssltool.errors import UsageError
from ssltool.plotting.units import titled, written
from ssltool.runs import folder as runs
from ssltool.runs import metrics
from ssltool.runs.records import MEASURES, RUN_FILE
from ssltool.runs.records import PROBE_FILE as DOCUMENT
from ssltool.visualizing.report.page import Curves, Frame, HeatMap, RunPage, Table, cell, page

_FRAMES = 16  # images over time in the page; 20 to 40 are written by a run
_OTHERS = 12  # further images
_SKIPPED = 200  # lines of skipped.txt
_OWN = {"task", "samples"}  # images with a place of their own in the page
_WORDS = {
    "knn5": "5 neighbors",
    "knn20": "20 neighbors",
    "knn200": "200 neighbors",
    "svm": "SVM",
    "svm_map": "SVM, mAP",
    "mlp": "MLP",
}


def write_report(
    folders: Sequence[Path], to: Path | None = None, frames: int = _FRAMES
) -> dict[str, Any]:
    """Write one page on one or more runs; several are compared.

    Args:
        folders: Run folders, or weights files in them. They may be unfinished, or lack some of
            their files.
        to: The page; automatic: ``report.html`` in the run folder, or here when there are several.
        frames: Images over time shown of each run at most, evenly spread.

    Returns:
        In JSON kinds: ``path``, ``bytes`` and, of each run, ``name, folder, method, step,
            missing``.

    Raises:
        UsageError: A folder does not exist or holds nothing of a run, or the extra ``report`` is
            not installed.
    """
    places = [folder.parent if folder.is_file() else folder for folder in folders]
    places = list({place.resolve(): place for place in places}.values())
    for place in places:
        _check(place)
    pages = [
        read_page(place, name, frames)
        for place, name in zip(places, runs.short_names(places), strict=True)
    ]
    to = to or (places[0] if len(places) == 1 else Path()) / "report.html"
    title = pages[0].heading if len(pages) == 1 else f"{len(pages)} runs compared"
    text = page(pages, title, f"Made by ssltool {ssltool.__version__}.")
    with atomic_file(to) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return {
        "path": str(to),
        "bytes": len(text.encode()),
        "runs": [
            {
                "name": page.name,
                "folder": str(place),
                "method": _document(place).get("method"),
                "step": page.lines[-1]["step"] if page.lines else 0,
                "missing": list(page.missing),
            }
            for place, page in zip(places, pages, strict=True)
        ],
    }


def read_page(folder: Path, name: str, frames: int = _FRAMES) -> RunPage:
    """Read what there is of a run; nothing that is missing or damaged is an error."""
    missing: list[str] = []
    document = _document(folder, missing)
    method = str(document.get("method", ""))
    options, data = _part(document, "options"), _part(document, "data")
    lines = _lines(folder, missing)
    chance = runs.chance(folder)
    drawn, left_out = _images(folder, frames, missing)
    probes, charts, best = _probes(folder, missing)
    description = str(data.get("description", "unknown images"))
    return RunPage(
        name=name,
        method=method,
        heading=f"{method or 'unknown method'} on {description}",
        state=_state(lines, options.get("steps")),
        facts={
            "backbone": str(options.get("backbone", "")),
            "images": data["count"] if _is_number(data.get("count")) else None,
            "best linear probe, %": best[0] if best else None,
        },
        highlights=_highlights(options, data, lines, chance, best),
        data=_data_facts(data),
        options={key: _shown(value) for key, value in options.items()},
        environment=_environment(document),
        lines=lines,
        chance=chance,
        samples=drawn.get("samples", [None])[0],
        task=drawn.get("task", [None])[0],
        predictions=[frame for frame in drawn.get("predictions", []) if frame is not None],
        left_out=left_out,
        others=[frame for frame in drawn.get("others", []) if frame is not None],
        probes=probes,
        charts=charts,
        skipped=_skipped(folder),
        missing=missing,
    )


def _check(folder: Path) -> None:
    """Refuse what is no run at all."""
    if not folder.exists():
        raise UsageError(
            f"{folder} does not exist; name a run folder, 'ssltool pretrain' makes one"
        )
    known = [RUN_FILE, metrics.METRICS, runs.WEIGHTS, DOCUMENT, "images"]
    if any((folder / name).exists() for name in known):
        return
    inside = sorted(path.parent.name for path in folder.glob(f"*/{RUN_FILE}"))
    if inside:
        raise UsageError(
            f"{folder} is no run folder but has {len(inside)} in it; type {folder}/{inside[0]}, "
            "or several"
        )
    raise UsageError(
        f"{folder} holds nothing of a run (no {', '.join(known)}); name a folder that pretrain made"
    )


def _document(folder: Path, missing: list[str] | None = None) -> dict[str, Any]:
    """``run.json``, or as much as can be read of it."""
    missing = [] if missing is None else missing
    unknown = "options, data facts and environment are not known"
    try:
        document = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except OSError:
        missing.append(f"{RUN_FILE} is not there: {unknown}")
        return {}
    except ValueError as error:
        missing.append(f"{RUN_FILE} is damaged ({error}): {unknown}")
        return {}
    if not isinstance(document, dict):
        missing.append(f"{RUN_FILE} is damaged (no JSON object): {unknown}")
        return {}
    return document


def _part(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _lines(folder: Path, missing: list[str]) -> list[dict[str, int | float]]:
    """Lines of the metrics: finite numbers only, each with its step."""
    try:
        found = metrics.read(folder)
    except (OSError, ValueError) as error:
        missing.append(f"{metrics.METRICS} cannot be read ({error}): no curves")
        return []
    lines = [
        {key: value for key, value in line.items() if _is_number(value)}
        for line in found
        if isinstance(line, dict) and _is_number(line.get("step"))
    ]
    if not lines:
        missing.append(
            f"{metrics.METRICS} has no lines yet: no curves; they come with the first "
            "--log-every steps"
        )
    return lines


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _state(lines: Sequence[Mapping[str, float]], planned: object) -> str:
    step = int(lines[-1]["step"]) if lines else 0
    if not isinstance(planned, int):
        return f"step {step:,}"
    return (
        f"finished, {step:,} steps"
        if step >= planned
        else f"unfinished, step {step:,} of {planned:,}"
    )


def _highlights(
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    lines: Sequence[Mapping[str, float]],
    chance: Mapping[str, float],
    best: tuple[float, str] | None,
) -> dict[str, tuple[str, str]]:
    """What stands large on top of a run."""
    found = {"backbone": (_shown(options["backbone"]), "")} if "backbone" in options else {}
    if _is_number(data.get("count")):
        found["images"] = (f"{data['count']:,}", f"{data.get('image_size', '?')} px")
    for name in [name for name in ("loss", *chance, "knn") if lines and name in lines[-1]][:5]:
        known = f"chance {written(name, chance[name])}" if name in chance else ""
        found[titled(name)] = (written(name, lines[-1][name]), known)
    if best:
        found["best linear probe"] = (f"{best[0]:.1f}%", best[1])
    return found


def _data_facts(data: Mapping[str, Any]) -> dict[str, str]:
    """Facts about the images in words."""
    words = {
        "description": "from",
        "count": "images",
        "image_size": "side read, px",
        "gray": "gray",
        "mean": "mean of R, G, B",
        "std": "deviation of R, G, B",
        "fingerprint": "fingerprint",
    }
    shown = {label: _shown(data[name]) for name, label in words.items() if name in data}
    if "fingerprint" in shown:
        shown["fingerprint"] = shown["fingerprint"][:16]
    return shown


def _environment(document: Mapping[str, Any]) -> dict[str, str]:
    found = {"ssltool": _shown(document["ssltool"])} if "ssltool" in document else {}
    found |= {key: _shown(value) for key, value in _part(document, "environment").items()}
    precision = _part(document, "precision")
    if precision:
        found["precision"] = f"{precision.get('name', '')}: {precision.get('reason', '')}"
    return found


def _shown(value: Any) -> str:
    """A value of ``run.json`` for people."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return cell(value) if isinstance(value, bool | float) else str(value)


def _images(
    folder: Path, most: int, missing: list[str]
) -> tuple[dict[str, list[Frame | None]], int]:
    """Images of the run folder by their place in the page, and how many over time are left out."""
    paths = sorted((folder / "figures").glob("*.png"))
    timed = {int(path.stem.rpartition("-")[2]): path for path in paths if _is_answer(path)}
    steps = sorted(timed)
    kept = (
        steps
        if len(steps) <= most
        else [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]
    )
    found: dict[str, list[Frame | None]] = {"predictions": [], "others": []}
    for step in kept:
        found["predictions"].append(_frame(timed[step], f"after step {step:,}", missing, step))
    others = [path for path in paths if not _is_answer(path)]
    for path in others:
        if path.stem in _OWN:
            title = {
                "task": "The task, as the network is given it",
                "samples": "Some of the images",
            }[path.stem]
            found[path.stem] = [_frame(path, title, missing)]
        elif len(found["others"]) < _OTHERS:
            found["others"].append(_frame(path, path.stem, missing))
    if not paths:
        missing.append(
            "figures/ is not there or empty: pretrain draws the task and the answers there"
        )
    elif not found["predictions"]:
        missing.append("there are no answers over time yet: they come with the first checkpoint")
    found["predictions"] = [frame for frame in found["predictions"] if frame is not None]
    return found, len(steps) - len(kept)


def _is_answer(path: Path) -> bool:
    head, _, tail = path.stem.rpartition("-")
    return head == "predictions" and tail.isdecimal()


def _frame(path: Path, title: str, missing: list[str], step: int = -1) -> Frame | None:
    """An image that a browser will show; one cut off by a kill is named instead."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        missing.append(f"figures/{path.name} is damaged")
        return None
    return Frame(title, "image/png", data, step)


def _skipped(folder: Path) -> list[str]:
    path = folder / runs.SKIPPED
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    )
    more = [f"and {len(lines) - _SKIPPED:,} more"] if len(lines) > _SKIPPED else []
    return [*lines[:_SKIPPED], *more]


def _probes(
    folder: Path, missing: list[str]
) -> tuple[list[Table], list[Curves | HeatMap], tuple[float, str] | None]:
    """Tables and charts of ``probe.json`` and the best linear accuracy in percent with its stage."""
    path = folder / DOCUMENT
    if not path.is_file():
        missing.append(
            "no probe was run: 'ssltool probe --weights RUN --data labeled/' says what the "
            "encoder learned"
        )
        return [], [], None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict):
        missing.append(f"{DOCUMENT} is damaged: run the probe again")
        return [], [], None
    tables: list[Table] = []
    charts: list[Curves | HeatMap] = []
    best = None
    rows = _records(document, "rows")
    if rows:
        tables.append(_probe_table(rows, document))
        charts += _stage_chart(rows)
        number = document.get("best")
        if (
            isinstance(number, int)
            and 0 <= number < len(rows)
            and _is_number(rows[number].get("linear"))
        ):
            best = (float(rows[number]["linear"]), str(rows[number].get("stage", "")))
    few = _records(document, "labels")
    if few:
        charts += _label_chart(few)
        columns = list(dict.fromkeys(key for row in few for key in row))
        tables.append(
            Table(
                "Accuracy with few labels, %",
                columns,
                [[_cell(row.get(c)) for c in columns] for row in few],
            )
        )
    health = {
        name: part for name, part in _part(document, "health").items() if isinstance(part, dict)
    }
    if health:
        columns = list(dict.fromkeys(key for part in health.values() for key in part))
        rows_of = [
            [name, *(_cell(part.get(key)) for key in columns)] for name, part in health.items()
        ]
        tables.append(
            Table(
                "Health of the features",
                ["features", *(c.replace("_", " ") for c in columns)],
                rows_of,
            )
        )
    classes = _part(document, "details").get("per_class")
    if isinstance(classes, dict):
        tables.append(
            Table(
                "Accuracy of each class, %",
                ["class", "accuracy"],
                [[n, _cell(v)] for n, v in classes.items()],
            )
        )
    confusion = _confusion(document)
    if confusion is not None:
        charts.append(confusion)
    return tables, charts, best


def _records(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _cell(value: Any) -> str | int | float | None:
    return value if _is_number(value) else None if value is None else _shown(value)


def _probe_table(rows: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> Table:
    known = [name for name in MEASURES if any(name in row for row in rows)]
    columns = ["features", "stage", "numbers", *known]
    classes = document.get("classes")
    parts = [
        f"{document[key]:,} {words}"
        for key, words in (
            ("train_images", "training images"),
            ("test_images", "test images"),
        )
        if _is_number(document.get(key))
    ]
    if isinstance(classes, list) and classes:
        parts.append(f"{len(classes)} classes, chance {100 / len(classes):.3g} %")
    best = document.get("best")
    return Table(
        "Probes, accuracy in %",
        [_WORDS.get(name, name) for name in columns],
        [[_cell(row.get(name)) for name in columns] for row in rows],
        best=best if isinstance(best, int) else None,
        note=", ".join(parts),
    )


def _stage_chart(rows: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """Linear accuracy stage by stage, one curve for each kind of features that has stages."""
    series: dict[str, tuple[list[str], list[float]]] = {}
    flat = {}
    for row in rows:
        if not _is_number(row.get("linear")):
            continue
        name, stage = str(row.get("features")), str(row.get("stage"))
        if stage in {name, ""}:  # pixels and the majority class have no stages
            flat[f"{name} {row['linear']:.1f} %"] = float(row["linear"])
            continue
        x, y = series.setdefault(name, ([], []))
        x.append(stage)
        y.append(row["linear"])
    if not any(len(x) > 1 for x, _ in series.values()):
        return []
    return [Curves("linear probe of each stage, accuracy in %", "stage", series, flat)]


def _label_chart(rows: Sequence[Mapping[str, Any]]) -> list[Curves]:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in sorted(
        (row for row in rows if _is_number(row.get("share"))), key=lambda row: float(row["share"])
    ):
        if _is_number(row.get("accuracy")):
            name = " ".join(str(row[key]) for key in ("features", "how") if key in row)
            x, y = series.setdefault(name, ([], []))
            x.append(row["share"])
            y.append(row["accuracy"])
    if not any(len(x) > 1 for x, _ in series.values()):
        return []
    return [
        Curves(
            "accuracy in % over the share of labels used", "share of the labels", series, log_x=True
        )
    ]


def _confusion(document: Mapping[str, Any]) -> HeatMap | None:
    """The confusion matrix of the best row, each true class in percent."""
    found = _part(document, "details").get("confusion", document.get("confusion"))
    if not isinstance(found, list) or not found or not all(isinstance(row, list) for row in found):
        return None
    side = len(found)
    if any(len(row) != side or not all(_is_number(value) for value in row) for row in found):
        return None
    names = document.get("classes")
    words = (
        [str(name) for name in names]
        if isinstance(names, list) and len(names) == side
        else list(map(str, range(side)))
    )
    shares = [[round(100 * value / max(sum(row), 1), 2) for value in row] for row in found]
    return HeatMap("answers in % of each class", shares, words, words, "true class", "answer")
