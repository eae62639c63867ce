from __future__ import annotations

import pytest
from rich.console import Console

from ssltool.errors import SslToolError
from ssltool.runs.config import RunConfig
from ssltool.training.bench import BenchResult, bench, cpu_seconds, sweep


@pytest.mark.slow
def test_all_four_parts_are_measured_in_each_round() -> None:
    given = {"data": ("demo:32",), "image_size": 32, "batch_size": 8, "precision": "fp32"}
    result = bench(
        RunConfig.merged("jigsaw", given),
        rounds=2,
        steps=2,
        console=Console(quiet=True),
    )
    parts = {"loader", "view", "bare", "end_to_end"}
    assert set(result.images_per_s) == set(result.images_per_cpu_s) == parts
    assert all(speed > 0 for speed in result.images_per_s.values())
    # The whole contains the bare network, so it cannot be much faster; noise is allowed for.
    assert 0 < result.ratio < 1.5
    assert result.batch_size == 8


def test_cpu_seconds_grow_with_work() -> None:
    before = cpu_seconds()
    sum(i * i for i in range(2_000_000))
    assert cpu_seconds() > before


@pytest.mark.slow
def test_a_sweep_names_the_fastest_and_the_largest_and_why_it_ended() -> None:
    given = {
        "data": ("demo:20",),
        "image_size": 32,
        "precision": "fp32",
        "backbone": "resnet10_w32",
    }
    config = RunConfig.merged("jigsaw", given)
    result = sweep(config, [4, 8, 64], rounds=1, steps=1, console=Console(quiet=True))
    assert [row.batch_size for row in result.sweep] == [4, 8]
    assert result.largest == 8
    assert result.fastest in {4, 8}
    assert result.stopped == "there are 20 images"
    with pytest.raises(SslToolError, match="no batch size"):
        sweep(config, [64], console=Console(quiet=True))


def test_a_sweep_stops_before_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def measured(config: RunConfig, **options: object) -> BenchResult:
        size = config.run.batch_size or 0
        tried.append(size)
        return BenchResult(
            method="jigsaw",
            batch_size=size,
            images_per_s={"end_to_end": float(size)},
            images_per_cpu_s={},
            ratio=1,
            ratio_wall=1,
            peak_memory_gb=0.5 + size / 64,
            rounds=1,
            steps=1,
            precision="fp32",
            options={},
        )

    monkeypatch.setattr("ssltool.training.bench.bench", measured)
    monkeypatch.setattr("ssltool.training.bench._memory", lambda config: 3e9)
    given = {"data": ("demo:100000",)}
    result = sweep(RunConfig.merged("jigsaw", given), console=Console(quiet=True))
    assert tried == [16, 32, 64, 128]
    assert result.fastest == 128
    assert "a batch of 256 would need about 4.5 GB" in result.stopped
