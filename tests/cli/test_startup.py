"""Help and listings answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import subprocess
import sys

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
        ["probe", "--help"],
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
