"""Whole runs: the same bytes however they were interrupted, repeated or decoded."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from ssltool.data.sources.dataset import DatasetSource
from ssltool.errors import (
    CheckpointError,
    DataError,
    DiskFullError,
    Interrupted,
    NonFiniteLossError,
    SslToolError,
)
from ssltool.methods.registry import find_method
from ssltool.probing.online import OnlineKNN
from ssltool.runs import checkpoint
from ssltool.runs.config import RunConfig
from ssltool.runs.records import RunRecord
from ssltool.training import start, writer
from ssltool.training.interrupt import StopRequest, stop_requests
from ssltool.training.pretrain import RunSummary, dry_run, pretrain
from ssltool.training.trainer import Trainer

JIGSAW = find_method("jigsaw")
QUIET = Console(quiet=True)
BASE = {
    "data": ("demo:24",),
    "image_size": 32,
    "batch_size": 4,
    "steps": 10,
    "checkpoint_every": 4,
    "log_every": 2,
    "workers": 0,
    "precision": "fp32",
}


def run(out: Path, resume: bool = False, **changes: Any) -> RunSummary:
    given = {"out": out} if resume else {**BASE, "out": out, **changes}
    return pretrain(RunConfig.merged("jigsaw", given), resume=resume, console=QUIET)


def weights(out: Path) -> bytes:
    return (out / "encoder.safetensors").read_bytes()


def files_of(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(out)
    return out


def test_a_run_folder_holds_what_the_docs_say(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names == {"run.json", "metrics.jsonl", "encoder.safetensors", "checkpoints", "figures"}
    assert [path.name for path in sorted((whole / "checkpoints").iterdir())] == [
        "step-0000008",
        "step-0000010",
    ]
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    assert {"loss", "accuracy", "images_per_s", "data_wait", "lr", "grad_norm"} <= set(lines[0])
    assert {path.name for path in (whole / "figures").iterdir()} == {
        "samples.png",
        "task.png",
        "predictions-0000004.png",
        "predictions-0000008.png",
        "predictions-0000010.png",
    }
    document = json.loads((whole / "run.json").read_text())
    assert document["options"]["backbone"] == "resnet10_w32"
    assert document["options"]["grid"] == 2
    assert document["fingerprint"]["permutation_set"]["K"] == 24


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    assert weights(tmp_path / "again") == weights(whole)


@pytest.mark.slow
@pytest.mark.ci
def test_the_number_of_workers_changes_nothing(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "two", workers=2)
    assert weights(tmp_path / "two") == weights(whole)


@pytest.mark.slow
def test_run_json_repeats_the_run(whole: Path, tmp_path: Path) -> None:
    config = RunConfig.merged("jigsaw", {"out": tmp_path / "repeat"}, config=whole / "run.json")
    pretrain(config, console=QUIET)
    assert weights(tmp_path / "repeat") == weights(whole)


@pytest.mark.parametrize("stop", [4, pytest.param(9, marks=pytest.mark.slow)])
def test_an_interrupted_and_resumed_run_ends_with_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    out, steps = tmp_path / "run", Trainer.steps

    def until(trainer: Trainer) -> Any:
        for report in steps(trainer):
            if report.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    monkeypatch.setattr(Trainer, "steps", until)
    with pytest.raises(Interrupted, match="--resume"):
        run(out)
    monkeypatch.setattr(Trainer, "steps", steps)
    run(out, resume=True)
    assert weights(out) == weights(whole)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()][
        -1
    ] == 10
    final = "checkpoints/step-0000010/optimizer.safetensors"
    assert (out / final).read_bytes() == (whole / final).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("context-prediction", {"load_size": 48}),
        ("context-encoder", {"mask": "center", "adversarial": 0.01, "momentum": 0.5}),
        ("colorization", {}),
        ("cpc", {"directions": 1}),
    ],
)
def test_other_methods_resume_exactly_too(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """The discriminator's parameters, batch statistics and optimizer state are part of it."""

    def take(out: Path, resume: bool = False) -> None:
        given = {"out": out} if resume else {**BASE, "steps": 6, **options, "out": out}
        pretrain(RunConfig.merged(name, given), resume=resume, console=QUIET)

    take(tmp_path / "whole")
    shutil.copytree(
        tmp_path / "whole", tmp_path / "cut"
    )  # killed after step 4, whose checkpoint it kept
    for folder in (tmp_path / "cut" / "checkpoints").iterdir():
        if folder.name != "step-0000004":
            shutil.rmtree(folder)
    (tmp_path / "cut" / "encoder.safetensors").unlink()
    take(tmp_path / "cut", resume=True)
    for part in ("encoder.safetensors", "checkpoints/step-0000006/model.safetensors"):
        assert (tmp_path / "cut" / part).read_bytes() == (tmp_path / "whole" / part).read_bytes()
    ours, theirs = (
        load_file(tmp_path / n / "checkpoints/step-0000006/optimizer.safetensors")
        for n in ("cut", "whole")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
@pytest.mark.ci
def test_a_memory_bank_is_resumed_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bank and ln c are buffers: a run that lost them would begin its task anew."""
    steps = Trainer.steps

    def until(trainer: Trainer) -> Any:
        for report in steps(trainer):
            if report.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    given = {**BASE, "steps": 6, "loss": "nce", "negatives": 16, "accumulate": 2}
    pretrain(RunConfig.merged("npid", {**given, "out": tmp_path / "whole"}), console=QUIET)
    monkeypatch.setattr(Trainer, "steps", until)
    with pytest.raises(Interrupted):
        pretrain(RunConfig.merged("npid", {**given, "out": tmp_path / "run"}), console=QUIET)
    monkeypatch.setattr(Trainer, "steps", steps)
    pretrain(RunConfig.merged("npid", {"out": tmp_path / "run"}), resume=True, console=QUIET)
    final = "checkpoints/step-0000006/model.safetensors"
    assert (tmp_path / "run" / final).read_bytes() == (tmp_path / "whole" / final).read_bytes()


def test_resuming_a_finished_run_changes_nothing(whole: Path) -> None:
    before, record = weights(whole), (whole / "run.json").read_bytes()
    assert run(whole, resume=True).metrics["step"] == 10
    assert weights(whole) == before
    assert (whole / "run.json").read_bytes() == record


@pytest.mark.slow
@pytest.mark.ci
def test_an_extended_run_ends_with_the_same_bytes_however_it_is_interrupted(
    whole: Path, tmp_path: Path
) -> None:
    """At a constant rate they are those of a run begun with the new length."""
    for name, lengths in (("once", [14]), ("twice", [14, None]), ("other", [12, 14])):
        shutil.copytree(whole, tmp_path / name)
        for number, steps in enumerate(lengths):
            given = {"out": tmp_path / name, **({"steps": steps} if steps else {})}
            if name == "twice" and number == 1:  # as if it was killed behind step 12
                shutil.rmtree(tmp_path / name / "checkpoints" / "step-0000014")
            pretrain(RunConfig.merged("jigsaw", given), resume=True, console=QUIET)
    assert weights(tmp_path / "once") == weights(tmp_path / "twice") != weights(whole)
    assert weights(tmp_path / "once") != weights(tmp_path / "other")  # the schedule was another
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    assert [(e["at"], e["steps"]) for e in record["extended"]] == [(10, 12), (12, 14)]
    straight, longer = tmp_path / "straight", tmp_path / "longer"
    run(straight, steps=6, schedule="constant", warmup=0)
    run(longer, steps=4, schedule="constant", warmup=0)
    pretrain(RunConfig.merged("jigsaw", {"out": longer, "steps": 6}), resume=True, console=QUIET)
    assert weights(straight) == weights(longer)


def test_diverged_weights_are_not_saved(whole: Path, tmp_path: Path) -> None:
    """The loss of a step is that of the weights before it."""
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000010")
    begun = start.resumed_run(RunConfig.merged("jigsaw", {}), tmp_path / "run")
    trainer = Trainer.build(begun, QUIET)
    writing = writer.RunWriter(trainer, tmp_path / "run", QUIET)
    writing.add(next(trainer.steps()))
    with torch.no_grad():
        next(trainer.method.parameters())[0] = float("nan")
    words = r"weights became NaN .* by step 9; the last good checkpoint is .*0000008; try --lr"
    with pytest.raises(NonFiniteLossError, match=words):
        writing.log(9, writer.Due(log=True, checkpoint=True, probe=False))


def test_a_disk_that_is_too_small_is_said_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, usage = tmp_path / "run", shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(DiskFullError, match=r"needs about .*B of disk, but .* 1.0 MB; .*--keep"):
        run(out)
    assert not out.exists()


def test_a_run_folder_that_cannot_be_written_to_any_more_names_what_is_kept(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000010")

    def refused(folder: Path, line: object) -> None:
        raise CheckpointError("cannot write metrics.jsonl: Read-only file system")

    monkeypatch.setattr("ssltool.runs.metrics.append", refused)
    with pytest.raises(
        CheckpointError, match=r"Read-only file system; .*0000008 is intact; .* type .*--resume"
    ):
        run(tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_bytes((whole / "run.json").read_bytes())
    run(out, resume=True)
    assert weights(out) == weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after", "before the older ones are deleted"])
def test_a_kill_beside_the_last_checkpoint_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    out, save = tmp_path / "run", checkpoint.save

    def killed(run: Path, step: int, *rest: Any) -> Path:
        place = save(run, step, *rest) if step < 10 or moment != "before" else run
        if step == 10:
            raise SystemExit
        return place

    with monkeypatch.context() as patch:
        if moment.endswith("deleted"):
            patch.setattr(checkpoint, "prune", lambda run, keep: None)
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(SystemExit):
            run(out)
    half = out / "checkpoints" / ".step-0000010.1.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    run(out, resume=True)
    assert weights(out) == weights(whole)
    assert files_of(out) == files_of(whole)


@pytest.mark.slow
def test_following_a_run_changes_no_byte_of_it(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, probe_data=("demo:100",), probe_every=3)
    assert weights(out) == weights(whole)
    model = "checkpoints/step-0000010/model.safetensors"
    assert (out / model).read_bytes() == (whole / model).read_bytes()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    probed = {line["step"]: line["knn"] for line in lines if "knn" in line}
    assert list(probed) == [3, 6, 9, 10]
    assert all(0 <= value <= 1 for value in probed.values())
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9, 10]


@pytest.mark.slow
def test_a_run_is_followed_at_its_checkpoints_and_that_can_begin_on_resume(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoints" / "step-0000010")
    pretrain(
        RunConfig.merged("jigsaw", {"out": out, "probe_data": ("demo:60",)}),
        resume=True,
        console=QUIET,
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "knn" in line] == [10]
    assert RunRecord.read(out / "run.json").chance["knn"] == pytest.approx(0.1)
    assert weights(out) == weights(whole)


def test_a_signal_while_a_run_is_probed_saves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(*_: Any) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.5

    monkeypatch.setattr(OnlineKNN, "accuracy", signalled)
    with pytest.raises(Interrupted, match="after step 4 of 10"):
        run(tmp_path / "run", probe_data=("demo:60",), probe_every=3)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000004"]


def test_images_to_follow_by_need_classes(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="folder of their own"):
        run(tmp_path / "run", probe_data=(str(tmp_path),))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.ci
def test_init_starts_from_the_weights_of_another_run(whole: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "second", init=whole, steps=1, lr=1e-12)
    from ssltool.encoders.weights import load_encoder

    first, second = load_encoder(whole), load_encoder(result.weights)
    assert torch.allclose(first.backbone.conv1.weight, second.backbone.conv1.weight, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "mentioned"), [(1e-9, True), (0.01, False)])
def test_a_lasting_plateau_is_mentioned_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lr: float,
    mentioned: bool,
) -> None:
    monkeypatch.setattr(writer, "_PLATEAU", 30)
    given = {
        **BASE,
        "data": ("demo:8",),
        "steps": 40,
        "lr": lr,
        "dropout": 0.0,
        "permutations_per_image": 8,
        "grayscale": 0.0,
    }
    given["checkpoint_every"] = 100
    pretrain(
        RunConfig.merged("jigsaw", {**given, "out": tmp_path / "run"}),
        console=Console(stderr=True, width=300),
    )
    assert capsys.readouterr().err.count("still at the chance level") == int(mentioned)


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    needs = dry_run(RunConfig.merged("jigsaw", BASE), console=QUIET)
    assert min(needs.images_per_s, needs.seconds, needs.memory_gb, needs.disk_gb) > 0
    assert not list(tmp_path.iterdir())


def test_the_second_signal_interrupts_at_once() -> None:
    request = StopRequest()
    request.handle(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        request.handle(signal.SIGINT, None)


def test_a_second_hangup_does_not_interrupt() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    try:
        with stop_requests() as stop:
            for _ in range(2):
                signal.raise_signal(signal.SIGHUP)
            assert stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def command(out: Path, *more: str) -> list[str]:
    flags = [
        part
        for key, value in BASE.items()
        for part in (f"--{key.replace('_', '-')}", str(value))
        if key != "data"
    ]
    return [
        sys.executable,
        "-m",
        "ssltool",
        "pretrain",
        "jigsaw",
        "--data",
        *BASE["data"],
        *flags,
        "--out",
        str(out),
        *more,
    ]


@pytest.mark.slow
@pytest.mark.ci
def test_ctrl_c_saves_and_leaves_with_130(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*command(out), "--steps", "10000"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").is_file() or not (out / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume" in errors.splitlines()[-1]
    assert list((out / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.ci
def test_sigkill_at_random_moments(whole: Path, tmp_path: Path) -> None:
    """Three kills here; benchmarks/resume.py does twenty."""
    out, rng = tmp_path / "run", random.Random(0)
    for _ in range(3):
        more = ["--resume"] if (out / "run.json").is_file() else ["--overwrite"]
        process = subprocess.Popen([*command(out), *more], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(2, 9))
        process.kill()
        process.wait()
    run(out, resume=(out / "run.json").is_file())
    assert weights(out) == weights(whole)


@pytest.mark.slow
def test_a_method_learns_from_the_images_once_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prepare` gets every image once, in an order of the seed; a resumed run does not call it
    again.
    """
    looks: list[list[int]] = []

    def prepare(self: Any, batches: Any) -> str:
        looks.append(
            [i for images, index in batches for i in index.tolist() if images.dtype == torch.uint8]
        )
        return "looked"

    monkeypatch.setattr(JIGSAW, "prepare", prepare)
    console = Console(record=True, width=200)
    pretrain(RunConfig.merged("jigsaw", {**BASE, "out": tmp_path / "run"}), console=console)
    assert sorted(looks[0]) == list(range(24))
    assert looks[0] != sorted(looks[0])
    assert "looked" in console.export_text()
    run(tmp_path / "run", resume=True)
    assert len(looks) == 1
    run(tmp_path / "again")
    assert looks[1] == looks[0]


class Fragile(torch.utils.data.Dataset[Image.Image]):
    """Images that cannot be read any more once ``gone`` is set."""

    gone = False

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Image.Image:
        if self.gone:
            raise OSError("stale file handle")
        return Image.new("RGB", (32, 32), (index, 99, 0))


def watched(out: Path, dataset: Fragile, at: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run on images that vanish after step ``at``; what is printed."""
    steps, console = Trainer.steps, Console(record=True, quiet=False, file=io.StringIO(), width=500)

    def until(trainer: Trainer) -> Any:
        for report in steps(trainer):
            dataset.gone = dataset.gone or report.step == at
            yield report

    monkeypatch.setattr(Trainer, "steps", until)
    config = RunConfig.merged("jigsaw", {**BASE, "out": out, "data": ()})
    try:
        pretrain(config, source=DatasetSource(dataset), console=console)
    finally:
        monkeypatch.setattr(Trainer, "steps", steps)
    return console.export_text()


def test_images_that_vanish_stop_a_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, dataset = tmp_path / "run", Fragile()
    with pytest.raises(DataError) as caught:
        watched(out, dataset, 3, monkeypatch)
    text = str(caught.value)
    assert "can be read any more; last: " in text
    assert "stopped after step 3, with a checkpoint saved; then type ssltool pretrain" in text
    newest = checkpoint.newest(out)
    assert newest is not None
    assert newest.name == "step-0000003"
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_run_whose_images_come_back_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, dataset = tmp_path / "run", Fragile()
    with pytest.raises(DataError):
        watched(out, dataset, 3, monkeypatch)
    dataset.gone = False
    config = RunConfig.merged("jigsaw", {"out": out})
    pretrain(config, source=DatasetSource(dataset), resume=True, console=QUIET)
    watched(tmp_path / "whole", Fragile(), 0, monkeypatch)
    assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_figures_end_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are in memory by step 10; those of the figures cannot be read."""

    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no\nfont")

    monkeypatch.setattr(writer, "draw_start", broken)
    text = watched(tmp_path / "run", Fragile(), 10, monkeypatch)
    assert "warning: no figures after step 0: RuntimeError: no font" in text
    assert "warning: no figures after step 10: no image of " in text
    assert checkpoint.newest(tmp_path / "run") is not None


@pytest.mark.slow
@pytest.mark.ci
def test_a_full_disk_is_no_missing_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = writer.draw_snapshot

    def full(*args: Any, step: int, **options: Any) -> Any:
        if step > 4:
            raise DiskFullError("no space left")
        return draw(*args, step=step, **options)

    monkeypatch.setattr(writer, "draw_snapshot", full)
    with pytest.raises(DiskFullError, match="step-0000004 is intact"):
        run(tmp_path / "run")


@pytest.mark.slow
def test_online_evaluation_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*args: Any) -> float:
        raise DataError("no images")

    monkeypatch.setattr(OnlineKNN, "accuracy", unreadable)
    run(tmp_path / "run", probe_data=("demo:20",), steps=2)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["step"] == 2
    assert "knn" not in line


@pytest.mark.parametrize(
    ("batch", "advice"),
    [(4, "--batch-size 2 --accumulate 2, or a smaller --backbone"), (2, "type a smaller --back")],
)
def test_memory_that_runs_out_on_a_cpu_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, advice: str
) -> None:
    monkeypatch.setattr(Trainer, "steps", lambda trainer: torch.empty(10**15))
    with pytest.raises(SslToolError, match=f"resnet10_w32 and {batch} images.*{advice}") as caught:
        run(tmp_path / "run", batch_size=batch)
    assert "\n" not in str(caught.value)
