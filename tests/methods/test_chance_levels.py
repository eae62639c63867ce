"""Chance levels against the losses of predictors that are in fact constant."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.methods.base import Method
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method


def build(name: str, info: DataInfo, **options: Any) -> Method[Any, Any]:
    cls = find_method(name)
    chosen = cls.Options(**options).with_defaults(info)
    torch.manual_seed(0)
    encoder = cls.inputs(chosen, info).build_encoder("resnet10_w32", stem="small", in_channels=3)
    return cls(chosen, encoder, info)


def smooth(count: int, side: int) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=seeded(3))
    return (F.interpolate(coarse, (side, side), mode="bilinear") * 255).byte()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("count", "mode"), [(24, "all"), (10, "max_min"), (7, "random")])
def test_jigsaw(count: int, mode: str) -> None:
    given = {"grid": 2, "permutations": count, "permutation_mode": mode}
    method: Any = build("jigsaw", DataInfo(64, 32), **given)
    orders = method.orders.tolist()
    assert len(orders) == count

    def right(answer: tuple[int, ...]) -> float:
        hits = [a == b for order in orders for a, b in zip(answer, order, strict=True)]
        return sum(hits) / len(hits)

    assert method.chance["tile_accuracy"] == pytest.approx(max(map(right, map(tuple, orders))))
    best = max(map(right, itertools.permutations(range(4))))
    assert method.chance["assignment_tile_accuracy"] == pytest.approx(best)
    method.logits = lambda view: torch.zeros(len(view.target.flatten()), count)
    view = method.eval().view(smooth(8, 32), torch.arange(8), seeded())
    assert float(method(view).value) == pytest.approx(method.chance["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_context_prediction(training: bool) -> None:
    """The best constant prediction is the share of each position among the pairs."""
    method: Any = build("context-prediction", DataInfo(256, 96)).train(training)
    view = method.view(smooth(256, 96), torch.arange(256), seeded())
    shares = torch.bincount(view.target.flatten(), minlength=8) / view.target.numel()
    loss = F.cross_entropy(shares.log().expand(view.target.numel(), -1), view.target.flatten())
    assert float(loss) == pytest.approx(method.chance["loss"], rel=0.01)
    assert float(shares.max()) == pytest.approx(method.chance["accuracy"], rel=0.15)


@pytest.mark.parametrize("mask", ["region", "center"])
@pytest.mark.parametrize("reconstruction", ["l2", "l1"])
def test_context_encoder(mask: str, reconstruction: str) -> None:
    """Noise, whose statistics are the same everywhere, inpainted with its mean."""
    images = (128 + 40 * torch.randn(8, 3, 32, 32, generator=seeded())).clamp(0, 255).byte()
    scaled = images / 255
    statistics = [tuple(f(scaled, (0, 2, 3)).tolist()) for f in (torch.mean, torch.std)]
    info = DataInfo(64, 32, mean=statistics[0], std=statistics[1])
    method: Any = build(
        "context-encoder", info, mask=mask, reconstruction=reconstruction, standardize=False
    ).eval()
    view = method.view(images, torch.arange(8), seeded())
    mean = method.mean_color(view)
    method.predict = lambda view: 2 * method._windowed(mean) - 1
    scored = method(view)
    assert float(scored.value) == pytest.approx(method.chance["loss"], rel=0.03)
    assert float(scored.metrics["l2"]) == pytest.approx(method.chance["l2"], rel=0.03)


@pytest.mark.parametrize("negatives", ["all", "other-images", "same-image", "random"])
def test_cpc(negatives: str) -> None:
    method: Any = build("cpc", DataInfo(64, 32, batch_size=4), negatives=negatives).eval()
    for predictor in method.predictors.values():
        for head in predictor.predict.values():
            torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        scored = method(method.view(smooth(4, 32), torch.arange(4), seeded()))
    # Candidates that are the target itself are left out of "random".
    tolerance = 0.01 if negatives == "random" else 1e-5
    assert float(scored.value) == pytest.approx(method.chance["loss"], rel=tolerance)
    assert math.exp(method.chance["loss"]) == pytest.approx(1 / method.chance["accuracy"])
