"""Help and listings answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "safetensors", "PIL")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["methods"],
        ["pretrain", "--help"],
        ["visualize", "--help"],
        ["pretrain", "jigsaw", "--help"],
        ["probe", "--help"],
        ["backbones"],
        ["config", "cpc", "--preset", "paper"],
    ],
)
def test_no_heavy_import(arguments: list[str]) -> None:
    code = (
        "import sys; from ssltool.cli import run; code = run(sys.argv[1:]);"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip().endswith("[]")


def test_importing_ssltool_imports_no_torch() -> None:
    code = "import sys, ssltool; print('torch' in sys.modules, ssltool.__version__)"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("False")


# What can be refused without torch, and a word of the message.
REFUSED = {
    "pretrian": "did you mean pretrain",
    "pretrain jigsow": "did you mean jigsaw",
    "pretrain jigsaw": "--data is required",
    "pretrain jigsaw --data nowhere": "nowhere",
    "pretrain jigsaw --data {000..003}.tar": "no shard at 000.tar",
    "pretrain jigsaw --data demo:x": "demo:x",
    "pretrain jigsaw --data nowhere.csv:train": "no file at nowhere.csv",
    "pretrain jigsaw --data nowhere.zip": "no file at nowhere.zip",
    "pretrain jigsaw --data zip://x::nowhere.zip": "no file at nowhere.zip",
    "pretrain jigsaw --data x-*.parquet": "no Parquet file at x-*.parquet",
    "pretrain jigsaw --data hf:./nowhere": "no folder at ./nowhere",
    "pretrain jigsaw --data ftp://host/x.tar": "a URL of s3, gs, http or https",
    "pretrain jigsaw --data https://me:key@host/x.tar": "https://host/x.tar was typed with a user",
    "pretrain jigsaw --data demo --lr abc": "--lr abc: should be a number",
    "pretrain jigsaw --data demo --grid 9": "--grid 9: should be at most 5",
    "pretrain jigsaw --data demo --optimizer adam": "did you mean adamw",
    "pretrain jigsaw --data demo --epcohs 3": "did you mean --epochs",
    "pretrain jigsaw --data demo --temperature .1": "belongs to colorization and npid",
    "pretrain jigsaw --data demo --backbone resnet81": "did you mean resnet",
    "pretrain jigsaw --data demo --preset papr": "did you mean paper",
    "pretrain jigsaw --data demo --config nowhere.toml": "nowhere.toml",
    "pretrain jigsaw --data demo --steps 3 --epochs 3": "--epochs and --steps",
    "pretrain jigsaw --data demo --out full": "not empty",
    "pretrain jigsaw --data demo --init nowhere": "nowhere",
    "pretrain jigsaw --data demo --probe-every 5": "--probe-data",
    "pretrain jigsaw --resume": "--resume",
    "pretrain jigsaw --lr": "a value should follow",
    "pretrain cpc --data demo --norm foo": "should be one of batch, ln, ln2d, none",
    "probe --data demo": "--weights is required",
    "probe --weights nowhere --data demo": "nowhere",
    "probe --weights full/a.safetensors --data demo --protocol foo": "zhang2016",
    "probe --weights full/a.safetensors --data demo --kind linaer": "did you mean linear",
    "probe --weights full/a.safetensors": "--data is required",
    "embed --weights full/a.safetensors --data demo --to a.txt": ".npz",
    "export --weights nowhere --to x.safetensors": "nowhere",
    "export --weights full/a.safetensors --to x --format timm --with-head": "no effect without",
    "predict colorise": "did you mean colorize",
    "predict colorize full/a.png --to x": "--weights is required",
    "predict colorize --weights full/a.safetensors --to x": "IMAGE is required",
    "predict colorize full/a.png --weights full/a.safetensors": "--to is required",
    "predict colorize full/a.png --weights nowhere --to x": "nowhere",
    "predict colorize full/a.png --weights full/a.safetensors --to x": "without the head",
    "predict colorize no.png --weights full/a.safetensors --to x": "there is no file no.png",
    "predict colorize full --weights full/a.safetensors --to x": "full is a folder",
    "predict colorize full/a.png --weights full/a.safetensors --to full": "is one of the images",
    "predict colorize full/a.safetensors --weights full/a.safetensors --to full": "--overwrite",
    "predict colorize full/a.png full/a.jpg --weights full/a.safetensors --to x": "both be written",
    "predict colorize full/a.png --weights full/a.safetensors --to full/a.jpg": "is no folder",
    "predict inpaint full/a.png --weights full/a.safetensors --to x --box 1,2,3": "at least 4",
    "predict inpaint full/a.png --weights full/a.safetensors --to x --box 1,2,0,4": "at least 1",
    "predict inpaint full/a.png --weights full/a.safetensors --to x --box a,2,3,4": "an integer",
    "predict inpaint full/a.png --weights full/a.safetensors --to x --mask no.png": "--mask no.png",
    "predict inpaint full/a.png --weights full --to x --mask a --box 1,2,3,4": "--box: no effect",
    "compare nowhere --data demo": "nowhere",
    "audit --weights nowhere": "nowhere",
    "visualize predictions --weights nowhere": "nowhere",
    "visualize features --weights full/a.safetensors --to x.jpg": ".png",
    "visualize task jigsaw": "--data is required",
    "visualize task jigsaw --data nope": "nope",
    "visualize curves nowhere": "nowhere",
    "report nowhere": "nowhere",
    "bench jigsaw --data demo --sweep 1": "--sweep 1",
    "bench jigsaw": "--data is required",
    "data check nope": "nope",
    "data check --data nope": "nope",
    "data check": "--data is required",
    "config jigsaw --preset modrn": "did you mean modern",
    "backbones --method jigsow": "did you mean jigsaw",
}


def test_usage_errors_import_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    for name in ("a.safetensors", "a.png", "a.jpg"):
        (tmp_path / "full" / name).touch()
    # In one process: what any of them imports shows after it.
    code = f"""
import contextlib, io, json, sys
from ssltool.cli import run
for typed in json.loads(sys.argv[1]):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = run(typed.split())
    heavy = [m for m in {HEAVY!r} if m in sys.modules and m != "numpy"]
    print(json.dumps([typed, code, errors.getvalue(), heavy]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(REFUSED))],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == len(REFUSED)
    for typed, exit_code, error, heavy in lines:
        assert exit_code == 2, (typed, error)
        assert error.startswith("error: "), (typed, error)
        assert error.count("\n") == 1, (typed, error)
        assert REFUSED[typed] in error, (typed, error)
        assert not heavy, (typed, heavy)
        assert "Input should" not in error
        assert "Value error" not in error


def test_a_line_says_that_torch_is_loaded_unless_quiet() -> None:
    code = "from ssltool.cli._early import announce; announce({})"
    for argument, expected in (("", "loading PyTorch\n"), ("quiet=True", "")):
        shown = subprocess.run(
            [sys.executable, "-c", code.format(argument)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert (shown.stdout, shown.stderr) == ("", expected)


def test_options_of_every_method_import_no_torch() -> None:
    code = (
        "import sys; from ssltool.methods.registry import available, find_options;"
        "[find_options(name) for name in available()]; print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
