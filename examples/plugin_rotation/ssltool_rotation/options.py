"""Options and presets of rotation prediction."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ssltool.methods.options import MethodOptions, Presets


class RotationOptions(MethodOptions):
    """Options of ``ssltool pretrain rotation``."""

    flip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip first")

    presets: ClassVar[Presets] = {
        "paper": {"backbone": "alexnet", "image_size": 224, "optimizer": "sgd", "lr": 0.01}
        | {"weight_decay": 5e-4, "batch_size": 192, "epochs": 30, "schedule": "step", "warmup": 0}
    }
