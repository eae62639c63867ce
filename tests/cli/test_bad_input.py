"""Bad input: one line on stderr that says the way out, the right exit code, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssltool.cli import run

Outcome = tuple[int, str]
QUICK = [
    "--steps",
    "1",
    "--batch-size",
    "2",
    "--workers",
    "0",
    "--precision",
    "fp32",
    "--quiet",
    "--image-size",
    "32",
]


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        errors = capfd.readouterr().err
        assert "Traceback" not in errors
        return code, errors

    return call


def one_line(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome[0] == code, outcome
    assert outcome[1].startswith("error: "), outcome
    assert outcome[1].count("\n") == 1, outcome
    for word in words:
        assert word in outcome[1], outcome


def make_images(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_missing_and_empty_folders(call: Callable[..., Outcome], tmp_path: Path) -> None:
    one_line(call("pretrain", "jigsaw", "--data", tmp_path / "nowhere"), 2, "nowhere")
    (tmp_path / "empty").mkdir()
    one_line(call("pretrain", "jigsaw", "--data", tmp_path / "empty"), 1, "empty")


def test_a_folder_with_nothing_readable(call: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.jpg").write_text("not an image")
    (folder / "b.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(folder / "c.png")
    one_line(call("pretrain", "jigsaw", "--data", folder), 1, "none of the 3 files", "a.jpg")


@pytest.mark.slow
@pytest.mark.ci
def test_fewer_images_than_a_batch(call: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = make_images(tmp_path / "few")
    one_line(
        call("pretrain", "jigsaw", "--data", folder, "--batch-size", "64"),
        2,
        "4 images",
        "--batch-size 4",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrain", "jigsav"], ["jigsav", "did you mean jigsaw"]),
        (["pretrain", "jigsaw", "--backbone", "resnet81"], ["resnet81", "resnet18"]),
        (["pretrain", "jigsaw", "--epcohs", "3"], ["--epcohs", "--epochs"]),
        (["pretrain", "jigsaw", "--permutation-mode", "max_mni"], ["max_mni", "max_min"]),
        (["pretrain", "jigsaw", "--grid", "9"], ["--grid", "9", "5"]),
        (["pretrain", "jigsaw", "--grayscale", "1.5", "--lr", "-1"], ["--grayscale", "--lr"]),
        (["pretrain", "jigsaw", "--steps", "x"], ["--steps", "integer"]),
        (["pretrain", "jigsaw", "--steps", "3", "--epochs", "3"], ["--steps", "--epochs"]),
        (["pretrain", "jigsaw", "--preset", "papr"], ["papr", "paper"]),
        (["pretrain", "jigsaw", "--config", "nowhere.toml"], ["nowhere.toml"]),
        (
            ["pretrain", "jigsaw", "--data", "demo:64", "--image-size", "16", "--grid", "3"],
            ["--image-size"],
        ),
        (
            ["pretrain", "jigsaw", "--data", "demo:64", "--grid", "2", "--permutations", "30"],
            ["24"],
        ),
        (
            ["pretrain", "jigsaw", "--data", "demo:64", "--permutation-mode", "file"],
            ["--permutation-file"],
        ),
        (
            ["pretrain", "jigsaw", "--data", "demo:64", "--backbone", "alexnet", "--stem", "small"],
            ["stem"],
        ),
        (["pretrain", "jigsaw", "--resume"], ["--resume"]),
        (["prtrain"], ["prtrain", "pretrain"]),
        (["probe", "--weights", "x", "--data", "demo:40", "--kind", "linaer"], ["linear"]),
        (["visualize", "predictions", "--weights", "nowhere"], ["nowhere"]),
        (["visualize", "curves", "nowhere"], ["nowhere"]),
        (["visualize", "permutations", "--grid", "2", "--permutations", "30"], ["24"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_wrong_usage(call: Callable[..., Outcome], arguments: list[str], words: list[str]) -> None:
    one_line(call(*arguments), 2, *words)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("pretrain jigsaw --resume --overwrite", "--overwrite: no effect with --resume"),
        ("pretrain jigsaw --resume --dry-run", "--dry-run: no effect with --resume"),
        ("pretrain jigsaw --dry-run --devices 2", "--devices: no effect with --dry-run"),
        (
            "pretrain jigsaw --data demo:8 --probe-every 5",
            "--probe-every: no effect without --probe-data",
        ),
        ("bench jigsaw --sweep 4,8 --batch-size 4", "--batch-size: no effect with --sweep"),
        ("bench jigsaw --probe-data demo:8", "--probe-data"),
        ("bench jigsaw --devices 2", "--devices"),
        ("export --weights w --to a --uint8", "--uint8: no effect without --format onnx or torch"),
        ("visualize task jigsaw --data demo:8 --image a.png", "--data: no effect with --image"),
        ("visualize predictions --weights w --data a --image b", "--data: no effect with --image"),
        ("visualize neighbors --weights w --count 3 --image b", "--count: no effect with --image"),
        ("visualize attribution --weights w --count 3 --image b", "--count: no effect"),
        ("visualize features --weights w --seed 3", "--seed: no effect with --map pca"),
        ("visualize permutations --compare --mode code", "--mode: no effect with --compare"),
        (
            "visualize permutations --file a.npy --grid 3 --seed 1 --permutations 4",
            "--permutations, --grid, --seed: no effect with --file",
        ),
    ],
)
def test_options_without_effect_are_refused(
    call: Callable[..., Outcome], typed: str, words: str
) -> None:
    one_line(call(*typed.split()), 2, words)


@pytest.mark.parametrize(
    "typed",
    [
        "pretrain jigsaw --data none",
        "pretrain jigsaw --data none-{000..009}.tar",
        "pretrain jigsaw --data torchvision:MNIST@none",
        "pretrain jigsaw --data demo:64 --init none",
        "pretrain jigsaw --data demo:64 --init none.safetensors",
        "pretrain jigsaw --data demo:64 --init empty",
        "pretrain jigsaw --config none.toml",
        "pretrain jigsaw --data demo:64 --permutation-mode file --permutation-file none.npy",
        "pretrain context-encoder --data demo:64 --mask-files none",
        "pretrain jigsaw --resume --out none",
        "bench jigsaw --data none",
        "probe --weights none --data demo:40",
        "probe --weights empty --data demo:40",
        "compare none --data demo:40",
        "embed --weights none --data demo:40 --to x.npz",
        "export --weights none --to x.safetensors",
        "export --weights empty --to x.safetensors",
        "visualize predictions --weights none",
        "visualize neighbors --weights none",
        "visualize features --weights none",
        "visualize attribution --weights none",
        "visualize filters --weights none",
        "visualize curves none",
        "visualize permutations --file none.npy",
        "visualize task jigsaw --data none",
        "visualize task jigsaw --image none.png",
        "report none",
        "data check none",
        "data pack none --to shards",
        "data index none",
    ],
)
def test_a_path_that_names_nothing_is_wrong_usage(
    call: Callable[..., Outcome], tmp_path: Path, typed: str
) -> None:
    (tmp_path / "empty").mkdir()
    one_line(call(*typed.split()), 2, "empty" if "empty" in typed else "none")


@pytest.mark.parametrize(
    "typed",
    [
        "probe --data none",
        "probe --data demo:40 --test-data none",
        "probe --data demo:40 --label-file none.csv",
        "embed --data none --to x.npz",
        "export --to x.safetensors --form rgb --data none",
        "visualize neighbors --data none",
        "visualize features --data none",
        "visualize attribution --image none.png",
        "visualize attribution --data none",
    ],
)
def test_images_and_labels_that_are_not_there_are_wrong_usage(
    call: Callable[..., Outcome], weights: Path, typed: str
) -> None:
    command, *rest = typed.split()
    one_line(call(command, *rest, "--weights", weights), 2, "none")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder, untrained."""
    from ssltool.encoders.metadata import IMAGENET_NORM
    from ssltool.encoders.registry import build_encoder
    from ssltool.encoders.weights import describe, save_encoder

    encoder = build_encoder("resnet20", stem="small", image_size=32)
    mean, std = IMAGENET_NORM
    metadata = describe(
        encoder, method="jigsaw", color_space="rgb", image_size=32, mean=mean, std=std
    )
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_encoder(encoder, metadata, path)
    return path


def test_out_that_is_not_empty(call: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = make_images(tmp_path / "out")
    one_line(
        call("pretrain", "jigsaw", "--data", "demo:8", "--out", folder, *QUICK), 2, "not empty"
    )
    one_line(
        call("pretrain", "jigsaw", "--data", "demo:8", "--out", folder, "--overwrite", *QUICK),
        2,
        "not a run folder",
    )
    assert len(list(folder.iterdir())) == 4


@pytest.mark.slow
def test_resume_with_other_options_or_other_images(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = make_images(tmp_path / "data")
    assert call("pretrain", "jigsaw", "--data", folder, "--out", "run", *QUICK)[0] == 0
    outcome = call("pretrain", "jigsaw", "--out", "run", "--resume", "--lr", "0.5", "--grid", "3")
    one_line(outcome, 2, "--lr 0.5", "--grid 3", "--init")
    assert call("pretrain", "jigsaw", "--out", "run", "--resume", *QUICK)[0] == 0
    (folder / "0.png").rename(folder / "new.png")
    one_line(call("pretrain", "jigsaw", "--out", "run", "--resume"), 1, "changed")


@pytest.mark.parametrize("command", ["probe", "export", "visualize"])
def test_weights_that_are_not_weights(
    call: Callable[..., Outcome], tmp_path: Path, command: str
) -> None:
    assert call("pretrain", "jigsaw", "--data", "demo:8", "--out", "run", *QUICK)[0] == 0
    good = (tmp_path / "run" / "encoder.safetensors").read_bytes()
    files = {
        "truncated.safetensors": good[:-100],
        "text.safetensors": b"hello",
        "pickle.pt": b"\x80\x02}q\x00.",
        "zip.pth": b"PK\x03\x04" + bytes(100),
    }
    more = {"probe": ["--data", "demo:40"], "export": ["--to", "x.safetensors"], "visualize": []}[
        command
    ]
    start = ["visualize", "filters"] if command == "visualize" else [command]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        one_line(call(*start, "--weights", name, *more), 1, name)


@pytest.mark.slow
def test_weights_of_another_backbone(call: Callable[..., Outcome]) -> None:
    assert call("pretrain", "jigsaw", "--data", "demo:8", "--out", "run", *QUICK)[0] == 0
    outcome = call(
        "pretrain",
        "jigsaw",
        "--data",
        "demo:8",
        "--init",
        "run",
        "--backbone",
        "resnet20",
        "--out",
        "b",
        *QUICK,
    )
    one_line(outcome, 1, "layer")


def test_one_bad_file_among_good_ones_is_skipped_and_named(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = make_images(tmp_path / "data", 9)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        tmp_path / "whole.jpg"
    )
    (folder / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    quick = [*QUICK, "--steps", "5"]
    assert call("pretrain", "jigsaw", "--data", folder, "--out", "run", *quick)[0] == 0
    lines = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cut.jpg") or "cut.jpg: " in lines[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.slow
@pytest.mark.ci
def test_a_full_disk_keeps_the_checkpoint_before(
    call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssltool.runs import checkpoint

    save_file = checkpoint.save_file
    calls = []

    def full_from_the_third(tensors: dict, path: Path) -> None:
        calls.append(path)
        if len(calls) <= 2:
            save_file(tensors, path)
            return
        with Path("/dev/full").open("wb", buffering=0) as disk:
            os.write(disk.fileno(), b"x")

    monkeypatch.setattr(checkpoint, "save_file", full_from_the_third)
    arguments = [
        "pretrain",
        "jigsaw",
        "--data",
        "demo:8",
        "--out",
        "run",
        *QUICK,
        "--steps",
        "4",
        "--checkpoint-every",
        "2",
    ]
    one_line(call(*arguments), 1, "no space left", "step-0000002 is intact", "--resume")
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000002"]
    assert call("pretrain", "jigsaw", "--out", "run", "--resume", "--quiet")[0] == 0


def test_a_loss_that_is_not_finite_stops_the_run(call: Callable[..., Outcome]) -> None:
    outcome = call(
        "pretrain",
        "jigsaw",
        "--data",
        "demo:8",
        "--out",
        "run",
        *QUICK,
        "--steps",
        "60",
        "--lr",
        "1e30",
    )
    one_line(outcome, 1, "step", "--lr")
