"""Images with a planted shortcut, and small methods trained on them with guards on and off.

``python tests/made_shortcuts.py`` prints the outcomes as the table of docs/audit.md;
``tests/auditing/test_planted.py`` tests them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.auditing.audit import findings, without_color
from ssltool.methods.base import Method
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.runs.audit_record import Finding
from ssltool.training.optim import build_optimizer


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(name: str, images: Tensor, channels: int | None = None, **options: Any) -> Any:
    """A method for these images, as `pretrain` builds it, without training."""
    scaled = images.float() / 255
    mean, std = (tuple(f(dim=(0, 2, 3)).tolist()) for f in (scaled.mean, scaled.std))
    info = DataInfo(len(images), images.shape[-1], mean=mean, std=std)
    cls = find_method(name)
    torch.manual_seed(0)
    chosen = cls.Options(**options).with_defaults(info)
    inputs = cls.inputs(chosen, info)
    encoder = inputs.build_encoder(
        "resnet20", stem="small", in_channels=channels or inputs.channels
    )
    return cls(chosen, encoder, info)


def trained(
    method: Method[Any, Any], images: Tensor, steps: int, batch: int = 48, lr: float = 0.003
) -> Any:
    optimizer = build_optimizer(
        method, "adamw", lr=lr, weight_decay=0.01, momentum=0.9, lr_scales=method.lr_scales
    )
    method.train()
    method.prepare([(images, torch.arange(len(images)))])
    for step in range(steps):
        index = torch.randperm(len(images), generator=seeded(step))[:batch]
        loss = method(method.view(images[index], index, seeded(step)))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        method.after_step([loss.update])
    return method.eval()


def audited(method: Method[Any, Any], images: Tensor) -> dict[str, Finding]:
    """Findings by ``kind: cue``."""
    assert method.audit is not None
    index = torch.arange(len(images))
    plan = without_color(method.audit.plan(method, 0), images)
    scores = {name: score(images, index) for name, score in plan.conditions.items()}
    return {f"{f.kind}: {f.cue}": f for f in findings(plan, scores)}


def textured_cells(count: int, side: int, grid: int, strength: float = 10) -> Tensor:
    """Content: each cell has gray stripes of its own direction at a random phase, under noise;
    float ``[count, 3, side, side]`` around 128.
    """
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    cell = (y * grid // side) * grid + x * grid // side
    angle = cell * (torch.pi / grid**2)
    phase = torch.rand(count, grid**2, generator=seeded(1))[:, cell] * 2 * torch.pi
    stripes = torch.sin((y * angle.sin() + x * angle.cos()) * (2 * torch.pi / 6) + phase)
    noise = torch.randn(count, side, side, generator=seeded(2))
    gray = 128 + strength * stripes + 25 * noise
    return gray[:, None].expand(-1, 3, -1, -1).clone()


def to_bytes(images: Tensor) -> Tensor:
    return images.clamp(0, 255).round().to(torch.uint8)


def brightness_ramp(images: Tensor) -> Tensor:
    """Darker at the top left."""
    side = images.shape[-1]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return images + 160 * (2 * y + x) / (3 * side) - 80


def chromatic_aberration(images: Tensor, pixels: int = 1) -> Tensor:
    """The first channel is displaced outwards and the third inwards, by quadrant."""
    side = images.shape[-1]
    half = side // 2
    result = images.clone()
    for channel, sign in ((0, 1), (2, -1)):
        for dy in (-1, 1):
            for dx in (-1, 1):
                moved = images[:, channel].roll((sign * dy * pixels, sign * dx * pixels), (1, 2))
                rows = slice(0, half) if dy < 0 else slice(half, side)
                columns = slice(0, half) if dx < 0 else slice(half, side)
                result[:, channel, rows, columns] = moved[:, rows, columns]
    return result


def marked_borders(images: Tensor, grid: int) -> Tensor:
    """A line along the borders between cells, of a random color for each image, so that it
    continues from tile to tile.
    """
    side, result = images.shape[-1], images.clone()
    colors = 255 * torch.rand(len(images), 3, 1, 1, generator=seeded(3))
    for at in range(side // grid, side, side // grid):
        result[:, :, at - 1 : at + 1, :] = colors
        result[:, :, :, at - 1 : at + 1] = colors
    return result


def smooth(count: int, side: int, cells: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Random fields, float ``[count, channels, side, side]`` in 0..255."""
    coarse = torch.rand(count, channels, cells, cells, generator=seeded(seed))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) * 255


def flat_colors(count: int, side: int, cells: int = 5) -> Tensor:
    """Each image has a color of its own, and soft spots of its own."""
    colors = 60 + 135 * torch.rand(count, 3, 1, 1, generator=seeded(4))
    return colors + 0.5 * (smooth(count, side, cells, 1, seed=7) - 128)


def color_of_lightness(count: int, side: int) -> Tensor:
    """The color of a pixel follows from its lightness."""
    gray = smooth(count, side, 4, 1, seed=3) / 255
    return torch.cat([gray, 0.3 + 0.4 * gray, 1 - gray], dim=1) * 200 + 20


def color_of_texture(count: int, side: int) -> Tensor:
    """Regions of horizontal stripes are red, those of vertical stripes green, equally light."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    region = smooth(count, side, 2, 1, seed=9) > 128
    light = 120 + 40 * torch.where(region, torch.sin(1.5 * y), torch.sin(1.5 * x))
    sign = torch.where(region, 1.0, -1.0)
    return torch.cat([light + 40 * sign, light - 18 * sign, light], dim=1)


def told_from_afar(count: int, side: int) -> Tensor:
    """The middle is black if the outer frame is white, and white if it is black; gray between."""
    frame = 255 * (torch.rand(count, 3, 1, 1, generator=seeded(5)) > 0.5).float()
    image = 128 + 8 * torch.randn(count, 3, side, side, generator=seeded(6))
    image[:, :, : side // 8] = frame
    image[:, :, :, : side // 8] = frame
    middle = slice(3 * side // 8, 5 * side // 8)
    image[:, :, middle, middle] = 255 - frame
    return image


class Plant(NamedTuple):
    """A shortcut planted in images, and how a method is trained on them.

    Attributes:
        method: Name of the method.
        images: The images; two thirds are for training, unless the method recognizes its own.
        open: Options that leave the shortcut open; empty where it is the images that have it.
        closed: Options that close it, beside the defaults.
        clean: Images without the shortcut, if no option closes it.
        options: Of the method.
        found: Keys of `audited` by which the shortcut is found.
        steps: Of training.
        batch: Images of a step.
        lr: Learning rate.
    """

    method: str
    images: Tensor
    open: dict[str, Any]
    options: dict[str, Any]
    found: tuple[str, ...]
    closed: Mapping[str, Any] = {}
    clean: Tensor | None = None
    steps: int = 80
    batch: int = 24
    lr: float = 0.003


JIGSAW = {"grid": 2, "fc6": 64, "fc7": 128, "dropout": 0.0, "permutations_per_image": 4}


def jigsaw(images: Tensor, found: str, **options: Any) -> Plant:
    return Plant("jigsaw", to_bytes(images), options, JIGSAW, (found,), batch=32, lr=0.005)


PLANTS: dict[str, Callable[[], Plant]] = {
    "jigsaw: a line along the borders": lambda: jigsaw(
        marked_borders(textured_cells(360, 24, 2, strength=15), 2),
        "cue: edges and border pixels",
        gap=False,
    ),
    "jigsaw: brightness grows from the corner": lambda: jigsaw(
        brightness_ramp(textured_cells(360, 24, 2)),
        "cue: brightness and contrast",
        standardize=False,
    ),
    "jigsaw: color fringes": lambda: jigsaw(
        chromatic_aberration(textured_cells(360, 24, 2, strength=4)),
        "cue: chromatic offset",
        grayscale=0.0,
        # Channel jitter begins at cells of 22 px; an encoder of one channel sees no fringes.
    )._replace(closed={"channels": 1}),
    "context-prediction: color fringes": lambda: Plant(
        "context-prediction",
        to_bytes(chromatic_aberration(textured_cells(240, 32, 3, strength=30))),
        {"color_guard": "none"},
        {"fc6": 64, "fc7": 64, "pairs": 8, "crop_min": 1.0, "geometry": "fit3"},
        ("cue: chromatic offset",),
        steps=160,
    ),
    "npid: colors of their own": lambda: Plant(
        "npid",
        to_bytes(flat_colors(64, 16)),
        {"jitter": 0.0, "hue": 0.0, "grayscale": 0.0},
        {"dim": 32, "crop": 0.6, "flip": 0.0},
        ("cue: color", "cue: neighbors by color histogram"),
        steps=100,
        batch=32,
    ),
    "cpc: batch norm": lambda: Plant(
        "cpc",
        to_bytes(smooth(48, 32, 5)),
        {"norm": "batch", "allow_batchnorm": True},
        {"context_width": 16, "context_blocks": 2, "target_width": 16, "directions": 1},
        ("cue: patches exchange information",),
        steps=2,
        batch=8,
    ),
    "colorization: color follows from lightness": lambda: Plant(
        "colorization",
        to_bytes(color_of_lightness(120, 24)),
        {},
        {"crop_min": 1.0, "flip": 0.0, "bin_step": 20, "rebalance": 1.0},
        ("answer: lightness of the pixel alone",),
        clean=to_bytes(color_of_texture(120, 24)),
        batch=20,
    ),
    "context-encoder: smooth images": lambda: Plant(
        "context-encoder",
        to_bytes(flat_colors(120, 24, 2)),
        {},
        {"mask": "center", "decoder_width": 32, "crop_min": 1.0, "overlap": 0, "flip": 0.0},
        ("answer: interpolation",),
        clean=to_bytes(told_from_afar(120, 24)),
        steps=120,
        lr=0.01,
    ),
}


def outcome(plant: Plant, *, shortcut_open: bool) -> dict[str, Finding]:
    """Train on the images with the shortcut open or closed, and audit on images not seen."""
    images = plant.images if shortcut_open or plant.clean is None else plant.clean
    seen = len(images) if plant.method == "npid" else 2 * len(images) // 3
    options = {**plant.options, **(plant.open if shortcut_open else plant.closed)}
    method = built(plant.method, images[:seen], **options)
    trained(method, images[:seen], plant.steps, plant.batch, plant.lr)
    return audited(method, images if plant.method == "npid" else images[seen:])


def is_shortcut(finding: Finding) -> bool:
    return finding.found and finding.kind in ("cue", "guard", "answer")


def _cells(found: dict[str, Finding], names: tuple[str, ...]) -> str:
    """The shares of the planted cue, and what else was found."""
    shares = [
        "not above chance level"
        if found[name].share is None
        else f"{100 * (found[name].share or 0):.0f} ± {100 * (found[name].share_error or 0):.0f} %"
        + (", found" if found[name].found else "")
        for name in names
    ]
    others = [f.cue for key, f in found.items() if is_shortcut(f) and key not in names]
    return "; ".join(shares) + "".join(f"; also {cue}" for cue in others)


def main(wanted: str) -> None:
    print("| planted | row | open | closed |\n|---|---|---|---|")
    for name, plant in PLANTS.items():
        if wanted in name:
            made = plant()
            off, on = (outcome(made, shortcut_open=choice) for choice in (True, False))
            rows = "; ".join(key.partition(": ")[2] for key in made.found)
            print(
                f"| {name} | {rows} | {_cells(off, made.found)} | {_cells(on, made.found)} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
