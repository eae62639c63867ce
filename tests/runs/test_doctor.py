"""The report on this machine."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
import torch

from ssltool.cli import run
from ssltool.runs.doctor import doctor


def test_reports_versions_device_and_precision() -> None:
    report = doctor(torch.device("cpu"))
    assert report.device == "cpu"
    assert report.packages["torch"] == version("torch")
    assert report.precision.startswith(("fp32", "bf16", "fp16"))
    assert report.torch_threads == torch.get_num_threads()


def test_the_command_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cpu"
