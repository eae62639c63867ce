"""The arrows between the packages of ssltool, read from the imports: they point one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ssltool"
SHARED = {
    "errors",
    "faults",
    "options",
    "console",
    "atomic",
    "documents",
    "arrays",
    "cores",
    "device",
    "distributed",
    "",
}  # "" is ssltool itself: the version
ALLOWED = {
    "cli": {
        "training",
        "auditing",
        "exporting",
        "predicting",
        "visualizing",
        "probing",
        "runs",
        "methods",
        "encoders",
        "plotting",
        "data",
    },
    "training": {
        "visualizing",
        "probing",
        "runs",
        "methods",
        "encoders",
        "plotting",
        "data",
        "ops",
    },
    "auditing": {"runs", "methods", "plotting", "data"},
    "exporting": {"probing", "runs", "encoders", "data", "ops"},
    "predicting": {"runs", "methods", "data"},
    "visualizing": {"probing", "runs", "methods", "encoders", "plotting", "data", "ops"},
    "probing": {"runs", "encoders", "plotting", "data", "ops"},
    "runs": {"methods", "encoders", "plotting", "data"},
    "methods": {"encoders", "plotting", "ops"},
    "encoders": {"ops"},
    "plotting": set(),
    "data": set(),
    "distributed": set(),
    "ops": set(),
}


def imported(path: Path) -> set[str]:
    """First parts, below ssltool, of everything of ours that a file imports, at any depth of its
    code.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssltool"):
            parts = (node.module or "").split(".")[1:]
            names |= (
                {parts[0]}
                if parts
                else {a.name if (ROOT / a.name).is_dir() else "" for a in node.names}
            )
        elif isinstance(node, ast.Import):
            names |= {
                ".".join(a.name.split(".")[1:2])
                for a in node.names
                if a.name.split(".")[0] == "ssltool"
            }
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        forbidden = imported(path) - ALLOWED[package] - SHARED - {package}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


@pytest.mark.parametrize("name", sorted(SHARED - {"", "distributed"}))
def test_the_lowest_files_import_nothing_of_ours(name: str) -> None:
    assert imported(ROOT / f"{name}.py") <= SHARED


def test_every_package_is_listed() -> None:
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()} == set(
        ALLOWED
    )


def test_the_architecture_page_prints_these_arrows() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```arrows\n(.*?)```", page, re.DOTALL)
    assert block, "docs/architecture.md has no block of arrows"
    lines = [line.split("->") for line in block[1].splitlines()]
    assert {name.strip(): set(targets.split()) for name, targets in lines} == ALLOWED


def test_no_pickle_anywhere() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "joblib", "cloudpickle"}, path
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
            ):
                assert (node.func.value.id, node.func.attr) not in {
                    ("torch", "load"),
                    ("torch", "save"),
                }, path
