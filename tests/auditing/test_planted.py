"""The audit finds a planted shortcut where it is open, and little where it is closed."""

from __future__ import annotations

import pytest
from made_shortcuts import PLANTS, is_shortcut, outcome

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", list(PLANTS))
def test_a_planted_shortcut_is_found_where_it_is_open(name: str) -> None:
    plant = PLANTS[name]()
    found = outcome(plant, shortcut_open=True)
    for key in plant.found:
        assert is_shortcut(found[key]), f"{key}: {found[key]}"


@pytest.mark.parametrize("name", list(PLANTS))
def test_little_is_found_where_it_is_closed(name: str) -> None:
    plant = PLANTS[name]()
    found = outcome(plant, shortcut_open=False)
    for key in plant.found:
        assert not is_shortcut(found[key]), f"{key}: {found[key]}"
