from __future__ import annotations

import pytest
import torch

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.sizes import accepts, check_input, deepest_stage
from ssltool.errors import UsageError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "smallest", "advised"),
    [
        ("alexnet", 63, 64),
        ("caffenet", 25, 32),
        ("convnext_tiny", 32, 32),
        ("densenet121", 29, 32),
        ("swin_t", 4, 32),
    ],
)
def test_check_input_finds_the_smallest_size_that_really_works(name, smallest, advised):
    encoder = build_encoder(name).eval()
    check_input(encoder, smallest)
    with pytest.raises(UsageError) as caught:
        check_input(encoder, smallest - 1)
    assert str(caught.value) == (
        f"{name} cannot take {smallest - 1} px inputs (its smallest is {smallest} px); "
        f"type --backbone resnet10_w32 or --image-size {advised}"
    )
    with torch.no_grad():
        encoder(torch.zeros(2, 3, smallest, smallest))
        with pytest.raises(RuntimeError):
            encoder(torch.zeros(2, 3, smallest - 1, smallest - 1))


def test_check_input_holds_a_vit_to_its_size():
    encoder = build_encoder("vit_b_32", image_size=64)
    check_input(encoder, 64)
    with pytest.raises(UsageError, match="built for 64 px images and cannot take 32 px"):
        check_input(encoder, 32)


def test_check_input_changes_nothing():
    encoder = build_encoder("resnet10_w32").train()
    encoder.backbone.bn1.eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = torch.random.get_rng_state()
    check_input(encoder, 28)
    assert encoder.training
    assert encoder.backbone.layer1.training
    assert not encoder.backbone.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("stem", "size", "least", "stage"),
    # Sides of the maps of resnet18, after 3 and 4 stages: 24 -> 2; 64 -> 4, 2; 80 -> 5, 3; with the
    # small stem 8 -> 2, 1.
    [
        ("imagenet", 8, 2, "stem"), ("imagenet", 16, 2, "layer2"), ("imagenet", 24, 2, "layer3"),
        ("imagenet", 64, 2, "layer4"), ("imagenet", 64, 3, "layer3"), ("imagenet", 80, 3, "layer4"),
        ("small", 8, 2, "layer3"), ("small", 16, 2, "layer4"), ("small", 24, 4, "layer3"),
        ("small", 2, 3, None),
    ],
)  # fmt: skip
def test_the_deepest_stage_with_a_map_of_at_least_a_size(stem, size, least, stage):
    encoder = build_encoder("resnet18", stem=stem).train()
    deepest = deepest_stage(encoder, size, least)
    assert encoder.training
    if (stem, size) == ("imagenet", 8):
        assert deepest in ("stem", "layer1")
    else:
        assert deepest == stage


@pytest.mark.parametrize("norm", ["batch", "ln", "ln2d"])
def test_sizes_of_encoders_with_any_norm_can_be_checked(norm):
    encoder = build_encoder("resnet18", norm=norm, empty=True)
    assert accepts(encoder, 16)


def test_a_vit_accepts_its_own_size_only():
    encoder = build_encoder("vit_b_32", image_size=64, empty=True)
    assert accepts(encoder, 64)
    assert not accepts(encoder, 96)
