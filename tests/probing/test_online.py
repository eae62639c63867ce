from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ssltool.encoders.weights import load_encoder
from ssltool.probing.online import CollapseMonitor, OnlineKNN


@pytest.mark.slow
def test_a_collapse_is_warned_of_once(jigsaw_run: Path) -> None:
    encoder = load_encoder(jigsaw_run)
    assert encoder.metadata is not None
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    monitor = CollapseMonitor(images)
    metrics, warning = monitor.measure(encoder, encoder.metadata)
    assert metrics["effective_rank"] > 1.5
    assert not warning
    for parameter in encoder.parameters():
        torch.nn.init.zeros_(parameter)
    assert "collapsed" in monitor.measure(encoder, encoder.metadata)[1]
    assert not monitor.measure(encoder, encoder.metadata)[1]


def test_the_chance_level_is_the_share_of_the_most_frequent_class(tmp_path: Path) -> None:
    for name, count in (("a", 20), ("b", 10), ("c", 5)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (i, count, 0)).save(tmp_path / name / f"{i}.png")
    knn = OnlineKNN((str(tmp_path),), batch_size=5, seed=0, device=torch.device("cpu"))
    assert knn.chance == pytest.approx(20 / 35, abs=0.01)  # a fifth of each class is held out


@pytest.mark.slow
def test_online_knn_leaves_the_encoder_and_the_generator_alone(jigsaw_run: Path) -> None:
    encoder = load_encoder(jigsaw_run).train()
    metadata = encoder.metadata
    assert metadata is not None
    knn = OnlineKNN(("demo:200",), batch_size=50, seed=0, device=torch.device("cpu"))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.random.get_rng_state()
    first = knn.accuracy(encoder, metadata)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert knn.accuracy(encoder, metadata) == first
    assert 0 < first < 1
    for parameter in encoder.parameters():
        torch.nn.init.zeros_(parameter)
    chance = 0.1  # ten classes of equal size
    assert knn.accuracy(encoder, metadata) == pytest.approx(chance, abs=0.01)
