"""Speed of the input pipeline, from JPEG files to network input, relative to per-sample code.

    python benchmarks/pipeline.py --images FOLDER [--task jigsaw] [--rounds 5] [--json]

ssltool: the loader (decode, center square, batch of bytes) and the method's batched view. Per
sample: the same task as public implementations write it, with a Dataset whose __getitem__ opens the
file with Pillow, transforms it with torchvision and crops, jitters and normalizes part by part, and
the default collate. Each side has its own process with one thread, interleaved on the same files.
Median images per CPU-second.

FOLDER holds large photographs: they are resized to 2000 px, and 500x375 px are cropped from those,
JPEG quality 90.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from turns import Task, collated, take_turns

from ssltool.data import decode_jpeg
from ssltool.data.batch import Batch
from ssltool.data.decode import decode
from ssltool.data.loader import TrainBatches
from ssltool.data.sources.registry import open_source
from ssltool.methods.colorization.ab_bins import bin_centers
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.ops.chunked import chunks
from ssltool.ops.color import standardize_colors
from ssltool.ops.crops import random_boxes, resized_crop
from ssltool.ops.per_image_rng import PerImageRNG

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZE = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])
# Target ratios on 500 px images; 2 for the others, 3 for all on 2000 px.
TARGETS = {"crop": 2.4, "jigsaw": 5.0, "npid": 3.0}

# Method -> side of the loader's squares, options of the method.
TASKS: dict[str, tuple[int, dict[str, Any]]] = {
    "crop": (224, {}),
    "jigsaw": (256, {"tile_input": 75}),
    "context-prediction": (
        255,
        {"sampler": "center", "patch": 64, "gap": 21, "jitter": 10, "downsample": 0.0},
    ),
    "context-encoder": (128, {"mask": "center"}),
    "colorization": (176, {}),
    "npid": (224, {}),
    "cpc": (256, {"patch": 64, "augment": "light"}),
}


# Per-sample code, one function per task: Pillow image -> network input


def crop(image: Image.Image) -> Tensor:
    view: Tensor = _CROP(image)
    return view


_CROP = T.Compose([T.RandomResizedCrop(224), T.RandomHorizontalFlip(), NORMALIZE])
_TILE = T.Compose([T.RandomCrop(64), T.Resize((75, 75))])


def jigsaw(image: Image.Image) -> tuple[Tensor, int]:
    """Nine tiles, each cropped, resized, its channels jittered, and normalized by its own
    statistics.
    """
    if random.random() < 0.3:
        image = image.convert("LA").convert("RGB")
    image = T.functional.center_crop(T.functional.resize(image, 256), [255, 255])
    tiles = []
    for number in range(9):
        top, left = number // 3 * 85, number % 3 * 85
        tile = np.array(_TILE(image.crop((left, top, left + 85, top + 85))), "int32")
        for channel in range(3):
            tile[:, :, channel] += random.randint(-2, 2)
        shown = T.functional.to_tensor(Image.fromarray(tile.clip(0, 255).astype("uint8")))
        mean, std = shown.view(3, -1).mean(dim=1), shown.view(3, -1).std(dim=1).clamp_min(1e-3)
        tiles.append(T.functional.normalize(shown, mean.tolist(), std.tolist()))
    target = random.randrange(100)
    return torch.stack([tiles[cell] for cell in _PERMUTATIONS[target]]), target


_PERMUTATIONS = [random.Random(number).sample(range(9), 9) for number in range(100)]
_SQUARE = T.RandomResizedCrop(255, scale=(0.33, 1.0), ratio=(1.0, 1.0))


def context_prediction(image: Image.Image) -> tuple[Tensor, Tensor]:
    """A patch and its eight neighbors, jittered, two channels of each replaced by noise."""
    image = _SQUARE(image)
    patches = []
    for row in range(3):
        for column in range(3):
            top = min(max(10 + row * 85 + random.randint(-10, 10), 0), 191)
            left = min(max(10 + column * 85 + random.randint(-10, 10), 0), 191)
            patch = T.functional.to_tensor(image.crop((left, top, left + 64, top + 64)))
            mean, std = patch.mean(dim=(1, 2), keepdim=True), patch.std(dim=(1, 2), keepdim=True)
            patch = (patch - mean) / std.clamp_min(1e-3)
            kept = random.randrange(3)
            for channel in range(3):
                if channel != kept:
                    patch[channel] = torch.randn(64, 64) / 100
            patches.append(patch)
    middle = patches.pop(4)
    return torch.stack([torch.cat([middle, patch]) for patch in patches]), torch.arange(8)


_HALF = T.Compose(
    [
        T.RandomResizedCrop(128, scale=(0.5, 1.0)),
        T.RandomHorizontalFlip(),
        T.ToTensor(),
        T.Normalize((0.5,) * 3, (0.5,) * 3),
    ]
)


def context_encoder(image: Image.Image) -> tuple[Tensor, Tensor]:
    """An image whose center is filled with the mean color, and the center."""
    whole = _HALF(image)
    target, masked = whole[:, 32:96, 32:96].clone(), whole.clone()
    for channel, value in enumerate((2 * 117 / 255 - 1, 2 * 104 / 255 - 1, 2 * 123 / 255 - 1)):
        masked[channel, 39:89, 39:89] = value
    return masked, target


def rgb_to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Convert sRGB to Lab as numpy libraries compute it, on every pixel."""
    linear = rgb.astype(np.float64) / 255
    bright = linear > 0.04045
    linear[bright] = ((linear[bright] + 0.055) / 1.055) ** 2.4
    linear[~bright] /= 12.92
    matrix = [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
    xyz = linear @ np.array(matrix).T / (0.95047, 1.0, 1.08883)
    bright = xyz > 0.008856
    xyz[bright] = np.cbrt(xyz[bright])
    xyz[~bright] = 7.787 * xyz[~bright] + 16 / 116
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_COLORED = T.Compose([T.RandomResizedCrop(176, scale=(0.5, 1.0)), T.RandomHorizontalFlip()])
_CENTERS = bin_centers(10).numpy()
_NEAREST = NearestNeighbors(n_neighbors=10).fit(_CENTERS)


def colorization(image: Image.Image) -> tuple[Tensor, Tensor]:
    """Lightness, and every fourth pixel's color as Gaussian weights of its ten nearest bins."""
    lab = rgb_to_lab(np.asarray(_COLORED(image)))
    ab = lab[::4, ::4, 1:].reshape(-1, 2)
    distances, bins = _NEAREST.kneighbors(ab)
    weights = np.exp(-(distances**2) / (2 * 5**2))
    target = np.zeros((len(ab), len(_CENTERS)), np.float32)
    target[np.arange(len(ab))[:, None], bins] = weights / weights.sum(axis=1, keepdims=True)
    light = torch.from_numpy((lab[..., :1] - 50) / 50).permute(2, 0, 1).float()
    return light, torch.from_numpy(target).view(44, 44, -1).permute(2, 0, 1)


_VIEW = T.Compose(
    [
        T.RandomResizedCrop(224, scale=(0.2, 1.0)),
        T.RandomGrayscale(0.2),
        T.ColorJitter(0.4, 0.4, 0.4, 0.4),
        T.RandomHorizontalFlip(),
        NORMALIZE,
    ]
)


def npid(image: Image.Image) -> Tensor:
    view: Tensor = _VIEW(image)
    return view


_PATCH = T.Compose(
    [
        T.RandomCrop(60),
        T.Pad(2, padding_mode="edge"),
        T.ColorJitter(0.4, 0.4),
        T.RandomGrayscale(0.25),
        T.ToTensor(),
        T.Lambda(lambda patch: (patch + 0.1 * torch.randn_like(patch)).clamp(0, 1)),
        T.Normalize(MEAN, STD),
    ]
)
_GRID = T.Compose([T.Resize(256), T.CenterCrop(256), T.RandomHorizontalFlip()])


def cpc(image: Image.Image) -> Tensor:
    """Seven by seven overlapping patches, each augmented."""
    image = _GRID(image)
    corners = [(32 * row, 32 * column) for row in range(7) for column in range(7)]
    return torch.stack(
        [_PATCH(image.crop((left, top, left + 64, top + 64))) for top, left in corners]
    )


PER_SAMPLE: dict[str, Callable[[Image.Image], Any]] = {
    "crop": crop,
    "jigsaw": jigsaw,
    "context-prediction": context_prediction,
    "context-encoder": context_encoder,
    "colorization": colorization,
    "npid": npid,
    "cpc": cpc,
}


# ssltool


def plain_crop(batch: Batch, generator: torch.Generator) -> Tensor:
    """Random resized crop, flip and normalization with `ssltool.ops`, in chunks like every view."""
    rng, images = PerImageRNG(batch.indices, generator), batch.images
    boxes, mirrored = random_boxes(rng, images.shape[-1], (0.08, 1.0)), rng.bernoulli(0.5)
    mean, std = (torch.tensor(values) * 255 for values in (MEAN, STD))
    views = torch.empty(len(images), 224, 224, 3).permute(0, 3, 1, 2)
    for chunk in chunks(images, 8):
        cropped = resized_crop(images[chunk], boxes[chunk], 224, mirrored[chunk])
        standardize_colors(cropped, mean, std, out=views[chunk])
    return views


def view_of(
    task: str, side: int, options: dict[str, Any]
) -> Callable[[Batch, torch.Generator], Any]:
    """The view of a method; its encoder is not run."""
    if task == "crop":
        return plain_crop
    cls, info = find_method(task), DataInfo(1000, side)
    resolved = cls.Options(**options).with_defaults(info)
    inputs = cls.inputs(resolved, info)
    encoder = inputs.build_encoder("resnet18", stem="imagenet", in_channels=inputs.channels)
    method = cls(resolved, encoder, info).train()
    return lambda batch, generator: method.view(batch.images, batch.indices, generator)


def photographs(folder: str | None) -> list[Image.Image]:
    """Images of up to 2000 px: those of a folder, or mosaics of the built-in demo images."""
    images = []
    if folder is None:
        source = open_source(["demo:240"])
        for number in range(20):
            mosaic = Image.new("RGB", (2000, 1500))
            for i in range(12):
                tile = Image.fromarray(source.read(12 * number + i, 500))
                mosaic.paste(tile, (i % 4 * 500, i // 4 * 500))
            images.append(mosaic)
        return images
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png"}:
            image = decode(path)
            image.thumbnail((2000, 2000))
            if min(image.size) >= 500:
                images.append(image)
    return images


def make_images(photos: str | None, folder: Path, small: int = 128) -> dict[str, float]:
    """JPEG files of two sizes, seeded; returns their mean kilobytes."""
    rng, images, count = random.Random(0), photographs(photos), 0
    for name in ("500", "2000"):
        (folder / name / "a").mkdir(parents=True)
    for count, image in enumerate(images):
        image.save(folder / "2000" / "a" / f"{count}.jpg", quality=90)
    for number in range(small):
        image, (width, height) = rng.choice(images), (375, 500) if number % 4 == 0 else (500, 375)
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        image.crop((left, top, left + width, top + height)).save(
            folder / "500" / "a" / f"{number}.jpg", quality=90
        )
    return {
        name: sum(path.stat().st_size for path in files) / len(files) / 1000
        for name in ("500", "2000")
        if (files := list((folder / name / "a").iterdir()))
    }


def ours(task: str, folder: str, batch: int) -> Task:
    """The loader and the view of one batch."""
    side, options = TASKS[task]
    view, generator = view_of(task, side, options), torch.Generator().manual_seed(0)
    loader = TrainBatches(open_source([folder]), size=side, batch_size=batch, seed=0, workers=0)
    batches = loader.from_step(0)

    def once() -> dict[str, float]:
        start = time.process_time()
        loaded = next(batches)
        spent = time.process_time() - start
        view(loaded, generator)
        return {"loader": spent}

    return once


def per_sample(task: str, folder: str, batch: int) -> Task:
    """A batch of the per-sample dataset."""
    return collated(ImageFolder(folder, transform=PER_SAMPLE[task]), batch)


def compare(task: str, folder: Path, batch: int, rounds: int) -> dict[str, float]:
    """Images per CPU-second of both sides on the files of one size."""
    arguments = (task, str(folder), batch)
    sides = {"ssltool": partial(ours, *arguments), "per_sample": partial(per_sample, *arguments)}
    seconds = take_turns(sides, rounds)
    speed = {name: batch / spent for name, spent in seconds.items()}
    return {**speed, "ratio": speed["ssltool"] / speed["per_sample"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", help="a folder of large photographs to make the JPEG files from"
    )
    parser.add_argument(
        "--task", choices=list(TASKS), action="append", help="time this task only; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )
    args = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        kilobytes = make_images(args.images, Path(folder))
        # Large photographs differ too much to sample: a batch is all of them.
        batches = {"500": 64, "2000": len(list((Path(folder) / "2000" / "a").iterdir()))}
        for task in args.task or list(TASKS):
            results[task] = {}
            for pixels, batch in batches.items():
                measured = compare(task, Path(folder) / pixels, batch, args.rounds)
                target = 3.0 if pixels == "2000" else TARGETS.get(task, 2.0)
                results[task][pixels] = {**measured, "target": target}
                if not args.json:
                    speed, loader = measured["ssltool"], measured["loader"]
                    print(
                        f"{task:20} {pixels:>5} px: ssltool {speed:7.1f} images per CPU-second "
                        f"(loader alone {loader:7.1f}), per sample {measured['per_sample']:7.1f}, "
                        f"{measured['ratio']:5.2f} times as fast (target {target})",
                        flush=True,
                    )
    if args.json:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        fast = decode_jpeg.simplejpeg_version() != "none"
        print(
            json.dumps(
                {
                    "tasks": results,
                    "kilobytes": kilobytes,
                    "simplejpeg": fast,
                    "versions": versions,
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
