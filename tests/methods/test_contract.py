"""The contract of a method, for every installed one: a new method passes without new code here."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ssltool.errors import UsageError
from ssltool.methods.base import EncoderInput, Method, check_loss
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import available, find_method
from ssltool.plotting.records import Lines, Matrix, Points

DOCS = Path(__file__).parents[2] / "docs" / "methods"
NAMES = list(available())
SIDES = {"small": 32, "imagenet": 96}  # px: one image size for each stem


def build(
    name: str, stem: str = "small", channels: int = 3, **options: Any
) -> tuple[Method[Any, Any], DataInfo]:
    cls = find_method(name)
    info = facts(SIDES[stem])
    chosen = cls.Options(**options).with_defaults(info)
    torch.manual_seed(0)
    backbone = "resnet10_w32" if stem == "small" else "resnet18"
    channels = min(channels, cls.inputs(chosen, info).channels)
    encoder = cls.inputs(chosen, info).build_encoder(backbone, stem=stem, in_channels=channels)
    method = cls(chosen, encoder, info)
    method.prepare([batch(info)])
    return method, info


def inputs(name: str) -> EncoderInput:
    cls, info = find_method(name), DataInfo(64, SIDES["small"])
    return cls.inputs(cls.Options().with_defaults(info), info)


def facts(side: int) -> DataInfo:
    """What a survey of `batch` would say."""
    images = batch(DataInfo(count=64, image_size=side))[0] / 255
    mean, std = images.mean(dim=(0, 2, 3)).tolist(), images.std(dim=(0, 2, 3)).tolist()
    return DataInfo(64, side, mean=tuple(mean), std=tuple(std), batch_size=8)


def batch(info: DataInfo, count: int = 8) -> tuple[Tensor, Tensor]:
    """Smooth random images: a few blobs of color each, so that there is something to learn."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(
        coarse, (info.image_size, info.image_size), mode="bicubic"
    ).clamp(0, 1)
    return (images * 255).to(torch.uint8), torch.arange(count)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(view: Any) -> list[Tensor]:
    return [part for part in view if isinstance(part, Tensor)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_finite_loss_and_gradients_reach_every_encoder_parameter(name: str, stem: str) -> None:
    method, info = build(name, stem)
    loss = method.train()(method.view(*batch(info, 4), seeded()))
    assert loss.value.dim() == 0
    assert torch.isfinite(loss.value)
    assert all(torch.isfinite(value) for value in loss.metrics.values())
    check_loss(method, loss)
    loss.value.backward()
    missing = [
        key
        for key, p in method.encoder.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not missing


class HostReads(TorchDispatchMode):
    """Notes the lines of ssltool that read a tensor's numbers, which on a GPU waits for all that
    was asked of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        reads = name in {
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "equal",
            "is_nonzero",
            "_unique2",
            "bincount",
        }
        if name in {
            "index",
            "index_put",
            "index_put_",
            "_index_put_impl_",
        }:  # by a mask: the result's shape is read
            reads = any(index is not None and index.dtype == torch.bool for index in args[1])
        if reads:
            frame = [
                f for f in traceback.extract_stack() if f"{os.sep}ssltool{os.sep}" in f.filename
            ][-1]
            self.found.add(f"{Path(frame.filename).name}: {frame.line}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_does_not_wait_for_a_gpu(name: str) -> None:
    """Allowed: the key of the random numbers, from a generator on the host, and checks made on a
    CPU alone.
    """
    method, info = build(name)
    method.train()
    with HostReads() as reads:
        view = method.view(*batch(info), seeded())
        loss = method(view)
        loss.value.backward()
        method.after_step([loss.update])
    others = {
        line
        for line in reads.found
        if "generator=generator" not in line and 'device.type == "cpu"' not in line
    }
    checks = ("task.py: log_c, bound", "lab.py: and not -_ROUNDING")  # made on a CPU alone
    assert not {line for line in others if not line.startswith(checks)}


@pytest.mark.parametrize("name", NAMES)
def test_works_with_one_input_channel(name: str) -> None:
    method, info = build(name, channels=1)
    images, index = batch(info, 4)
    assert torch.isfinite(method.train()(method.view(images, index, seeded())).value)
    for sheet in (
        method.figures.draw_task(method, images, index, seeded()),
        method.eval().figures.draw_predictions(method, images, index, seeded()).sheet,
    ):
        assert all(image.shape[0] in (1, 3) for c in sheet.columns.values() for image in c.images)


@pytest.mark.parametrize("name", NAMES)
def test_works_on_two_images_and_on_gray_ones(name: str) -> None:
    method, info = build(name)
    images, index = batch(info, 2)
    gray = images.float().mean(dim=1, keepdim=True).to(torch.uint8).expand_as(images)
    for inputs in (images, gray):
        assert torch.isfinite(method.train()(method.view(inputs, index, seeded())).value)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    first, info = build(name)
    second, _ = build(name)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    views = [m.train().view(*batch(info), seeded(5)) for m in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*map(leaves, views), strict=True))
    other = leaves(first.view(*batch(info), seeded(6)))
    assert not all(torch.equal(a, b) for a, b in zip(leaves(views[0]), other, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_the_task_of_an_image_does_not_depend_on_its_batch(name: str, training: bool) -> None:
    method, info = build(name)
    method.train(training)
    images, index = batch(info)
    whole = leaves(method.view(images, index, seeded()))
    part = leaves(method.view(images[5:], index[5:], seeded()))
    for a, b in zip(whole, part, strict=True):
        if len(a) == len(images):
            assert torch.allclose(a[5:].float(), b.float(), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_leaves_the_images_and_the_parameters_alone(name: str) -> None:
    method, info = build(name)
    images, index = batch(info)
    before, state = images.clone(), copy.deepcopy(method.state_dict())
    method.train().view(images, index, seeded())
    assert torch.equal(images, before)
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())


@pytest.mark.parametrize("name", [name for name in NAMES if inputs(name).random_crop])
def test_larger_images_give_the_same_crops(name: str) -> None:
    """Smooth images of three times the side: views of the same size that show nearly the same."""
    method, info = build(name)
    small, index = batch(info)
    large = batch(dataclasses.replace(info, image_size=3 * info.image_size))[0]
    method.train()
    one, other = (leaves(method.view(images, index, seeded())) for images in (small, large))
    assert [part.shape for part in one] == [part.shape for part in other]
    seen = one[0]
    assert (seen - other[0]).abs().mean() < 0.2 * (seen - seen.roll(1, dims=0)).abs().mean()


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trips(name: str) -> None:
    method, info = build(name)
    other, _ = build(name)
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.01)
    other.load_state_dict(method.state_dict(), strict=True)
    view = method.eval().view(*batch(info), seeded())
    assert torch.equal(method(view).value, other.eval()(view).value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "cpc" else ()) for n in NAMES]
)
def test_the_loss_falls_on_one_repeated_batch(name: str) -> None:
    # AdamW, the default, or plain SGD.
    falls = (
        _falls(name, kind, lr) for kind, lr in ((torch.optim.AdamW, 1e-3), (torch.optim.SGD, 0.02))
    )
    assert any(falls)


def _falls(name: str, kind: Any, lr: float) -> bool:
    method, info = build(name)
    images, index = batch(info)
    momentum = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(method.parameters(), lr=lr, **momentum)
    method.train()
    losses = []
    for _ in range(25):
        torch.manual_seed(0)
        view = method.view(images, index, seeded())
        loss = method(view)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        method.after_step([loss.update])
        losses.append(float(loss.value.detach()))
        if max(losses[-3:]) < 0.8 * losses[0]:
            return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_network_scores_its_chance_level(name: str) -> None:
    method, info = build(name)
    with torch.no_grad():
        losses = [method.train()(method.view(*batch(info), seeded(seed))) for seed in range(4)]
        scored = method.eval()(method.view(*batch(info), seeded()))
    check_loss(method.eval(), scored._replace(value=torch.zeros((), requires_grad=True)))
    mean = sum(float(loss.value) for loss in losses) / 4
    assert mean == pytest.approx(method.chance["loss"], rel=0.15)
    assert all(math.isfinite(value) for value in method.chance.values())


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_images(name: str) -> None:
    method, info = build(name)
    images, index = batch(info, 3)
    predictions = method.eval().figures.draw_predictions(method, images, index, seeded())
    assert len(predictions.sheet.captions) == 3
    for sheet in (
        method.train().figures.draw_task(method, images, index, seeded()),
        predictions.sheet,
    ):
        assert sheet.title
        assert sheet.rows == 3
        for title, column in sheet.columns.items():
            assert all(image.dtype == torch.uint8 for image in column.images), title
            assert all(image.shape[0] == 3 for image in column.images), title
            assert len(column.marks) in (0, 3), title
            for mark in (mark for image in column.marks for mark in image):
                left, top, width, height = mark.box
                assert min(left, top) >= 0, title
                assert max(left + width, top + height) <= 1 + 1e-6, title


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_plots_are_consistent_records(name: str, training: bool) -> None:
    method, info = build(name)
    with torch.no_grad():
        plots = method.train(training).figures.plots(method, *batch(info), seeded())
    for plot in plots.values():
        match plot:
            case Matrix():
                assert plot.values.shape == (len(plot.rows), len(plot.columns))
                assert plot.values.isfinite().all()
            case Lines():
                assert plot.series
                assert all(len(curve.x) == len(curve.y) > 0 for curve in plot.series.values())
            case Points():
                assert len(plot.x) == len(plot.y) == len(plot.colors) == len(plot.sizes)
                assert 0 <= float(plot.sizes.min()) <= float(plot.sizes.max()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_lr_scales_belong_to_submodules_outside_the_encoder(name: str) -> None:
    method, _ = build(name)
    for path, scale in method.lr_scales.items():
        assert scale > 0
        assert not path.startswith("encoder")
        assert list(method.get_submodule(path).parameters())


@pytest.mark.parametrize("name", NAMES)
def test_options_are_described_frozen_and_strict(name: str) -> None:
    options = find_method(name).Options
    assert all(field.description for field in options.model_fields.values())
    assert options.model_config["frozen"]
    assert options.model_config["extra"] == "forbid"
    decided = options().with_defaults(DataInfo(64, 32))
    assert decided.open_fields() == []
    assert decided == decided.with_defaults(DataInfo(64, 32))


METRICS = {
    "colorization": {
        "loss": "",
        "cross_entropy": "nats",
        "target_entropy": "nats",
        "saturation": "fraction",
        "auc": "fraction",
        "auc_of_gray": "fraction",
        "rebalanced_auc": "fraction",
        "rebalanced_auc_of_gray": "fraction",
    },
    "context-encoder": {
        "loss": "",
        "l1": "fraction",
        "l2": "fraction",
        "psnr": "dB",
        "l1_mean_color": "fraction",
        "l2_mean_color": "fraction",
        "psnr_mean_color": "dB",
        "l1_interpolation": "fraction",
        "l2_interpolation": "fraction",
        "psnr_interpolation": "dB",
    },
    "context-prediction": {
        "loss": "",
        "accuracy": "fraction",
        "both_orders": "fraction",
        "swap_consistency": "fraction",
    },
    "cpc": {
        "loss": "",
        "loss_ratio": "fraction",
        "accuracy": "fraction",
        "top5": "fraction",
        "correct_image": "fraction",
    },
    "jigsaw": {
        "loss": "",
        "accuracy": "fraction",
        "top5": "fraction",
        "tile_accuracy": "fraction",
        "assignment_tile_accuracy": "fraction",
    },
    "npid": {"loss": "", "accuracy": "fraction", "own_similarity": "", "nearest_similarity": ""},
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_and_their_units(name: str) -> None:
    """Names are keys of metrics.jsonl; units decide how values are shown."""
    method, _ = build(name)
    assert {metric.name: metric.unit for metric in method.metrics} == METRICS[name]


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [
        ("npid", {"loss": "nce", "negatives": 8}, {"log_c"}),
        ("context-encoder", {"adversarial": 0.1}, {"real_as_real", "predicted_as_real"}),
        ("colorization", {"loss": "euclidean"}, set()),
    ],
)
def test_options_that_change_the_metrics(name: str, options: Any, more: set[str]) -> None:
    method, info = build(name, **options)
    for mode in (True, False):
        check_loss(method, method.train(mode)(method.view(*batch(info), seeded())))
    assert more <= {metric.name for metric in method.metrics}


@pytest.mark.parametrize("name", [n for n in NAMES if find_method(n).Options().open_fields()])
def test_a_method_is_not_built_from_open_options(name: str) -> None:
    method, info = build(name)
    options = type(method).Options()
    with pytest.raises(UsageError, match=r"with_defaults\(data\)") as error:
        type(method)(options, method.encoder, info)
    assert all(field in str(error.value) for field in options.open_fields())


@pytest.mark.parametrize("name", NAMES)
def test_presets_name_real_options(name: str) -> None:
    from ssltool.runs.config import RunConfig

    cls = find_method(name)
    assert "paper" in cls.Options.presets
    for preset in cls.Options.presets:
        RunConfig.merged(name, {}, preset)


@pytest.mark.parametrize(
    "name", [item.name for item in available().values() if item.origin == "built in"]
)
def test_a_doc_page_exists(name: str) -> None:
    assert (DOCS / f"{name}.md").is_file()
