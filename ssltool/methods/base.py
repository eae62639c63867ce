"""The contract of a pretext task: encoder input, view, loss, metrics and figures.

A method draws its task from a batch of images (`Method.view`) and scores the encoder on it
(`Method.forward`). The training loop, the probes and the figures rely on nothing else. Each
method is a folder: ``options.py`` (options and presets, without torch), ``task.py`` (paper, view,
head, loss), ``figures.py``, and its own math. A third party ships the same as a package with an
entry point in ``ssltool.methods``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import ColorSpace, Norm, Standardize, Stem
from ssltool.encoders.projection import Projection
from ssltool.encoders.registry import build_encoder, size_to_build_for, vit_patch
from ssltool.encoders.sizes import check_input, deepest_stage, misfit
from ssltool.errors import SslToolError, UsageError
from ssltool.methods.auditing import Plan
from ssltool.methods.options import DataInfo, MethodOptions
from ssltool.plotting.records import Plot
from ssltool.plotting.sheet import Sheet
from ssltool.plotting.units import Unit


class PatchGrid(NamedTuple):
    """Square patches on a regular grid; both in pixels."""

    side: int
    stride: int


@dataclass(frozen=True)
class EncoderInput:
    """What the encoder is given in pretraining and in feature extraction.

    Attributes:
        train_size: Side in pixels of its input in pretraining: the image, a tile or a patch.
        feature_size: Side in pixels to which whole images are resized for feature extraction.
        color_space: Of its input; ``lightness`` has one channel.
        patch_grid: Patches that are encoded one by one; None for whole images. Features are then
            extracted from patches as well as from whole images.
        random_crop: Whether `Method.view` cuts random crops in training, and so accepts images
            larger than S, and whole images that were stretched to squares.
        standardize: What the encoder's input is normalized by: the data, or each image, tile or
            patch by itself; whole images are normalized alike for feature extraction.
        norm: What replaces the backbone's batch norm; ``batch`` keeps it.
        last_stage: Stage after which the backbone ends; None for the deepest that fits
            ``min_map_size``.
        min_map_size: Smallest side of the last stage's map in pretraining.
        typed: What to type for another ``train_size``, for advice.
    """

    train_size: int
    feature_size: int
    color_space: ColorSpace = "rgb"
    patch_grid: PatchGrid | None = None
    random_crop: bool = False
    standardize: Standardize = "data"
    norm: Norm = "batch"
    last_stage: str | None = None
    min_map_size: int = 1
    typed: Callable[[int], str] = "--image-size {}".format

    @property
    def channels(self) -> int:
        """Input channels unless the user chooses: 1 for lightness, else 3."""
        return 1 if self.color_space == "lightness" else 3

    def build_encoder(self, backbone: str, *, stem: Stem, in_channels: int) -> Encoder:
        """Build the untrained encoder; weights come from torch's global generator.

        Raises:
            UsageError: The backbone cannot have this stem, cannot take ``train_size``, or leaves a
                map under ``min_map_size``.
        """
        size, least = self.train_size, self.min_map_size
        patch = vit_patch(backbone)
        if patch is not None and size % patch:
            advice = self.typed(patch * max(least, math.ceil(size / patch)))
            raise misfit(backbone, size, f"no multiple of its {patch} px patch", advice)
        encoder = build_encoder(
            backbone,
            stem=stem,
            in_channels=in_channels,
            image_size=size_to_build_for(backbone, train_size=size, feature_size=self.feature_size),
            norm=self.norm,
        )
        check_input(encoder, size, least=least, options=self.typed)
        if least == 1 and self.last_stage is None:
            return encoder
        deepest = deepest_stage(encoder, size, least)
        stage = self.last_stage or str(deepest)
        encoder.cut_after(stage)
        if deepest_stage(encoder, size, least) != stage:
            raise UsageError(
                f"--last-stage {stage}: its map of a {size} px input is less than "
                f"{least}x{least}; type --last-stage {deepest}"
            )
        return encoder


class Metric(NamedTuple):
    """Declaration of one scalar that a method reports.

    Attributes:
        name: Such as ``accuracy``.
        unit: Of the value: a ``fraction`` 0..1 is shown in percent; empty for a plain number.
        chance: Its value at chance level, for an uninformed network; None if there is none.
        eval_only: Reported in evaluation mode only.
    """

    name: str
    unit: Unit = "fraction"
    chance: float | None = None
    eval_only: bool = False


class Loss(NamedTuple):
    """Result of `Method.forward`.

    Attributes:
        value: Scalar to minimize.
        metrics: Name of each declared `Metric` but the loss -> scalar, detached.
        update: Tensors for `Method.after_step`, such as vectors to write into a memory bank.
        counted: Number of images that the value and the metrics are means over, scalar; None if it
            is all of them.
    """

    value: Tensor
    metrics: dict[str, Tensor]
    update: tuple[Tensor, ...] = ()
    counted: Tensor | None = None


class Memory(NamedTuple):
    """What a method remembers of each training image.

    Attributes:
        vectors: Unit vectors, float ``[n, D]``, in the order of the data; with several processes
            the shard of this one.
        temperature: Divides their products with an image's projection: the logits of "this is
            image i".
    """

    vectors: Tensor
    temperature: float


class Reference(NamedTuple):
    """Training images that a baseline without learning looks at.

    Attributes:
        images: uint8 ``[M, 3, S, S]``, on the method's device.
        indices: int64 ``[M]``, in the data.
    """

    images: Tensor
    indices: Tensor


class Nearest(NamedTuple):
    """Training images that predictions refer to.

    Attributes:
        indices: int64 ``[B, n]``, of the n images nearest to each, nearest first.
        similarity: float ``[B, n]``, cosine.
    """

    indices: Tensor
    similarity: Tensor


class Predictions(NamedTuple):
    """Predictions drawn beside the ground truth.

    Attributes:
        sheet: What is drawn, with a caption for each image and a note on those shown, such as
            ``"3 of 4 shown are solved"``.
        nearest: Training images to be drawn as further columns.
    """

    sheet: Sheet
    nearest: Nearest | None = None


class Figures(Protocol):
    """The drawing functions of a method: usually its module ``figures``.

    Each takes the method, uint8 images ``[B, 3, S, S]``, their index int64 ``[B]`` and a generator,
    as `Method.view` does.
    """

    @property
    def draw_task(self) -> Callable[[Any, Tensor, Tensor, torch.Generator], Sheet]:
        """Draws the task as the network is given it."""

    @property
    def draw_predictions(self) -> Callable[[Any, Tensor, Tensor, torch.Generator], Predictions]:
        """The predictions beside the ground truth."""

    @property
    def plots(self) -> Callable[[Any, Tensor, Tensor, torch.Generator], dict[str, Plot]]:
        """Plots of the task in training mode, of the predictions in evaluation mode, by name."""


class Audit(Protocol):
    """How a method is audited: usually its module ``audit``."""

    @property
    def plan(self) -> Callable[[Any, int], Plan]:
        """The plan of an audit, from the method in evaluation mode and a seed."""


OptionsT = TypeVar("OptionsT", bound=MethodOptions)
ViewT = TypeVar("ViewT", bound=tuple[Any, ...])


class Method(nn.Module, ABC, Generic[OptionsT, ViewT]):
    """A pretext task with its head; B images of side S.

    Attributes:
        Options: The method's options and presets, from its ``options.py``.
        figures: The functions that draw the task, the predictions and plots.
        audit: How ``ssltool audit`` measures the method's shortcuts; None if it does not.
        reference_count: Training images that its baselines look at in evaluation.
        reference: These images, once evaluation has read them; None before.
        encoder: The network that is kept.
    """

    Options: ClassVar[type[MethodOptions]]
    figures: Figures
    audit: Audit | None = None
    reference_count: ClassVar[int] = 0
    reference: Reference | None = None
    encoder: Encoder

    @classmethod
    def inputs(cls, options: OptionsT, data: DataInfo) -> EncoderInput:
        """What the encoder is given; whole RGB images unless overridden.

        Args:
            options: Filled in by `MethodOptions.with_defaults`.
            data: The data.
        """
        del options
        return EncoderInput(data.image_size, data.image_size)

    @abstractmethod
    def __init__(self, options: OptionsT, encoder: Encoder, data: DataInfo) -> None:
        """Build the head and the buffers.

        Args:
            options: Filled in by `MethodOptions.with_defaults`.
            encoder: Built by `EncoderInput.build_encoder`.
            data: The data.

        Raises:
            UsageError: ``options`` are not filled in.
        """
        super().__init__()
        if missing := options.open_fields():
            raise UsageError(
                f"{', '.join(missing)} of {type(options).__name__} not decided; "
                "call options.with_defaults(data) first"
            )
        self.encoder = encoder

    @abstractmethod
    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> ViewT:
        """Draw the task for a whole batch, on the batch's device; uses no parameters.

        In training mode the task is random, a function of the generator's state and ``index``
        alone. In evaluation mode geometry is central and shortcut guards are off; only the target
        stays random.

        Args:
            images: uint8 ``[B, 3, S, S]``, RGB; larger in training if the method cuts random
                crops.
            index: int64 ``[B]``, index of each image in the data.
            generator: Seeded by (seed, epoch).

        A method that cuts random crops (`EncoderInput.random_crop`) has a further argument
        ``aspects``: float ``[B]``, width / height of the whole images that were stretched to
        squares, in training; None for center squares.
        """

    @abstractmethod
    def forward(self, view: ViewT) -> Loss:
        """Run encoder and head on a view and compute the loss; sets no state but that of layers."""

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
        """Data statistics pass before the first step of a new run, such as a color prior.

        Results go into buffers, which checkpoints carry; a resumed run does not call this again.

        Args:
            batches: All images in an order shuffled by the seed, read lazily: uint8
                ``[B, 3, S, S]`` and their index int64 ``[B]``, on the method's device.

        Returns:
            A line to print; empty for none.

        Raises:
            DataError: The images do not suit the task.
        """
        del batches
        return ""

    def after_step(self, updates: Sequence[tuple[Tensor, ...]]) -> None:
        """Update buffers after an optimizer step, such as a memory bank.

        Not called after a step that the loss scaler of fp16 skipped.

        Args:
            updates: `Loss.update` of each batch of the step, in order: several with gradient
                accumulation.
        """
        del updates

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """Every scalar that `forward` reports, ``loss`` first, with unit and chance level."""

    @property
    def chance(self) -> dict[str, float]:
        """Chance level of each metric that has one, by name."""
        return {m.name: m.chance for m in self.metrics if m.chance is not None}

    @property
    def lr_scales(self) -> dict[str, float]:
        """Learning-rate factor of a submodule's parameters, by its name; 1 for all others."""
        return {}

    @property
    def sharded_buffers(self) -> frozenset[str]:
        """Names of the buffers of which each process holds a shard; all others are replicated."""
        return frozenset()

    @property
    def projection(self) -> Projection | None:
        """From pooled features to the unit vectors that the task compares; None if it has none.

        It is saved beside the encoder, and probed.
        """
        return None

    @property
    def memory(self) -> Memory | None:
        """A memory bank of projections; None if the method keeps none."""
        return None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the task was built from beyond its options, in JSON types; checked on resume."""
        return {}


def check_loss(method: Method[Any, Any], loss: object) -> None:
    """Check the result of ``method.forward`` against its declaration; reads no tensor's value.

    Raises:
        SslToolError: It is no `Loss`, its value is not a differentiable scalar, or its metrics are
            not those that ``method.metrics`` declares for this mode.
    """
    name = f"{type(method).__name__}.forward"
    if not isinstance(loss, Loss):
        raise SslToolError(f"{name} returned {_described(loss)}; expected a Loss(value, metrics)")
    value, metrics = loss.value, loss.metrics
    if not isinstance(value, Tensor) or value.dim() != 0 or not value.is_floating_point():
        raise SslToolError(
            f"{name}: the loss is {_described(value)}; expected a float scalar tensor"
        )
    if torch.is_grad_enabled() and not value.requires_grad:
        raise SslToolError(f"{name}: the loss has no gradient; compute it from self.encoder")
    if not isinstance(metrics, dict):
        raise SslToolError(f"{name}: metrics are {_described(metrics)}; expected a dict by name")
    declared = {m.name for m in method.metrics[1:] if not (m.eval_only and method.training)}
    if set(metrics) != declared:
        raise SslToolError(
            f"{name} reported the metrics {_listed(metrics)}; {type(method).__name__}.metrics "
            f"declares {_listed(declared)}"
        )
    for key, metric in metrics.items():
        if not isinstance(metric, Tensor) or metric.dim() != 0 or metric.requires_grad:
            raise SslToolError(
                f"{name}: metric {key} is {_described(metric)}; expected a detached scalar tensor"
            )


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    gradient = " with a gradient" if value.requires_grad else ""
    return f"a {str(value.dtype).removeprefix('torch.')} tensor {list(value.shape)}{gradient}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "(none)"
