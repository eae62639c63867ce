"""Errors that a plug-in's author meets: a `forward` that does not return what it declares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssltool.data.batch import Batch
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.precision import Precision
from ssltool.encoders.registry import build_encoder
from ssltool.errors import SslToolError, UsageError
from ssltool.methods.base import EncoderInput, Loss, Method, Metric, check_loss
from ssltool.methods.options import DataInfo, MethodOptions
from ssltool.training.loop import TrainSchedule, train


class Brightness(Method[MethodOptions, tuple[Tensor]]):
    """A plug-in that regresses the mean of an image; ``returned`` makes its mistakes."""

    Options = MethodOptions
    returned: Any = staticmethod(lambda value: Loss(value, {"error": value.detach()}))

    def __init__(self, options: MethodOptions, encoder: Encoder, data: DataInfo) -> None:
        super().__init__(options, encoder, data)
        self.head = nn.Linear(encoder.width, 1)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return Metric("loss", ""), Metric("error", ""), Metric("bias", eval_only=True)

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
        return (images.float() / 255,)

    def forward(self, view: tuple[Tensor]) -> Loss:
        predicted = self.head(self.encoder(view[0]))[:, 0]
        return self.returned((predicted - view[0].mean(dim=(1, 2, 3))).square().mean())


def build() -> Brightness:
    torch.manual_seed(0)
    return Brightness(MethodOptions(), build_encoder("resnet20", stem="small"), DataInfo(4, 16))


def first_step(method: Method[Any, Any]) -> None:
    """Take the first step of the training loop."""
    batch = Batch(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.arange(4), 0, 0.0)
    schedule = TrainSchedule(
        steps=1,
        warmup=0,
        lr=0.1,
        kind="constant",
        accumulate=1,
        clip=0.0,
        seed=0,
        precision=Precision("fp32", ""),
    )
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    next(train(method, iter([batch]), optimizer, schedule, scaler))


def test_a_plugin_that_keeps_the_contract_trains() -> None:
    first_step(build())


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda v: v, r"returned a float32 tensor \[\] with a gradient; expected a Loss"),
        (lambda v: None, r"returned a NoneType; expected a Loss"),
        (lambda v: (v, {}), r"returned a tuple; expected a Loss"),
        (lambda v: Loss(float(v), {}), r"the loss is a float; expected a float scalar tensor"),
        (lambda v: Loss(v[None], {}), r"the loss is a float32 tensor \[1\] with a gradient"),
        (lambda v: Loss(v.detach(), {}), r"the loss has no gradient"),
        (lambda v: Loss(v, None), r"metrics are a NoneType; expected a dict"),
        (lambda v: Loss(v, {}), r"reported the metrics \(none\); .*declares error"),
        (lambda v: Loss(v, {"error": v.detach(), "x": v.detach()}), r"metrics error, x; "),
        (lambda v: Loss(v, {"error": v}), r"metric error is a float32 tensor \[\] with a grad"),
        (lambda v: Loss(v, {"error": 1.0}), r"metric error is a float; expected a detached"),
    ],
)
def test_a_wrong_result_of_forward_is_one_line(
    monkeypatch: pytest.MonkeyPatch, returned: Any, words: str
) -> None:
    monkeypatch.setattr(Brightness, "returned", staticmethod(returned))
    with pytest.raises(SslToolError, match=words) as error:
        first_step(build())
    assert "Brightness" in str(error.value)
    assert "\n" not in str(error.value)


def test_metrics_of_the_evaluation_are_expected_in_evaluation_alone() -> None:
    method = build()
    loss = Loss(torch.zeros((), requires_grad=True), {"error": torch.zeros(())})
    check_loss(method.train(), loss)
    with pytest.raises(SslToolError, match="declares bias, error"):
        check_loss(method.eval(), loss)


def test_an_encoder_is_cut_after_its_last_map_that_is_large_enough() -> None:
    """Maps of resnet18 with a small stem at 8 px: 8, 4, 2, 1."""
    whole = EncoderInput(8, 8).build_encoder("resnet18", stem="small", in_channels=3)
    assert whole.stages[-1].name == "layer4"
    cut = EncoderInput(8, 8, min_map_size=2)
    encoder = cut.build_encoder("resnet18", stem="small", in_channels=3)
    assert encoder.stages[-1].name == "layer3"
    with pytest.raises(UsageError, match="--last-stage layer4: its map of a 8 px input"):
        EncoderInput(8, 8, last_stage="layer4", min_map_size=2).build_encoder(
            "resnet18", stem="small", in_channels=3
        )


def test_channels_follow_the_color_space() -> None:
    assert EncoderInput(8, 8).channels == 3
    assert EncoderInput(8, 8, color_space="lightness").channels == 1
