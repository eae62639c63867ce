"""Help pages: every option once, in columns that fit 80 characters, nothing cut."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from ssltool.cli import COMMANDS, _load
from ssltool.cli._flags import OptionsCommand
from ssltool.methods.registry import available
from ssltool.probing.options import ProbeOptions
from ssltool.visualizing.options import FIGURES

GROUPS = {
    "pretrain": list(available()),
    "bench": ["jigsaw"],
    "config": ["jigsaw"],
    "visualize": list(FIGURES),
    "data": ["check", "pack", "index"],
    "predict": ["colorize", "inpaint"],
}
PAGES = [[name] for name in COMMANDS if name not in GROUPS]
PAGES += [[group, name] for group, names in GROUPS.items() for name in names]
PAGES += [["visualize", "task", "npid"]]


def command(words: list[str]) -> OptionsCommand:
    """The command behind its group."""
    found: Any = _load(words[0])
    for word in words[1:]:
        found = type(found).build(word)
    assert isinstance(found, OptionsCommand)
    return found


def page(words: list[str], monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    built = command(words)
    return str(built.make_context(words[-1], [], resilient_parsing=True).get_help())


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_nothing_is_cut_at_80_columns(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = page(words, monkeypatch)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    squeezed = re.sub(r"\s+", "", text)
    for row in command(words).rows:
        flag = row.names.partition("/")[0]
        assert flag in text
        assert row.description, flag
        # Each word stands in the page: columns wrap between words and cut none.
        assert all(word in squeezed for word in row.description.split()), flag


def test_panels_are_by_subject_and_data_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = command(["pretrain", "jigsaw"]).rows
    panels = list(dict.fromkeys(row.panel for row in rows))
    assert panels[:3] == ["Data", "Model", "Optimization"]
    assert "Task: jigsaw" in panels
    assert rows[0].names == "--data"
    assert command(["probe"]).rows[0].names == "--data"
    text = page(["pretrain", "jigsaw"], monkeypatch)
    assert "ssltool pretrain jigsaw --data ~/photos --preset paper" in re.sub(r"\s+", " ", text)


def test_ranges_and_defaults_have_columns_of_their_own() -> None:
    rows = {row.names: row for row in command(["pretrain", "jigsaw"]).rows}
    assert (rows["--grid"].value, rows["--grid"].default) == ("2 to 5", "auto")
    assert (rows["--momentum"].value, rows["--momentum"].default) == (">= 0, < 1", "0.9")
    assert rows["--optimizer"].value == "sgd|adamw|lars"
    assert rows["--gap/--no-gap"].default == "on"
    assert rows["--resume"].default == ""
    probe = {row.names: row for row in command(["probe"]).rows}
    assert probe["--weights"].default == "required"
    assert probe["--shots"].value == "INT,..."


def test_every_option_of_a_model_is_a_flag() -> None:
    names = {row.names.partition("/")[0] for row in command(["probe"]).rows}
    model: type[BaseModel] = ProbeOptions
    assert {"--" + name.replace("_", "-") for name in model.model_fields} <= names
