"""Run folders as `pretrain` leaves them, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def made_run(
    folder: Path, *, steps: int = 40, name: str = "jigsaw", description: str = "16 images"
) -> Path:
    """A run folder as `pretrain` leaves it, without weights."""
    (folder / "figures").mkdir(parents=True)
    options: dict[str, Any] = {
        "steps": steps,
        "backbone": "resnet10_w32",
        "data": ["demo:16"],
        "seed": 0,
    }
    document = {
        "format": 1,
        "ssltool": "0.1.0",
        "method": name,
        "options": options,
        "precision": {"name": "fp32", "reason": "as asked"},
        "data": {
            "description": description,
            "fingerprint": "f" * 64,
            "count": 16,
            "image_size": 32,
            "gray": False,
        },
        "task": {},
        "chance": {"loss": 3.178, "accuracy": 1 / 24},
        "environment": {"python": "3.11.7", "torch": "2.11"},
    }
    (folder / "run.json").write_text(json.dumps(document))
    lines = [
        {
            "step": step,
            "epoch": 0,
            "loss": 3.2 - step / 100,
            "accuracy": step / 100,
            "lr": 0.001,
            "images_per_s": 50.0,
        }
        for step in range(10, 41, 10)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for shade, stem in enumerate(
        ["task", "samples", "predictions-0000020", "predictions-0000040", "predictions"]
    ):
        Image.new("RGB", (60, 40), (40 * shade, 90, 90)).save(folder / "figures" / f"{stem}.png")
    return folder


def probed(folder: Path) -> Path:
    rows = [
        {
            "features": "jigsaw",
            "stage": "pooled",
            "numbers": 256,
            "linear": 30.5,
            "knn20": 28.0,
            "knn200": 27.0,
        },
        {"features": "jigsaw", "stage": "layer1", "numbers": 32, "linear": 9.5},
        {
            "features": "random init",
            "stage": "pooled",
            "numbers": 256,
            "linear": 12.25,
            "knn20": 100.0,
        },
        {"features": "random init", "stage": "layer1", "numbers": 32, "linear": 11.0},
        {"features": "pixels", "stage": "pixels", "numbers": 3072, "linear": 10.0},
    ]
    document: dict[str, Any] = {"rows": rows, "best": 0, "classes": ["a", "b"]}
    document["details"] = {"confusion": [[3, 1], [0, 4]], "per_class": {"a": 75.0, "b": None}}
    document["health"] = {"jigsaw": {"effective_rank": 17.5, "std": 0.04, "warning": ""}}
    document["labels"] = [
        {
            "features": "jigsaw",
            "how": "linear",
            "share": share,
            "images": 9,
            "accuracy": 20 * share + 5,
        }
        for share in (0.1, 1)
    ]
    (folder / "probe.json").write_text(json.dumps(document))
    return folder
