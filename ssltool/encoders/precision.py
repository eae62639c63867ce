"""Compute precision: mixed-precision formats, and the choice of the fastest that is safe."""

from __future__ import annotations

import copy
import platform
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ssltool.errors import UsageError

PrecisionName = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BROKEN = "torch's bf16 gradient of a strided convolution of a 1x1 map is garbage on a CPU"
_WORTH_IT = 1.15  # bf16 loses digits, so it has to be clearly faster
_HOPELESS = 0.5  # a gain of this little on a few images is one on none


@dataclass(frozen=True)
class Precision:
    """Compute precision of the forward pass; weights and optimizer state stay float32.

    Attributes:
        name: ``fp32``, ``bf16`` or ``fp16``.
        reason: Why it was chosen, for the user.
    """

    name: PrecisionName
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context for the forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=_DTYPES[self.name])


def choose_precision(
    name: Literal["auto", "fp32", "bf16", "fp16"],
    encoder: nn.Module,
    size: int,
    channels: int,
    device: torch.device,
) -> Precision:
    """Choose the compute precision; ``auto`` takes the fastest that is safe on this machine.

    On a CPU that may have bfloat16 units the encoder itself is timed in float32 and bfloat16 (on
    those without it is many times slower). On CUDA bfloat16 is taken where the GPU has it, else
    float16 with loss scaling; on MPS float32.

    Args:
        name: What was asked for.
        encoder: The network to be trained; a copy is timed.
        size: Side in pixels of its input.
        channels: Channels of its input.
        device: Where it will run.

    Raises:
        UsageError: A format was asked for in which torch cannot train this network here.
    """
    if name == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16 needs a GPU; type --precision bf16 or auto on a CPU")
    broken = (
        device.type == "cpu"
        and name in {"auto", "bf16"}
        and _strides_over_single_pixels(encoder, size, channels)
    )
    if broken and name == "bf16":
        raise UsageError(
            f"--precision bf16: {_BROKEN}, and this encoder comes to one at {size} px; "
            "type --precision fp32, --stem small, or larger images"
        )
    if name != "auto":
        return Precision(name, "as asked")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "the GPU has bfloat16 units")
        return Precision("fp16", "the GPU has no bfloat16 units")
    if device.type != "cpu":
        return Precision("fp32", f"the safe choice on {device.type}")
    if broken:
        return Precision("fp32", _BROKEN)
    if not _may_have_bf16_units():
        return Precision("fp32", "this CPU has no bfloat16 units")
    gain = _gain_of_bf16(encoder, size, channels)
    chosen: PrecisionName = "bf16" if gain >= _WORTH_IT else "fp32"
    return Precision(chosen, f"bf16 measured {gain:.1f}x as fast as fp32 on this CPU")


def _may_have_bf16_units() -> bool:
    """Whether bfloat16 can be the faster one: x86 has units for it from AVX-512 on."""
    capability: str = torch.backends.cpu.get_cpu_capability()
    return platform.machine().lower() not in ("x86_64", "amd64") or "512" in capability


def _gain_of_bf16(encoder: nn.Module, size: int, channels: int) -> float:
    """CPU-seconds of a forward and backward pass over noise images in float32, divided by those in
    bfloat16.

    On one thread, because threads that wait for each other on a busy machine spend CPU time too.
    First of four
    images: without units for it bfloat16 takes ten times as long, which for whole batches is half a
    minute.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = copy.deepcopy(encoder).train()
    gain = _compared(network, torch.rand(4, channels, size, size), passes=2, seconds=0)
    if gain > _HOPELESS:
        count = max(4, min(64, 2**16 // size**2))
        gain = _compared(network, torch.rand(count, channels, size, size), passes=4, seconds=2)
    torch.set_num_threads(threads)
    return gain


def _compared(network: nn.Module, images: torch.Tensor, passes: int, seconds: float) -> float:
    """Least CPU-seconds of a pass in float32 divided by the least in bfloat16.

    The two are timed in turn, ``passes`` times and then up to eleven while it takes less than so
    many seconds, so that other jobs on the machine slow both alike and the least time of each is a
    quiet one.
    """
    formats = [Precision("fp32", ""), Precision("bf16", "")]
    times: list[list[float]] = [[], []]
    began = time.perf_counter()
    while len(times[1]) < passes or (len(times[1]) < 11 and time.perf_counter() - began < seconds):
        for precision, spent in zip(formats, times, strict=True):
            start = time.process_time()
            with precision.autocast(torch.device("cpu")):
                loss = network(images).float().square().mean()
            loss.backward()
            spent.append(time.process_time() - start)
    fp32, bf16 = (min(spent[1:]) for spent in times)  # the first pass of each sets things up
    return fp32 / bf16


def _strides_over_single_pixels(encoder: nn.Module, size: int, channels: int) -> bool:
    """Whether a strided convolution of the encoder reads a map of one pixel.

    Seen in torch 2.15: the bfloat16 weight gradient of such a convolution is never written where
    the kernel meets only padding, so it holds whatever was in memory. Training then ends in NaN, or
    continues with corrupted weights.
    """
    affected: list[nn.Conv2d] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        if (
            max(module.stride) > 1
            and max(module.kernel_size) > 1
            and inputs[0].shape[-2:] == (1, 1)
        ):
            affected.append(module)

    network = copy.deepcopy(encoder).cpu().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look)
    with torch.no_grad():
        network(torch.zeros(1, channels, size, size))
    return bool(affected)
