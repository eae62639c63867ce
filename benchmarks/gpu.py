"""Training on a GPU: every method with ResNet-50 against its bare network, and what the GPU's time
went to.

    python benchmarks/gpu.py --data FOLDER [--method npid] [--rounds 3] [--round-steps 10]
    [--profile] [--json]

Images of 224 px, or tiles and patches of 64 px cut from 256; bf16; FOLDER holds JPEG photographs,
which are decoded anew in every pass. Loader alone, view alone, bare network and the whole take
turns, as in `ssltool bench`; images per second of wall time, medians, and the whole against the
bare network. With --profile also the ten operations that took the most of the GPU's time in three
more steps, and how long it worked in each.
"""

from __future__ import annotations

import argparse
import json
import platform
from itertools import islice
from typing import Any

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from ssltool.methods.registry import available
from ssltool.runs.config import RunConfig
from ssltool.training.bench import bench
from ssltool.training.start import new_run
from ssltool.training.trainer import Trainer

# Images in a batch and side of the square that is read; an image is worth up to 49 patches.
SETTINGS: dict[str, dict[str, int]] = {
    "jigsaw": {"image_size": 256, "batch_size": 256},
    "context-prediction": {"image_size": 256, "batch_size": 512},
    "context-encoder": {"image_size": 224, "batch_size": 256},
    "colorization": {"image_size": 224, "batch_size": 256},
    "npid": {"image_size": 224, "batch_size": 256},
    "cpc": {"image_size": 256, "batch_size": 128},
}


def config_of(name: str, data: str, **options: Any) -> RunConfig:
    """The method with its own defaults, ResNet-50 and bf16."""
    given = {
        "data": (data,),
        "backbone": "resnet50",
        "precision": "bf16",
        "device": "cuda",
        "steps": 1000,
    }
    return RunConfig.merged(name, {**given, **SETTINGS[name], **options})


def top_ten(config: RunConfig, steps: int = 3) -> dict[str, Any]:
    """Operations by their share of the GPU's time, in percent, in training steps; its milliseconds
    a step.
    """
    trainer = Trainer.build(new_run(config), Console(quiet=True), cache_bytes=0)
    with trainer.batches:
        reports = trainer.steps()
        list(islice(reports, 5))
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as measured:
            list(islice(reports, steps))
            torch.cuda.synchronize()
    averages = [event for event in measured.key_averages() if event.self_device_time_total > 0]
    kernels = [event for event in averages if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.self_device_time_total for event in kernels)
    largest = sorted(kernels, key=lambda event: -event.self_device_time_total)[:10]
    return {
        "gpu_ms": busy / 1e3 / steps,
        "top": [
            [round(100 * e.self_device_time_total / busy, 1), e.count // steps, e.key[:110]]
            for e in largest
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--method", choices=list(available()), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU here")
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    if not given.json:
        print(
            f"{'figures/s':<20}{'loader':>9}{'view':>9}{'bare':>9}{'whole':>9}{'ratio':>8}{'GB':>7}"
        )
    for name in given.method or available():
        config = config_of(name, given.data, compile=given.compile)
        torch.cuda.reset_peak_memory_stats()
        found = bench(
            config, rounds=given.rounds, steps=given.round_steps, console=Console(quiet=True)
        )
        del found["options"]
        results[name] = found
        if not given.json:
            speeds = "".join(f"{speed:>9.0f}" for speed in found["images_per_s"].values())
            print(
                f"{name:<20}{speeds}{found['ratio_wall']:>8.3f}{found['peak_memory_gb']:>7.1f}",
                flush=True,
            )
        if given.profile:
            found["profile"] = top_ten(config)
            if not given.json:
                step_ms = 1e3 * SETTINGS[name]["batch_size"] / found["images_per_s"]["end_to_end"]
                print(
                    f"  of {step_ms:.1f} ms of a step the GPU worked "
                    f"{found['profile']['gpu_ms']:.1f}"
                )
                for share, count, operation in found["profile"]["top"]:
                    print(f"  {share:5.1f} %  {count:4} a step  {operation}", flush=True)
        torch.cuda.empty_cache()
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
