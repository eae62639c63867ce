from __future__ import annotations

import pytest
import torch
from torch import nn

from ssltool.encoders.backbones.small_resnet import (
    SMALL_RESNETS,
    SmallResNet,
    resnet10_w32,
    resnet20,
)

# Parameters published for the CIFAR networks with zero-padding shortcuts and a 10-way classifier.
PUBLISHED = {"resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018}
CLASSIFIER = 64 * 10 + 10
PROJECTIONS = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("fc."))


@pytest.mark.parametrize("name", PUBLISHED)
def test_cifar_networks_have_the_published_size_plus_two_projections(name):
    assert PROJECTIONS == 2752
    assert parameters(SMALL_RESNETS[name]()) == PUBLISHED[name] - CLASSIFIER + PROJECTIONS


def test_depth_counts_the_weighted_layers_of_the_main_path():
    for name, build in SMALL_RESNETS.items():
        convs = [
            n
            for n, m in build().named_modules()
            if isinstance(m, nn.Conv2d) and "downsample" not in n
        ]
        assert len(convs) + 1 == int(name.removeprefix("resnet").split("_")[0])


def test_resnet10_w32_counted_by_hand():
    def block(before: int, width: int) -> int:
        convs = 9 * before * width + 9 * width * width
        norms = 2 * 2 * width
        shortcut = before * width + 2 * width if before != width else 0
        return convs + norms + shortcut

    stem = 27 * 32 + 2 * 32
    assert parameters(resnet10_w32()) == stem + block(32, 32) + block(32, 64) + block(
        64, 128
    ) + block(128, 256)
    assert round(parameters(resnet10_w32()) / 1e6, 2) == 1.23


def test_keys_are_those_of_torchvision():
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock

    with torch.device("meta"):
        reference = ResNet(BasicBlock, [1, 1, 1, 1])
    ours = set(resnet10_w32().state_dict())
    assert ours == set(reference.state_dict())


def test_first_stage_keeps_the_size_and_later_ones_halve_it():
    model = resnet20().eval()
    sides = {}
    for name in ("layer1", "layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: sides.update({name: out.shape})
        )
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
    assert sides == {"layer1": (2, 16, 32, 32), "layer2": (2, 32, 16, 16), "layer3": (2, 64, 8, 8)}


def test_initial_weights_are_kaiming_fan_out():
    torch.manual_seed(0)
    model = SmallResNet((64, 128), 2, num_classes=10)
    weight = model.get_submodule("layer2.0.conv1").weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d))
    assert model.fc.out_features == 10
