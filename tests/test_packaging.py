"""What is shipped: wheel, source archive, container, citation, completion in a shell."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import ssltool
from ssltool.methods.registry import available

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(target: str, folder: Path, epoch: int = 1_700_000_000) -> Path:
    """Build a ``wheel`` or an ``sdist`` as pip does, with the tools that are installed."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder],
        cwd=ROOT,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        check=True,
        capture_output=True,
    )
    (built,) = folder.iterdir()
    return built


def tracked(folder: str) -> set[str]:
    """Files below a folder, without what Python writes there."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(f.relative_to(ROOT)) for f in files if "__pycache__" not in f.parts}


@pytest.mark.slow
@pytest.mark.ci
def test_a_wheel_holds_the_whole_package_and_nothing_else(tmp_path: Path) -> None:
    first, second = (build("wheel", tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()  # at equal SOURCE_DATE_EPOCH
    info = f"ssltool-{ssltool.__version__}.dist-info"
    with zipfile.ZipFile(first) as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        scripts = wheel.read(f"{info}/entry_points.txt").decode()
    files = {name for name in names if not name.startswith(info)}
    assert files == tracked("ssltool")
    assert "ssltool/py.typed" in files
    assert {Path(name).suffix for name in files} >= {".py", ".css", ".js", ".html"}
    assert f"{info}/licenses/LICENSE" in names
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Version"] == ssltool.__version__
    assert "ssltool = ssltool.cli:main" in scripts


@pytest.mark.slow
def test_a_source_archive_builds_the_same_wheel(tmp_path: Path) -> None:
    archive, other = (build("sdist", tmp_path / name) for name in "ab")
    assert archive.read_bytes() == other.read_bytes()
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again"],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        check=True,
        capture_output=True,
    )
    (again,) = (tmp_path / "again").iterdir()
    assert again.read_bytes() == build("wheel", tmp_path / "c").read_bytes()


def test_the_version_is_declared_alike() -> None:
    assert PROJECT["version"] == ssltool.__version__


def test_classifiers_list_the_versions_of_python_that_are_allowed() -> None:
    prefix = "Programming Language :: Python :: 3."
    listed = [int(c[len(prefix) :]) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    lowest = int(PROJECT["requires-python"].removeprefix(">=3."))
    assert listed == list(range(lowest, lowest + len(listed)))
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert not any(c.startswith("License ::") for c in PROJECT["classifiers"])  # an expression


def test_the_citation_has_what_its_format_requires_and_every_paper() -> None:
    """Required fields of version 1.2.0 of the Citation File Format."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert (citation["version"], citation["license"]) == (ssltool.__version__, PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]
    papers = citation["references"]
    for paper in papers:
        assert {"type", "title", "authors", "year", "conference"} <= paper.keys()
        assert all({"family-names", "given-names"} == set(each) for each in paper["authors"])
        assert paper["conference"]["name"]
    own = {name for name, listing in available().items() if listing.origin == "built in"}
    assert {paper["notes"] for paper in papers} == own


def test_papers_are_cited_as_their_methods_name_them() -> None:
    papers = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    for paper in papers:
        file = ROOT / "ssltool" / "methods" / paper["notes"].replace("-", "_") / "task.py"
        docstring = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
        assert paper["title"] in docstring.replace("- ", "-"), paper["notes"]
        assert str(paper["year"]) in docstring
        for author in paper["authors"]:
            assert plain(author["family-names"]) in plain(docstring), author


def plain(text: str) -> str:
    """Text without accents."""
    return text.translate(str.maketrans("äéü", "aeu"))


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each line of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines]


def test_the_container_copies_what_is_there_and_is_sent() -> None:
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and r[0] != "#"]
    kept = {rule[1:] for rule in rules if rule[0] == "!"}
    assert "*" in rules
    copied: set[str] = set()
    for name, arguments in instructions():
        if name == "COPY" and not arguments.startswith("--from"):
            copied |= set(shlex.split(arguments)[:-1])
    assert copied == kept
    assert all((ROOT / path).exists() for path in copied)
    needed = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "ssltool"}
    assert needed <= copied
    assert not [path for path in copied if fnmatch(path, "*.cff")]


def test_the_container_runs_the_command_as_a_plain_user() -> None:
    given = instructions()
    stages = [number for number, (name, _) in enumerate(given) if name == "FROM"]
    last = dict(given[stages[-1] :])
    assert last["USER"] not in {"root", "0"}
    assert f" {last['USER']} " in f" {' '.join(a for n, a in given if n == 'RUN')} "
    assert json.loads(last["ENTRYPOINT"]) == list(PROJECT["scripts"])
    arguments = dict(a.split("=", 1) for n, a in given if n == "ARG")
    assert set(arguments["EXTRAS"].strip('"').split(",")) <= set(PROJECT["optional-dependencies"])
    python = f"Programming Language :: Python :: {arguments['PYTHON']}"
    assert python in PROJECT["classifiers"]
    runs = " ".join(arguments for name, arguments in given if name == "RUN")
    for dependency in PROJECT["dependencies"]:
        if Requirement(dependency).name in {"torch", "torchvision"}:
            assert f'"{dependency}"' in runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ssltool pre", {"pretrain", "predict"}),
        ("ssltool pretrain j", {"jigsaw"}),
        ("ssltool pretrain jigsaw --pre", {"--precision", "--preset"}),
        ("ssltool pretrain jigsaw --optimizer a", {"adamw"}),
        ("ssltool predict c", {"colorize"}),
        ("ssltool nosuch --x", set()),
    ],
)
def test_bash_completes(line: str, offered: set[str], tmp_path: Path) -> None:
    """As ``--install-completion`` sets it up, in a shell."""
    command = tmp_path / "ssltool"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ssltool "$@"\n')
    command.chmod(0o755)
    words = " ".join(map(shlex.quote, line.split(" ")))
    script = (
        'eval "$(_SSLTOOL_COMPLETE=source_bash ssltool)"; '
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        "function_=$(complete -p ssltool | sed -E 's/.*-F ([^ ]+).*/\\1/'); "
        '"$function_" ssltool; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    paths = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **paths},
    )
    found = {word for word in re.split(r"\s+", shown.stdout) if word}
    assert found == offered, shown.stderr
    assert "Traceback" not in shown.stderr
