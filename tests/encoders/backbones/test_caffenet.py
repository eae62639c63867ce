from __future__ import annotations

import pytest
import torch

from ssltool.encoders.backbones.caffenet import CaffeNet
from ssltool.encoders.registry import build_encoder


def sides(network: CaffeNet, side: int) -> dict[str, int]:
    side_of = {}
    x = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        for name, module in network.features.named_children():
            x = module(x)
            side_of[name] = x.shape[-1]
    return side_of


def test_parameters_by_hand():
    conv1 = 3 * 11 * 11 * 96 + 96
    conv2 = 96 // 2 * 5 * 5 * 256 + 256
    conv3 = 256 * 3 * 3 * 384 + 384
    conv4 = 384 // 2 * 3 * 3 * 384 + 384
    conv5 = 384 // 2 * 3 * 3 * 256 + 256
    total = sum(p.numel() for p in CaffeNet().parameters())
    assert total == conv1 + conv2 + conv3 + conv4 + conv5 == 2_334_080


def test_a_tile_of_64_px_ends_3x3():
    side_of = sides(CaffeNet(), 64)
    assert [side_of[name] for name in ("conv1", "pool1", "pool2", "conv5", "pool5")] == [
        27,
        13,
        6,
        6,
        3,
    ]
    encoder = build_encoder("caffenet")
    with torch.no_grad():
        assert encoder.map(torch.zeros(1, 3, 64, 64)).flatten(1).shape == (1, 2304)


def test_a_tile_of_75_px_ends_4x4():
    assert sides(CaffeNet(), 75)["pool5"] == 4


def test_stride_4_is_for_whole_images_and_has_the_same_keys():
    transfer = CaffeNet(conv1_stride=4)
    transfer.load_state_dict(CaffeNet().state_dict())
    side_of = sides(transfer, 227)
    assert [side_of[name] for name in ("conv1", "pool1", "pool2", "pool5")] == [55, 27, 13, 6]


def test_response_normalisation_is_caffes_formula():
    norm = CaffeNet().features.norm1
    x = torch.randn(1, 96, 2, 2, generator=torch.Generator().manual_seed(0)) * 100
    channel = 3
    squares = (x[:, channel - 2 : channel + 3] ** 2).sum(dim=1)
    expected = x[:, channel] / (1 + 1e-4 / 5 * squares) ** 0.75
    torch.testing.assert_close(norm(x)[:, channel], expected)


def test_initial_weights_keep_the_size_of_the_signal():
    torch.manual_seed(0)
    network = CaffeNet().eval()
    with torch.no_grad():
        x = torch.randn(4, 3, 64, 64)
        for name, module in network.features.named_children():
            before, x = x.square().mean().sqrt().item(), module(x)
            if name.startswith("conv"):
                # He: a convolution doubles the power that the ReLU behind it halves; padding costs
                # a little.
                assert x.square().mean().sqrt().item() == pytest.approx(2**0.5 * before, rel=0.2)
    assert all(p.abs().sum() == 0 for key, p in network.named_parameters() if key.endswith("bias"))


def test_forward_is_the_average_of_pool5():
    torch.manual_seed(0)
    network = CaffeNet().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network.features(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("stride", [2, 4])
def test_two_groups_where_alexnet_had_two_cards(stride):
    features = CaffeNet(stride).features
    assert [features.get_submodule(f"conv{n}").groups for n in range(1, 6)] == [1, 2, 1, 2, 2]
