from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssltool.cli import run as command
from ssltool.visualizing.commands import draw
from ssltool.visualizing.options import FIGURES, CurvesOptions, PermutationsOptions


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_figure_has_a_help_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["visualize", name, "--help"]) == 0
    page = capsys.readouterr().out
    assert FIGURES[name].summary.split()[1] in page
    assert FIGURES[name].example.split(" --")[0] in page
    assert ("--device" in page) == FIGURES[name].computes
    assert "--to" in page
    assert max(map(len, page.splitlines())) <= 80


def test_files_go_to_stdout_and_measurements_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["visualize", "permutations", "--permutations", "8", "--to", str(tmp_path / "a.svg")]
    assert command([*flags, "--compare"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'a.svg'}\n"
    assert "max_min: mean distance" in shown.err
    assert "all: left out" in shown.err
    assert command([*flags, "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert (document["path"], document["sets"][0]["count"]) == (str(tmp_path / "a.svg"), 8)
    assert shown.err == ""


def test_faulty_options_are_named_all_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["visualize", "neighbors", "--count", "0", "--nearest", "99"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for flag in ("--weights is required", "--count 0", "--nearest 99"):
        assert flag in message
    assert command(["visualize", "neighbours"]) == 2
    assert "did you mean neighbors" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_are_drawn_by_name_to_default_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = draw("permutations", PermutationsOptions(count=8))
    assert result.path == Path("permutations.png")
    assert result.path.read_bytes()[:4] == b"\x89PNG"
    assert result._repr_png_() == result.path.read_bytes()
    assert result.summary()[0].startswith("max_min: mean distance")
    vector = draw("permutations", PermutationsOptions(count=8, to=tmp_path / "a.pdf"))
    assert vector._repr_png_() is None
    with pytest.raises(Exception, match="is not a run folder"):
        draw("curves", CurvesOptions(runs=(tmp_path,)))
