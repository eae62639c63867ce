"""Masks against the coverage statistics they were designed for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from ssltool.errors import DataError, UsageError
from ssltool.methods.context_encoder import masks
from ssltool.methods.context_encoder.options import overlap_of
from ssltool.ops.per_image_rng import PerImageRNG


def rng(count: int, seed: int = 0) -> PerImageRNG:
    return PerImageRNG(torch.arange(count), torch.Generator().manual_seed(seed))


def coverage(mask: Tensor) -> Tensor:
    return mask.flatten(1).double().mean(dim=1)


def test_the_central_hole_of_the_paper() -> None:
    """128 px, band 7: rows and columns 39..88 inclusive, 2500 px."""
    hole = masks.central_hole(128, 7)[0, 0]
    places = hole.nonzero()
    assert (places.amin(0).tolist(), places.amax(0).tolist(), int(hole.sum())) == (
        [39, 39],
        [88, 88],
        2500,
    )


@pytest.mark.parametrize(
    ("side", "overlap", "inner", "share"),
    [(28, 2, 10, 0.128), (32, 2, 12, 0.141), (64, 4, 24, 0.141), (96, 5, 38, 0.157),
     (128, 7, 50, 0.153), (224, 12, 88, 0.154)],
)  # fmt: skip
def test_the_central_hole_of_other_sides(side: int, overlap: int, inner: int, share: float) -> None:
    assert overlap_of(side) == overlap
    hole = masks.central_hole(side, overlap)
    assert int(hole.sum()) == inner**2
    assert float(coverage(hole)) == pytest.approx(share, abs=0.0006)


@settings(max_examples=20)
@given(side=st.integers(12, 100), share=st.floats(0.05, 0.9), seed=st.integers(0, 99))
def test_noise_covers_exactly_the_share_asked(side: int, share: float, seed: int) -> None:
    mask = masks.noise(rng(4, seed), side, (share, share))
    assert (
        mask.flatten(1).sum(dim=1).tolist() == [round(torch.tensor(share * side * side).item())] * 4
    )


def test_noise_masks_differ_and_are_repeatable() -> None:
    mask = masks.noise(rng(16), 64, (0.25, 0.25))
    assert mask.flatten(1).sum(dim=1).tolist() == [1024] * 16
    assert len({bytes(row.flatten().to(torch.uint8).numpy()) for row in mask}) == 16
    assert torch.equal(mask, masks.noise(rng(16), 64, (0.25, 0.25)))


@pytest.mark.parametrize("side", [28, 64, 128])
def test_noise_looks_the_same_at_every_scale(side: int) -> None:
    mask = masks.noise(rng(300), side)
    share = coverage(mask)
    assert 0.2 - 1 / side**2 <= float(share.min())
    assert float(share.max()) <= 0.3 + 1 / side**2
    assert float(share.mean()) == pytest.approx(0.25, abs=0.01)
    assert 5 < float(masks.boundary_index(mask).mean()) < 7.5


@pytest.mark.parametrize("side", [28, 64, 96])
def test_blocks_cover_at_most_a_quarter(side: int) -> None:
    share = coverage(masks.blocks(rng(300), side))
    assert float(share.max()) <= 0.25
    assert float((share >= 0.22).double().mean()) > 0.99
    assert float(share.mean()) == pytest.approx(0.240, abs=0.006)


def test_blobs_cover_a_fifth_to_a_quarter_with_smooth_outlines() -> None:
    mask = masks.blobs(rng(300), 64)
    share = coverage(mask)
    assert float(share.max()) <= 0.25
    assert float((share >= 0.19).double().mean()) > 0.97
    assert float(share.mean()) == pytest.approx(0.224, abs=0.008)
    assert 2 < float(masks.boundary_index(mask).mean()) < 3.8


@pytest.mark.parametrize("kind", [masks.noise, masks.blocks, masks.blobs])
def test_a_mask_does_not_depend_on_its_batch(kind) -> None:  # type: ignore[no-untyped-def]
    whole = kind(rng(6), 32)
    part = kind(PerImageRNG(torch.arange(3, 6), torch.Generator().manual_seed(0)), 32)
    assert torch.equal(whole[3:], part)


def test_the_users_own_shapes_are_pasted(tmp_path: Path) -> None:
    disc = torch.hypot(*torch.meshgrid(*[torch.linspace(-1, 1, 40)] * 2, indexing="ij")) < 0.6
    Image.fromarray(disc.numpy()).save(tmp_path / "disc.png")
    shapes = masks.read_shapes(tmp_path, 48)
    mask = masks.from_shapes(rng(100), 48, shapes)
    share = coverage(mask)
    assert float(share.max()) <= 0.25
    assert float((share > 0.19).double().mean()) > 0.9
    assert float(masks.boundary_index(mask).mean()) < 4
    assert masks.fingerprint(shapes) == masks.fingerprint(shapes.clone())


def test_mask_folders_without_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none is no folder"):
        masks.read_shapes(tmp_path / "none", 32)
    with pytest.raises(DataError, match="holds no images"):
        masks.read_shapes(tmp_path, 32)
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(DataError, match="no light pixels"):
        masks.read_shapes(tmp_path, 32)
    (tmp_path / "black.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        masks.read_shapes(tmp_path, 32)


def test_boundary_index_by_hand() -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:4, 3:6] = True  # 2x3: a border of 10 pairs
    assert float(masks.boundary_index(mask)) == 10 / 8


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0", b"GIF89a" + b"\xff" * 9]
)
def test_masks_that_cannot_be_read_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(DataError, match=r"m\.png cannot be read"):
        masks.read_shapes(tmp_path, 16)


def test_masks_are_not_decoded_if_they_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "_MOST_PIXELS", 10**6)
    Image.new("1", (1001, 1000)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="more than 1 megapixels"):
        masks.read_shapes(tmp_path, 16)
