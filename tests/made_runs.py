"""Run folders as `pretrain` and `probe` leave them, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ssltool.methods.options import DataInfo
from ssltool.runs.probe_record import (
    Details,
    FeatureSource,
    HealthRow,
    LabelRow,
    ProbeProtocol,
    ProbeRecord,
    ProbeRow,
)
from ssltool.runs.records import MetricRecord, PrecisionRecord, RunRecord, SourceRecord


def run_record(
    *,
    steps: int = 40,
    method: str = "jigsaw",
    description: str = "16 images",
    options: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
) -> RunRecord:
    """``run.json`` of a run on 16 images."""
    return RunRecord(
        ssltool="0.1.0",
        method=method,
        options={
            "steps": steps,
            "backbone": "resnet10_w32",
            "data": ["demo:16"],
            "seed": 0,
            "log_every": 10,
            **(options or {}),
        },
        precision=PrecisionRecord(name="fp32", reason="as asked"),
        source=SourceRecord(description=description, fingerprint="f" * 64),
        data=DataInfo(
            count=16,
            image_size=32,
            gray=False,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            batch_size=4,
        ),
        fingerprint={},
        metrics=(
            MetricRecord(name="loss", unit="", chance=3.178),
            MetricRecord(name="accuracy", unit="fraction", chance=1 / 24),
        ),
        environment={"python": "3.11.7", "torch": "2.11", **(environment or {})},
    )


def made_run(folder: Path, record: RunRecord | None = None) -> Path:
    """A run folder as `pretrain` leaves it, without weights."""
    (folder / "figures").mkdir(parents=True)
    (record or run_record()).write(folder / "run.json")
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


def probe_record(*, method: str = "jigsaw", classes: tuple[str, ...] = ("a", "b")) -> ProbeRecord:
    """``probe.json`` of two classes; the pretrained encoder's pooled features are best."""
    pretrained = FeatureSource(kind="pretrained", method=method, network="resnet10_w32")
    random_init = FeatureSource(kind="random_init", network="resnet10_w32")
    pixels = FeatureSource(kind="pixels")
    return ProbeRecord(
        weights="encoder.safetensors",
        method=method,
        backbone="resnet10_w32",
        network="resnet10_w32",
        steps=40,
        classes=classes,
        train_images=18,
        test_images=8,
        overlap=0,
        skipped={},
        notes=(),
        rows=(
            ProbeRow(
                source=pretrained,
                stage="pooled",
                dim=256,
                accuracy={"linear": 30.5, "knn20": 28.0, "knn200": 27.0},
                standard_error={"linear": 4.5},
                held_out={"linear": 31.0},
                chosen=True,
            ),
            ProbeRow(source=pretrained, stage="layer1", dim=32, accuracy={"linear": 9.5}),
            ProbeRow(
                source=random_init,
                stage="pooled",
                dim=256,
                accuracy={"linear": 12.25, "knn20": 100.0},
            ),
            ProbeRow(source=random_init, stage="layer1", dim=32, accuracy={"linear": 11.0}),
            ProbeRow(source=pixels, stage="", dim=3072, accuracy={"linear": 10.0}),
        ),
        chosen=0,
        details=Details(row=0, per_class=(75.0, None), confusion=((3, 1), (0, 4))),
        health=(
            HealthRow(
                source=pretrained,
                effective_rank=17.5,
                std=0.04,
                uniformity=-2.0,
                alignment=None,
                warning="",
            ),
        ),
        label_efficiency=tuple(
            LabelRow(
                source=pretrained,
                protocol="linear",
                fraction=fraction,
                images=round(18 * fraction),
                accuracy=20 * fraction + 5,
                standard_error=2.0,
            )
            for fraction in (0.1, 1.0)
        ),
        plots=(),
        protocol=ProbeProtocol(
            encoder="w" * 64,
            data=("train", "test"),
            kind=("knn", "layers", "linear"),
            image_size=32,
            grid_dim=0,
            recalibrate=True,
            baselines=True,
            random_inits=3,
            knn_space="cosine",
            near_duplicates=False,
            mirror=False,
            finetune_images=12_800,
            scratch=False,
            label_fractions=(0.1, 1.0),
            shots=(),
            repeats=1,
            seed=0,
            rules={},
            environment={},
        ),
    )


def probed(folder: Path, record: ProbeRecord | None = None) -> Path:
    """A run folder after `probe`."""
    (record or probe_record()).write(folder / "probe.json")
    return folder
