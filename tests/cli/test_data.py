"""``ssltool data``: flags, JSON documents and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssltool.cli import run


@pytest.mark.parametrize(
    "typed", [["demo:6"], ["--data", "demo:6"], ["demo:2", "--data", "demo:4"]]
)
def test_check_takes_data_with_or_without_the_flag(
    typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "check", *typed, "--quiet", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["readable"]) == (6, 6)
    assert result["short_side"] == {"min": 32, "median": 32, "max": 32}


def test_check_without_data_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check"]) == 2
    assert "--data is required: type --data DIR" in capsys.readouterr().err


def test_pack_and_index_print_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = str(tmp_path / "shards")
    assert run(["data", "pack", "demo:5", "--to", to, "--per-shard", "2", "--quiet", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["shards"], result["folder"]) == (5, 3, to)
    assert run(["data", "index", to, "--quiet"]) == 0
    assert "5 images of 10 classes in 3 shards" in capsys.readouterr().out


def test_wrong_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--quality", "101", "--format", "gif"]
    assert run(["data", "pack", "demo:5", "--to", str(tmp_path / "s"), *wrong]) == 2
    message = capsys.readouterr().err
    assert "--format" in message or "--quality 101" in message
