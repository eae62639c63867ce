"""Averaging gradients over processes, during the backward pass or after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, distributed
from torch.utils.hooks import RemovableHandle

from ssltool.distributed.collectives import world_size

BUCKET_BYTES = 25 * 2**20  # as in DistributedDataParallel
FIRST_BUCKET_BYTES = 2**20  # a small one first, so that communication begins early


class GradientReducer:
    """Replaces gradients by their means over all processes; in one process it does nothing.

    Gradients are packed into flat buckets, in the reverse of the order in which their parameters
    were declared, which a backward pass follows by and large. With ``overlap`` a bucket is sent as
    soon as its last gradient is there and all buckets before it were sent, while the backward pass
    goes on; without, a single bucket is sent after it.

    DistributedDataParallel overlaps likewise, but regroups the gradients after its first step. A
    sum of three or more numbers depends on their grouping, so that a resumed run would not end with
    the same bytes. Here a bucket holds the same gradients in every step.

    A parameter that has no gradient in this process counts as zero, and gets the mean if another
    process has one; it stays without gradient if none has. Its bucket and those after it are sent
    after the backward pass.

    Args:
        parameters: In the order of their declaration, the same in all processes.
        overlap: Whether to send during the backward pass.
        bucket_bytes: Largest size of a bucket; of the first one at most `FIRST_BUCKET_BYTES`.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, overlap: bool, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._overlap = overlap
        self._buckets: list[_Bucket] = []
        self._hooks: list[RemovableHandle] = []
        self._missing: list[int] = []  # gradients that each bucket waits for, in the last pass
        self._sent = 0
        if world_size() == 1:
            return
        backwards = [p for p in parameters if p.requires_grad][::-1]
        groups = _grouped(backwards, bucket_bytes) if overlap else [backwards]
        self._buckets = [_Bucket(group) for group in groups if group]

    def __enter__(self) -> Self:
        """Listen to gradients as they arrive."""
        if self._overlap:
            for number, bucket in enumerate(self._buckets):
                arrived = partial(self._arrived, number)
                for parameter in bucket.parameters:
                    self._hooks.append(
                        parameter.register_post_accumulate_grad_hook(arrived)  # type: ignore[no-untyped-call]
                    )
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        for hook in self._hooks:
            hook.remove()

    def last_pass(self) -> None:
        """Say that the next backward pass completes the gradients, so that they are sent during it.

        The passes before it, of accumulated batches, communicate nothing.
        """
        self._missing = [len(bucket.parameters) for bucket in self._buckets]

    @torch.no_grad()
    def average(self) -> None:
        """Send what has not been sent, wait for all, and set the gradients to their means."""
        for bucket in self._buckets[self._sent :]:
            bucket.send()
        self._missing, self._sent = [], 0
        for bucket in self._buckets:
            bucket.receive()

    def _arrived(self, number: int, _: Tensor) -> None:
        """Send the buckets that are complete, in the order that all processes send them in."""
        if not self._missing:
            return
        assert self._missing[number], "a gradient arrived twice in one backward pass"
        self._missing[number] -= 1
        while self._sent < len(self._buckets) and not self._missing[self._sent]:
            self._buckets[self._sent].send()
            self._sent += 1


class _Bucket:
    """Gradients that are added up together, one after another in a flat buffer.

    Behind them the buffer has a number per parameter: how many processes have its gradient.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        sizes = [p.numel() for p in parameters]
        self._buffer = parameters[0].new_zeros(sum(sizes) + len(sizes))
        *parts, self._counts = torch.split(self._buffer, [*sizes, len(sizes)])
        # In the memory format of the parameter, so that nothing is reordered.
        self._means = [
            part.as_strided(p.shape, torch.empty_like(p, device="meta").stride())
            for part, p in zip(parts, parameters, strict=True)
        ]
        self._work: distributed.Work | None = None

    def send(self) -> None:
        """Begin to add up the gradients of all processes."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        means = self._means
        if len(gradients) == len(means):
            self._counts.fill_(1)
        else:
            found = [number for number, p in enumerate(self.parameters) if p.grad is not None]
            means = [means[number] for number in found]
            self._buffer.zero_()
            for number in found:
                self._counts[number].fill_(1)
        if gradients:
            torch._foreach_copy_(means, gradients)
        self._work = distributed.all_reduce(self._buffer, async_op=True)

    def receive(self) -> None:
        """Wait for the sums and set the gradients; a GPU waits, not its host."""
        assert self._work is not None
        self._work.wait()
        self._buffer.div_(world_size())
        # Read on the host only where a gradient is missing.
        counts = self._counts.tolist() if any(p.grad is None for p in self.parameters) else None
        for number, (parameter, mean) in enumerate(zip(self.parameters, self._means, strict=True)):
            if counts is None or counts[number] > 0:
                parameter.grad = mean


def _grouped(parameters: Sequence[Tensor], largest: int) -> Iterator[list[Tensor]]:
    """Neighbors of one type and device in groups of up to ``largest`` bytes, the first smaller."""
    group: list[Tensor] = []
    room = min(largest, FIRST_BUCKET_BYTES)
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if group and size > room:
            yield group
            group, room = [], largest
        group.append(parameter)
        room -= size
    yield group
