"""Pretrain under Ray Train.

``python examples/ray_train.py jigsaw IMAGES OUT --workers 4 --gpu --options epochs=100``

Ray starts the workers and joins them in a process group, which ssltool uses. IMAGES and OUT are
absolute paths on a file system that all hosts share. A worker that is lost is replaced, and the run
resumes from its newest checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

import ssltool


def pretrain(config: dict[str, Any]) -> None:
    """What each worker does."""
    import ray.train
    import torch

    out = Path(config["out"])
    begun = (out / "run.json").is_file()
    torch.distributed.barrier()  # all have looked before one writes
    given = {} if begun else {"data": config["data"], **config["options"]}
    run = ssltool.pretrain(config["method"], **given, out=out, resume=begun, progress=True)
    ray.train.report(run.metrics()[-1])


def train(
    method: str,
    data: str,
    out: str,
    options: dict[str, Any],
    *,
    workers: int,
    gpu: bool,
    storage: str,
) -> ssltool.Run:
    """Run the workers; the run that they trained."""
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"  # values on the host travel by gloo
    trainer = TorchTrainer(
        pretrain,
        train_loop_config={"method": method, "data": data, "out": out, "options": options},
        torch_config=TorchConfig(backend=backend),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=RunConfig(storage_path=storage, failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()
    return ssltool.Run.open(out)  # Ray keeps the metrics of its own checkpoints only


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("data", help="absolute path of the images")
    parser.add_argument("out", help="absolute path of the run folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="one GPU for each worker")
    parser.add_argument("--storage", default="~/ray_results", help="what Ray itself writes")
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="of the run")
    given = parser.parse_args()
    storage = str(Path(given.storage).expanduser())
    run = train(
        given.method,
        given.data,
        given.out,
        dict(option.split("=", 1) for option in given.options),
        workers=given.workers,
        gpu=given.gpu,
        storage=storage,
    )
    print(run.metrics()[-1])
