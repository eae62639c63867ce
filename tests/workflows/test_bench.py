from __future__ import annotations

from rich.console import Console

from ssltool.methods.find import find_method
from ssltool.workflows.bench import bench, cpu_seconds
from ssltool.workflows.options import combine


def test_all_four_parts_are_measured_in_each_round() -> None:
    given = {"data": ("demo:32",), "image_size": 32, "batch_size": 8, "precision": "fp32"}
    result = bench(combine("jigsaw", find_method("jigsaw"), given), rounds=2, steps=2, console=Console(quiet=True))
    parts = {"loader", "view", "bare", "end_to_end"}
    assert set(result["images_per_s"]) == set(result["images_per_cpu_s"]) == parts
    assert all(speed > 0 for speed in result["images_per_s"].values())
    # The whole contains the bare network, so it cannot be much faster; noise is allowed for.
    assert 0 < result["ratio"] < 1.5
    assert result["options"]["batch_size"] == 8


def test_cpu_seconds_grow_with_work() -> None:
    before = cpu_seconds()
    sum(i * i for i in range(2_000_000))
    assert cpu_seconds() > before
