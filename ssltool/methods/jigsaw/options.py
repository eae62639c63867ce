"""Options and presets of jigsaw puzzles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from ssltool.errors import UsageError
from ssltool.methods.jigsaw.geometry import SMALLEST_TILE, geometry
from ssltool.methods.options import AUTO, Auto, DataInfo, MethodOptions, Presets
from ssltool.options import LARGEST_SEED

PermutationMode = Literal["max_min", "max_mean", "min_mean", "random", "code", "all", "file"]


class JigsawOptions(MethodOptions):
    """Options of ``ssltool pretrain jigsaw``."""

    grid: Auto[int] = Field(
        AUTO, ge=2, le=5, description="Cells along a side; automatic: 2 up to 32 px, else 3"
    )
    permutations: Auto[int] = Field(
        AUTO,
        ge=2,
        le=10_000,
        description="Permutations K to classify; automatic: 24 for grid 2, else 100, or 1000 from "
        "100,000 images",
    )
    permutation_mode: Auto[PermutationMode] = Field(
        AUTO,
        description="How permutations are chosen; automatic: all for grid 2, else max_min; "
        "max_mean "
        "is the paper's",
    )
    permutation_seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        description="Relabels cells and slots of the set; 0 = the canonical set, whose first "
        "permutation is the identity",
    )
    permutation_file: Path | None = Field(
        None,
        description="Permutations from a .npy or legacy .bin file (with --permutation-mode file)",
    )
    tile_input: Auto[int] = Field(
        AUTO,
        ge=SMALLEST_TILE,
        le=512,
        description="Side in px to which tiles are resized; automatic: 64, or the tile itself up "
        "to 64 px images",
    )
    crop: Literal["center", "random"] = Field(
        "center", description="Position of the cells if they do not fill the image"
    )
    gap: bool = Field(
        True,
        description="Crop a smaller tile at random from each cell, so that edges do not continue; "
        "without it a tile is its whole cell, and channels have no room to shift",
    )
    channel_jitter: bool = Field(
        True,
        description="Shift the color channels of each tile against each other by 0 to 2 px (at "
        "85 px cells)",
    )
    grayscale: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Probability of converting an image to gray (color images only)",
    )
    color_projection: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that the green-magenta axis of a color image is removed",
    )
    standardize: bool = Field(
        True,
        description="Standardize each channel of each tile to zero mean and unit deviation; else "
        "by those of the data",
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="Probability of a horizontal flip before cutting"
    )
    permutations_per_image: int = Field(
        1,
        ge=1,
        le=64,
        description="Permutations to classify per image and step; the tiles are encoded once",
    )
    fc6: int = Field(
        512,
        ge=1,
        description="Width of the layer on each tile's vector (paper 512, released code 1024)",
    )
    fc7: int = Field(
        1024, ge=1, description="Width of the layer on the concatenated vectors (paper 4096)"
    )
    head_norm: bool = Field(True, description="Batch norm in the head; the paper has none")
    dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Dropout before the last layer (and after fc6 without batch norm)",
    )
    spatial_features: bool = Field(
        False,
        description="Feed fc6 the flattened last feature map instead of its average, as in the "
        "paper",
    )

    of_color: ClassVar[Mapping[str, Any]] = {"grayscale": 0.0, "color_projection": 0.0}
    presets: ClassVar[Presets] = {
        "paper": {
            "backbone": "caffenet",
            "image_size": 256,
            "grid": 3,
            "permutations": 1000,
            "permutation_mode": "max_mean",
            "tile_input": 64,
            "fc6": 1024,
            "fc7": 4096,
            "head_norm": False,
            "spatial_features": True,
            "optimizer": "sgd",
            "lr": 0.01,
            "weight_decay": 5e-4,
            "batch_size": 256,
            "steps": 350_000,
            "schedule": "step",
            "milestones": (100 / 350, 200 / 350, 300 / 350),
            "warmup": 0,
        },
        # VISSL's, without its head of one layer.
        "r50": {
            "backbone": "resnet50",
            "image_size": 256,
            "permutations": 2000,
            "standardize": False,
            "channel_jitter": False,
            "grayscale": 0.66,
            "fc6": 1000,
            "fc7": 4096,
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 105,
            "warmup": 5,
            "schedule": "step",
            "milestones": (30 / 105, 60 / 105, 90 / 105, 100 / 105),
        },
        "modern": {
            "backbone": "resnet50",
            "image_size": 256,
            "flip": 0.5,
            "fc6": 1024,
            "fc7": 4096,
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 105,
            "warmup": 5,
        },
        "small": {
            "backbone": "resnet10_w32",
            "channels": 1,
            "batch_size": 64,
            "permutations_per_image": 4,
            "flip": 0.5,
        },
    }

    def with_defaults(self, data: DataInfo) -> Self:
        """Decide grid, permutations, mode and tile size.

        Raises:
            UsageError: Tiles would be under 6 px, or the permutation file is missing or unreadable.
        """
        grid = self.grid or (2 if data.image_size <= 32 else 3)
        mode = self.permutation_mode or ("file" if self.permutation_file else None)
        if (mode == "file") != (self.permutation_file is not None):
            raise UsageError(
                "--permutation-mode file and --permutation-file FILE go together; type both or "
                "neither"
            )
        count = self.permutations or (24 if grid == 2 else 100 if data.count < 100_000 else 1000)
        if mode == "file":
            from ssltool.methods.jigsaw import permutations

            count = permutations.load(Path(str(self.permutation_file))).count
        if mode is None:
            mode = "all" if grid == 2 and count == 24 else "max_min"
        tile = geometry(data.image_size, grid, self.gap).tile
        automatic_input = tile if data.image_size <= 64 else 64
        return self.model_copy(
            update={
                "grid": grid,
                "permutations": count,
                "permutation_mode": mode,
                "tile_input": self.tile_input or automatic_input,
            }
        )
