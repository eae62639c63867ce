from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import DataError
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.probing import finetune
from ssltool.probing.finetune import Schedule, accuracy, shifted

TRANSFORM = InputTransform(16, (0.5,) * 3, (0.25,) * 3)
SHORT = Schedule(images=320, batch_size=16)


def stripes(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two classes, told by the direction of their stripes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    lines = torch.randint(0, 256, (count, 1, 16, 1), generator=generator).expand(-1, 3, -1, 16)
    return torch.where(labels[:, None, None, None] == 0, lines, lines.transpose(2, 3)).to(
        torch.uint8
    ), labels


def network(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder("resnet20", norm="ln")


def test_it_learns_and_moves_the_whole_network() -> None:
    encoder = network()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    trained = finetune.finetune(encoder, *stripes(40), TRANSFORM, 2, 0, schedule=SHORT)
    assert accuracy(trained, [stripes(30, seed=1)], TRANSFORM) > 90
    assert all(not torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert not trained.training


def test_the_classifier_learns_ten_times_as_fast_and_only_matrices_decay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[dict[str, Any]]] = []

    class Recording(torch.optim.AdamW):
        def __init__(self, groups: Any, **options: Any) -> None:
            seen.append([dict(group) for group in groups])
            super().__init__(groups, **options)

    monkeypatch.setattr(finetune, "AdamW", Recording)
    trained = finetune.finetune(
        network(), *stripes(4), TRANSFORM, 2, 0, schedule=Schedule(images=4, batch_size=4)
    )
    rates = {
        id(p): (group["lr"], group["weight_decay"]) for group in seen[0] for p in group["params"]
    }
    assert len(rates) == len(list(trained.parameters()))
    assert rates[id(trained.head.weight)] == (1e-2, 0.05)
    assert rates[id(trained.head.bias)] == (1e-2, 0.0)
    assert rates[id(trained.encoder.backbone.conv1.weight)] == (1e-3, 0.05)
    assert rates[id(trained.encoder.backbone.bn1.weight)] == (1e-3, 0.0)


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_generator() -> None:
    states = []
    for seed in (3, 3, 4):
        encoder = network()
        before = torch.random.get_rng_state()
        trained = finetune.finetune(
            encoder, *stripes(20), TRANSFORM, 2, seed, schedule=Schedule(images=40, batch_size=8)
        )
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append(trained.head.weight.detach())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_one_batch_size_and_every_image_in_turn() -> None:
    batches = list(finetune._batches(10, Schedule(images=28, batch_size=4), seed=0))
    assert [len(batch) for batch in batches] == [4] * 7
    seen = torch.cat(batches)
    assert sorted(seen[:10].tolist()) == sorted(seen[10:20].tolist()) == list(range(10))
    assert not torch.equal(seen[:10], seen[10:20])
    assert [
        len(batch) for batch in finetune._batches(3, Schedule(images=8, batch_size=4), seed=0)
    ] == [3, 3]


@given(st.integers(1, 80), st.integers(1, 90), st.integers(1, 40))
def test_the_images_used_are_those_in_some_batch(labeled: int, seen: int, batch: int) -> None:
    schedule = Schedule(images=seen, batch_size=batch)
    decoded = min(labeled, seen)  # as `FineTuner.accuracy` cuts them
    batches = torch.cat(list(finetune._batches(decoded, schedule, seed=0)))
    assert schedule.used(labeled) == len(batches.unique())


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    schedule = Schedule(images=640, batch_size=64, warmup=0.2)
    factors = [finetune._lr_factor(step, schedule) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert 0 < factors[-1] < 0.05


def test_images_are_shifted_within_their_border() -> None:
    image = torch.arange(28 * 28).view(1, 1, 28, 28).remainder(251).to(torch.uint8)
    images = shifted(
        image.expand(300, -1, -1, -1),
        PerImageRNG(torch.arange(300), torch.Generator().manual_seed(0)),
    )
    assert images.dtype == torch.uint8
    middle = {tuple(one[0, 10:12, 10].tolist()) for one in images}
    allowed = {
        tuple(image[0, 0, 10 + y : 12 + y, 10 + x].tolist())
        for y in range(-2, 3)
        for x in range(-2, 3)
    }
    assert middle == allowed


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="two labeled images"):
        finetune.finetune(network(), *stripes(1), TRANSFORM, 2, 0)
    trained = finetune.finetune(
        network(), *stripes(4), TRANSFORM, 2, 0, schedule=Schedule(images=4, batch_size=4)
    )
    with pytest.raises(DataError, match="no images to test"):
        accuracy(trained, [], TRANSFORM)


def test_the_recipe_of_wu_et_al_falls_twice() -> None:
    schedule = Schedule.wu2018(1000, mirror=False)
    assert schedule.steps == 70 * 1000 // 256
    factors = [finetune._lr_factor(step, schedule) for step in range(schedule.steps)]
    epochs = [step * 256 / 1000 for step in range(schedule.steps)]
    for epoch, factor in zip(epochs, factors, strict=True):
        if min(abs(epoch - 30), abs(epoch - 60)) > 0.3:
            assert factor == pytest.approx(1.0 if epoch < 30 else 0.1 if epoch < 60 else 0.01)
    few = Schedule.wu2018(44, mirror=False)
    assert (few.batch_size, few.steps) == (44, 70)


def test_a_plain_classifier_is_trained_by_sgd_over_all_parameters() -> None:
    encoder = build_encoder("resnet20", image_size=16)
    network = finetune.Classifier(encoder, 3, plain=True)
    assert isinstance(network.norm, torch.nn.Identity)
    optimizer = finetune._optimizer(network, Schedule.wu2018(10, mirror=False))
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.01, 1e-4, 0.9)
    assert len(group["params"]) == len(list(network.parameters()))
