from __future__ import annotations

import pytest
import torch

from ssltool import cli
from ssltool.errors import is_out_of_memory


def test_memory_that_runs_out_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_command_that_runs_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.typer.main, "get_command", lambda app: torch.empty(10**15))
    assert cli.run(["probe"]) == 1
    assert (
        capsys.readouterr().err
        == "error: memory ran out; give the command fewer or smaller images\n"
    )
