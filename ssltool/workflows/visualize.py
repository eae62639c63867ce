"""Pictures of a task, of what a network answers, of filters, permutation sets and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssltool.data.find import open_source
from ssltool.errors import UsageError
from ssltool.methods.base import Lines, Loss, Matrix, Method, Points
from ssltool.methods.find import find_method
from ssltool.nn.weights import find_weights, load_encoder
from ssltool.ops import permutations
from ssltool.ops.random import mix
from ssltool.training import report
from ssltool.viz import chart
from ssltool.viz.sheet import save_sheet
from ssltool.workflows import runs
from ssltool.workflows.options import Choice, resolved
from ssltool.workflows.pretrain import describe, sample

_SCORED = 512  # pictures that `solve` scores for the numbers in its title


def draw_permutations(
    path: Path, *, mode: str = "max_min", count: int = 100, grid: int = 3, seed: int = 0, file: Path | None = None
) -> dict[str, Any]:
    """Draw a permutation set: its grids, its Hamming-distance matrix and histogram, statistics in the title.

    Args:
        path: File to write, PNG, SVG or PDF by its suffix.
        mode: How the set is chosen, see `ssltool.ops.permutations.build`.
        count: Number of permutations K.
        grid: Cells along a side.
        seed: Relabels the canonical set; 0 leaves it.
        file: Draw the set of this .npy or .bin file instead.

    Returns:
        The set's facts and the path.
    """
    chosen = permutations.load(file) if file else permutations.build(mode, count, grid, seed)
    facts = chosen.facts()
    name = file.name if file else mode
    title = (
        f"{chosen.count} permutations of {chosen.tiles} tiles ({name}): Hamming distance "
        f"mean {chosen.mean_distance:.4f} (at most {permutations.mean_bound(chosen.count, chosen.tiles):.4f}), "
        f"least {chosen.min_distance} ({chosen.pairs_at_min:,} pair{'s' * (chosen.pairs_at_min != 1)})"
    )
    figure = chart.permutation_set(chosen.permutations, chosen.distances, [int(n) for n in chosen.histogram], title)
    return {**facts, "path": str(chart.save_figure(figure, path))}


def draw_task(choice: Choice, path: Path, *, count: int = 6, seed: int = 0) -> dict[str, Any]:
    """Draw what a method shows its network, with an untrained one and the options given."""
    source = open_source(choice.run.data)
    info = describe(source, choice.run.image_size)
    choice = resolved(choice, find_method(choice.method), info)
    torch.manual_seed(mix(seed))
    method = runs.build_method(choice, info).train()
    looked, places = sample(source, info.image_size, _SCORED)
    method.prepare([(looked, places)])
    images, index = _spread(looked, count), _spread(places, count)
    columns = method.pictures(images, index, torch.Generator().manual_seed(seed))
    save_sheet(columns, path, title=f"{choice.method}: the task, {info.image_size} px pictures")
    charts = _draw_charts(method, looked, places, path, seed)
    return {"path": str(path), "charts": charts, "method": choice.method, "pictures": len(images)}


def draw_answers(
    folder: Path, path: Path, *, name: str | None = None, data: Sequence[str] = (), count: int = 6, seed: int = 0
) -> dict[str, Any]:
    """Draw what a run's network answers beside the truth, and score it on up to 512 pictures.

    Args:
        folder: A run folder.
        path: PNG to write.
        name: The method expected, to catch a mistaken folder.
        data: Pictures to ask about; the run's own if empty.
        count: Rows drawn.
        seed: Seed of the puzzles.
    """
    run = runs.read_run(folder)
    if name is not None and name != run.choice.method:
        raise UsageError(f"{folder} is a run of {run.choice.method}, not of {name}")
    method = runs.load_method(run)
    source = open_source(tuple(data) or run.choice.run.data)
    images, index = sample(source, run.info.image_size, _SCORED)
    scores = score(method, images, index, seed)
    answers = method.answers(_spread(images, count), _spread(index, count), torch.Generator().manual_seed(seed))
    numbers = ", ".join(said(key, value, method.chance) for key, value in scores.items() if key != "loss")
    scored = "" if len(images) == len(source) else f"{len(images)} of "
    title = f"{run.choice.method} on {scored}{source.description}: {numbers}"
    save_sheet(answers.pictures, path, captions=answers.captions, title=title)
    return {
        "path": str(path),
        "charts": _draw_charts(method, images, index, path, seed),
        "method": run.choice.method,
        "pictures": len(images),
        **scores,
        "chance": method.chance,
    }


def said(name: str, value: float, chance: Mapping[str, float]) -> str:
    """A number of `Method.forward` in words, with its unit and what knowing nothing gives."""

    def written(number: float) -> str:
        if name == "loss":
            return f"{number:.4g}"
        return f"{number:.1f} dB" if name.endswith("_db") else f"{number:.1%}"

    known = f" (chance {written(chance[name])})" if name in chance else ""
    return f"{name.removesuffix('_db').replace('_', ' ')} {written(value)}{known}"


def _spread(stack: Tensor, count: int) -> Tensor:
    """At most ``count`` evenly spread members of a stack."""
    return stack[torch.linspace(0, len(stack) - 1, min(count, len(stack))).long()]


@torch.no_grad()
def _draw_charts(method: Method[Any, Any], images: Tensor, index: Tensor, path: Path, seed: int) -> list[str]:
    """Draw the method's charts beside the sheet ``path``, as ``NAME-chart-name.png``; their paths."""
    drawn = []
    for name, numbers in method.charts(images, index, torch.Generator().manual_seed(seed)).items():
        title = f"{name}, {len(images)} pictures"
        match numbers:
            case Matrix():
                figure = chart.matrix(numbers.values.numpy(), *numbers[1:], title=title)
            case Lines():
                figure = chart.lines(*numbers, title=title)
            case Points(x, y, colors, sizes, x_label, y_label):
                plane = [part.numpy() for part in (x, y, colors, sizes)]
                figure = chart.points(plane[0], plane[1], plane[2], plane[3], x_label, y_label, title=title)
        place = path.with_name(f"{path.stem}-{name.replace(' ', '-')}.png")
        drawn.append(str(chart.save_figure(figure, place)))
    return drawn


@torch.no_grad()
def score(method: Method[Any, Any], images: Tensor, index: Tensor, seed: int, batch: int = 64) -> dict[str, float]:
    """A trained method's loss and numbers over pictures, in evaluation mode (no guards, central geometry)."""
    method.eval()
    generator = torch.Generator()
    totals: dict[str, float] = {}
    for part, places in zip(torch.split(images, batch), torch.split(index, batch), strict=True):
        loss: Loss = method(method.view(part, places, generator.manual_seed(seed)))
        for key, value in {"loss": loss.value, **loss.numbers}.items():
            totals[key] = totals.get(key, 0.0) + float(value) * len(part) / len(images)
    return totals


def draw_filters(weights: Path, path: Path) -> dict[str, Any]:
    """Draw the kernels of an encoder's first convolution."""
    encoder = load_encoder(find_weights(weights))
    first = next((module for module in encoder.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise UsageError(f"{encoder.name} has no convolution to draw")
    kernels = first.weight.detach().double().numpy()
    title = f"first layer of {weights}: {len(kernels)} kernels of {kernels.shape[-1]}x{kernels.shape[-2]}"
    return {"path": str(chart.save_figure(chart.filters(kernels, title), path)), "kernels": len(kernels)}


def draw_curves(folder: Path, path: Path) -> dict[str, Any]:
    """Draw a run's metrics over its steps, with chance levels."""
    run = runs.read_run(folder)
    lines = report.read(folder)
    if not lines:
        raise UsageError(f"{folder} has no metrics yet; they come with the first {run.choice.run.log_every} steps")
    chance = runs.build_method(run.choice, run.info).chance
    figure = chart.curves(lines, chance, f"{run.choice.method}, {folder}")
    return {"path": str(chart.save_figure(figure, path)), "steps": int(lines[-1]["step"])}
