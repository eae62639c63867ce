"""Pictures of a task, of what a network answers, of features, filters, permutation sets and training curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssltool.data.files import FileSource
from ssltool.data.find import open_source
from ssltool.errors import UsageError
from ssltool.methods.base import Lines, Loss, Matrix, Method, Points
from ssltool.methods.find import find_method
from ssltool.nn.weights import find_weights, load_encoder
from ssltool.ops import permutations
from ssltool.ops.random import mix
from ssltool.probing.features import POOLED, Reader, extract, recalibrate_batch_norm
from ssltool.training import report
from ssltool.training.device import best_device
from ssltool.viz import chart
from ssltool.viz.map import save_map
from ssltool.viz.sheet import save_sheet
from ssltool.viz.words import said as said  # the command prints numbers in the same words
from ssltool.workflows import runs
from ssltool.workflows.drawing import sample, spread, with_places
from ssltool.workflows.opening import describe
from ssltool.workflows.options import Choice, resolved
from ssltool.workflows.pictures import pictures_of, png

_SCORED = 512  # pictures that `solve` scores for the numbers in its title
_READ = 128  # pictures of a map whose features are read at a time


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


def compare_permutations(path: Path, *, count: int = 100, grid: int = 3, seed: int = 0) -> dict[str, Any]:
    """Draw the sets that all modes choose for one size: histograms of their distances above one another, statistics.

    Args:
        path: File to write, PNG, SVG or PDF by its suffix.
        count: Number of permutations K.
        grid: Cells along a side.
        seed: Relabels the canonical sets; 0 leaves them.

    Returns:
        The facts of each mode's set, the modes that have none of this size with the reason, and the path.
    """
    sets, refused = {}, {}
    for mode in permutations.MODES:
        try:
            sets[mode] = permutations.build(mode, count, grid, seed)
        except UsageError as error:
            refused[mode] = str(error)
    if not sets:
        raise UsageError(next(iter(refused.values())))
    bound = permutations.mean_bound(count, grid * grid)
    figure = chart.permutation_modes(
        {mode: [int(n) for n in found.histogram] for mode, found in sets.items()},
        {mode: (found.mean_distance, found.min_distance, found.pairs_at_min) for mode, found in sets.items()},
        f"{count} permutations of {grid * grid} tiles, chosen in {len(sets)} ways; the mean can be {bound:.4f} at most",
    )
    facts = {mode: found.facts() for mode, found in sets.items()}
    return {"modes": facts, "refused": refused, "path": str(chart.save_figure(figure, path))}


def draw_task(
    choice: Choice, path: Path, *, image: Sequence[Path] = (), count: int = 6, seed: int = 0
) -> dict[str, Any]:
    """Draw what a method shows its network, with an untrained one and the options given.

    Args:
        choice: Method and options, not yet resolved.
        path: PNG to write; charts beside it may be SVG or PDF by its suffix.
        image: Draw these files instead of the pictures of ``choice``.
        count: Rows drawn.
        seed: Of the task.
    """
    sheet = png(path)
    source = FileSource(image) if image else open_source(choice.run.data)
    info = describe(source, choice.run.image_size)
    choice = resolved(choice, find_method(choice.method), info)
    torch.manual_seed(mix(seed))
    method = runs.build_method(choice, info).train()
    looked, places = sample(source, info.image_size, _SCORED)
    method.prepare([(looked, places)])
    chosen = spread(looked, count)
    loaded = choice.run.load_size
    images, index = (sample(source, loaded, _SCORED)[0] if loaded else looked)[chosen], places[chosen]
    columns = method.pictures(images, index, torch.Generator().manual_seed(seed))
    save_sheet(columns, sheet, title=f"{choice.method}: the task, {info.image_size} px pictures")
    charts = _draw_charts(method, looked, places, path, seed)
    return {"path": str(sheet), "charts": charts, "method": choice.method, "pictures": len(images)}


def draw_answers(
    folder: Path,
    path: Path,
    *,
    name: str | None = None,
    data: Sequence[str] = (),
    image: Sequence[Path] = (),
    count: int = 6,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw what a run's network answers beside the truth, and score it on up to 512 pictures.

    Args:
        folder: A run folder.
        path: PNG to write; charts beside it may be SVG or PDF by its suffix.
        name: The method expected, to catch a mistaken folder.
        data: Pictures to ask about; the run's own if empty.
        image: Ask about these files instead.
        count: Rows drawn.
        seed: Seed of the puzzles.
    """
    sheet = png(path)
    run = runs.read_run(folder)
    if name is not None and name != run.choice.method:
        raise UsageError(f"{folder} is a run of {run.choice.method}, not of {name}")
    method = runs.load_method(run)
    source = FileSource(image) if image else open_source(tuple(data) or run.choice.run.data)
    images, index = sample(source, run.info.image_size, _SCORED)
    if source.fingerprint() != run.fingerprint:
        index = index + run.info.count  # pictures that the run has not seen are numbered after its own
    scores = score(method, images, index, seed)
    chosen = spread(images, count)
    answers = method.answers(images[chosen], index[chosen], torch.Generator().manual_seed(seed))
    if answers.places:
        answers = with_places(answers, open_source(run.choice.run.data), run.info.image_size)
    numbers = ", ".join(said(key, value, method.chance) for key, value in scores.items() if key != "loss")
    scored = "" if len(images) == len(source) else f"{len(images)} of "
    title = f"{run.choice.method} on {scored}{source.description}: {numbers}"
    save_sheet(answers.pictures, sheet, captions=answers.captions, title=title)
    return {
        "path": str(sheet),
        "charts": _draw_charts(method, images, index, path, seed),
        "method": run.choice.method,
        "pictures": len(images),
        **scores,
        "chance": method.chance,
    }


@torch.no_grad()
def _draw_charts(method: Method[Any, Any], images: Tensor, index: Tensor, path: Path, seed: int) -> list[str]:
    """Draw the method's charts beside the sheet ``path``, as ``NAME-chart-name`` with its suffix; their paths."""
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
        place = path.with_name(f"{path.stem}-{name.replace(' ', '-')}{path.suffix}")
        drawn.append(str(chart.save_figure(figure, place)))
    return drawn


@torch.no_grad()
def score(method: Method[Any, Any], images: Tensor, index: Tensor, seed: int, batch: int = 64) -> dict[str, float]:
    """A trained method's loss and numbers over pictures, in evaluation mode (no guards, central geometry)."""
    method.eval()
    generator = torch.Generator()
    totals: dict[str, float] = {}
    parts = -(-len(images) // batch)  # of one size, because a task may depend on how many pictures it sees
    for part, places in zip(torch.tensor_split(images, parts), torch.tensor_split(index, parts), strict=True):
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
    card = encoder.card
    assert card is not None, "load_encoder attaches it"
    size = f"{kernels.shape[-1]} x {kernels.shape[-2]} of {kernels.shape[1]} channel{'s' * (kernels.shape[1] != 1)}"
    title = f"{card.method}, {card.backbone}: {len(kernels)} first kernels, {size}; gray is 0"
    return {"path": str(chart.save_figure(chart.filters(kernels, title), path)), "kernels": len(kernels)}


def draw_features(
    weights: Path, path: Path, *, data: Sequence[str] = (), kind: str = "pca", count: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Draw a map of pictures by their pooled features; frames have the colours of the classes if there are any.

    Args:
        weights: Run folder or weights file.
        path: PNG to write.
        data: Pictures; those of the run if empty.
        kind: ``pca``, the plane of the largest variance, or ``tsne``, which keeps neighbours together.
        count: Most pictures, evenly spread over the data.
        seed: Of t-SNE.

    Returns:
        The path and the numbers of pictures; for ``pca`` the share of the variance that the map shows.

    Raises:
        UsageError: t-SNE's package is not installed, or there are too few pictures.
    """
    source, _ = pictures_of(weights, data)
    encoder = load_encoder(find_weights(weights)).to(best_device())
    card = encoder.card
    assert card is not None, "load_encoder attaches it"
    images, places = sample(source, int(card.training.get("picture_size", card.image_size)), count)
    if len(images) < 4:
        raise UsageError(
            f"a map needs 4 pictures or more, but {source.description} has {len(images)}; name more --data"
        )
    reader = Reader.of(card)
    parts = torch.split(images.to(best_device()), _READ)
    recalibrate_batch_norm(encoder, parts, reader)
    # Cosine similarity is what neighbours are measured by, so lengths are left out of the map, too.
    features = nn.functional.normalize(extract(encoder, parts, reader)[POOLED]).double().cpu()
    points, share = principal_plane(features) if kind == "pca" else (_tsne(features, seed), None)
    labels = [label for place in places.tolist() if (label := source.label(place)) is not None]
    if len(labels) < len(images) or len(source.classes) < 2:
        labels = []
    kind_said = "t-SNE" if share is None else f"principal components, {share:.0%} of the variance"
    title = f"{card.method}, pooled features of {len(images):,} of {source.description}: {kind_said}"
    path = png(path)
    save_map(points.numpy(), images, path, labels=labels, classes=source.classes if labels else (), title=title)
    found = {} if share is None else {"variance": share}
    return {
        "path": str(png(path)),
        "method": card.method,
        "pictures": len(images),
        "classes": len(source.classes),
        **found,
    }


def principal_plane(features: Tensor) -> tuple[Tensor, float]:
    """Coordinates ``[N, 2]`` of features ``[N, D]`` on their two principal components, and their share of the variance.

    Signs are chosen so that the largest weight of each component is positive: the same features give the same map.
    """
    centred = features - features.mean(dim=0)
    _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(dim=1, keepdim=True)).sign()
    return centred @ axes.T, float(spread[:2].square().sum() / spread.square().sum().clamp_min(1e-12))


def _tsne(features: Tensor, seed: int) -> Tensor:
    """Coordinates ``[N, 2]`` by t-SNE."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UsageError(
            "--map tsne needs scikit-learn, which is not installed; type pip install 'ssltool[maps]', or --map pca"
        ) from error
    perplexity = min(30.0, (len(features) - 1) / 3)
    found = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(features.numpy())
    return torch.from_numpy(found).double()


def draw_curves(folders: Sequence[Path], path: Path) -> dict[str, Any]:
    """Draw the metrics of one or more runs over their steps, with chance levels.

    Args:
        folders: Run folders.
        path: File to write, PNG, SVG or PDF by its suffix.

    Returns:
        The path and the steps taken by the longest run.

    Raises:
        UsageError: A run has no metrics yet.
    """
    curves, chance, methods = {}, {}, []
    for folder, name in zip(folders, runs.names(folders), strict=True):
        run = runs.read_run(folder)
        lines = report.read(folder)
        if not lines:
            raise UsageError(f"{folder} has no metrics yet; they come with the first {run.choice.run.log_every} steps")
        curves[name], chance[name] = lines, runs.chance(folder)
        methods.append(run.choice.method)
    title = f"{methods[0]}, {folders[0].resolve().name}" if len(folders) == 1 else ", ".join(dict.fromkeys(methods))
    figure = chart.curves(curves, chance, title)
    return {
        "path": str(chart.save_figure(figure, path)),
        "steps": max(int(lines[-1]["step"]) for lines in curves.values()),
    }
