from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssltool.data.batch import Batch
from ssltool.encoders.precision import Precision, choose_precision
from ssltool.encoders.registry import build_encoder
from ssltool.errors import UsageError
from ssltool.methods.base import Loss, Metric
from ssltool.training.loop import TrainSchedule, train


class Regression(nn.Module):
    """The smallest thing the loop can train: one weight, the mean of a batch as target."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.dropped: list[float] = []
        self.keys: list[int] = []
        self.after = 0

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> Any:
        self.keys.append(int(torch.randint(2**31, (), generator=generator)))
        return (images.float().mean(),)

    def forward(self, view: Any) -> Loss:
        self.dropped.append(float(torch.rand(())))
        return Loss((self.weight - view[0]).square().sum(), {"weight": self.weight.detach().sum()})

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return Metric("loss", ""), Metric("weight", "")

    def after_step(self, updates: Any) -> None:
        self.after += len(updates)


def batches(start: int = 0) -> Iterator[Batch]:
    number = start
    while True:
        yield Batch(torch.full((2, 1, 1, 1), number % 5), torch.tensor([0, 1]), number // 3, 0.0)
        number += 1


def plan(**changes: Any) -> TrainSchedule:
    values = {
        "steps": 6,
        "warmup": 0,
        "lr": 0.1,
        "kind": "constant",
        "accumulate": 1,
        "clip": 0.0,
        "seed": 0,
    }
    return TrainSchedule(**{**values, "precision": Precision("fp32", ""), **changes})


def run(method: Regression, start: int = 0, **changes: Any) -> list[Any]:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    chosen = plan(**changes)
    return list(train(method, batches(start * chosen.accumulate), optimizer, chosen, scaler, start))


def test_steps_by_hand() -> None:
    """w <- w - 0.1 * 2 (w - target), targets 0, 1, 2."""
    method = Regression()
    reports = run(method, steps=3)
    assert [float(r.loss) for r in reports] == pytest.approx([1.0, 0.04, 1.3456])
    assert float(method.weight.detach()) == pytest.approx(1.072)
    assert [r.step for r in reports] == [1, 2, 3]
    assert method.after == 3


def test_accumulated_batches_are_averaged() -> None:
    """Targets 0 and 1: gradient of the mean loss at w = 1 is (2 + 0) / 2."""
    method = Regression()
    reports = run(method, steps=1, accumulate=2)
    assert float(method.weight.detach()) == pytest.approx(0.9)
    assert float(reports[0].loss) == pytest.approx(0.5)
    assert reports[0].images == 4


def test_a_clipped_gradient_has_the_given_norm() -> None:
    method = Regression()
    report = run(method, steps=1, clip=0.5)[0]
    assert float(report.grad_norm) == pytest.approx(2.0)
    assert float(method.weight.detach()) == pytest.approx(0.95, abs=1e-4)


class Overflowing(torch.amp.GradScaler):
    """A loss scaler whose gradients overflow in some of its steps, counted from 0."""

    def __init__(self, *overflows: int) -> None:
        super().__init__("cpu", init_scale=4.0)
        self._overflows, self._count = overflows, -1

    def scale(self, outputs: Any) -> Any:
        self._count += 1
        scaled = super().scale(outputs)
        return scaled * float("inf") if self._count in self._overflows else scaled


def test_a_step_skipped_by_the_scaler_advances_nothing_but_the_batches() -> None:
    method, scaler = Regression(), Overflowing(0, 2)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    schedule = plan(steps=4, warmup=2, lr=0.2)
    weights, reports = [], []
    for report in train(method, batches(), optimizer, schedule, scaler):
        reports.append(report)
        weights.append(float(method.weight.detach()))
    assert [report.skipped for report in reports] == [1, 1, 2, 2]
    assert [report.lr for report in reports] == [schedule.rate(n) for n in (0, 0, 1, 1)]
    assert weights == pytest.approx([1.0, 1.0, 1.0, 1.8])
    assert method.after == 2
    assert scaler.get_scale() == 1.0


def test_a_resumed_run_knows_its_skipped_steps() -> None:
    method, scaler = Regression(), Overflowing()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    schedule = plan(steps=6, warmup=6)
    report = next(train(method, batches(), optimizer, schedule, scaler, 5, 3))
    assert (report.lr, report.skipped) == (schedule.rate(2), 3)


def test_randomness_is_a_function_of_the_step_and_the_epoch() -> None:
    whole, rest = Regression(), Regression()
    run(whole)
    run(rest, start=4)
    assert rest.dropped == whole.dropped[4:]
    assert rest.keys == whole.keys[4:]
    assert len(set(whole.dropped)) == 6
    assert whole.keys[0] == whole.keys[2] != whole.keys[3]  # three batches to an epoch


def test_a_group_may_scale_its_rate() -> None:
    method = Regression()
    optimizer = torch.optim.SGD([{"params": [method.weight], "lr_scale": 0.5}], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    list(train(method, batches(), optimizer, plan(steps=1), scaler))
    assert float(method.weight.detach()) == pytest.approx(0.9)


@pytest.mark.parametrize(("size", "broken"), [(16, True), (64, False)])
def test_bf16_is_refused_where_torch_computes_garbage(size: int, broken: bool) -> None:
    """A resnet18 with its own stem comes to 1x1 maps at 16 px; a strided convolution follows."""
    encoder = build_encoder("resnet18")
    if not broken:
        assert choose_precision("bf16", encoder, size, 3, torch.device("cpu")).name == "bf16"
        return
    chosen = choose_precision("auto", encoder, size, 3, torch.device("cpu"))
    assert (chosen.name, "garbage" in chosen.reason) == ("fp32", True)
    with pytest.raises(UsageError, match="--precision fp32"):
        choose_precision("bf16", encoder, size, 3, torch.device("cpu"))


def test_precision_is_decided_and_explained() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    chosen = choose_precision("auto", encoder, 16, 3, torch.device("cpu"))
    assert chosen.name in {"fp32", "bf16"}
    assert "measured" in chosen.reason or chosen.reason == "this CPU has no bfloat16 units"
    assert choose_precision("bf16", encoder, 16, 3, torch.device("cpu")).name == "bf16"


def test_bf16_is_not_measured_where_there_are_no_units_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    chosen = choose_precision("auto", encoder, 16, 3, torch.device("cpu"))
    assert (chosen.name, chosen.reason) == ("fp32", "this CPU has no bfloat16 units")


@pytest.mark.parametrize(
    ("gains", "chosen", "measured"),
    [([0.1], "fp32", 1), ([0.9, 1.1], "fp32", 2), ([0.9, 2.0], "bf16", 2)],
)
def test_a_hopeless_format_is_not_measured_on_whole_batches(
    monkeypatch: pytest.MonkeyPatch, gains: list[float], chosen: str, measured: int
) -> None:
    asked: list[int] = []

    def compared(network: nn.Module, images: Tensor, passes: int, seconds: float) -> float:
        asked.append(len(images))
        return gains[len(asked) - 1]

    monkeypatch.setattr("ssltool.encoders.precision._compared", compared)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert choose_precision("auto", encoder, 16, 3, torch.device("cpu")).name == chosen
    assert asked == [4, 64][:measured]
