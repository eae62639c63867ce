"""``ssltool config``: commented TOML that ``--config`` reads back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ssltool.documents import toml_value
from ssltool.methods.registry import available, find_options
from ssltool.runs.config import RunConfig
from ssltool.runs.options import RunOptions
from ssltool.runs.template import template

CASES = [(name, p) for name in available() for p in (None, *find_options(name).presets)]


@pytest.mark.parametrize(("method", "preset"), CASES)
def test_what_is_printed_is_read_back(method: str, preset: str | None, tmp_path: Path) -> None:
    config = RunConfig.merged(method, {}, preset)
    path = tmp_path / "config.toml"
    path.write_text(template(config), encoding="utf-8")
    again = RunConfig.merged(method, {}, config=path)
    assert again.run.model_dump() == config.run.model_dump()
    assert again.task.model_dump() == config.task.model_dump()


def test_every_option_has_a_comment_and_open_ones_are_commented_out() -> None:
    text = template(RunConfig.merged("jigsaw", {"data": ("a b", 'c"d')}, "small"))
    for name in [*RunOptions.model_fields, *find_options("jigsaw").model_fields]:
        assert f"{name} = " in text or name == "out"
    assert "\n# grid = automatic\n" in text
    assert "\npermutations_per_image = 4\n" in text
    assert "[sgd | adamw | lars]\noptimizer = " in text
    assert tomllib.loads(text)["data"] == ["a b", 'c"d']
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    "value", [True, 3, 1e-05, 0.1**0.5, 'a"\\\x7f\n\u00e4\U0001f408', [0.5, 1]]
)
def test_values_as_toml(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value  # type: ignore[arg-type]
