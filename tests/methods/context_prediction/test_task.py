"""Context prediction against the numbers of the paper and of the released code, and against its
known pitfalls.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.registry import build_encoder
from ssltool.errors import UsageError
from ssltool.methods.context_prediction import figures
from ssltool.methods.context_prediction.options import ContextPredictionOptions
from ssltool.methods.context_prediction.task import ContextPrediction, ContextPredictionView
from ssltool.methods.options import DataInfo
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.plotting.records import Matrix


def build(
    size: int = 64, gray: bool = False, channels: int = 3, **options: Any
) -> ContextPrediction:
    info = DataInfo(count=64, image_size=size, gray=gray)
    chosen = ContextPredictionOptions(**options).with_defaults(info)
    torch.manual_seed(0)
    encoder = build_encoder("resnet10_w32", stem="small", in_channels=channels)
    return ContextPrediction(chosen, encoder, info)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=seeded(1), dtype=torch.uint8)


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_released_network() -> None:
    info = DataInfo(1000, 548)
    paper = {
        k: v
        for k, v in ContextPredictionOptions.presets["paper"].items()
        if k in ContextPredictionOptions.model_fields
    }
    options = ContextPredictionOptions(**paper).with_defaults(info)
    assert (options.patch, options.gap, options.jitter) == (96, 48, 7)
    method = ContextPrediction(options, build_encoder("contextnet"), info)
    parts = [method.encoder, method.head.fc6, method.head.fc7, method.head.fc8, method.head.fc9]
    assert [size_of(part) for part in parts] == [
        3_747_200,
        9_441_280,
        33_558_528,
        16_781_312,
        32_776,
    ]
    assert size_of(method) == 63_561_096


def test_maps_of_the_released_network() -> None:
    """24, 12, 6, 3x3 places at 96 px: pooling rounds up; rounding down would leave 2x2, 1024
    numbers.
    """
    maps = build_encoder("contextnet").maps(torch.randn(2, 3, 96, 96))
    assert maps["conv1"].shape[-1] == 24
    assert maps["conv2"].shape[-1] == 12
    assert maps["conv3"].shape[-1] == 6
    assert maps["pool5"][0].numel() == 2304


def test_batch_norm_of_head_has_no_scale_and_shift() -> None:
    norms = [part for part in build().head.modules() if isinstance(part, nn.BatchNorm1d)]
    assert len(norms) == 2
    assert not any(norm.affine for norm in norms)


@pytest.mark.parametrize(
    ("side", "patch", "patch_input", "feature_size"),
    [
        (28, 6, 6, 28),
        (64, 11, 11, 64),
        (96, 17, 64, 361),
        (128, 22, 64, 372),
        (224, 39, 64, 368),
        (256, 45, 64, 364),
    ],
)
def test_what_is_decided_from_the_data(
    side: int, patch: int, patch_input: int, feature_size: int
) -> None:
    info = DataInfo(1000, side)
    options = ContextPredictionOptions().with_defaults(info)
    assert (options.patch, options.patch_input) == (patch, patch_input)
    assert ContextPrediction.inputs(options, info).feature_size == feature_size


def test_enlarged_patches_are_probed_at_their_scale() -> None:
    """28 px images with 6 px patches read at 32 px: whole images at 149 px."""
    info = DataInfo(1000, 28)
    options = ContextPredictionOptions(patch_input=32).with_defaults(info)
    assert ContextPrediction.inputs(options, info).feature_size == 149


def test_patches_that_do_not_fit_are_refused_with_the_largest_that_would() -> None:
    with pytest.raises(UsageError, match="--patch 24"):
        ContextPredictionOptions(sampler="pair", patch=40).with_defaults(DataInfo(64, 64))
    for options, fault in (
        ({"pixels_min": 9000}, "go together"),
        ({"pixels_min": 9000, "pixels_max": 5000}, "is more than"),
        ({"pixels_min": 5000, "pixels_max": 9000, "sampler": "pair"}, "only with --sampler grid"),
    ):
        with pytest.raises(UsageError, match=fault):
            ContextPredictionOptions(**options).with_defaults(DataInfo(64, 64))


class _Corner(nn.Module):
    """An encoder whose vector of a patch is one of its pixels."""

    width, in_channels = 1, 3

    def forward(self, patches: Tensor) -> Tensor:
        return patches[:, :1, 0, 0]


def test_the_head_reads_the_pair_asked_in_its_order() -> None:
    method = build(fc6=1, fc7=2)
    method.encoder = _Corner()  # type: ignore[assignment]
    method.head.fc6 = method.head.fc7 = method.head.fc8 = nn.Sequential()
    method.head.fc9 = nn.Identity()  # type: ignore[assignment]
    patches = torch.arange(3 * 4).float().view(3, 4, 1, 1, 1).expand(3, 4, 3, 5, 5)
    first, second = torch.tensor([[0, 3], [1, 1], [2, 0]]), torch.tensor([[1, 2], [0, 3], [3, 2]])
    view = ContextPredictionView(patches, first, second, first, patches, patches, patches)
    got = method.head(method.vectors(view), first, second).view(3, 2, 2)
    for image in range(3):
        for pair in range(2):
            expected = [
                image * 4 + int(first[image, pair]),
                image * 4 + int(second[image, pair]),
            ]
            assert got[image, pair].tolist() == expected


def test_all_patches_of_a_batch_share_their_batch_statistics() -> None:
    """Two passes, one for first and one for second patches, would give the head a difference to
    read.
    """
    method = build().train()
    seen: list[int] = []
    method.encoder.register_forward_hook(lambda module, given, found: seen.append(len(given[0])))
    view = method.view(noise(4, 64), torch.arange(4), seeded())
    method(view)
    assert seen == [4 * 9]


def test_color_patches_keep_one_channel_and_gray_data_keep_all() -> None:
    view = build().train().view(noise(8, 64), torch.arange(8), seeded())
    deviation = view.patches.std(dim=(-1, -2), correction=0)
    assert ((deviation > 0.9).sum(dim=2) == 1).all()
    assert ((deviation < 0.03).sum(dim=2) == 2).all()
    gray = noise(8, 64)[:, :1].expand(-1, 3, -1, -1)
    view = build(gray=True).train().view(gray, torch.arange(8), seeded())
    assert torch.allclose(view.patches[:, :, 0], view.patches[:, :, 2])
    one = build(channels=1).train().view(noise(8, 64), torch.arange(8), seeded())
    assert one.patches.shape[2] == 1
    assert torch.allclose(one.patches.std(dim=(-1, -2), correction=0), torch.ones(()), atol=1e-3)


def test_projected_patches_have_no_green_magenta_axis() -> None:
    view = build(color_guard="project").train().view(noise(4, 64), torch.arange(4), seeded())
    along = -view.patches[:, :, 0] + 2 * view.patches[:, :, 1] - view.patches[:, :, 2]
    assert along.abs().max() < 1e-3
    plain = build(color_guard="none").train().view(noise(4, 64), torch.arange(4), seeded())
    assert plain.patches[:, :, 0].std() > 0.5


def test_about_a_third_of_large_patches_are_less_sharp() -> None:
    options = {"color_guard": "none", "patch": 30, "patch_input": 30, "crop_min": 1.0}
    images, index = noise(60, 128), torch.arange(60)
    some = build(128, **options).train().view(images, index, seeded()).patches
    none = build(128, **options, downsample=0.0).train().view(images, index, seeded()).patches
    differ = ((some - none).abs() > 1e-3).flatten(2).any(dim=2)
    assert float(differ.double().mean()) == pytest.approx(0.33, abs=0.06)
    rough = [(part[..., 1:] - part[..., :-1]).abs()[differ].mean() for part in (some, none)]
    assert rough[0] < 0.8 * rough[1]
    small = build(64, color_guard="none").train()
    assert not small._downsamples  # 11 px patches have nothing to lose


def test_evaluation_is_balanced_and_unjittered() -> None:
    method = build(96, patch_input=17).eval()
    view = method.view(noise(300, 96), torch.arange(300), seeded())
    counts = view.target.flatten().bincount(minlength=8)
    assert counts.min() > 110
    images = torch.arange(300)[:, None]
    step = (view.corner[images, view.second] - view.corner[images, view.first]).abs()
    assert set(step.unique().tolist()) == {0, method.sizes.pitch}


def test_a_mirrored_image_is_cut_after_it_is_mirrored() -> None:
    """Labels come from the geometry, so mirroring before the cut is free; a mirrored patch is
    another task.
    """
    options = {"color_guard": "none", "crop_min": 1.0}
    mirrored = build(flip=1.0, **options).train().view(noise(3, 64), torch.arange(3), seeded())
    plain = (
        build(flip=0.0, **options).train().view(noise(3, 64).flip(-1), torch.arange(3), seeded())
    )
    assert torch.equal(mirrored.raw, plain.raw)
    assert torch.equal(mirrored.target, plain.target)


def test_exchanging_the_patches_turns_place_y_into_7_minus_y() -> None:
    method = build().eval()
    view = method.view(noise(16, 64), torch.arange(16), seeded())

    def knows(vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
        images = torch.arange(16)[:, None]
        step = (view.corner[images, second] - view.corner[images, first]).sign()
        cell = (step[..., 0] + 1) * 3 + step[..., 1] + 1
        return F.one_hot((cell - (cell > 4).long()).flatten(), 8).float() * 20

    method.head.forward = knows  # type: ignore[method-assign]
    numbers = method(view).metrics
    assert {name: float(value) for name, value in numbers.items()} == {
        "accuracy": 1.0, "both_orders": 1.0, "swap_consistency": 1.0,
    }  # fmt: skip


def test_a_metric_has_no_chance_level_that_a_constant_prediction_misses() -> None:
    """A network that sees nothing and prefers one position, in evaluation."""
    method = build().eval()
    view = method.view(noise(64, 64), torch.arange(64), seeded())
    logits = torch.zeros(view.target.numel(), 8)
    logits[:, 4] = 1e-3
    method.head.forward = lambda *given: logits  # type: ignore[method-assign]
    found = {**method(view).metrics, "loss": method(view).value}
    for metric in method.metrics:
        if metric.chance is not None:
            assert float(found[metric.name]) == pytest.approx(metric.chance, abs=0.06)


def test_the_second_patch_is_drawn_at_its_position() -> None:
    """A second patch at class 2 (printed 3) is drawn in the top right cell of the field."""
    pair = torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)
    place = torch.tensor([2])
    pair[:, 1] = 200
    (marks,) = figures._field(pair, place, place, None).marks
    true = next(mark for mark in marks if mark.key == figures._TRUE)
    assert true.box[0] > 0.6
    assert true.box[1] < 0.1
    wrong = figures._field(pair, torch.tensor([5]), place, torch.full((1, 8), 1 / 8))
    predicted = next(m for m in wrong.marks[0] if m.key == figures._PREDICTED)
    assert predicted.box[0] < 0.1
    assert predicted.box[1] > 0.6
    field = wrong.images[0]
    assert field[0, -4, 3] == 200  # where the second patch is drawn
    assert (figures._TRUE.round, figures._PREDICTED.round) == (False, True)
    assert figures._TRUE.color != figures._PREDICTED.color


def test_the_eight_locations_are_numbered_around_the_center() -> None:
    pair = torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)
    (marks,) = figures._field(pair, torch.tensor([0]), torch.tensor([7]), None).marks
    places = {
        mark.text: (int(mark.box[1] * 3), int(mark.box[0] * 3)) for mark in marks if mark.text
    }
    ring = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    assert places == {str(i + 1): place for i, place in enumerate(ring)}


def test_confusion_rows_sum_to_one() -> None:
    method = build().eval()
    with torch.no_grad():
        chart = method.figures.plots(method, noise(70, 64), torch.arange(70), seeded())["confusion"]
    assert isinstance(chart, Matrix)
    assert torch.allclose(chart.values.sum(dim=1), torch.ones(8))
    assert list(chart.rows) == ["1", "2", "3", "4", "5", "6", "7", "8"]


def test_facts_say_what_the_place_alone_gives_away() -> None:
    assert build(96, sampler="center").fingerprint["position_leak"] > 0.98
    assert build(96).fingerprint["position_leak"] < 0.3
    method = build(96)
    assert method.eval().chance["loss"] == pytest.approx(math.log(8)) == pytest.approx(2.0794, 1e-4)
    assert method.chance["accuracy"] == 1 / 8
    # In training all pairs of a 3x3 grid are used: 6 of 40 are left neighbors.
    assert method.train().chance["accuracy"] == pytest.approx(6 / 40)
    assert "most frequent position: 15.0%" in method.prepare([])


def test_images_are_enlarged_by_up_to_the_papers_range() -> None:
    """150,000 to 450,000 pixels with patches of one size: scales from 1 to the root of 3."""
    ramp = (torch.arange(64) * 3).to(torch.uint8).expand(1, 3, 64, 64)
    view = (
        build(color_guard="none")
        .train()
        .view(ramp.expand(400, -1, -1, -1), torch.arange(400), seeded())
    )
    slope = (view.image[:, 0, 0, 40].int() - view.image[:, 0, 0, 20].int()) / 60
    assert 0.55 < float(slope.min()) < 0.62
    assert 0.98 < float(slope.max()) < 1.02
    fixed = build(color_guard="none", crop_min=1.0).train().view(ramp, torch.arange(1), seeded())
    assert torch.equal(fixed.image, ramp)


def paper(**options: object) -> ContextPrediction:
    given = {"pixels_min": 150_000, "pixels_max": 450_000, "flip": 0.0, "downsample": 0.0}
    return build(548, color_guard="none", **given | options).train()


def test_patches_have_the_scales_of_the_paper() -> None:
    """96 px in 150,000 to 450,000: .143 to .248 of the root of the area, .181 on average."""
    aspects = torch.exp(torch.empty(20_000).uniform_(-0.4, 0.4, generator=seeded()))
    rng = PerImageRNG(torch.arange(20_000), seeded())
    height, width = paper()._resized(rng, aspects)
    scale = 96 / (height * width).double().sqrt()
    assert float(scale.mean()) == pytest.approx(0.181, abs=0.001)
    assert float(scale.min()) == pytest.approx(0.143, abs=0.001)
    assert float(scale.max()) == pytest.approx(0.248, abs=0.001)
    assert torch.allclose(width / height, aspects, atol=0.02)


@pytest.mark.slow
@pytest.mark.ci
def test_patches_are_cut_from_the_whole_image_where_their_corners_say() -> None:
    """Images whose red tells the column and whose green tells the row: a patch knows its box."""
    ramp = torch.linspace(0, 255, 548)
    columns, rows = ramp.expand(548, 548), ramp[:, None].expand(548, 548)
    images = torch.stack([columns, rows, torch.zeros(548, 548)]).round().to(torch.uint8)
    aspects = torch.tensor([0.75, 4 / 3, 1.0, 3.0])
    view = paper().view(images.expand(4, -1, -1, -1), torch.arange(4), seeded(), aspects)
    assert view.raw.shape == (4, 24, 3, 96, 96)
    assert view.target.shape == (4, 72)
    box = view.corner.float()  # top, left, height, width in the square
    values = view.raw.float()
    middle = values.mean(dim=(-2, -1)) / 255 * 547 + 0.5
    assert (middle[..., 0] - (box[..., 1] + box[..., 3] / 2)).abs().max() < 2
    assert (middle[..., 1] - (box[..., 0] + box[..., 2] / 2)).abs().max() < 2
    spread = (values[..., 0, :, -1] - values[..., 0, :, 0]).mean(dim=-1) / 255 * 547 * 96 / 95
    assert (spread - box[..., 3]).abs().max() < 3
    # In the image, before it was stretched, patches are squares.
    ratio = box[..., 3] * aspects[:, None] / box[..., 2]
    assert (ratio - 1).abs().max() < 0.03
    # Nothing of an image is out of reach: its corners are seen as well.
    many = torch.arange(400)
    view = paper(patches=8).view(
        images.expand(400, -1, -1, -1), many, seeded(), aspects.repeat(100)
    )
    ends = view.corner[..., :2] + view.corner[..., 2:]
    assert int(view.corner[..., :2].min()) == 0
    assert (ends.amax(dim=(0, 1)) >= 545).all()
