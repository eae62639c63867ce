"""CPC: what contexts may see, what the loss is at the start, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import UnknownNameError, UsageError
from ssltool.methods.cpc import figures
from ssltool.methods.cpc.options import CpcOptions
from ssltool.methods.cpc.task import Cpc
from ssltool.methods.options import DataInfo
from ssltool.ops import grids
from ssltool.ops.grids import DIRECTIONS, Direction


def build(
    size: int = 28,
    backbone: str = "resnet20",
    stem: Any = "small",
    channels: int = 3,
    info: DataInfo | None = None,
    **options: Any,
) -> Cpc:
    info = info or DataInfo(count=64, image_size=size)
    chosen = CpcOptions(**{"directions": 1, "context_width": 16, **options}).with_defaults(info)
    torch.manual_seed(0)
    return Cpc(
        chosen,
        Cpc.inputs(chosen, info).build_encoder(backbone, stem=stem, in_channels=channels),
        info,
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=seeded(1), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_contrast_are_what_features_are_extracted_from(channels: int) -> None:
    method = build(channels=channels, standardize=True).eval()
    images = noise(2, 28)
    view = method.view(images, torch.arange(2), seeded())
    inputs = Cpc.inputs(method.options, DataInfo(count=64, image_size=28))
    zero, one = (0.0,) * channels, (1.0,) * channels
    transform = InputTransform(28, zero, one, standardize=inputs.standardize)
    expected = grids.cut(transform(images), method.grid)
    assert torch.allclose(view.patches, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "patch", "stride", "crop", "offsets"),
    [(28, 8, 4, 28, 4), (32, 8, 4, 32, 5), (64, 16, 8, 64, 5), (96, 24, 12, 96, 5), (256, 64, 32,
    256, 5),
     (30, 8, 4, 28, 4), (257, 64, 32, 256, 5)],
)  # fmt: skip
def test_what_is_decided_from_the_image_size(
    size: int, patch: int, stride: int, crop: int, offsets: int
) -> None:
    options = CpcOptions().with_defaults(DataInfo(64, size))
    assert (options.patch, options.stride, options.crop, options.offsets) == (
        patch,
        stride,
        crop,
        offsets,
    )
    assert options.directions == (2 if size <= 64 else 4)


def test_the_papers_grids() -> None:
    v2 = CpcOptions(patch=80, stride=36, crop=260).with_defaults(DataInfo(64, 300))
    assert (v2.grid().count, v2.grid().least_offset, v2.offsets) == (6, 3, 3)
    v1 = CpcOptions(patch=64, stride=32, crop=256).with_defaults(DataInfo(64, 300))
    assert (v1.grid().count, v1.grid().least_offset, v1.offsets) == (7, 2, 5)


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        (16, {}, "--image-size 20"),
        (28, {"patch": 14}, "hold 3x3 patches.*--image-size 35"),
        (28, {"crop": 27}, "--crop 24"),
        (28, {"crop": 30}, "larger than the 28 px images"),
        (28, {"offsets": 5}, "a 6x6 grid has 4"),
    ],
)
def test_grids_that_do_not_fit_are_refused(size: int, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CpcOptions(**options).with_defaults(DataInfo(64, size))


@pytest.mark.parametrize(
    ("size", "backbone", "stem", "stage", "side"),
    [
        (28, "resnet10_w32", "small", "layer3", 2),
        (64, "resnet10_w32", "small", "layer4", 2),
        (28, "resnet20", "small", "layer3", 2),
        (96, "resnet18", "imagenet", "layer3", 2),
        (64, "resnet18", "imagenet", "layer2", 2),
        (256, "resnet18", "imagenet", "layer4", 2),
    ],
)
def test_the_backbone_stops_where_a_patch_still_has_four_places(
    size: int, backbone: str, stem: str, stage: str, side: int
) -> None:
    method = build(size, backbone, stem)
    assert method.encoder.stages[-1].name == stage
    patch = method.grid.patch
    assert method.encoder.map(torch.zeros(1, 3, patch, patch)).shape[-2:] == (side, side)


def test_a_stage_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="less than 2x2; type --last-stage layer3"):
        build(28, "resnet10_w32", last_stage="layer4")
    with pytest.raises(UnknownNameError, match="layer2"):
        build(28, last_stage="layer9")
    with pytest.raises(UsageError, match=r"convnext_tiny cannot take 4 px inputs.*--patch 32"):
        build(28, "convnext_tiny", "imagenet", patch=4, stride=4)
    assert build(28, "resnet10_w32", last_stage="layer2").encoder.width == 64


def test_batch_norm_is_refused_with_the_reason_unless_allowed() -> None:
    with pytest.raises(UsageError, match=r"leaks information.*--norm ln.*--allow-batchnorm"):
        build(norm="batch")
    info = DataInfo(64, 28)
    with pytest.raises(UsageError, match="leaks information"):
        Cpc(CpcOptions().with_defaults(info), build_encoder("resnet20"), info)
    assert any(
        isinstance(m, nn.BatchNorm2d) for m in build(norm="batch", allow_batchnorm=True).modules()
    )
    for norm in ("ln", "ln2d", "none"):
        assert not any(isinstance(m, nn.BatchNorm2d) for m in build(norm=norm).modules())


@pytest.mark.parametrize(("norm", "leaking"), [("ln", 0), ("ln2d", 0), ("none", 0), ("batch", 35)])
def test_patches_are_encoded_in_isolation(norm: str, leaking: int) -> None:
    """Batch norm must fail: through it the vector of patch 0 depends on all 35 others."""
    method = build(norm=norm, allow_batchnorm=True).double().train()
    shown = torch.rand(1, 36, 3, 8, 8, dtype=torch.float64, generator=seeded(), requires_grad=True)
    (gradient,) = torch.autograd.grad(method.codes(shown)[0, :, 0, 0].sum(), shown)
    strength = gradient.abs().amax(dim=(0, 2, 3, 4))
    assert float(strength[0]) > 1e-6
    assert int((strength[1:] > 1e-12).sum()) == leaking


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("size", "options", "last", "least"),
    [
        (64, {"patch": 16, "stride": 8}, (15, 23, 31, 39), 2),
        (65, {"patch": 20, "stride": 9}, (19, 28, 37, 46), 3),
    ],
)
def test_no_context_sees_a_pixel_of_its_targets(
    direction: Direction, size: int, options: dict[str, int], last: tuple[int, ...], least: int
) -> None:
    method = build(size, directions=4, last_stage="layer1", **options).double().train()
    image = noise(1, size)
    assert method.offsets[0] == method.grid.least_offset == least
    for i, expected in enumerate(last):
        seen = grids.orient(figures._influence(method, image, direction, i, 3), direction).amax(
            dim=(0, 2)
        )
        assert int(seen.nonzero().max()) == expected
        target = (i + method.offsets[0]) * options["stride"]
        assert target > expected
    if options["stride"] == 9:
        # A patch of 20 px every 9 px still shares pixels two rows on: 2 as a fixed least offset
        # would leak.
        assert [(i + 2) * 9 <= expected for i, expected in enumerate(last)] == [True] * 4


def test_batch_norm_shows_in_the_figure_of_what_a_context_sees() -> None:
    method = build(norm="batch", allow_batchnorm=True).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    seen = figures._influence(method, noise(2, 28), "down", 0, 3)
    assert int((seen > 0).any(dim=2)[0].nonzero().max()) == 27
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


@pytest.mark.parametrize(
    ("size", "images", "expected"),
    [(64, 16, 6.6644), pytest.param(64, 32, 7.3576, marks=pytest.mark.slow), (28, 64, 7.7424)],
)
def test_the_first_loss_is_log_n(size: int, images: int, expected: float) -> None:
    info = DataInfo(64, size, batch_size=images)
    method = build(size, "resnet10_w32", info=info, last_stage="layer2").train()
    with torch.no_grad():
        view = method.view(noise(images, size), torch.arange(images), seeded())
        loss = method(view)
        assert method.chance["loss"] == pytest.approx(expected, abs=5e-5)
        assert float(loss.value) == pytest.approx(expected, abs=0.05)
        assert float(loss.metrics["loss_ratio"]) == pytest.approx(1, abs=0.01)
        for predictor in method.predictors.values():
            for head in predictor.predict.values():
                head.weight.zero_()
        assert float(method(view).value) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("mode", ["all", "other-images", "same-image", "random"])
def test_chance_is_that_of_the_negatives(mode: str) -> None:
    method = build(negatives=mode, info=DataInfo(64, 28, batch_size=10))
    cells = {"all": 360, "other-images": 9 * 36 + 1, "same-image": 36, "random": 161}[mode]
    assert method.chance["loss"] == pytest.approx(math.log(cells))
    assert method.chance["accuracy"] == 1 / cells
    before = method.metrics
    with torch.no_grad():
        loss = method.train()(method.view(noise(4, 28), torch.arange(4), seeded()))
    # The ratio is that to the batch's own number of candidates, and nothing is remembered of it.
    count = {"all": 144, "other-images": 3 * 36 + 1, "same-image": 36, "random": 65}[mode]
    assert float(loss.metrics["loss_ratio"]) == pytest.approx(float(loss.value) / math.log(count))
    assert method.metrics == before


def test_the_loss_is_the_mean_over_directions_and_offsets() -> None:
    """A public port counts offset k exactly k - 1 times."""
    method = build(directions=4).eval()
    view = method.view(noise(3, 28), torch.arange(3), seeded())
    with torch.no_grad():
        parts = method.retrieve(view)
        assert list(parts) == [(d, k) for d in DIRECTIONS for k in (2, 3, 4, 5)]
        expected = sum(float(part.loss.mean()) for part in parts.values()) / 16
        assert float(method(view).value) == pytest.approx(expected, rel=1e-6)


def test_fewer_offsets_and_directions_are_fewer_heads() -> None:
    method = build(directions=2, offsets=1)
    assert list(method.predictors) == ["down", "up"]
    assert list(method.predictors["up"].predict) == ["2"]


def test_directions_differ_and_have_networks_of_their_own() -> None:
    """A public port's left is right mirrored: three directions are trained, one of them twice."""
    method = build(directions=4).eval()
    for predictor in list(method.predictors.values())[1:]:
        predictor.load_state_dict(method.predictors["down"].state_dict())
    view = method.view(noise(2, 28), torch.arange(2), seeded())
    mirrored = method.view(noise(2, 28).flip(-1), torch.arange(2), seeded())
    turned = method.view(noise(2, 28).flip(-2), torch.arange(2), seeded())

    def losses(one: Any) -> dict[Any, float]:
        # Encode the cells as they are, so that only the direction differs.
        return {key: float(part.loss.mean()) for key, part in method.retrieve(one).items()}

    method.encoder = nn.Identity()
    method.codes = lambda shown: (
        shown.mean(dim=(3, 4)).mean(dim=2).view(len(shown), 6, 6)[:, None].expand(-1, 64, -1, -1)
    )  # type: ignore[method-assign]
    with torch.no_grad():
        plain, across, over = losses(view), losses(mirrored), losses(turned)
    for k in (2, 3):
        assert plain["right", k] == pytest.approx(across["left", k], abs=1e-5)
        assert plain["down", k] == pytest.approx(over["up", k], abs=1e-5)
        assert len({round(plain[d, k], 6) for d in DIRECTIONS}) == 4


def test_evaluation_is_central_and_unchanged() -> None:
    method = build(30).eval()
    images = noise(2, 30)
    view = method.view(images, torch.arange(2), seeded())
    assert torch.equal(view.image, images[:, :, 1:29, 1:29])
    assert torch.equal(figures._patch_images(method, view)[:, 7], images[:, :, 5:13, 5:13])


def test_training_crops_and_mirrors_whole_images() -> None:
    method = build(30, augment="none", flip=1.0).train()
    images = noise(1, 30).expand(200, -1, -1, -1)
    view = method.view(images, torch.arange(200), seeded())
    squares = {
        (y, x): images[0].flip(-1)[:, y : y + 28, x : x + 28] for y in range(3) for x in range(3)
    }
    found = [
        next(key for key, square in squares.items() if torch.equal(square, one))
        for one in view.image
    ]
    assert set(found) == set(squares)


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_normalised_as_the_probes_reader_does(channels: int) -> None:
    info = DataInfo(64, 28, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
    method = build(channels=channels, info=info).eval()
    images = noise(2, 28)
    gray = channels == 1
    reader = InputTransform(
        28, (sum(info.mean) / 3,) if gray else info.mean, (sum(info.std) / 3,) if gray else info.std
    )
    expected = grids.cut(reader(images), method.grid)
    found = method.view(images, torch.arange(2), seeded()).patches
    assert torch.allclose(found, expected, atol=1e-4)


def test_offered_cells_are_each_images_own() -> None:
    method = build(negatives="random", sampled=5).train()
    view = method.view(noise(8, 28), torch.arange(8), seeded())
    assert view.sampled.shape == (8, 5)
    assert all(len(set(cells.tolist())) == 5 for cells in view.sampled)
    assert len({tuple(cells.tolist()) for cells in view.sampled}) == 8


def test_permuting_the_images_leaves_the_loss() -> None:
    method = build().eval()
    view = method.view(noise(6, 28), torch.arange(6), seeded())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        before, after = method(view), method(type(view)(*(part[order] for part in view)))
    assert float(after.value) == pytest.approx(float(before.value), abs=1e-5)


def test_answers_rank_the_candidates() -> None:
    method = build(directions=4).eval()
    images = noise(4, 28)
    predictions = method.figures.draw_predictions(method, images, torch.arange(4), seeded())
    assert all("of 144" in caption for caption in predictions.sheet.captions)

    # A network that knows: every cell's vector is its own number's direction, and predictions are
    # the true targets.
    class Knows(nn.Module):
        def forward(self, z: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
            targets = torch.eye(144).view(4, 6, 6, 144)
            return targets, {k: targets[:, k:] for k in (2, 3, 4, 5)}

    method.predictors = nn.ModuleDict({d: Knows() for d in DIRECTIONS})
    predictions = method.figures.draw_predictions(method, images, torch.arange(4), seeded())
    assert all("ranks 1 of 144" in caption for caption in predictions.sheet.captions)
    assert predictions.sheet.note.startswith("The target ranks first in 4 of the 4")


def test_charts_name_directions_and_offsets() -> None:
    method = build(directions=2)
    charts = method.eval().figures.plots(method, noise(4, 28), torch.arange(4), seeded())
    accuracy = charts["accuracy in percent"]
    assert accuracy.rows == ("down", "up")
    assert accuracy.columns == ["2", "3", "4", "5"]
    reach = method.train().figures.plots(method, noise(4, 28), torch.arange(4), seeded())[
        "reach of contexts"
    ]
    assert reach.series["last pixel row a context depends on"].y == [7.0, 11.0, 15.0, 19.0]
    assert reach.series["first pixel row of its nearest target"].y == [8.0, 12.0, 16.0, 20.0]
