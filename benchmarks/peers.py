"""Peers for `quality.py`: other projects' pretraining with the same backbone and CPU time.

    python benchmarks/peers.py simclr IMAGES --seconds 2400 --to peer.safetensors [--seed 0]

``simclr`` is lightly's SimCLR (transform, projection head and loss from ``pip install lightly``) on
the backbone and image size that ssltool's preset ``small`` takes for these images. The weights are
written as a plain state dict, and beside them a JSON document with backbone and size.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from ssltool.data.sources.base import Source
from ssltool.encoders.registry import build_encoder
from ssltool.runs.config import RunConfig, resolve
from ssltool.training import budget, start

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


def main() -> None:
    """Train one peer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["simclr"])
    parser.add_argument("data")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    simclr(arguments.data, arguments.seconds, arguments.seed, arguments.to)


if __name__ == "__main__":
    main()
