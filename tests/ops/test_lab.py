from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssltool.ops.lab import lab_to_rgb, lightness, rgb_to_lab

KNOWN = {
    (255, 0, 0): (53.2406, 80.0923, 67.2028),
    (0, 255, 0): (87.7351, -86.1830, 83.1797),
    (0, 0, 255): (32.2957, 79.1856, -107.8573),
    (0, 255, 255): (91.1133, -48.0906, -14.1263),
    (255, 0, 255): (60.3235, 98.2331, -60.8210),
    (255, 255, 0): (97.1395, -21.5547, 94.4781),
    (128, 128, 128): (53.5850, -0.0015, 0.0028),
    (10, 10, 10): (2.7417, 0, 0),
    (255, 165, 0): (74.9357, 23.9324, 78.9497),
    (224, 172, 105): (73.7885, 11.2767, 41.5337),
    (135, 206, 235): (79.2071, -14.8417, -21.2721),
    (34, 139, 34): (50.5933, -49.5858, 45.0168),
    (12, 7, 30): (2.9252, 6.3110, -12.6811),
}


def reference(rgb: np.ndarray) -> np.ndarray:
    """Lab of one color in 0..1, float64, written out from the definition of sRGB and of Lab."""
    linear = [(v + 0.055) ** 2.4 / 1.055**2.4 if v > 0.04045 else v / 12.92 for v in rgb]
    xyz = np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    f = [
        np.cbrt(t) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in xyz @ linear / (0.95047, 1.0, 1.08883)
    ]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def cube(levels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """All colors of a grid over the RGB cube as an image ``[3, 1, n]`` in 0..1."""
    axis = torch.linspace(0, 1, levels, dtype=dtype)
    return torch.cartesian_prod(axis, axis, axis).T[:, None]


@pytest.mark.parametrize(("rgb", "lab"), KNOWN.items())
def test_known_colors(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    pixel = torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1)
    for image in (pixel, pixel.float() / 255, pixel.double() / 255):
        found = rgb_to_lab(image)
        assert found.flatten().tolist() == pytest.approx(lab, abs=1e-3)
        assert lightness(image).item() == pytest.approx(lab[0], abs=1e-3)
    assert rgb_to_lab(pixel).dtype == torch.float32
    assert rgb_to_lab(pixel.double() / 255).dtype == torch.float64


@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_against_the_definition(rgb: tuple[float, float, float]) -> None:
    found = rgb_to_lab(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1)).flatten().numpy()
    assert np.abs(found - reference(np.array(rgb))).max() < 1e-9


def test_float32_is_as_near_as_it_can_be() -> None:
    exact, single = rgb_to_lab(cube(17)), rgb_to_lab(cube(17).float())
    error = (single - exact).abs().amax(dim=(1, 2))
    assert (error < torch.tensor([2e-5, 1e-4, 5e-5])).all()


def test_there_and_back() -> None:
    colors = cube(17)
    assert (lab_to_rgb(rgb_to_lab(colors)) - colors).abs().max() < 1e-6


def test_the_reach_of_srgb_and_the_trace_of_color_in_gray() -> None:
    _, a, b = rgb_to_lab(cube(33)).flatten(1)
    assert (a.min().item(), a.max().item()) == pytest.approx((-86.183, 98.233), abs=1e-3)
    assert (b.min().item(), b.max().item()) == pytest.approx((-107.857, 94.478), abs=1e-3)
    grays = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    assert 0 < rgb_to_lab(grays)[1:].abs().max() < 0.0048


def test_batches_and_single_images_alike() -> None:
    images = torch.randint(
        0, 256, (2, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    whole = rgb_to_lab(images)
    assert whole.shape == (2, 3, 5, 4)
    assert torch.allclose(rgb_to_lab(images[1]), whole[1], atol=1e-4)
    assert torch.allclose(lightness(images), whole[:, :1], atol=1e-4)


@pytest.mark.parametrize("wrong", [torch.full((3, 2, 2), 128.0), torch.full((3, 2, 2), -0.1)])
def test_floats_of_another_range_are_refused(wrong: Tensor) -> None:
    # The known corrupt list of color shares came from floats in 0..255 given to a converter that
    # expects 0..1.
    with pytest.raises(ValueError, match=r"0\.\.1"):
        rgb_to_lab(wrong)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        lightness(wrong)


def test_other_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        rgb_to_lab(torch.full((3, 2, 2), 128))


@given(st.tuples(st.floats(-20, 120), st.floats(-200, 200), st.floats(-200, 200)))
def test_the_way_back_stays_in_range_with_finite_gradients(lab: tuple[float, float, float]) -> None:
    # A negative raised to 1/2.4 has a NaN gradient even where a mask discards it.
    colors = torch.tensor(lab).view(3, 1, 1).requires_grad_()
    rgb = lab_to_rgb(colors)
    rgb.sum().backward()
    assert 0 <= rgb.min() <= rgb.max() <= 1
    assert colors.grad is not None
    assert colors.grad.isfinite().all()


def test_gradients_are_finite_at_black_and_right_elsewhere() -> None:
    black = torch.zeros(3, 1, 1, requires_grad=True)
    rgb_to_lab(black).sum().backward()
    assert black.grad is not None
    assert black.grad.isfinite().all()
    colors = torch.tensor([[0.2, 0.5, 0.9], [0.01, 0.02, 0.03]], dtype=torch.float64).view(
        2, 3, 1, 1
    )
    assert torch.autograd.gradcheck(rgb_to_lab, colors.requires_grad_())
    inside = rgb_to_lab(colors.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lab_to_rgb, inside)


def test_equal_to_scikit_image() -> None:
    color = pytest.importorskip("skimage.color")
    colors = cube(17)
    theirs = torch.from_numpy(color.rgb2lab(colors.movedim(0, -1).numpy())).movedim(-1, 0)
    assert (rgb_to_lab(colors) - theirs).abs().max() < 1e-6
    vivid = theirs * torch.tensor([1, 1.3, 1.3]).view(3, 1, 1)  # some beyond sRGB
    back = torch.from_numpy(color.lab2rgb(vivid.movedim(0, -1).numpy())).movedim(-1, 0)
    assert (lab_to_rgb(vivid) - back).abs().max() < 1e-6
