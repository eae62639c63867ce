from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from ssltool.errors import UsageError
from ssltool.methods.find import find_method
from ssltool.workflows import visualize
from ssltool.workflows.data import check
from ssltool.workflows.doctor import doctor
from ssltool.workflows.options import combine
from ssltool.workflows.pretrain import pretrain

JIGSAW = find_method("jigsaw")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    given = {
        "data": ("demo:16",),
        "image_size": 32,
        "batch_size": 4,
        "steps": 4,
        "log_every": 1,
        "workers": 0,
        "out": out,
    }
    pretrain(combine("jigsaw", JIGSAW, {**given, "precision": "fp32"}), console=Console(quiet=True))
    return out


def drawn(path: Path) -> bytes:
    with Image.open(path) as image:
        assert min(image.size) > 100
        assert len(image.convert("L").getcolors() or [0] * 99) > 3
    return path.read_bytes()


def test_a_permutation_set(tmp_path: Path) -> None:
    facts = visualize.draw_permutations(tmp_path / "set.png", mode="code", count=72)
    assert (facts["K"], facts["min"]) == (72, 8)
    drawn(tmp_path / "set.png")


@pytest.mark.parametrize("name", ["task", "answers", "filters", "curves"])
def test_the_same_command_draws_the_same_picture(run: Path, tmp_path: Path, name: str) -> None:
    def draw(path: Path) -> None:
        if name == "task":
            visualize.draw_task(combine("jigsaw", JIGSAW, {"data": ("demo:8",)}), path, count=3)
        elif name == "answers":
            visualize.draw_answers(run, path, count=3)
        elif name == "filters":
            visualize.draw_filters(run, path)
        else:
            visualize.draw_curves(run, path)

    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert drawn(tmp_path / "a.png") == drawn(tmp_path / "b.png")


def test_answers_are_scored_on_the_pictures_given(run: Path, tmp_path: Path) -> None:
    result = visualize.draw_answers(run, tmp_path / "a.png", name="jigsaw", data=("demo-test:40",))
    assert result["pictures"] == 40
    assert 0 <= result["accuracy"] <= 1
    assert result["chance"]["accuracy"] == pytest.approx(1 / 24)
    same = visualize.draw_answers(run / "encoder.safetensors", tmp_path / "b.png", data=("demo-test:40",))
    assert same["accuracy"] == result["accuracy"]
    with pytest.raises(UsageError, match="a run of jigsaw, not of cpc"):
        visualize.draw_answers(run, tmp_path / "a.png", name="cpc")


def test_data_check_counts_and_finds_duplicates(tmp_path: Path) -> None:
    for name, shade in (("a/one.png", 10), ("a/two.png", 10), ("b/three.png", 200)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 50), (shade, 0, 0)).save(path)
    (tmp_path / "b" / "text.jpg").write_text("no picture")
    result = check([str(tmp_path)], Console(quiet=True))
    assert (result["pictures"], result["readable"], result["gray"]) == (4, 3, 0)
    assert result["classes"] == {"a": 2, "b": 1}
    assert result["short_side"] == [40, 40, 40]
    assert len(result["unreadable"]) == 1
    assert [[Path(name).name for name in names] for names in result["duplicates"]] == [["one.png", "two.png"]]


def test_doctor_tells_what_is_here() -> None:
    result = doctor()
    assert result["packages"]["torch"]
    assert result["precision"].startswith(("fp32", "bf16", "fp16"))
