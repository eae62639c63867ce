"""The end of a run: what is printed where, and commands that can be pasted into a shell."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from ssltool.cli import run as command
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import resume_command
from ssltool.runs.records import MetricRecord
from ssltool.training import pretrain
from ssltool.training.summary import RunSummary, shorter_run

AWKWARD = Path("my runs/it's $HOME; [red]")


def summary(**changes: object) -> RunSummary:
    given = {
        "run": AWKWARD,
        "weights": AWKWARD / "encoder.safetensors",
        "method": "jigsaw",
        "metrics": {"step": 40, "loss": 2.31, "accuracy": 0.33, "saturation": 0.5, "knn": 0.412},
        "chance": {"loss": 3.178, "accuracy": 1 / 24, "knn": 0.1},
        "images": 512,
        "skipped": 0,
        "seconds": 204.4,
        "steps": 40,
        "images_seen": 2560,
        "images_per_s": 12.5,
        "declared": (
            MetricRecord(name="loss", unit="", chance=3.178),
            MetricRecord(name="accuracy", unit="fraction", chance=1 / 24),
            MetricRecord(name="saturation", unit="fraction", chance=None),
            MetricRecord(name="knn", unit="fraction", chance=0.1),
        ),
    }
    return RunSummary.model_validate({**given, **changes})


def test_what_was_learned_stands_next_to_chance_level() -> None:
    assert summary().learned() == [
        "jigsaw: 40 steps, 2,560 images seen; 3.4 min at 12 images/s",
        "  loss           2.31  chance level 3.178",
        "  accuracy      33.0%  chance level 4.2%",
        "  kNN accuracy  41.2%  chance level 10.0%",
    ]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (30, "jigsaw: 40 steps, 2,560 images seen; 3.4 min at 12 images/s since step 30"),
        (40, "jigsaw: 40 steps, 2,560 images seen"),
    ],
)
def test_of_a_resumed_run_the_time_is_that_of_its_last_steps(after: int, expected: str) -> None:
    assert summary(resumed_after=after).learned()[0] == expected


def test_the_next_commands_survive_a_shell() -> None:
    labeled = ("/a folder/x", "torchvision:CIFAR10@~/d")
    _, probe, visualize = summary(labeled=labeled).following()
    assert shlex.split(probe) == (
        ["ssltool", "probe", "--weights", str(AWKWARD), "--data", labeled[0], "--data", labeled[1]]
    )
    assert shlex.split(visualize)[-1] == str(AWKWARD)
    *_, unlabeled, _, meaning = summary().following()
    assert unlabeled.endswith("--data LABELED")
    assert "one folder per class" in meaning
    assert shlex.split(resume_command("cpc", AWKWARD))[-2:] == [str(AWKWARD), "--resume"]


def test_the_shorter_run_is_on_the_same_images() -> None:
    config = RunConfig.merged("cpc", {"data": ("a b", "demo:8")})
    words = shlex.split(shorter_run(config))  # type: ignore[arg-type]  # it has the same fields
    assert words[2:] == ["cpc", "--data", "a b", "--data", "demo:8", "--budget", "20m"]


@pytest.mark.parametrize("flag", ["", "--quiet", "--json"])
def test_stdout_is_for_scripts(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrain, "pretrain", lambda *args, **kwargs: summary())
    assert command(["pretrain", "jigsaw", "--data", "demo:8", *flag.split()]) == 0
    shown = capsys.readouterr()
    if flag == "--json":
        document = json.loads(shown.out)
        assert document["images_seen"] == 2560
        assert not {"declared", "labeled"} & set(document)
    else:
        assert shown.out == f"{AWKWARD / 'encoder.safetensors'}\n"
    if flag:
        assert shown.err == ""
        return
    lines = shown.err.splitlines()
    assert lines[0].startswith("jigsaw: 40 steps")
    assert f"weights: {AWKWARD / 'encoder.safetensors'}" in lines
    assert f"  ssltool visualize predictions --weights {shlex.quote(str(AWKWARD))}" in lines
