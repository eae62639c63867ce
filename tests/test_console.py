"""User text on a terminal: as it is, on one line, in any encoding."""

from __future__ import annotations

import ast
import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool import cli
from ssltool.cli._output import print_json, print_table
from ssltool.console import PlainConsole, echo, escape_unencodable, printable, stderr_console
from ssltool.runs.tables import Table

ROOT = Path(__file__).parent.parent / "ssltool"
MARKUP = ["[old] pics", "pics [/x]", "[bold]a", ":cat:", "http://a 12 'b'", r"\[x]", "[link=x]y"]


@pytest.mark.parametrize("text", MARKUP)
def test_a_console_prints_markup_as_it_is(text: str) -> None:
    for terminal in (False, True):
        file = io.StringIO()
        console = PlainConsole(file=file, force_terminal=terminal, width=20, soft_wrap=True)
        console.print(f"{text} " * 9)
        console.print(text, style="bold red", markup=True, emoji=True)
        assert file.getvalue().startswith(f"{text} " * 9 + "\n")
        assert text in file.getvalue().split("\n")[1]


def test_long_paths_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    stderr_console().print("a/long path/" * 30)
    assert capsys.readouterr().err == "a/long path/" * 30 + "\n"


@pytest.mark.parametrize("text", [*MARKUP, "x" * 300, "a_" * 200, "猫" * 80])
def test_tables_hold_every_character(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table(text, [text, "value"], [[text, "1"], ["b", text]]))
    shown = capsys.readouterr().out
    for border in "│┃ \n":
        shown = shown.replace(border, "")
    plain = text.replace(" ", "")
    assert shown.count(plain[:10]) >= 1
    assert len(shown) > 4 * len(plain)


@given(st.text(max_size=30))
def test_printable_text_is_one_line_and_stays_as_it_is_where_it_can(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\n\x1b[31mb\u202ec\udcff\r\u2028d"
    shown = r"a\n\x1b[31mb\u202ec\udcff\r\u2028d"
    echo(text)
    echo(Path(text), err=True)
    assert cli._fail(text, 2) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"{shown}\n", f"{shown}\nerror: {shown}\n")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "cp437", "utf-16"])
def test_any_encoding_shows_every_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    escape_unencodable()
    name = "猫é🐈\udcff→│"
    echo(name)
    stderr_console().print(name, style="bold")
    print_table(Table(name, [name], [[name]]))
    print_json({name: name})
    assert cli.run(["pretrain", "jigsaw", "--steps", name]) == 2
    assert cli.run(["pretrain", name]) == 2
    assert cli.run(["probe", "--help"]) == cli.run(["--help"]) == 0
    for stream in (out, err):
        stream.flush()
        shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert "\\udcff" in shown
        assert "猫" in shown or r"\u732b" in shown


def test_streams_that_cannot_be_set_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    escape_unencodable()


def test_nothing_else_makes_a_console_or_prints() -> None:
    """One place decides how text is printed; rich's own consoles and click's echo interpret it."""
    allowed = {ROOT / "console.py": {"print"}, ROOT / "cli" / "__init__.py": {"print"}}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in {"print", "Console", "rich.print", "typer.echo", "typer.secho"}:
                    where = f"{path.relative_to(ROOT.parent)}:{node.lineno}"
                    assert name in allowed.get(path, set()), f"{where} calls {name}"


def test_a_message_of_a_launched_process_is_left_to_the_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "SSLTOOL_LAUNCHED", "1")
    assert cli._fail("a", 1) == 1
    assert capsys.readouterr().err == ""
