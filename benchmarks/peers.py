"""ssltool beside other projects: speed of loading and of training steps, and weights to compare.

    python benchmarks/peers.py loader IMAGES [--rounds 5] [--json]
    python benchmarks/peers.py step IMAGES [--rounds 3] [--json]
    python benchmarks/peers.py simclr IMAGES --seconds 2400 --to peer.safetensors [--seed 0]

``loader`` and ``step`` take what is installed of lightly and timm, name what is not, and clone
nothing. Each side has its own process with one thread; all take turns on the same
files, and ratios are of one run.

``loader``: from JPEG files to network input, normalized views per CPU-second. A view is an
augmented image of 224 px, or as many pixels: DINO's six crops of 96 px count as 1.1. ``step``:
loading, forward and backward pass and the update by AdamW, all with a ResNet-18, at 128 px and on
16 views: one of each of 16 images, or two of eight. timm trains no pretext task: its side is a
supervised step, with cross-entropy in place of a projection and a contrastive loss.

``simclr`` is lightly's SimCLR (transform, projection head and loss) for `quality.py`, on the
backbone and image size that ssltool's preset ``small`` takes for these images. The weights are
written as a plain state dict, and beside them a JSON document with backbone and size.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from turns import Task, collated, take_turns

from ssltool.data.loader import TrainBatches
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.encoders.registry import build_encoder
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.runs.config import RunConfig
from ssltool.runs.resolve import resolve
from ssltool.training import budget, start

PACKAGES = ("lightly", "timm")
VIEWS, STEP_VIEWS, STEP_SIDE = 64, 16, 128
BATCH = 128
LR = 1e-3  # of AdamW, as the preset's optimizer; lightly's own recipe is LARS for batches of 4096
LONGEST = 10**9


class Views(Dataset[Any]):
    """Two augmented views of each image."""

    def __init__(self, source: Source, size: int, transform: Any) -> None:
        self._images = [Image.fromarray(source.read(i, size)) for i in _readable(source, size)]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        return self._transform(self._images[index])


def _readable(source: Source, size: int) -> list[int]:
    from ssltool.errors import UnreadableImage

    indices = []
    for index in range(len(source)):
        try:
            source.read(index, size)
        except UnreadableImage:
            continue
        indices.append(index)
    return indices


def simclr(data: str, seconds: float, seed: int, to: Path) -> None:
    """Train for CPU seconds and save the backbone."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    config = RunConfig.merged("npid", {"data": (data,)}, "small")
    source = start.open_images(config)
    config, info = budget.cheapest(config, start.inspected(config, source))
    options = resolve(config, info).run
    torch.manual_seed(seed)
    encoder = build_encoder(options.backbone, stem=options.stem)
    encoder = encoder.to(memory_format=torch.channels_last).train()
    head = SimCLRProjectionHead(encoder.width, encoder.width, 128)
    loss_of = NTXentLoss(temperature=0.5)
    size = info.image_size
    # Blur, as lightly advises for small images, is off.
    views = Views(source, size, SimCLRTransform(input_size=size, gaussian_blur=0.0))
    batches = DataLoader(views, BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], weight_decay=0.05)
    began = time.process_time()
    steps = 0
    for _ in range(LONGEST):
        for one, two in batches:
            done = (time.process_time() - began) / seconds
            if done >= 1:
                save_file({k: v.contiguous() for k, v in encoder.backbone.state_dict().items()}, to)
                about = {"backbone": options.backbone, "image_size": size, "steps": steps}
                to.with_suffix(".json").write_text(json.dumps(about))
                return
            rate = LR * min(1.0, done / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = max(rate, 1e-6)
            both = torch.cat([one, two]).contiguous(memory_format=torch.channels_last)
            first, second = head(encoder(both)).chunk(2)
            optimizer.zero_grad()
            loss_of(first, second).backward()
            optimizer.step()
            steps += 1


# Speed of loading: what one round of each side does, and the views that it makes


def installed(package: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(package) is not None


def transformed(make: Callable[[], Callable[[Image.Image], Any]], folder: str, images: int) -> Task:
    """Images decoded, transformed and collated one by one."""
    return collated(ImageFolder(folder, transform=make()), images)


def simclr_transform(size: int = 224) -> Any:
    from lightly.transforms import SimCLRTransform

    return SimCLRTransform(input_size=size)


def moco_transform() -> Any:
    from lightly.transforms import MoCoV2Transform

    return MoCoV2Transform(input_size=224)


def dino_transform() -> Any:
    from lightly.transforms import DINOTransform

    return DINOTransform()


def timm_batches(folder: str, batch: int, size: int) -> Iterator[Any]:
    """Batches of timm's loader with its default augmentation: crop, flip and jitter."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=folder, is_training=True),
        input_size=(3, size, size),
        batch_size=batch,
        is_training=True,
        color_jitter=0.4,
        num_workers=0,
        use_prefetcher=False,
    )
    while True:
        yield from loader


def timm_loader(folder: str, batch: int) -> Task:
    """One batch at a time."""
    batches = timm_batches(folder, batch, 224)

    def once() -> None:
        next(batches)

    return once


def ours(task: str, folder: str, batch: int) -> Task:
    """The loader and the view of a method, or a plain random resized crop."""
    from pipeline import view_of

    view, generator = view_of(task, 224, {}), torch.Generator().manual_seed(0)
    loader = TrainBatches(open_source([folder]), size=224, batch_size=batch, seed=0, workers=0)
    batches = loader.from_step(0)

    def once() -> None:
        view(next(batches), generator)

    return once


_DINO_VIEWS = 2 + 6 * (96 / 224) ** 2


def loaders(folder: str) -> dict[str, tuple[str, float, Callable[[], Task]]]:
    """Name -> package, views per round, and what prepares the rounds; as far as installed."""
    n = VIEWS
    sides: dict[str, tuple[str, float, Callable[[], Task]]] = {
        "ssltool npid": ("ssltool", n, partial(ours, "npid", folder, n)),
        "ssltool crop and flip": ("ssltool", n, partial(ours, "crop", folder, n)),
        "lightly SimCLR": ("lightly", n, partial(transformed, simclr_transform, folder, n // 2)),
        "lightly MoCo v2": ("lightly", n, partial(transformed, moco_transform, folder, n // 2)),
        "lightly DINO": (
            "lightly",
            _DINO_VIEWS * (n // 4),
            partial(transformed, dino_transform, folder, n // 4),
        ),
        "timm create_loader": ("timm", n, partial(timm_loader, folder, n)),
    }
    return {k: v for k, v in sides.items() if v[0] == "ssltool" or installed(v[0])}


# Speed of a step


def trained(encoder: nn.Module, *rest: nn.Module) -> torch.optim.Optimizer:
    """AdamW over a network in channels-last memory."""
    encoder.to(memory_format=torch.channels_last).train()
    modules = nn.ModuleList([encoder, *rest])
    return torch.optim.AdamW(modules.parameters(), lr=LR, weight_decay=0.05)


def our_step(folder: str) -> Task:
    """npid: one view of each image."""
    cls, info = find_method("npid"), DataInfo(4096, STEP_SIDE, batch_size=STEP_VIEWS)
    chosen = cls.Options().with_defaults(info)
    inputs = cls.inputs(chosen, info)
    encoder = inputs.build_encoder("resnet18", stem="imagenet", in_channels=inputs.channels)
    method = cls(chosen, encoder, info).train()
    optimizer, generator = trained(method), torch.Generator().manual_seed(0)
    source = open_source([folder])
    batches = TrainBatches(source, size=STEP_SIDE, batch_size=STEP_VIEWS, seed=0, workers=0)
    stream = batches.from_step(0)

    def once() -> None:
        batch = next(stream)
        loss = method(method.view(batch.images, batch.indices, generator))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        method.after_step([loss.update])

    return once


def lightly_step(folder: str) -> Task:
    """SimCLR: two views of half as many images."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    encoder = build_encoder("resnet18", stem="imagenet")
    head, loss_of = SimCLRProjectionHead(encoder.width, encoder.width, 128), NTXentLoss()
    optimizer = trained(encoder, head)
    dataset = ImageFolder(folder, transform=simclr_transform(STEP_SIDE))
    loader = DataLoader(dataset, STEP_VIEWS // 2, shuffle=True, drop_last=True)
    stream = (batch for _ in range(LONGEST) for batch in loader)

    def once() -> None:
        (one, two), _ = next(stream)
        views: Tensor = torch.cat([one, two]).contiguous(memory_format=torch.channels_last)
        first, second = head(encoder(views)).chunk(2)
        optimizer.zero_grad()
        loss_of(first, second).backward()
        optimizer.step()

    return once


def timm_step(folder: str) -> Task:
    """Supervised classification: one view of each image."""
    from timm import create_model

    classes = len(ImageFolder(folder).classes)
    network = create_model("resnet18", num_classes=classes)
    optimizer, batches = trained(network), timm_batches(folder, STEP_VIEWS, STEP_SIDE)

    def once() -> None:
        images, labels = next(batches)
        logits = network(images.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return once


def steps(folder: str) -> dict[str, tuple[str, float, Callable[[], Task]]]:
    """As `loaders`."""
    sides: dict[str, tuple[str, float, Callable[[], Task]]] = {
        "ssltool npid": ("ssltool", STEP_VIEWS, partial(our_step, folder)),
        "lightly SimCLR": ("lightly", STEP_VIEWS, partial(lightly_step, folder)),
        "timm supervised": ("timm", STEP_VIEWS, partial(timm_step, folder)),
    }
    return {k: v for k, v in sides.items() if v[0] == "ssltool" or installed(v[0])}


SPEED = {"loader": loaders, "step": steps}


def compare(what: str, folder: str, rounds: int) -> dict[str, Any]:
    """Views per CPU-second of every side, and how many times as fast the first one is."""
    images = len(open_source([folder]))
    if images < VIEWS:  # loaders that drop the last batch would never have one
        raise SystemExit(f"{images} images in {folder}; at least {VIEWS} are expected")
    sides = SPEED[what](folder)
    ours = frozenset(name for name, side in sides.items() if side[0] == "ssltool")
    seconds = take_turns({name: begin for name, (_, _, begin) in sides.items()}, rounds, ours)
    speed = {name: views / seconds[name] for name, (_, views, _) in sides.items()}
    first = next(iter(speed.values()))
    return {
        "views_per_cpu_s": speed,
        "ratio": {name: first / of for name, of in speed.items()},
        "versions": versions(),
        "not_installed": [name for name in PACKAGES if not installed(name)],
    }


def versions() -> dict[str, str]:
    """Versions of Python, of torch and of the peers."""
    known = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "pillow", "simplejpeg", *PACKAGES):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known


def main() -> None:
    """Compare speed, or train one peer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="name", required=True)
    for name in SPEED:
        command = commands.add_parser(name)
        command.add_argument("data", help="a folder of folders of JPEG files")
        command.add_argument("--rounds", type=int, default=5)
        command.add_argument("--json", action="store_true")
    peer = commands.add_parser("simclr")
    peer.add_argument("data")
    peer.add_argument("--seconds", type=float, required=True)
    peer.add_argument("--seed", type=int, default=0)
    peer.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.name == "simclr":
        simclr(arguments.data, arguments.seconds, arguments.seed, arguments.to)
        return
    result = compare(arguments.name, arguments.data, arguments.rounds)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, speed in result["views_per_cpu_s"].items():
        ratio = result["ratio"][name]
        print(f"{name:26} {speed:8.1f} views per CPU-second, ssltool npid / this {ratio:5.2f}")
    print("not installed:", ", ".join(result["not_installed"]) or "none")
    print(json.dumps(result["versions"]))


if __name__ == "__main__":
    main()
