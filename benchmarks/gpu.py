"""Training speed on a GPU: every method with ResNet-50 against its bare network, with profiles.

    python benchmarks/gpu.py --data FOLDER [--method npid] [--rounds 3] [--round-steps 10]
    [--profile] [--json]

Images of 224 px, or tiles and patches of 64 px cut from 256 px; bf16; FOLDER holds JPEG
photographs, decoded in every pass. Loader alone, view alone, bare network and end to end are
interleaved, as in `ssltool bench`; median images per second of wall time, and the ratio of end to
end to the bare network. With --profile also the ten most expensive GPU operations of three more
steps.
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

# Images per batch and side of the squares; an image has up to 49 patches.
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
    """GPU milliseconds per training step, and the ten most expensive operations in percent."""
    trainer = Trainer.build(new_run(config), Console(quiet=True), cache_bytes=0)
    with trainer.batches:
        reports = trainer.steps()
        list(islice(reports, 5))
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            list(islice(reports, steps))
            torch.cuda.synchronize()
    averages = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    kernels = [event for event in averages if event.device_type.name == "CUDA"]
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
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU here")
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    if not args.json:
        print(f"{'images/s':<20}{'loader':>9}{'view':>9}{'bare':>9}{'e2e':>9}{'ratio':>8}{'GB':>7}")
    for name in args.method or available():
        config = config_of(name, args.data, compile=args.compile)
        torch.cuda.reset_peak_memory_stats()
        result = bench(
            config, rounds=args.rounds, steps=args.round_steps, console=Console(quiet=True)
        )
        measured = results[name] = result.model_dump(exclude={"options"})
        if not args.json:
            speeds = "".join(f"{speed:>9.0f}" for speed in measured["images_per_s"].values())
            ratio, memory = measured["ratio_wall"], measured["peak_memory_gb"]
            print(f"{name:<20}{speeds}{ratio:>8.3f}{memory:>7.1f}", flush=True)
        if args.profile:
            measured["profile"] = top_ten(config)
            if not args.json:
                speed = measured["images_per_s"]["end_to_end"]
                step_ms = 1e3 * SETTINGS[name]["batch_size"] / speed
                print(
                    f"  {step_ms:.1f} ms per step, of which GPU time "
                    f"{measured['profile']['gpu_ms']:.1f} ms"
                )
                for share, count, operation in measured["profile"]["top"]:
                    print(f"  {share:5.1f} %  {count:4} per step  {operation}", flush=True)
        torch.cuda.empty_cache()
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
