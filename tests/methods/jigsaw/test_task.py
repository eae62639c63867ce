"""Jigsaw against the figures of the paper and of the released code, and its known pitfalls."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import UsageError
from ssltool.methods.jigsaw import figures
from ssltool.methods.jigsaw.geometry import Geometry, geometry
from ssltool.methods.jigsaw.options import JigsawOptions
from ssltool.methods.jigsaw.task import Jigsaw, JigsawView
from ssltool.methods.options import DataInfo
from ssltool.plotting.colors import GREEN, ORANGE


def build(size: int = 64, gray: bool = False, **options: Any) -> Jigsaw:
    info = DataInfo(count=64, image_size=size, gray=gray)
    chosen = JigsawOptions(**options).with_defaults(info)
    torch.manual_seed(0)
    return Jigsaw(chosen, build_encoder("resnet10_w32", stem="small"), info)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=seeded(1), dtype=torch.uint8)


GRID_3 = {28: (9, 7, 2, 0), 32: (10, 8, 2, 0), 48: (16, 12, 4, 0), 64: (21, 16, 5, 0), 96: (32,
   24, 8, 1),
          128: (42, 32, 10, 1), 224: (74, 56, 18, 2), 256: (85, 64, 21, 2)}  # fmt: skip
GRID_2 = {28: (14, 11, 3, 0), 32: (16, 12, 4, 0), 48: (24, 18, 6, 1), 64: (32, 24, 8, 1),
   96: (48, 36, 12, 1),
          128: (64, 48, 16, 2)}  # fmt: skip


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("standardize", [True, False])
def test_features_are_extracted_from_images_normalized_as_tiles_were(
    standardize: bool, channels: int
) -> None:
    """A network that was trained on tiles normalized otherwise sees other inputs: its batch norm
    has their statistics.
    """
    info = DataInfo(count=64, image_size=48, mean=(0.3, 0.4, 0.6), std=(0.2, 0.25, 0.31))
    options = JigsawOptions(standardize=standardize).with_defaults(info)
    encoder = build_encoder("resnet10_w32", stem="small", in_channels=channels)
    method = Jigsaw(options, encoder, info).train()
    view = method.view(noise(3, 48), torch.arange(3), seeded())
    mean, std = info.mean, info.std
    if channels == 1:  # as `Trainer.metadata` says
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    inputs = Jigsaw.inputs(options, info)
    transform = InputTransform(view.raw.shape[-1], mean, std, standardize=inputs.standardize)
    expected = view.tiles.flatten(0, 1)
    assert torch.allclose(transform(view.raw.flatten(0, 1)), expected, atol=1e-5)


@pytest.mark.parametrize(("side", "expected"), GRID_3.items())
def test_geometry_of_nine_tiles(side: int, expected: tuple[int, ...]) -> None:
    assert geometry(side, 3) == Geometry(*expected)


@pytest.mark.parametrize(("side", "expected"), GRID_2.items())
def test_geometry_of_four_tiles(side: int, expected: tuple[int, ...]) -> None:
    assert geometry(side, 2) == Geometry(*expected)


def test_tiles_under_six_pixels_are_refused_with_the_smallest_side_that_works() -> None:
    with pytest.raises(UsageError, match="--image-size 24") as refusal:
        geometry(16, 3)
    assert geometry(24, 3).tile >= 6
    assert "5x5" not in str(refusal.value)
    with pytest.raises(UsageError):
        geometry(23, 3)


@pytest.mark.parametrize(("side", "corners"), [(256, (10, 95, 180)), (96, (4, 36, 68))])
def test_evaluation_takes_the_middle_of_each_cell(side: int, corners: tuple[int, ...]) -> None:
    view = build(side, grid=3).eval().view(noise(2, side), torch.arange(2), seeded())
    expected = [(y, x) for y in corners for x in corners]
    assert view.corner[0].tolist() == [list(pair) for pair in expected]


@pytest.mark.parametrize("side", [96, 224, 256])
def test_every_offset_is_drawn_and_every_channel_stays_in_its_cell(side: int) -> None:
    method = build(side, grid=3, grayscale=0.0).train()
    cell, tile, slack, jitter = geometry(side, 3)
    start = (side - 3 * cell) // 2
    images = torch.zeros(300, 3, side, side, dtype=torch.uint8)
    position, corner = method._positions(_draws(300), images, torch.zeros(300, dtype=torch.bool))
    top, left = position.unbind(dim=-1)
    cells = torch.arange(9)
    within_y = top - start - (cells // 3 * cell)[:, None]
    within_x = left - start - (cells % 3 * cell)[:, None]
    for within in (within_y, within_x):
        assert int(within.min()) == 0
        assert int(within.max()) == slack
        assert int(within.max()) + tile <= cell
    shift = top - corner[..., None, 0]
    assert set(shift.unique().tolist()) == set(range(jitter + 1))
    base = corner[..., 0] - start - cells // 3 * cell
    assert set(base.unique().tolist()) == set(range(slack - jitter + 1))


def _draws(count: int) -> Any:
    from ssltool.ops.per_image_rng import PerImageRNG

    return PerImageRNG(torch.arange(count), seeded())


def test_the_last_tile_with_the_largest_shift_ends_with_the_square() -> None:
    """Base 19, shift 2: 170 + 21 .. 170 + 85 = [191, 255)."""
    cell, tile, slack, jitter = geometry(256, 3)
    assert 2 * cell + (slack - jitter) + jitter == 191
    assert 2 * cell + slack + tile == 255


def test_gray_images_have_no_channel_shift_and_three_equal_channels() -> None:
    method = build(96, grid=3, grayscale=1.0).train()
    view = method.view(noise(8, 96), torch.arange(8), seeded())
    assert (view.raw == view.raw[:, :, :1]).all()
    share = (
        build(32, grayscale=0.3)
        .train()
        .view(noise(1, 32).expand(2000, -1, -1, -1), torch.arange(2000), seeded())
    )
    gray = (share.raw == share.raw[:, :, :1]).flatten(1).all(dim=1).double().mean()
    assert abs(float(gray) - 0.3) < 0.04


def test_gray_data_switches_the_color_guards_off() -> None:
    images = noise(4, 96)[:, :1].expand(-1, 3, -1, -1)
    view = build(96, gray=True, grid=3).train().view(images, torch.arange(4), seeded())
    assert (view.raw == view.raw[:, :, :1]).all()


def test_a_permutation_shows_in_slot_i_the_tile_of_cell_p_i() -> None:
    """S = 3 1 2 9 5 4 8 7 6 of the paper: tiles abcdefghi are shown as cabiedhgf; scattering
    restores them.
    """
    p = torch.tensor([3, 1, 2, 9, 5, 4, 8, 7, 6]) - 1
    letters = np.array(list("abcdefghi"))
    assert "".join(letters[p]) == "cabiedhgf"
    restored = np.empty(9, dtype="<U1")
    restored[p] = letters[p]
    assert "".join(restored) == "abcdefghi"
    assert "".join(letters[p][p.argsort()]) == "abcdefghi"
    assert "".join(letters[p][p]) == "bcafeighd"  # gathering a second time is the public bug

    method = build(96, grid=3)
    method.orders = p[None].repeat(2, 1)
    raw = torch.arange(9, dtype=torch.uint8)[None, :, None, None, None].expand(1, 9, 3, 4, 4)
    assert figures._taken(raw, p[None])[0, :, 0, 0, 0].tolist() == p.tolist()


class _OneNumber(nn.Module):
    """An encoder whose vector of a tile is one of its pixels."""

    width = 1

    def forward(self, tiles: Tensor) -> Tensor:
        return tiles[:, :1, 0, 0]


def test_the_head_reads_the_tiles_of_its_own_image_in_the_order_asked() -> None:
    """One-hot check of the flattening B x N -> B*N and back, and of the shuffle of vectors."""
    method = build(96, grid=3, head_norm=False, dropout=0.0, fc6=1, fc7=9, permutations_per_image=2)
    method.encoder = _OneNumber()  # type: ignore[assignment]
    with torch.no_grad():
        method.head.fc6[0] = nn.Identity()
        method.head.fc7[0] = nn.Identity()
        method.head.fc8 = nn.Identity()
    tiles = torch.arange(3 * 9).float().view(3, 9, 1, 1, 1).expand(3, 9, 3, 4, 4)
    target = torch.tensor([[0, 5], [7, 1], [2, 99]])
    view = JigsawView(tiles, target, tiles, tiles, torch.zeros(3, 9, 2))
    got = method.eval().logits(view).view(3, 2, 9)
    for image in range(3):
        for puzzle in range(2):
            order = method.orders[target[image, puzzle]]
            assert got[image, puzzle].tolist() == (image * 9 + order).tolist()


def test_solved_images_are_restored_with_the_predicted_permutation() -> None:
    method = build(96, grid=3).eval()
    images, index = noise(3, 96), torch.arange(3)
    view = method.view(images, index, seeded())

    def knows_everything(asked: JigsawView) -> Tensor:
        return nn.functional.one_hot(asked.target.flatten(), len(method.orders)).float() * 50

    method.logits = knows_everything  # type: ignore[method-assign]
    predictions = method.figures.draw_predictions(method, images, index, seeded())
    assert all(caption.startswith("9 of 9") for caption in predictions.sheet.captions)
    columns = predictions.sheet.columns
    assert torch.equal(columns["prediction"].images, columns["ground truth"].images)
    assert {key.meaning for key in predictions.sheet.keys if key} == {"right cell"}
    for marks in columns["prediction"].marks:
        assert [mark.text for mark in marks] == [str(cell) for cell in range(1, 10)]
    for marks, order in zip(
        columns["shuffled tiles"].marks, method.orders[view.target[:, 0]].tolist(), strict=True
    ):
        assert [mark.text for mark in marks] == [str(cell + 1) for cell in order]


def test_a_wrong_arrangement_is_framed_tile_by_tile() -> None:
    method = build(96).eval()
    true = torch.arange(9)[None]
    swapped = true.clone()
    swapped[0, [2, 7]] = swapped[0, [7, 2]]
    tiles = torch.arange(9, dtype=torch.uint8).view(1, 9, 1, 1, 1).expand(-1, -1, 3, 30, 30)
    (marks,) = figures._arranged(method, tiles, swapped, true).marks
    assert [mark.text for mark in marks] == ["1", "2", "8", "4", "5", "6", "7", "3", "9"]
    colors = [mark.key.color for mark in marks if mark.key]
    assert [i for i, color in enumerate(colors) if color == ORANGE] == [2, 7]
    assert colors.count(GREEN) == 7


@cache
def built(size: int) -> Jigsaw:
    return build(size).train()


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([28, 64, 96]))
def test_labels_are_in_range_and_standardised_tiles_are_finite(seed: int, size: int) -> None:
    method = built(size)
    flat = torch.full((4, 3, size, size), 128, dtype=torch.uint8)
    view = method.view(flat, torch.arange(4), seeded(seed))
    assert (view.tiles == 0).all()
    assert int(view.target.min()) >= 0
    assert int(view.target.max()) < len(method.orders)


@pytest.mark.parametrize("side", [28, 96])
def test_flips_mirror_the_whole_image_before_it_is_cut(side: int) -> None:
    method = build(side, flip=1.0, grayscale=0.0, channel_jitter=False).train()
    same = build(side, flip=0.0, grayscale=0.0, channel_jitter=False).train()
    images, index = noise(4, side), torch.arange(4)
    mirrored = method.view(images, index, seeded())
    assert torch.equal(mirrored.raw, same.view(images.flip(-1), index, seeded()).raw)


def test_without_the_gap_tiles_are_whole_cells() -> None:
    view = (
        build(96, grid=3, gap=False, grayscale=0.0)
        .train()
        .view(noise(2, 96), torch.arange(2), seeded())
    )
    assert view.raw.shape[-1] == 32
    assert view.corner[0, :, 0].tolist() == [0, 0, 0, 32, 32, 32, 64, 64, 64]


@pytest.mark.parametrize(
    ("info", "grid", "count", "mode", "tile_input", "feature_size"),
    [
        (DataInfo(60_000, 28), 2, 24, "all", 11, 28),
        (DataInfo(5000, 64), 3, 100, "max_min", 16, 64),
        (DataInfo(5000, 96), 3, 100, "max_min", 64, 256),
        (DataInfo(5000, 128), 3, 100, "max_min", 64, 256),
        (DataInfo(1_200_000, 256), 3, 1000, "max_min", 64, 256),
    ],
)
def test_what_is_decided_from_the_data(
    info: DataInfo, grid: int, count: int, mode: str, tile_input: int, feature_size: int
) -> None:
    options = JigsawOptions().with_defaults(info)
    assert (options.grid, options.permutations, options.permutation_mode) == (grid, count, mode)
    assert options.tile_input == tile_input
    assert Jigsaw.inputs(options, info).feature_size == feature_size


def test_chance_levels() -> None:
    chance = build(96, grid=3, permutations=100).chance
    assert chance["loss"] == pytest.approx(4.6052, abs=1e-4)
    assert chance["accuracy"] == 0.01
    assert 1 / 9 <= chance["tile_accuracy"] < 0.12
    assert build(32).chance["loss"] == pytest.approx(math.log(24))


@pytest.mark.slow
@pytest.mark.ci
def test_parameters_of_the_papers_network() -> None:
    """fc6 on the 3x3x256 map of a 64 px tile: 2304 -> 1024 has 2,360,320; fc7 9216 -> 4096 has
    37,752,832.
    """
    info = DataInfo(1000, 256)
    paper = {
        k: v for k, v in JigsawOptions.presets["paper"].items() if k in JigsawOptions.model_fields
    }
    options = JigsawOptions(**paper).with_defaults(info)
    method = Jigsaw(options, build_encoder("caffenet"), info)

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert size(method.encoder) == 2_334_080
    assert size(method.head.fc6) == 2_360_320
    assert size(method.head.fc7) == 37_752_832
    assert size(method.head.fc8) == 4096 * 1000 + 1000
    variant = JigsawOptions(**{**paper, "tile_input": 75, "fc6": 512}).with_defaults(
        info
    )  # the paper's 75 px tiles
    assert size(Jigsaw(variant, build_encoder("caffenet"), info)) == 27_407_208


def test_a_file_of_permutations_must_fit_the_grid(tmp_path: Any) -> None:
    np.save(tmp_path / "four.npy", np.array([[0, 1, 2, 3], [1, 0, 3, 2]], np.uint8))
    options = JigsawOptions(grid=3, permutation_file=tmp_path / "four.npy").with_defaults(
        DataInfo(64, 96)
    )
    assert options.permutations == 2
    with pytest.raises(UsageError, match="--grid 2"):
        Jigsaw(options, build_encoder("resnet10_w32", stem="small"), DataInfo(64, 96))
