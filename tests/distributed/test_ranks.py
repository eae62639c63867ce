"""One process tells itself nothing; several give what one gives. More of several is in
tests/methods/test_npid.py.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing, nn

from ssltool.distributed import gradients as gradients_module
from ssltool.distributed.collectives import (
    all_reduce_sum,
    any_of,
    copy_from_main,
    from_all,
    from_main,
    gather,
    globally_weighted_mean,
    is_main,
    rank,
    world_size,
)
from ssltool.distributed.gradients import GradientReducer
from ssltool.distributed.process_group import process_group
from ssltool.errors import Interrupted, NonFiniteLossError, UsageError
from ssltool.methods.base import Method
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import RunSummary, pretrain
from ssltool.training.trainer import Trainer


def test_one_process_tells_itself_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_gather_into_tensor", "all_reduce", "broadcast", "init_process_group"):
        monkeypatch.setattr(
            distributed, name, lambda *_, **__: pytest.fail("a collective call in one process")
        )
    x = torch.ones(3, requires_grad=True)
    assert gather(x) is x
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    assert all_reduce_sum(x).tolist() == [1, 1, 1]
    assert globally_weighted_mean(x, torch.ones(())) is x
    assert (from_main(lambda: {"a": 1}), from_all([2]), any_of(False)) == ({"a": 1}, [[2]], False)
    with GradientReducer([x], overlap=True) as reducer:
        reducer.last_pass()
        x.sum().backward()
        reducer.average()
    with process_group():
        pass


def test_torchrun_says_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank(), world_size(), is_main()) == (2, 4, False)


# Every pretext task in one process with a batch of eight, and in several with a part of it each.
# What legitimately differs is held still: batch norm uses its running statistics (a process
# normalizes by its own batch), and nothing is dropped out (each process drops other units).
SIDE, WHOLE = 32, 8
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "jigsaw": ("jigsaw", {"dropout": 0.0}),
    "context-prediction": ("context-prediction", {}),
    "context-encoder, region": ("context-encoder", {"mask": "region"}),
    "context-encoder, adversarial": ("context-encoder", {"mask": "center", "adversarial": 0.1}),
    "colorization": ("colorization", {}),
    "colorization, euclidean": ("colorization", {"loss": "euclidean"}),
    "npid, softmax": ("npid", {"loss": "softmax"}),
    "npid, nce": ("npid", {"loss": "nce", "negatives": 16}),
    "npid, infonce": ("npid", {"loss": "infonce", "negatives": 16, "shared_negatives": False}),
    "cpc": ("cpc", {}),
    "cpc, other images": ("cpc", {"negatives": "other-images"}),
    "cpc, same image": ("cpc", {"negatives": "same-image"}),
    "cpc, random": ("cpc", {"negatives": "random", "sampled": 3}),
}

ONE_EACH = [
    "jigsaw",
    "context-prediction",
    "context-encoder, region",
    "colorization",
    "npid, nce",
    "cpc",
]


# How gradients are averaged; in several buckets for the small networks here.
BUCKETS = {"single": 0, "overlap": 2**18}


def kinds(case: str) -> list[str]:
    """How gradients are averaged in a case: both ways for one case of each task."""
    return list(BUCKETS) if case in ONE_EACH else ["single"]


def make_images() -> tuple[Tensor, Tensor]:
    """Smooth random images, the first two of them gray, so that not every process has as many with
    color.
    """
    coarse = torch.rand(WHOLE, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    smooth = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    smooth[:2] = smooth[:2].mean(dim=1, keepdim=True)
    return (smooth * 255).to(torch.uint8), torch.arange(WHOLE) * 5


def build(case: str) -> Method[Any, Any]:
    name, options = CASES[case]
    cls, info = find_method(name), DataInfo(count=64, image_size=SIDE, batch_size=WHOLE)
    chosen = cls.Options(**options).with_defaults(info)
    torch.manual_seed(0)
    inputs = cls.inputs(chosen, info)
    encoder = inputs.build_encoder("resnet20", stem="small", in_channels=inputs.channels)
    method = cls(chosen, encoder, info)
    method.prepare([make_images()])
    method.to(precision(case)).train()
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.eval()
    return method


def precision(case: str) -> torch.dtype:
    """float64, or float32 for the task whose vectors and bank have it whatever the network has."""
    return torch.float32 if case.startswith("npid") else torch.float64


def gradients(case: str, bucket_bytes: int = 0) -> dict[str, Tensor]:
    """The averaged gradients of one step on this process's part of the batch, its mean loss, and
    what came after; in buckets during the backward pass, or at once after it.
    """
    method = build(case)
    images, index = make_images()
    mine = slice(rank() * WHOLE // world_size(), (rank() + 1) * WHOLE // world_size())
    view = method.view(images[mine], index[mine], torch.Generator().manual_seed(0))
    view = type(view)(
        *(part.to(precision(case)) if part.is_floating_point() else part for part in view)
    )
    loss = method(view)
    overlap = {"overlap": bucket_bytes > 0, "bucket_bytes": bucket_bytes}
    with GradientReducer(method.parameters(), **overlap) as reducer:
        reducer.last_pass()
        loss.value.backward()
        reducer.average()
    method.after_step([loss.update])
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    state = {f"after: {name}": value for name, value in method.state_dict().items()}
    return {**found, **state, "loss": all_reduce_sum(loss.value) / world_size()}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of any number, in units of the largest gradient (or of 1, for what a step
    changed).
    """
    assert one.keys() == other.keys()
    scale = max(float(v.abs().max()) for name, v in one.items() if not name.startswith("after"))
    differences = {n: (one[n].double() - other[n].double()).abs() for n in one if one[n].numel()}
    return max(
        float(difference.max()) / (1 if name.startswith("after") else scale)
        for name, difference in differences.items()
    )


# Whole runs, by the processes that were started for the tasks above.
RUN = {
    "data": ("demo:48",),
    "backbone": "resnet20",
    "image_size": 32,
    "steps": 6,
    "checkpoint_every": 4,
    "log_every": 2,
    "workers": 0,
    "precision": "fp32",
}


def run(folder: Path, name: str = "jigsaw", resume: bool = False, **given: Any) -> RunSummary:
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    given = (
        {"out": folder, **given}
        if resume
        else {**RUN, "out": folder, "batch_size": 8 // world_size(), **given}
    )
    config = RunConfig.merged(name, given)
    try:
        return pretrain(config, resume=resume, console=Console(quiet=True))
    finally:
        if distributed.is_initialized():  # after an error nothing is torn down
            distributed.destroy_process_group()


def at_step(step: int, act: Callable[[Any], None]) -> None:
    """Have something happen in this process after a step of the next run."""
    steps = Trainer.steps

    def acting(trainer: Trainer) -> Any:
        Trainer.steps = steps
        for report in steps(trainer):
            if report.step == step:
                act(trainer)
            yield report

    Trainer.steps = acting


def same(one: Path, other: Path) -> bool:
    files = (
        "encoder.safetensors",
        *(f"checkpoints/step-0000006/{n}.safetensors" for n in ("model", "optimizer")),
    )
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


def whole_runs(folder: Path) -> dict[str, Any]:
    """Stopped, resumed and broken runs of one task."""
    found: dict[str, Any] = {}
    result = run(folder / "whole", probe_data=("demo:40",))
    found["facts"] = [
        result.metrics["step"],
        str(result.run),
        "knn" in result.metrics or not is_main(),
    ]
    # A signal to the second process alone stops both.
    at_step(3, lambda _: os.kill(os.getpid(), signal.SIGTERM) if rank() else None)
    try:
        run(folder / "cut")
    except Interrupted as error:
        found["interrupted"] = str(error)
    run(folder / "cut", resume=True)
    # A loss that breaks in the second process alone is an error in both.
    at_step(
        2,
        lambda trainer: (
            next(trainer.method.head.parameters()).data.fill_(torch.nan) if rank() else None
        ),
    )
    try:
        run(folder / "broken", log_every=1, checkpoint_every=100)
    except NonFiniteLossError as error:
        found["broken"] = str(error)
    try:
        run(folder / "whole", resume=True, batch_size=8)
    except UsageError as error:
        found["refused"] = str(error)
    return found


def taken_over(folder: Path) -> dict[str, Any]:
    """A run with a memory bank that one process began goes on in these; and a stopped run of
    another task that averages gradients during the backward pass.
    """
    gradients_module.FIRST_BUCKET_BYTES = 2**16  # several buckets for a small network
    run(folder / "whole", all_reduce="overlap")
    at_step(3, lambda _: os.kill(os.getpid(), signal.SIGTERM) if rank() == 1 else None)
    try:
        run(folder / "cut", all_reduce="overlap")
    except Interrupted:
        run(folder / "cut", resume=True)
    at_step(
        2, lambda _: os.kill(os.getpid(), signal.SIGTERM) if rank() == world_size() - 1 else None
    )
    try:
        run(folder / "bank", "npid", resume=True)
    except Interrupted as error:
        return {"interrupted": str(error)}
    return {}


def messages() -> list[Any]:
    """What the small calls give."""
    mine = torch.tensor([[1.0], [2.0]]) + rank()
    weights = torch.tensor(1.0 + rank())
    return [
        from_main(lambda: {"from": rank(), "text": "é"}),
        from_all("x" * (rank() + 1)),
        any_of(rank() == 1),
        any_of(False),
        all_reduce_sum(mine).tolist(),
        float(all_reduce_sum(globally_weighted_mean(weights, weights)) / world_size()),
    ]


def lacking_gradients() -> None:
    """A gradient that one process lacks is the mean of the others' and zero; one that all lack
    stays away. The loss itself has a collective call in its backward pass.
    """
    for kind, bucket_bytes in BUCKETS.items():
        torch.manual_seed(0)
        layers, never = [nn.Linear(8, 8) for _ in range(6)], nn.Linear(8, 8)
        parameters = [p for layer in (*layers, never) for p in layer.parameters()]
        with GradientReducer(
            parameters, overlap=kind == "overlap", bucket_bytes=min(bucket_bytes, 400)
        ) as reducer:
            reducer.last_pass()
            x = torch.full((2, 8), 1.0 + rank())
            for number, layer in enumerate(layers):
                if number != 3 or rank():
                    x = layer(x)
            (gather(x).square().mean() * x.sum()).backward()
            own = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
            reducer.average()
        assert all(p.grad is None for p in never.parameters())
        for parameter, mine in zip(parameters[:-2], own, strict=False):
            torch.testing.assert_close(parameter.grad, gather(mine[None]).mean(dim=0))


def copied_tensors() -> None:
    """The first process's values of every type and shape, such as the int16 of a table of colors
    and the flag of a hole.
    """
    types = (torch.int16, torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64)
    for dtype in types:
        for shape in ((), (0,), (3, 2)):
            expected = (torch.arange(math.prod(shape)) + 1).view(shape).to(dtype)
            own = expected.clone() if is_main() else torch.zeros_like(expected)
            strided = own.t() if own.dim() == 2 else own
            copy_from_main([strided])
            assert torch.equal(own, expected)


def process(
    number: int,
    world: int,
    port: int,
    folder: Path,
    cases: Sequence[str],
    runs: Callable[[Path], dict[str, Any]],
) -> None:
    os.environ.update(
        RANK=str(number), WORLD_SIZE=str(world), LOCAL_RANK=str(number), LOCAL_WORLD_SIZE=str(world)
    )
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with process_group():
        told = messages()
        lacking_gradients()
        copied_tensors()
        for place, case in enumerate(cases):
            for kind in kinds(case):
                found = gradients(case, BUCKETS[kind])
                if is_main():
                    save_file(
                        {k: v.contiguous() for k, v in found.items()},
                        folder / f"{place}-{kind}.safetensors",
                    )
    told.append(runs(folder))
    (folder / f"{number}.json").write_text(json.dumps(told))


def start(
    world: int, folder: Path, cases: Sequence[str], runs: Callable[[Path], dict[str, Any]]
) -> tuple[list[Any], dict[str, Any]]:
    """Start the processes, which must all tell the same, and compare their tasks with those of this
    process.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=process, args=(n, world, port, folder, cases, runs))
        for n in range(world)
    ]
    for child in started:
        child.start()
    for child in started:
        child.join(300)
    assert [child.exitcode for child in started] == [0] * world
    told = [json.loads((folder / f"{n}.json").read_text()) for n in range(world)]
    assert all(one == told[0] for one in told)
    for place, case in enumerate(cases):
        alone = gradients(case)
        for kind in kinds(case):
            off = difference(alone, load_file(folder / f"{place}-{kind}.safetensors"))
            assert off < 1e-6, (case, kind, off)
    return told[0][:-1], told[0][-1]


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """All tasks, to 1e-6 of the largest gradient; and whole runs, which end as if nothing had
    happened.
    """
    told, found = start(2, tmp_path, ONE_EACH, whole_runs)
    assert told == [
        {"from": 0, "text": "é"},
        ["x", "xx"],
        True,
        False,
        [[3.0], [5.0]],
        pytest.approx(5 / 3),
    ]
    assert found["facts"] == [6, str(tmp_path / "whole"), True]
    assert "after step 3 of 6" in found["interrupted"]
    assert same(tmp_path / "cut", tmp_path / "whole")
    assert "loss became nan at step 3" in found["broken"]
    assert "--batch-size 8 (the run has 4)" in found["refused"]
    lines = [
        json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [2, 4, 6]  # written by one of them
    document = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert (document["options"]["devices"], document["options"]["batch_size"]) == (2, 4)


@pytest.mark.slow
def test_a_memory_bank_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    """Begun by one process, continued by several, ended by one; and all variants of the tasks."""
    folder = tmp_path / "bank"

    def alone(given: dict[str, Any], resume: bool) -> None:
        config = RunConfig.merged("npid", {"out": folder, **given})
        pretrain(config, resume=resume, console=Console(quiet=True))

    def rows(step: int) -> Tensor:
        place = folder / "checkpoints" / f"step-{step:07d}"
        return load_file(place / "model.safetensors")["bank.rows"]

    at_step(1, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        alone(
            {**RUN, "loss": "nce", "negatives": 16, "batch_size": 8, "steps": 3, "keep": 3},
            resume=False,
        )
    _, found = start(4, tmp_path, list(CASES), taken_over)
    assert "after step 2 of 3" in found["interrupted"]
    assert same(tmp_path / "cut", tmp_path / "whole")
    options = json.loads((tmp_path / "cut" / "run.json").read_text())["options"]
    assert options["all_reduce"] == "overlap"
    alone({}, resume=True)
    # Each step wrote the rows of its eight images and left the other forty as they were, whoever
    # held them.
    for step in (1, 2):
        assert int((rows(step) != rows(step + 1)).any(dim=1).sum()) == 8
    written = (rows(1) != rows(2)).any(dim=1) & (rows(2) != rows(3)).any(dim=1)
    assert not written.any()  # nobody's batch began anew
