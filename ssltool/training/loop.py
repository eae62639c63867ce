"""START HERE: the training loop. batch -> view -> loss -> step, one `StepReport` per step.

It knows no method by name, prints nothing and saves nothing: its caller
(`ssltool.training.pretrain`) does. Each step's randomness is a function of (seed, epoch, image) or
(seed, step), so nothing random has to be saved. Several processes run it at once, each on its own
part of the images; they synchronize where the gradients are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssltool.distributed.collectives import rank
from ssltool.distributed.gradients import GradientReducer
from ssltool.encoders.precision import Precision
from ssltool.methods.base import Method, check_loss
from ssltool.ops.per_image_rng import mix
from ssltool.training.schedule import Kind, learning_rate


class TrainBatch(Protocol):
    """What the loop needs of a batch; `ssltool.data.batch.Batch` has it."""

    @property
    def images(self) -> Tensor:
        """uint8 ``[B, 3, S, S]`` on the device."""

    @property
    def indices(self) -> Tensor:
        """int64 ``[B]`` on the device: index of each image in the data."""

    @property
    def epoch(self) -> int:
        """Which pass over the data this is."""

    @property
    def wait(self) -> float:
        """Seconds spent waiting for it."""

    @property
    def aspects(self) -> Tensor | None:
        """Width / height of whole images, float ``[B]``; None for center squares."""


@dataclass(frozen=True)
class TrainSchedule:
    """How the steps of a run are taken.

    Attributes:
        steps: Optimizer steps of the whole run.
        warmup: Steps of linear warm-up.
        lr: Peak learning rate.
        kind: Shape of the learning rate after the warm-up.
        accumulate: Batches whose gradients are averaged into one step.
        clip: Maximum gradient norm; 0 disables clipping.
        seed: Seed of everything random.
        precision: Compute precision of the forward pass.
        milestones: Fractions of the run at which the kind ``step`` drops.
        factor: By which the rate is multiplied at each of them.
        overlap: Whether processes average gradients during the backward pass, and not after it.
    """

    steps: int
    warmup: int
    lr: float
    kind: Kind
    accumulate: int
    clip: float
    seed: int
    precision: Precision
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    overlap: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of a step, 0 to ``steps - 1``."""
        return learning_rate(
            step,
            base=self.lr,
            total=self.steps,
            warmup=self.warmup,
            kind=self.kind,
            milestones=self.milestones,
            factor=self.factor,
        )


class StepReport(NamedTuple):
    """What one step did, on this process's images; its tensors stay on the device.

    Attributes:
        step: Steps taken, this one included.
        epoch: Pass over the data of the last batch.
        loss: Mean loss over the accumulated batches, scalar.
        metrics: The method's metrics of the last batch, scalars.
        grad_norm: Norm of the gradient before clipping, scalar.
        lr: Learning rate of the step.
        images: Images seen in the step.
        wait: Seconds spent waiting for data.
        skipped: Steps so far, this one included, whose gradients overflowed in float16: nothing was
            learned from them.
        counted: Images that loss and metrics are means over, scalar; None if it is all of them.
    """

    step: int
    epoch: int
    loss: Tensor
    metrics: dict[str, Tensor]
    grad_norm: Tensor
    lr: float
    images: int
    wait: float
    skipped: int = 0
    counted: Tensor | None = None


def train(
    method: Method[Any, Any],
    batches: Iterator[TrainBatch],
    optimizer: Optimizer,
    schedule: TrainSchedule,
    scaler: torch.amp.GradScaler,
    start: int = 0,
    skipped: int = 0,
) -> Iterator[StepReport]:
    """Take the steps ``start`` to ``schedule.steps - 1``, yielding a report after each.

    A step that the loss scaler skips consumes its batches, but neither the learning rate nor the
    method advances.

    Args:
        method: The pretext task; its loss is checked at the first step.
        batches: From the batch that step ``start`` begins with; this process's part of them.
        optimizer: Over the method's parameters; a group's ``lr_scale``, if present, multiplies its
            rate.
        schedule: Learning rate, accumulation, clipping and precision of the steps.
        scaler: Loss scaler; disabled except for float16.
        start: Steps already taken, after a resume.
        skipped: How many of them the scaler skipped.
    """
    generator = torch.Generator()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    device = parameters[0].device
    method.train()
    with GradientReducer(method.parameters(), overlap=schedule.overlap) as reducer:
        for step in range(start, schedule.steps):
            lr = schedule.rate(step - skipped)
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            torch.manual_seed(mix(schedule.seed, step, rank()))  # dropout
            optimizer.zero_grad(set_to_none=True)
            losses: list[Tensor] = []
            updates: list[tuple[Tensor, ...]] = []
            counts: list[Tensor] = []
            images, wait = 0, 0.0
            for remaining in range(schedule.accumulate, 0, -1):
                batch = next(batches)
                generator.manual_seed(mix(schedule.seed, batch.epoch))
                of_whole_images = {} if batch.aspects is None else {"aspects": batch.aspects}
                view = method.view(batch.images, batch.indices, generator, **of_whole_images)
                with schedule.precision.autocast(device):
                    loss = method(view)
                if step == start and not losses:
                    check_loss(method, loss)
                if remaining == 1:
                    reducer.last_pass()
                scaler.scale(loss.value / schedule.accumulate).backward()
                losses.append(loss.value.detach())
                updates.append(loss.update)
                counts += [] if loss.counted is None else [loss.counted]
                images += len(batch.indices)
                wait += batch.wait
            reducer.average()
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(parameters, schedule.clip or float("inf"))
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() < scale:  # an infinite gradient: the optimizer did nothing
                skipped += 1
            else:
                method.after_step(updates)
            mean, epoch = torch.stack(losses).mean(), batch.epoch
            counted = torch.stack(counts).sum() if counts else None
            yield StepReport(
                step + 1, epoch, mean, loss.metrics, norm, lr, images, wait, skipped, counted
            )
