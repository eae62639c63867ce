"""The contract of an audit: conditions that score a method image by image, and comparisons.

A method's ``audit.py`` has one function, ``plan(method, seed) -> Plan``. A condition is the run's
own evaluation, the same with a cue removed or with a guard switched off, a trivial answer, or a
probe of low-level statistics. A comparison names two of them; as both score the same images with
the same targets, their difference is paired.

Letters: B images of side S, N patches each, t their side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ssltool.ops import interventions
from ssltool.ops.color import to_gray
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.ridge import ridge
from ssltool.plotting.units import Unit

BASE, CHANCE = "as evaluated", "chance level"
_BATCH = 64

Condition = Callable[[Tensor, Tensor], Tensor]
"""Images uint8 ``[n, 3, S, S]`` and their index int64 ``[n]`` -> float ``[n]``, a score of each
image; NaN for images that a probe was fitted on.
"""

PatchChange = Callable[[Tensor, PerImageRNG], Tensor]
"""Patches float ``[B, N, 3, t, t]`` in 0..255 and the images' random numbers -> the same shape."""

ImageChange = Callable[[Tensor], Tensor]
"""Images uint8 ``[B, 3, S, S]`` -> the same."""

Kind = Literal["cue", "guard", "content", "probe", "answer"]


class Comparison(NamedTuple):
    """Two conditions whose difference is due to one cue.

    Attributes:
        cue: Name of the cue.
        kind: ``cue``: the cue is there or removed, all else alike; ``guard``: a guard is off or on;
            ``content``: what is removed is content as well, so that relying on it is no shortcut;
            ``probe``: the answer read from the cue alone; ``answer``: a trivial answer.
        present: Condition in which the cue is there; the probe or the trivial answer.
        absent: Condition in which it is not; chance level.
        measure: What the two conditions measure, from 0 to 1, if not the metric of the plan.
        chromatic: Whether the cue is one of color, which gray images have not.
    """

    cue: str
    kind: Kind
    present: str
    absent: str
    measure: str = ""
    chromatic: bool = False


class Plan(NamedTuple):
    """What an audit of a method measures.

    Attributes:
        metric: Name of the score.
        unit: Of the score.
        conditions: By name; `BASE` and `CHANCE` are among them.
        comparisons: Rows of the audit.
        error: Whether the score is an error, which is smaller where the network is better.
    """

    metric: str
    unit: Unit
    conditions: Mapping[str, Condition]
    comparisons: Sequence[Comparison]
    error: bool = False


def batches(images: Tensor) -> int:
    """Number of batches to score images in, of equal size: a task may compare those of a batch."""
    return -(-len(images) // _BATCH)


def batched(function: Condition) -> Condition:
    """A function of images and their index that is computed batch by batch, without gradients; the
    results ``[B, ...]`` are joined, float64 on the CPU.
    """

    @torch.no_grad()
    def joined(images: Tensor, index: Tensor) -> Tensor:
        parts = batches(images)
        pairs = zip(images.tensor_split(parts), index.tensor_split(parts), strict=True)
        return torch.cat([function(*pair).double().cpu() for pair in pairs])

    return joined


def constant(value: float) -> Condition:
    """The same score for every image."""
    return lambda images, index: torch.full((len(images),), value, dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    """A generator from which every condition draws the same targets."""
    return torch.Generator().manual_seed(seed)


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes for the time of a block."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def training_view(method: Any, **options: Any) -> Iterator[None]:
    """Draw views as in training, with some options of the method replaced; layers stay in
    evaluation mode.
    """
    changed = method.options.model_copy(update=options)
    with replaced(method, training=True, options=changed):
        yield


def probe(features: Tensor, target: Tensor, classes: int) -> Tensor:
    """Accuracy of a linear probe on every second image, fitted on the others.

    Args:
        features: float ``[n, M, D]``, M rows of each image.
        target: int64 ``[n, M]``.
        classes: Number of classes.

    Returns:
        float64 ``[n]``, NaN for the images it is fitted on.
    """
    one_hot = torch.nn.functional.one_hot(target, classes)
    predicted = _held_out(features, one_hot).argmax(dim=-1)
    correct = (predicted == target[1::2].cpu()).double().mean(dim=1)
    return _of_every_second(correct, len(target))


def regression(features: Tensor, target: Tensor) -> Tensor:
    """Explained variance of a linear regression on every second image, fitted on the others.

    An image's score is 1 - |y - y'|^2 / V, with V the mean square deviation of all held-out
    targets, so that the mean of the scores is R^2.

    Args:
        features: float ``[n, M, D]``, M rows of each image.
        target: float ``[n, M, T]``.

    Returns:
        float64 ``[n]``, NaN for the images it is fitted on.
    """
    truth = target[1::2].cpu().double()
    error = (_held_out(features, target) - truth).square().sum(dim=-1)
    variance = (truth - truth.mean(dim=(0, 1))).square().sum(dim=-1).mean()
    return _of_every_second(1 - error.mean(dim=1) / variance, len(target))


def _held_out(features: Tensor, target: Tensor) -> Tensor:
    """Ridge predictions ``[n // 2, M, T]`` of every second image."""
    x, y = features.cpu(), target.cpu()
    flat = ridge(x[::2].flatten(0, 1), y[::2].flatten(0, 1), x[1::2].flatten(0, 1))
    return flat.view(*x[1::2].shape[:2], -1)


def _of_every_second(scores: Tensor, count: int) -> Tensor:
    """Scores of the images 1, 3, 5, ... among NaN for the others, ``[count]``."""
    spread = torch.full((count,), torch.nan, dtype=torch.float64)
    spread[1::2] = scores
    return spread


def _shifted(apart: bool) -> PatchChange:
    def change(patches: Tensor, rng: PerImageRNG) -> Tensor:
        reach = max(1, round(patches.shape[-1] / 64))
        shift = rng.integers(2 * reach + 1, patches.shape[1], 3, 2) - reach
        return interventions.shift_channels(
            patches, shift if apart else shift[:, :, :1].expand_as(shift)
        )

    return change


def _per_patch(function: Callable[..., Tensor], numbers: int, apart: bool) -> PatchChange:
    """Change patches by random numbers of their own, or all patches of an image by the same."""

    def change(patches: Tensor, rng: PerImageRNG) -> Tensor:
        values = rng.uniform(patches.shape[1], numbers)
        values = values if apart else values[:, :1].expand_as(values)
        return function(patches, *values.unbind(dim=-1))

    return change


PATCH_CHANGES: dict[str, PatchChange] = {
    "channels shifted together": _shifted(apart=False),
    "channels shifted apart": _shifted(apart=True),
    "color fringes removed": lambda patches, rng: interventions.blur_chroma(
        patches.flatten(0, 1)
    ).view_as(patches),
    "each patch relit": _per_patch(interventions.relight, 2, apart=True),
    "patches of an image blurred alike": _per_patch(interventions.soften, 1, apart=False),
    "each patch blurred": _per_patch(interventions.soften, 1, apart=True),
}
"""Interventions on patches; a control is followed by the intervention that removes the cue."""

BORDER_IN_PLACE, BORDER_ELSEWHERE = "borders of another image", "borders of other places"
EDGES = Comparison("edges and border pixels", "cue", BORDER_IN_PLACE, BORDER_ELSEWHERE)
"""Borders that continue, of another image, or that do not, of another place of it."""

PATCH_COMPARISONS = (
    Comparison("chromatic offset", "cue", BASE, "color fringes removed", chromatic=True),
    # Relit alike, patches would have lost their brightness as well: there is no control.
    Comparison("brightness and contrast", "cue", BASE, "each patch relit"),
    Comparison("sharpness", "cue", "patches of an image blurred alike", "each patch blurred"),
    # Channels that are out of register lose detail as well, most of it in small patches.
    Comparison(
        "channels in register",
        "content",
        "channels shifted together",
        "channels shifted apart",
        chromatic=True,
    ),
)

IMAGE_CHANGES: dict[str, ImageChange] = {
    "gray": lambda images: to_gray(images, images.new_ones(len(images), dtype=torch.bool)),
    "blurred": lambda images: interventions.blur(images).round().to(torch.uint8),
    "JPEG-recompressed": interventions.jpeg,
}
IMAGE_COMPARISONS = (
    Comparison("pixel noise", "cue", BASE, "JPEG-recompressed"),
    Comparison("color", "content", BASE, "gray", chromatic=True),
    Comparison("fine detail", "content", BASE, "blurred"),
)
