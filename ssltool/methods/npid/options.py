"""Options and presets of instance discrimination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from ssltool.methods.options import AUTO, Auto, DataInfo, MethodOptions, Presets

_MAX_SOFTMAX = 65_536  # images up to which the softmax over all of them is affordable
_MAX_WARM = 100_000  # images up to which one pass of the untrained network is a small part of a run


class NpidOptions(MethodOptions):
    """Options of ``ssltool pretrain npid``."""

    loss: Auto[Literal["softmax", "nce", "infonce"]] = Field(
        AUTO,
        description="softmax = over all images; automatic: softmax up to 65,536 images, else nce",
    )
    temperature: Auto[float] = Field(
        AUTO,
        ge=0.02,
        le=2,
        description="tau, divides the similarities; automatic: 0.1 for softmax, else 0.07",
    )
    dim: int = Field(128, ge=2, le=4096, description="Embedding dimension D")
    head_norm: bool = Field(
        False,
        description="Batch norm, without scale, on the projection before it is normalized: an "
        "untrained network's embeddings are then not all alike; the paper has none",
    )
    negatives: int = Field(
        4096,
        ge=1,
        le=2**24,
        description="Sampled negatives m of nce and infonce; at most all other images are used",
    )
    shared_negatives: bool = Field(
        True,
        description="One set of negatives for the whole batch, much faster; otherwise one for each "
        "image",
    )
    exclude_positive: bool = Field(
        True,
        description="Never sample an image as its own negative; the released code does",
    )
    constant: Literal["ema", "first", "fixed"] = Field(
        "ema",
        description="c of nce: a moving average of rate 0.99, measured once before the first step "
        "as in the paper, or fixed at that of random vectors",
    )
    proximal: float = Field(
        0.0,
        ge=0,
        description="Weight of |f - v|^2, the paper's proximal term; meant for --bank-momentum 0",
    )
    bank_init: Auto[Literal["warm", "random"]] = Field(
        AUTO,
        description="warm = the untrained network's vectors of all images; automatic: warm up to "
        "100,000 images",
    )
    bank_momentum: float = Field(
        0.5, ge=0, lt=1, description="Weight of the OLD vector in an update; 0 replaces it"
    )
    bank_dtype: Literal["fp32", "fp16"] = Field(
        "fp32",
        description="Precision of the bank: 512 or 256 bytes per image at D = 128",
    )
    crop_scale: float = Field(
        1.0,
        gt=0.1,
        le=1,
        description="Side of the crops in training over --image-size, at which features are "
        "extracted. Smaller crops take less time, and hold objects about as large as whole images "
        "do (Touvron et al. 2019)",
    )
    standardize: bool = Field(
        False,
        description="Normalize each view, and each image for features, by its own mean and "
        "deviation instead of the data's; for images whose light, contrast and colors do not "
        "matter",
    )
    crop: Auto[float] = Field(
        AUTO,
        gt=0,
        le=1,
        description="Smallest area fraction of the random resized crop; automatic: 0.2, or 0.5 for "
        "gray images",
    )
    flip: Auto[float] = Field(
        AUTO,
        ge=0,
        le=1,
        description="Probability of a horizontal flip; automatic: 0.5, or 0 for gray images and up "
        "to 32 px",
    )
    rotation: Auto[float] = Field(
        AUTO,
        ge=0,
        le=180,
        description="Largest rotation in degrees; automatic: 0, or 10 for gray images up to 32 px",
    )
    jitter: Auto[float] = Field(
        AUTO,
        ge=0,
        le=1,
        description="Range of the factors of brightness, contrast, saturation; automatic: 0.4, "
        "or 0 for gray images",
    )
    hue: Auto[float] = Field(
        AUTO,
        ge=0,
        le=0.5,
        description="Largest shift of the hue; automatic: 0.4, or 0 for gray images",
    )
    grayscale: Auto[float] = Field(
        AUTO,
        ge=0,
        le=1,
        description="Probability of converting to gray; automatic: 0.2, or 0 for gray images",
    )
    invert: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of inverting the colors, 1 - x; for images in which it does not "
        "matter what is light and what is dark",
    )

    of_color: ClassVar[Mapping[str, Any]] = {"hue": 0.0, "grayscale": 0.0}
    presets: ClassVar[Presets] = {
        "paper": {
            "backbone": "resnet18",
            "image_size": 224,
            # About the shorter side of ImageNet's files, which the released code crops.
            "load_size": 384,
            "loss": "nce",
            "negatives": 4096,
            "temperature": 0.07,
            "shared_negatives": False,
            "exclude_positive": False,
            "constant": "first",
            "bank_init": "random",
            "optimizer": "sgd",
            "lr": 0.03,
            "weight_decay": 1e-4,
            "decay_all": True,
            "batch_size": 256,
            "epochs": 200,
            "schedule": "step",
            "milestones": (0.6, 0.8),
            "warmup": 0,
        },
        "infonce": {
            "backbone": "resnet50",
            "image_size": 224,
            "load_size": 384,
            "loss": "infonce",
            "negatives": 65_536,
            "temperature": 0.07,
            "optimizer": "sgd",
            "lr": 0.03,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 200,
            "schedule": "step",
            "milestones": (0.6, 0.8),
            "warmup": 0,
        },
        # Tuned on held-out training images; see docs/results.md for what was tried.
        "small": {
            "backbone": "resnet10_w32_s2",
            "channels": 1,
            "batch_size": 64,
            "loss": "softmax",
            "bank_init": "warm",
            "head_norm": True,
            "standardize": True,
            "crop": 0.3,
            "crop_scale": 2 / 3,
            "rotation": 15.0,
            "jitter": 0.5,
            "hue": 0.0,
            "grayscale": 0.0,
            "invert": 0.5,
        },
    }

    def with_defaults(self, data: DataInfo) -> Self:
        """Decide loss, bank and augmentation."""
        small = data.image_size <= 32
        loss = self.loss or ("softmax" if data.count <= _MAX_SOFTMAX else "nce")
        automatic = {
            "loss": loss,
            "temperature": 0.1 if loss == "softmax" else 0.07,
            "bank_init": "warm" if data.count <= _MAX_WARM else "random",
            "crop": 0.5 if data.gray else 0.2,
            "flip": 0.0 if data.gray or small else 0.5,
            "rotation": 10.0 if data.gray and small else 0.0,
            "jitter": 0.0 if data.gray else 0.4,
            "hue": 0.0 if data.gray else 0.4,
            "grayscale": 0.0 if data.gray else 0.2,
        }
        return self.model_copy(
            update={name: v for name, v in automatic.items() if getattr(self, name) is None}
        )
