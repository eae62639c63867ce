from __future__ import annotations

import torch

from ssltool.ops.color import project_color, to_gray

YES_NO = torch.tensor([True, False])


def test_gray_is_the_plain_mean_of_the_chosen_pictures_only() -> None:
    images = torch.tensor([[10, 20, 36], [10, 20, 36]], dtype=torch.uint8).view(2, 3, 1, 1)
    out = to_gray(images, YES_NO)
    assert out.flatten().tolist() == [22, 22, 22, 10, 20, 36]
    assert out.dtype == torch.uint8


def test_projection_matrix() -> None:
    """B = I - a'a / aa' = [[5/6, 1/3, -1/6], [1/3, 1/3, 1/3], [-1/6, 1/3, 5/6]]."""
    basis = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    rows = project_color(basis, torch.ones(3, dtype=torch.bool)).view(3, 3)
    expected = torch.tensor(
        [[5 / 6, 1 / 3, -1 / 6], [1 / 3, 1 / 3, 1 / 3], [-1 / 6, 1 / 3, 5 / 6]], dtype=torch.float64
    )
    assert torch.allclose(rows, expected, atol=1e-7)


def test_projection_is_idempotent_keeps_the_sum_and_gray() -> None:
    images = torch.rand(2, 3, 4, 4)
    both = torch.ones(2, dtype=torch.bool)
    once = project_color(images, both)
    assert torch.allclose(project_color(once, both), once, atol=1e-6)
    assert torch.allclose(once.sum(dim=1), images.sum(dim=1), atol=1e-5)
    gray = torch.rand(2, 1, 4, 4).expand(2, 3, 4, 4)
    assert torch.allclose(project_color(gray, both), gray, atol=1e-6)
    assert torch.equal(project_color(images, YES_NO)[1], images[1])
