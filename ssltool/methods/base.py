"""What a pretext task is, to the rest of ssltool.

A method is a module that draws its task from a batch of images (`view`) and scores the encoder on
it (`forward`). The training loop, the probes and the images know nothing else about it. One file
per method, in this order: docstring (paper, idea, letters used for shapes), Options, pure
functions, head, View, the Method class.

A new method is one file here, or a class in any installed package with an entry point in
``ssltool.methods``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import ColorSpace, Stem
from ssltool.encoders.registry import build_encoder


@dataclass(frozen=True)
class DataInfo:
    """What a method may know about the images before it sees one.

    Attributes:
        count: Number of images; the ``index`` of an image is in 0..count-1.
        image_size: Side S in pixels of the squares that `Method.view` receives.
        gray: True when the images have no color (R = G = B throughout the sample looked at).
        mean: Mean of each channel over a sample, 0..1.
        std: Standard deviation of each channel over a sample, 0..1.
        batch_size: Images per batch, of all processes together, that the run settled on; 0 = not
            settled yet. For what is known before a batch is seen, such as a chance level; the task
            itself must not depend on it.
    """

    count: int
    image_size: int
    gray: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    batch_size: int = 0

    def for_batches_of(self, batch_size: int) -> DataInfo:
        """A copy with the batch size that the run settled on."""
        return replace(self, batch_size=batch_size)


class MethodOptions(BaseModel):
    """Base of every method's ``Options``: frozen, unknown keys refused, each field described.

    A field left at None is filled in by `resolved` from the data, so that what a run used is always
    written out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def resolved(self, info: DataInfo) -> Self:
        """Return a copy with every automatic (None) field decided for these images.

        Raises:
            UsageError: The options do not fit the images, for example tiles that would be too
                small.
        """
        return self


class Loss(NamedTuple):
    """What `Method.forward` returns.

    Attributes:
        value: Scalar to minimize.
        numbers: Named scalars to show, such as ``accuracy`` in 0..1; detached.
    """

    value: Tensor
    numbers: dict[str, Tensor]


class Predictions(NamedTuple):
    """What the network answers, drawn beside the truth.

    Attributes:
        images: Column title -> uint8 ``[B, 3, h, w]``.
        captions: One line per image, such as ``"7 of 9 tiles right"``.
        places: Column title -> int64 ``[B]``, images of the run's data, to be read and drawn beside
            the others.
    """

    images: dict[str, Tensor]
    captions: list[str]
    places: Mapping[str, Tensor] = {}


class Matrix(NamedTuple):
    """A table of numbers to be drawn as a heat map, such as a confusion matrix.

    Attributes:
        values: float ``[R, C]``.
        rows: Names of the rows.
        columns: Names of the columns.
        row_label: What the rows are.
        column_label: What the columns are.
    """

    values: Tensor
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str


class Lines(NamedTuple):
    """Curves over one axis.

    Attributes:
        x: Numbers ``[n]``, rising.
        y: Curve's name -> numbers ``[n]``.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
    """

    x: Sequence[float]
    y: Mapping[str, Sequence[float]]
    x_label: str
    y_label: str


class Points(NamedTuple):
    """Colored points in a plane with equal axes.

    Attributes:
        x: float ``[n]``.
        y: float ``[n]``.
        colors: uint8 ``[n, 3]``.
        sizes: float ``[n]`` in 0..1, area of each point.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
    """

    x: Tensor
    y: Tensor
    colors: Tensor
    sizes: Tensor
    x_label: str
    y_label: str


Chart = Matrix | Lines | Points
OptionsT = TypeVar("OptionsT", bound=MethodOptions)
ViewT = TypeVar("ViewT", bound=tuple[Any, ...])


class Method(nn.Module, ABC, Generic[OptionsT, ViewT]):
    """A pretext task with its head; B images of side S.

    Attributes:
        Options: The method's options, the only place they are declared.
        presets: Preset name -> option name -> value, over the run's and the method's options alike.
        color_space: What the encoder sees, ``rgb`` unless the method says otherwise; recorded in
            the weights.
        crops: Whether `view` cuts random crops in training and resizes them to S: then it takes
            larger squares there.
        encoder: The network that is kept.
    """

    Options: ClassVar[type[MethodOptions]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    color_space: ClassVar[ColorSpace] = "rgb"
    crops: ClassVar[bool] = False
    encoder: Encoder

    @abstractmethod
    def __init__(self, options: OptionsT, encoder: Encoder, info: DataInfo) -> None:
        """Build the head and the buffers; ``options`` are already resolved for ``info``."""
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> ViewT:
        """Draw the task for a whole batch, on the batch's device; uses no parameters.

        In training mode the task is random, a function of the generator's state and ``index``
        alone; in evaluation mode geometry is central and guards are off, and only the answer stays
        random.

        Args:
            images: uint8 ``[B, 3, S, S]``, RGB; in training also larger squares, where the method
                `crops`.
            index: int64 ``[B]``, place of each image in the data.
            generator: Seeded for (seed, epoch) by the loop.
        """

    @abstractmethod
    def forward(self, view: ViewT) -> Loss:
        """Run encoder and head on a view and score the answer."""

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
        """Called once before the first step of a new run: what has to be learned from the images
        first.

        What is learned goes into buffers, which checkpoints carry; a resumed run does not call this
        again.

        Args:
            batches: All images, in an order shuffled by the seed, read as they are asked for: uint8
                ``[B, 3, S, S]`` and their index int64 ``[B]``, on the method's device.

        Returns:
            A line to print; empty if there is nothing to say.

        Raises:
            DataError: The images do not suit the task.
        """
        del batches  # most tasks need to know nothing, and then nothing is read
        return ""

    def after_step(self, view: ViewT) -> None:
        """Called once after each optimizer step; a memory bank is written here."""
        del view  # nothing to remember by default

    @abstractmethod
    def draw_task(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Draw the task as it is given to the network: column title -> uint8 ``[B, 3, h, w]``."""

    @abstractmethod
    def draw_predictions(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> Predictions:
        """Draw what the network answers, beside the truth."""

    def plots(self, images: Tensor, index: Tensor, generator: torch.Generator) -> dict[str, Chart]:
        """What is better drawn as a chart: of the task in training mode, of the answers in
        evaluation mode.
        """
        del images, index, generator
        return {}

    @property
    @abstractmethod
    def chance(self) -> dict[str, float]:
        """The loss and the other numbers of `forward` for a network that knows nothing.

        Names say the unit: ``..._db`` is in decibels, ``..._nats`` in nats; ``loss``, ``log_...``
        and ``..._similarity`` are plain numbers; everything else is a share, shown in percent.
        """

    @property
    def rates(self) -> dict[str, float]:
        """Factor on the learning rate of the parameters below a submodule, by its name; 1 for all
        others.
        """
        return {}

    @property
    def sharded(self) -> frozenset[str]:
        """Names of the buffers of which each of several processes holds a part of its own; all
        others are equal.
        """
        return frozenset()

    @property
    def facts(self) -> dict[str, Any]:
        """What the task was built from beyond its options, in JSON kinds; a resumed run must find
        the same.
        """
        return {}

    @classmethod
    def build_encoder(
        cls, options: OptionsT, info: DataInfo, backbone: str, *, stem: Stem, in_channels: int
    ) -> Encoder:
        """The untrained encoder; overridden by a task that needs another norm than batch norm, or
        fewer stages.
        """
        size = cls.network_size(options, info)
        return build_encoder(backbone, stem=stem, in_channels=in_channels, image_size=size)

    @classmethod
    def patch_grid(cls, options: OptionsT, info: DataInfo) -> tuple[int, int] | None:
        """Side and stride in pixels of the patches to which the encoder is applied; None if it
        reads whole images.

        Features are then read both ways, from patches and from whole images.
        """
        del options, info
        return None

    @classmethod
    def network_size(cls, options: OptionsT, info: DataInfo) -> int:
        """Side in pixels of the square the encoder is given in pretraining; the whole image unless
        overridden.
        """
        del options
        return info.image_size

    @classmethod
    def feature_size(cls, options: OptionsT, info: DataInfo) -> int:
        """Side in pixels to which whole images are resized when features are read; their own unless
        overridden.
        """
        del options
        return info.image_size
