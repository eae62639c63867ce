"""Report on a run's memory bank: near-duplicate pairs and hardest instances.

Wu et al. 2018, section 3. Two images whose memory vectors are nearly equal are one image twice, or
close to it: two classes that nothing tells apart. An image with a low P(i|f), the softmax of
equation 2 at its own memory vector, is not recognized by its own projection f.

Letters: n images, D dimensions of a memory vector.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.device import choose_device
from ssltool.encoders.projection import load_projection
from ssltool.errors import UsageError
from ssltool.methods.base import Memory
from ssltool.options import DeviceName
from ssltool.plotting.figures import require_format
from ssltool.plotting.sheet import Column, Sheet
from ssltool.plotting.sheet_layout import save_sheet
from ssltool.probing.features import FeatureExtractor
from ssltool.runs.folder import Run
from ssltool.runs.probe_record import PROJECTION
from ssltool.visualizing.loading import load_pretrained
from ssltool.visualizing.results import FigureResult
from ssltool.visualizing.sampling import images_at

_AT_ONCE = 2**23  # similarities held at a time
_BATCH = 128


class Pair(BaseModel):
    """Two images with similar memory vectors.

    Attributes:
        first: Name of one.
        second: Name of the other.
        similarity: Cosine of their memory vectors.
    """

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    similarity: float


class Instance(BaseModel):
    """An image that is hard to recognize by its memory vector.

    Attributes:
        name: Of the image.
        log_probability: ln P(i|f), over all images of the run.
        rank: Of its own memory vector among all, by similarity to its projection; 1 = nearest.
        nearest: Name of the image whose memory vector is nearest, among the others.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    log_probability: float
    rank: int
    nearest: str


class BankFigure(FigureResult):
    """What `draw_bank` drew and measured.

    Attributes:
        images: n.
        duplicates: Most similar pairs, the most similar first, see `near_duplicates`.
        median_similarity: Median, over images, of the similarity to the nearest other vector.
        hardest: Images of the lowest P(i|f), the lowest first.
        recognized: Fraction of the images whose own memory vector is the nearest.
        chance: The same for projections independent of the bank, 1 / n.
    """

    images: int
    duplicates: tuple[Pair, ...]
    median_similarity: float
    hardest: tuple[Instance, ...]
    recognized: float
    chance: float

    def summary(self) -> list[str]:
        """The pairs, the instances and how many images are recognized."""
        return [
            f"most similar pairs of {self.images:,} images (the median image has its nearest "
            f"other at {self.median_similarity:.3f}):",
            *(f"  {p.similarity:.4f}  {p.first}  {p.second}" for p in self.duplicates),
            f"hardest instances (ln P by chance {-math.log(self.images):.1f}):",
            *(
                f"  ln P {i.log_probability:.1f}, rank {i.rank:,}  {i.name}; nearest {i.nearest}"
                for i in self.hardest
            ),
            f"recognized by their own memory vector: {self.recognized:.1%} (chance level "
            f"{self.chance:.2%})",
        ]


def draw_bank(
    weights: Path, path: Path, *, count: int = 6, device: DeviceName = "auto"
) -> BankFigure:
    """Draw near-duplicate pairs and the hardest instances of a run's memory bank.

    Two sheets: the pairs at ``path``, the hardest instances beside them, each with the image whose
    memory vector is nearest.

    Args:
        weights: Run folder, or the weights file in it.
        path: PNG to write.
        count: Pairs and instances.
        device: Where to compute, see `ssltool.device.choose_device`.

    Raises:
        UsageError: The run's method has no memory bank, or its images are gone or have changed.
        CheckpointError: The run has no checkpoint yet, or it is damaged.
    """
    require_format(path)
    where = choose_device(device)
    run = Run.open_newest(weights)
    memory = run.load_method().memory
    if memory is None:
        raise UsageError(
            f"--from bank: {run.config.method} keeps no memory bank; name a run of npid, or drop "
            "the option"
        )
    source = _own_images(run)
    memory = Memory(memory.vectors.float().to(where), memory.temperature)
    pairs, similarity, nearest_similarity = near_duplicates(memory.vectors, count)
    index, log_p, rank, nearest = _recognition(run, source, memory, where)
    hardest = log_p.argsort()[:count]
    names = [source.name(i) for i in range(len(source))]
    result = BankFigure(
        path=path,
        plots=(path.with_name(f"{path.stem}-hardest{path.suffix}"),),
        images=len(source),
        duplicates=tuple(
            Pair(first=names[a], second=names[b], similarity=round(s, 5))
            for (a, b), s in zip(pairs.tolist(), similarity.tolist(), strict=True)
        ),
        median_similarity=float(nearest_similarity.median()),
        hardest=tuple(
            Instance(
                name=names[int(index[i])],
                log_probability=round(float(log_p[i]), 4),
                rank=int(rank[i]),
                nearest=names[int(nearest[i])],
            )
            for i in hardest.tolist()
        ),
        recognized=float((rank == 1).double().mean()),
        chance=1 / len(source),
    )
    short = [source.relative_path(i) for i in range(len(source))]
    size, title = run.config.data.image_size, f"memory bank of {source.description}"
    captions = [
        f"similarity {p.similarity:.4f}: {short[a]}, {short[b]}"
        for p, (a, b) in zip(result.duplicates, pairs.tolist(), strict=True)
    ]
    columns = {"image": pairs[:, 0], "its nearest other": pairs[:, 1]}
    _save(source, size, columns, captions, path, f"{title}: pairs of highest similarity")
    columns = {"hardest instance": index[hardest], "nearest memory vector": nearest[hardest]}
    captions = [
        f"ln P {i.log_probability:.1f}, rank {i.rank:,}: {short[k]}"
        for i, k in zip(result.hardest, index[hardest].tolist(), strict=True)
    ]
    _save(source, size, columns, captions, result.plots[0], f"{title}: lowest P(i|f)")
    return result


def near_duplicates(vectors: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors with their nearest other one, the most similar pairs first.

    A pair is left out where both of it are in pairs listed before: of c images that are all alike
    there are c - 1 pairs at most, not c (c - 1) / 2, which would hide all others.

    Args:
        vectors: Unit vectors float ``[n, D]``, n >= 2.
        count: Pairs, if there are so many.

    Returns:
        Pairs int64 ``[m, 2]``, i < j; their similarities ``[m]``; and the similarity of each vector
        to the nearest other one, ``[n]``. All on the CPU.
    """
    similarity, nearest = _nearest_others(vectors)
    listed: set[int] = set()
    kept: list[int] = []
    for i in similarity.argsort(descending=True, stable=True).tolist():
        pair = {i, int(nearest[i])}
        if len(kept) < count and not pair <= listed:
            listed |= pair
            kept.append(i)
    first = torch.tensor(kept)
    pairs = torch.stack([first, nearest[first]], dim=1).sort(dim=1).values
    return pairs, similarity[first], similarity


def _nearest_others(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity ``[n]`` to the nearest other vector and its index int64 ``[n]``, without holding
    all n * n similarities; on the CPU.
    """
    values, indices = [], []
    for part in torch.split(
        torch.arange(len(vectors), device=vectors.device), max(1, _AT_ONCE // len(vectors))
    ):
        similarity = (vectors[part] @ vectors.T).scatter_(1, part[:, None], -math.inf)
        largest = similarity.max(dim=1)
        values.append(largest.values.cpu())
        indices.append(largest.indices.cpu())
    return torch.cat(values), torch.cat(indices)


def recognition(projected: Tensor, index: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
    """How well images are recognized by their memory vectors.

    Args:
        projected: Unit vectors float ``[B, D]`` of images.
        index: int64 ``[B]``, their rows in the bank.
        memory: The bank.

    Returns:
        ln P(i|f) of equation 2, ``[B]``; the rank of the own vector, int64 ``[B]``; and the row of
        the nearest other vector, int64 ``[B]``. All on the CPU.
    """
    scores = projected @ memory.vectors.T
    own = scores.gather(1, index[:, None])
    logits = scores / memory.temperature
    log_p = (own / memory.temperature - logits.logsumexp(dim=1, keepdim=True))[:, 0]
    rank = (scores > own).sum(dim=1) + 1
    nearest = scores.scatter(1, index[:, None], -math.inf).argmax(dim=1)
    return log_p.cpu(), rank.cpu(), nearest.cpu()


def _recognition(
    run: Run, source: Source, memory: Memory, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`recognition` of every readable image, with its index first."""
    encoder, metadata, transform, size = load_pretrained(run.weights, device)
    projection = load_projection(run.weights, metadata)
    if projection is None:
        raise UsageError(f"{run.folder} has no projection beside its encoder; train it on")
    extractor = FeatureExtractor(encoder, transform, projection=projection.to(device))
    parts = []
    with AllImages(source, size=size, batch_size=_BATCH, device=device) as batches:
        for batch in batches:
            projected, index = extractor(batch.images)[PROJECTION], batch.indices.to(device)
            parts.append((index.cpu(), *recognition(projected, index, memory)))
    return tuple(map(torch.cat, zip(*parts, strict=True)))  # type: ignore[return-value]


def _own_images(run: Run) -> Source:
    """The images that the rows of the bank belong to.

    Raises:
        UsageError: They have changed.
    """
    source = run.open_images("restore them")
    if not run.trained_on(source):
        raise UsageError(
            f"--from bank: the images of {run.folder} have changed since, and row i of the bank "
            "is image i; restore them, or start a new run"
        )
    return source


def _save(
    source: Source,
    size: int,
    columns: dict[str, Tensor],
    captions: list[str],
    path: Path,
    title: str,
) -> None:
    images = {name: Column(stack) for name, stack in images_at(source, columns, size).items()}
    save_sheet(Sheet(images, title, captions), path)
