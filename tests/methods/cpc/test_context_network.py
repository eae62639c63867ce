"""What the context network sees, counted by gradients: nothing below, and everything it should see
above.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.methods.cpc.context_network import ContextNetwork, Predictor

WIDTH = 6


def support(network: nn.Module, i: int, j: int, tries: int = 4) -> tuple[list[int], int, int]:
    """Positions of a 7x7 grid on which c[i, j] depends: how many in each row, below row i, and in
    another image.
    """
    network = network.double().train()
    seen = torch.zeros(2, 7, 7, dtype=torch.bool)
    for seed in range(tries):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(
            2, WIDTH, 7, 7, generator=generator, dtype=torch.float64, requires_grad=True
        )
        weights = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((network(z)[0, :, i, j] * weights).sum(), z)
        seen |= gradient.abs().amax(dim=1) > 1e-12
    return seen[0].sum(dim=1).tolist(), int(seen[0, i + 1 :].sum()), int(seen[1].sum())


class Above(nn.Module):
    """The variant that sees rows strictly above: the grid moved down by one row first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        above: Tensor = self.network(F.pad(z, (0, 0, 1, 0))[:, :, :-1])
        return above


class Masked3x3(nn.Module):
    """A 3x3 convolution without its lower row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, (2, 3))

    def forward(self, z: Tensor) -> Tensor:
        h: Tensor = self.conv(F.pad(z, (1, 1, 1, 0)))
        return h


class PaddedAfter(nn.Module):
    """A block as in a public port: columns padded after the 1x3 instead of before, ones on top."""

    def __init__(self) -> None:
        super().__init__()
        self.across, self.down = nn.Conv2d(WIDTH, WIDTH, (1, 3)), nn.Conv2d(WIDTH, WIDTH, (2, 1))

    def forward(self, z: Tensor) -> Tensor:
        h = F.pad(F.pad(self.across(z), (1, 1, 0, 0)), (0, 0, 1, 0), value=1.0)
        added: Tensor = z + self.down(h)
        return added


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    match kind:
        case "ours":
            return ContextNetwork(WIDTH, 8)
        case "two blocks":
            return ContextNetwork(WIDTH, 8, blocks=2)
        case "strictly above":
            return Above(ContextNetwork(WIDTH, 8))
        case "masked 3x3":
            return nn.Sequential(*[Masked3x3() for _ in range(4)])
        case "batch norm":
            network = ContextNetwork(WIDTH, 8)
            return nn.Sequential(network.blocks, nn.BatchNorm2d(WIDTH), nn.ReLU())
        case "plain 3x3":
            return nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        case _:
            return nn.Sequential(*[PaddedAfter() for _ in range(5)])


SUPPORT = [
    ("ours", (0, 0), [6, 0, 0, 0, 0, 0, 0]),
    ("ours", (0, 3), [7, 0, 0, 0, 0, 0, 0]),
    ("ours", (3, 3), [7, 7, 7, 7, 0, 0, 0]),
    ("ours", (3, 0), [6, 6, 6, 6, 0, 0, 0]),
    ("ours", (6, 6), [0, 6, 6, 6, 6, 6, 6]),
    ("two blocks", (3, 3), [0, 5, 5, 5, 0, 0, 0]),
    ("strictly above", (3, 3), [7, 7, 7, 0, 0, 0, 0]),
    ("masked 3x3", (3, 3), [7, 7, 7, 7, 0, 0, 0]),
    ("padded after", (3, 0), [0, 0, 0, 1, 0, 0, 0]),
]


@pytest.mark.parametrize(("kind", "point", "rows"), SUPPORT)
def test_a_context_sees_exactly_this(kind: str, point: tuple[int, int], rows: list[int]) -> None:
    assert support(build(kind), *point) == (rows, 0, 0)


@pytest.mark.parametrize(
    ("kind", "rows", "below", "other"),
    [("batch norm", [7] * 7, 21, 49), ("plain 3x3", [0, 0, 3, 3, 3, 0, 0], 3, 0)],
)
def test_the_count_finds_what_leaks(kind: str, rows: list[int], below: int, other: int) -> None:
    """These networks must fail the test above: it is the count that is tested here."""
    assert support(build(kind), 3, 3) == (rows, below, other)


@pytest.mark.parametrize("row", range(7))
def test_noise_below_and_in_other_images_changes_no_bit(row: int) -> None:
    network = build("ours").train()
    z = torch.randn(2, WIDTH, 7, 7)
    changed = z.clone()
    changed[:, :, row + 1 :] = torch.randn_like(changed[:, :, row + 1 :])
    changed[1] = torch.randn_like(changed[1])
    assert torch.equal(network(z)[0, :, : row + 1], network(changed)[0, :, : row + 1])


def test_predictions_stand_beside_the_rows_they_are_for() -> None:
    torch.manual_seed(0)
    predictor = Predictor(WIDTH, target=5, hidden=8, blocks=5, offsets=range(2, 7))
    z = torch.randn(3, WIDTH, 7, 7)
    targets, predictions = predictor(z)
    assert targets.shape == (3, 7, 7, 5)
    assert {k: tuple(q.shape) for k, q in predictions.items()} == {
        k: (3, 7 - k, 7, 5) for k in range(2, 7)
    }
    contexts = predictor.context(z)
    head = predictor.predict["4"]
    assert torch.allclose(predictions[4][1, 2, 5], head(contexts[1, :, 2, 5]), atol=1e-6)
    assert torch.allclose(targets[2, 6, 1], predictor.target(z[2, :, 6, 1]), atol=1e-6)


def test_every_offset_has_a_head_of_its_own() -> None:
    """A public port predicts every offset with one head."""
    predictor = Predictor(WIDTH, target=5, hidden=8, blocks=1, offsets=(2, 3, 4))
    _, predictions = predictor(torch.randn(2, WIDTH, 6, 6))
    assert not torch.allclose(predictions[2][:, :2], predictions[4])
    predictions[3].sum().backward()
    assert predictor.predict["3"].weight.grad is not None
    assert predictor.predict["2"].weight.grad is None
