"""The documentation tells the truth: commands parse, tables are current, links lead somewhere, code
runs.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from made_pages import PAGES, ROOT, blocks, shown_commands

from ssltool.cli import app
from ssltool.methods.registry import find_options


def commands() -> list[tuple[str, str]]:
    """Every ssltool command shown, with the page that shows it, each once."""
    found: dict[str, str] = {}
    for page in [*PAGES, ROOT / "examples" / "quickstart.sh"]:
        for line in shown_commands(page):
            found.setdefault(line, str(page.relative_to(ROOT)))
    return [(page, line) for line, page in found.items()]


@cache
def ssltool() -> Any:
    return typer.main.get_command(app)


def run(script: Path, *arguments: str) -> None:
    """Run a script in this process, which has imported torch already."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: value[:70])
def test_a_shown_command_parses(page: str, line: str) -> None:
    """Its flags exist and their values are valid."""
    words = shlex.split(line)[1:]
    if "rotation" in words:
        pytest.skip("needs the example package installed")
    command = ssltool()
    try:
        context = command.make_context("ssltool", words, resilient_parsing=False)
    except typer.Exit:
        return  # --help
    while hasattr(context.command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        try:
            context = command.make_context(name, rest, parent=context)
        except typer.Exit:
            return
    typed = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    for model in context.command.models:
        model(**{name: typed[name] for name in model.model_fields if name in typed})
    if "preset" in typed:
        assert typed["preset"] in find_options(context.command.name).presets
    if str(typed.get("config", "")).startswith("examples"):
        assert (ROOT / typed["config"]).is_file()


def test_some_commands_were_found() -> None:
    assert len(commands()) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shown_python_compiles_and_names_what_exists(page: Path) -> None:
    import ssltool

    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "ssltool"
            ):
                assert hasattr(ssltool, node.attr), node.attr


def test_the_command_reference_has_every_command_and_flag() -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "docs"))
        page = runpy.run_path(str(ROOT / "docs" / "commands.py"))
    text, missing = page["reference"](), []

    def visit(group: Any, path: str) -> None:
        for name, command in page["subcommands"](group, path).items():
            missing.extend([f"{path} {name}"] * (f"`{path} {name}`\n" not in text))
            if hasattr(command, "list_commands"):
                visit(command, f"{path} {name}")
            for parameter in command.params:
                flags = [flag for flag in parameter.opts if flag.startswith("--")]
                missing.extend(flag for flag in flags if flag != "--help" and flag not in text)

    visit(ssltool(), "ssltool")
    assert not missing
    assert text.count("\n#") > 20


def test_the_api_page_has_every_public_name() -> None:
    import ssltool

    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = {name.rpartition(".")[2] for name in re.findall(r"auto\w+:: ([\w.]+)", text)}
    documented |= set(re.findall(r"\w+", " ".join(re.findall(r":members: (.*)", text))))
    assert set(ssltool.__all__) - {"__version__"} <= documented
    figures = "".join(path.read_text() for path in (ROOT / "ssltool/visualizing").glob("*.py"))
    assert set(re.findall(r"class (\w+)\(FigureResult\)", figures)) <= documented


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = set("\n".join(re.findall(r"```{toctree}(.*?)```", index, re.DOTALL)).split())
    pages = {str(path.relative_to(ROOT / "docs"))[:-3] for path in (ROOT / "docs").rglob("*.md")}
    pages = {page for page in pages if not page.startswith("quality/")}  # not tracked
    assert pages - {"index"} <= listed


def test_words_are_those_of_the_field() -> None:
    """American spelling, and the field's words; ``docs/results.md`` and titles of papers apart."""
    wrong = re.compile(
        r"\b(pictures?|colou?red grey|colours?|grey|neighbours?|labelled|behaviour|centre|charts?|"
        r"knowing nothing|puzzles per image)\b",
        re.IGNORECASE,
    )
    for page in PAGES:
        found = wrong.findall(page.read_text(encoding="utf-8"))
        assert not found, (page, found)


def test_option_tables_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(ROOT / "docs" / "tables.py", "--check")
    assert left.value.code == 0, capsys.readouterr().out


def test_presets_are_those_that_are_compared_with_the_papers() -> None:
    """A preset that changes has to be compared again: ``python docs/papers.py`` writes the page."""
    run(ROOT / "docs" / "papers.py", "--check")


def test_learning_rates_are_those_of_the_papers() -> None:
    """Over the whole run, within the papers' rounding of 1/3 for the root of a tenth."""
    page = runpy.run_path(str(ROOT / "docs" / "papers.py"), run_name="papers")
    for (method, preset), reference in page["REFERENCES"].items():
        ours, papers = page["rates"](method, preset), page["reference_rates"](reference)
        wrong = [a for a, b in zip(ours, papers, strict=True) if abs(a - b) > 0.06 * b]
        assert len(wrong) <= 3, (method, preset)  # points at a drop
        assert sum(ours) == pytest.approx(sum(papers), rel=0.02), (method, preset)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_functions_named_by_the_architecture_page_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"([\w/]+\.py)::([\w.]+)", page)
    assert len(named) > 20
    for path, function in named:
        file = ROOT / path if path.startswith("ssltool/") else ROOT / "ssltool" / path
        body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
        for part in function.split("."):
            found = [
                node
                for node in body
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
            ]
            assert found, f"{path} has no {function}"
            body = found[0].body


def test_files_named_by_the_architecture_page_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = re.search(r"```\n(ssltool/\n.*?)```", page, re.DOTALL)
    assert tree
    folder = ""
    for line in tree[1].splitlines()[1:]:
        names = re.findall(r"[\w/]+\.py|[\w]+/(?=\s|$)", line)
        if line.startswith("  ") and not line.startswith("   "):
            folder = names[0] if names[0].endswith("/") else ""
            names = names[1:] if folder else names
        if folder:
            assert (ROOT / "ssltool" / folder).is_dir(), folder
        for name in names:
            inside = [ROOT / "ssltool" / folder / name, *(ROOT / "ssltool").glob(f"*/*/{name}")]
            assert any(path.exists() for path in inside), f"{folder}{name}"


def test_the_python_of_the_weights_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from torch import nn

    from ssltool.encoders.metadata import LIGHTNESS_NORM
    from ssltool.encoders.projection import Projection, save_projection
    from ssltool.encoders.registry import build_encoder
    from ssltool.encoders.transform import InputTransform
    from ssltool.encoders.weights import describe, save_encoder

    encoder = build_encoder("resnet18")
    metadata = describe(
        encoder,
        method="jigsaw",
        color_space="rgb",
        image_size=64,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    save_encoder(encoder, metadata, tmp_path / "encoder.safetensors")
    monkeypatch.chdir(tmp_path)
    shown = blocks(ROOT / "docs" / "weights-format.md", "python")
    assert len(shown) == 4
    projection = Projection(nn.Linear(512, 16), nn.Identity())
    save_projection(projection, metadata, tmp_path / "encoder.safetensors")
    light = build_encoder("resnet18", in_channels=1).eval()
    mean, std = LIGHTNESS_NORM
    of_light = describe(
        light,
        method="colorization",
        color_space="lightness",
        image_size=64,
        mean=mean,
        std=std,
    )
    save_encoder(light, of_light, tmp_path / "lightness.safetensors")
    images = (torch.rand(2, 3, 64, 64) * 255).byte()
    names: dict[str, Any] = {}
    pooled = torch.randn(2, 512)
    for block in shown:
        names = {"images": images / 255, "features": pooled}
        exec(compile(block, "weights-format", "exec"), names)
        if "vectors" in names:
            assert torch.allclose(names["vectors"], projection(pooled), atol=1e-5)
    with torch.no_grad():
        expected = light(InputTransform.of(of_light)(images))
    assert torch.allclose(names["features"], expected, atol=1e-4 * float(expected.abs().max()))
    assert "missing_keys=['fc.weight', 'fc.bias'], unexpected_keys=[]" in capsys.readouterr().out


def test_nothing_names_a_path_of_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(root|home|work)/", page.read_text(encoding="utf-8")), (
            page
        )
