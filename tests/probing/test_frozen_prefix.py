"""Fine-tuning with a frozen prefix: what is kept, what is renewed, what moves."""

from __future__ import annotations

import pytest
import torch

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import UnknownNameError
from ssltool.probing.finetune import Schedule, finetune, with_new_rest

SIDE = 32
TRANSFORM = InputTransform(SIDE, (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("name", "stage", "frozen"),
    [
        ("resnet10_w32", "stem", ("conv1.", "bn1.")),
        ("resnet10_w32", "layer2", ("conv1.", "bn1.", "layer1.", "layer2.")),
        ("resnet10_w32", "layer4", ("",)),
        pytest.param("mobilenet_v3_small", "stage1", ("features.0.",), marks=pytest.mark.slow),
        pytest.param(
            "vit_b_16",
            "block3",
            (
                "conv_proj.",
                "class_token",
                "encoder.pos_embedding",
                *(f"encoder.layers.encoder_layer_{n}." for n in range(3)),
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_frozen_prefix_keeps_its_bytes_and_the_rest_is_new_and_moves(
    name: str, stage: str, frozen: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, image_size=SIDE).eval()
    for buffer in encoder.buffers():  # as if it had been trained
        if buffer.is_floating_point():
            buffer.fill_(0.3)
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    start = with_new_rest(encoder, stage, seed=5)
    begun = {key: value.clone() for key, value in start.backbone.state_dict().items()}
    images = torch.randint(0, 256, (8, 3, SIDE, SIDE), dtype=torch.uint8)
    labels, schedule = torch.arange(8) % 2, Schedule(images=24, batch_size=8)
    trained = finetune(start, images, labels, TRANSFORM, 2, 0, schedule=schedule, freeze_to=stage)
    after = trained.encoder.backbone.state_dict()
    kept = {key for key in before if key.startswith(frozen)}
    assert kept
    with_x = encoder.maps(torch.randn(1, 3, SIDE, SIDE))  # the original still runs
    assert stage in with_x
    for key in before:
        if key in kept:
            assert torch.equal(after[key], before[key]), key
        elif before[key].dim() > 1:
            assert not torch.equal(begun[key], before[key]), key
    moved = [k for k in before if k not in kept and not torch.equal(after[k], begun[k])]
    assert bool(moved) == (frozen != ("",))
    assert trained.head.weight.any()
    again = with_new_rest(encoder, stage, seed=5).backbone.state_dict()
    assert all(torch.equal(again[key], begun[key]) for key in begun)


def test_batch_norm_of_the_prefix_normalizes_as_before() -> None:
    """In training the map of a frozen stage is that of evaluation, whatever the batch."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet10_w32")
    x = torch.randn(6, 3, SIDE, SIDE)
    encoder.train()(x)
    expected = encoder.eval().maps(x[:1])["layer1"].detach()
    start = with_new_rest(encoder, "layer1", seed=0)
    images = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
    network = finetune(
        start,
        images,
        torch.arange(4) % 2,
        TRANSFORM,
        2,
        0,
        schedule=Schedule(images=4, batch_size=4),
        freeze_to="layer1",
    ).train()
    torch.testing.assert_close(network.encoder.maps(x[:1])["layer1"], expected)
    assert network.encoder.backbone.layer2.training


def test_unknown_stages_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"layer9.*layer4"):
        with_new_rest(build_encoder("resnet10_w32"), "layer9", seed=0)
