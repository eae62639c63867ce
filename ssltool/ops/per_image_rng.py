"""`PerImageRNG`: random numbers that belong to an image, not to its position in a batch.

A sample is a hash of (key, image, how many numbers were sampled for the image before), so the same
image in the same epoch gets the same tiles whatever the rest of its batch, the number of workers,
the rank or the device.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Self

import torch
from torch import Tensor

# Constants of SplitMix64 (Steele, Lea & Flood 2014), as signed 64-bit integers because torch has no
# unsigned product.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64
_KEY_RANGE = 2**63 - 1


class PerImageRNG:
    """A stream of random numbers for each image of a batch.

    Args:
        index: int64 ``[B]``, index of each image; equal indices get equal numbers.
        generator: Supplies the key. Two generators in the same state give the same streams.

    Attributes:
        count: Number of images B.
        device: Device of the samples.
    """

    def __init__(self, index: Tensor, generator: torch.Generator) -> None:
        key = torch.randint(_KEY_RANGE, (), generator=generator, device=generator.device).item()
        self._state = _scramble(_scramble(index * _GAMMA) + int(key))
        self._sampled = 0
        self.count, self.device = len(index), index.device

    @classmethod
    def seeded(cls, seeds: Tensor) -> Self:
        """Streams seeded by int64 ``[B]``, such as the `bits` of other streams."""
        rng = cls.__new__(cls)
        rng._state, rng._sampled = _scramble(seeds), 0
        rng.count, rng.device = len(seeds), seeds.device
        return rng

    def __getitem__(self, images: slice) -> Self:
        """Copies of the streams of a slice of the images; sampling from them leaves these as they
        are.
        """
        rng = self.__class__.__new__(self.__class__)
        rng._state, rng._sampled = self._state[images], self._sampled
        rng.count, rng.device = len(rng._state), self.device
        return rng

    def bits(self, *shape: int) -> Tensor:
        """Uniform int64 ``[B, *shape]`` over all 2^64 values."""
        count = math.prod(shape)
        self._sampled += count
        return self._bits(self._sampled - count, self._sampled).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 ``[B, *shape]`` in [0, 1), in steps of 2^-24."""
        return (self.bits(*shape) >> 40).bitwise_and_(2**24 - 1).to(torch.float32).mul_(2.0**-24)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 ``[B, *shape]``, at most 4.33 in size.

        One hash gives four of them: 16 bits of it select one of 65,536 equally likely values.
        """
        count = math.prod(shape)
        fours = (count + 3) // 4
        values = _normal_values(self.device)
        which = self.bits(fours).view(torch.int16).flatten().to(torch.int32).add_(len(values) // 2)
        return values.index_select(0, which).view(self.count, -1)[:, :count].reshape(-1, *shape)

    def _bits(self, begin: int, end: int) -> Tensor:
        """The numbers ``begin`` to ``end - 1`` of each stream, int64 ``[B, end - begin]``."""
        counter = torch.arange(begin + 1, end + 1, device=self.device).mul_(_GAMMA)
        return _scramble(self._state[:, None] + counter)

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """Uniform int64 ``[B, *shape]`` in 0..high-1; ``high`` is a number or a tensor that
        broadcasts, below 2^31.
        """
        return (_shift(self.bits(*shape), 32) * high) >> 32

    def bernoulli(self, probability: float, *shape: int) -> Tensor:
        """Bool ``[B, *shape]``, true with the given probability."""
        return self.uniform(*shape) < probability

    def permutation(self, count: int, *shape: int) -> Tensor:
        """Uniform random permutations of 0..count-1, int64 ``[B, *shape, count]``."""
        return self.bits(*shape, count).argsort(dim=-1, stable=True)


@cache
def _normal_values(device: torch.device) -> Tensor:
    """The standard normal distribution in 65,536 equal parts, each by its middle: float32
    ``[65536]``, rising.
    """
    with torch.inference_mode(False):
        middle = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
        values: Tensor = torch.special.ndtri(middle)
        return values.to(torch.float32).to(device)


def mix(*numbers: int) -> int:
    """Hash integers to one seed in 0..2^63-1; any changed argument changes every bit with
    probability one half.
    """
    state = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        state = _scramble(state + _GAMMA + number)
    return int(state.item()) & _KEY_RANGE


def _scramble(x: Tensor) -> Tensor:
    """The output function of SplitMix64 on int64 tensors, products wrapping modulo 2^64."""
    x = _shift(x, 30).bitwise_xor_(x).mul_(_MULTIPLY_1)
    x = _shift(x, 27).bitwise_xor_(x).mul_(_MULTIPLY_2)
    return _shift(x, 31).bitwise_xor_(x)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)
