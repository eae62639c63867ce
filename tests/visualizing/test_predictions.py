from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssltool.errors import CheckpointError, UsageError
from ssltool.visualizing.predictions import draw_predictions


@pytest.mark.slow
def test_predictions_are_scored_on_the_images_given(run: Path, tmp_path: Path) -> None:
    result = draw_predictions(run, tmp_path / "a.png", method="jigsaw", data=("demo-test:40",))
    assert (result.method, result.images, result.path) == ("jigsaw", 40, tmp_path / "a.png")
    scores = {score.name: score for score in result.scores}
    assert list(scores) == ["loss", "accuracy", "top5", "tile_accuracy", "assignment_tile_accuracy"]
    assert 0 <= scores["accuracy"].value <= 1
    assert scores["accuracy"].chance == pytest.approx(1 / 24)
    assert str(scores["accuracy"]).endswith("(chance level 4.2%)")
    weights = run / "encoder.safetensors"
    same = draw_predictions(weights, tmp_path / "b.png", data=("demo-test:40",))
    assert same.scores == result.scores


def test_a_run_of_another_method_or_without_a_checkpoint_is_refused(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="a run of jigsaw, not of cpc"):
        draw_predictions(run, tmp_path / "a.png", method="cpc")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        draw_predictions(tmp_path / "new", tmp_path / "a.png")


@pytest.mark.slow
def test_the_same_command_draws_the_same_bytes(
    run: Path, tmp_path: Path, figure_bytes: Any
) -> None:
    first, second = (
        draw_predictions(run, tmp_path / name, count=3).path for name in ("a.png", "b.png")
    )
    assert figure_bytes(first) == figure_bytes(second)


@pytest.mark.slow
def test_predictions_that_refer_to_training_images_show_them(
    tmp_path: Path, pretrained: Any, figure_bytes: Any
) -> None:
    out = pretrained(tmp_path / "run", "npid")
    result = draw_predictions(out, tmp_path / "a.png", count=3)
    assert result.plots == (tmp_path / "a-similarities.png",)
    figure_bytes(result.path)
    with pytest.raises(UsageError, match="its own 16 training images"):
        draw_predictions(out, tmp_path / "b.png", data=("demo-test:40",))


@pytest.mark.parametrize(
    ("suffix", "magic"),
    [(".pdf", b"%PDF-"), pytest.param(".svg", b"<?xml", marks=pytest.mark.slow)],
)
def test_sheet_and_plots_have_the_format_of_the_suffix(
    run: Path, tmp_path: Path, suffix: str, magic: bytes
) -> None:
    result = draw_predictions(run, tmp_path / f"a{suffix}", count=2, data=("demo-test:8",))
    assert result.path == tmp_path / f"a{suffix}"
    for path in (result.path, *result.plots):
        assert path.suffix == suffix
        assert path.read_bytes().startswith(magic)


def test_a_format_that_is_not_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"written as \.png, \.svg or \.pdf"):
        draw_predictions(tmp_path / "nothing", tmp_path / "a.jpg")


@pytest.mark.slow
@pytest.mark.ci
def test_the_plot_of_a_painted_hole_stands_beside_its_sheet(
    tmp_path: Path, pretrained: Any, figure_bytes: Any
) -> None:
    out = pretrained(tmp_path / "run", "context-encoder")
    result = draw_predictions(out, tmp_path / "predictions.png", count=2)
    assert result.plots == (tmp_path / "predictions-seam.png",)
    figure_bytes(result.plots[0])


def test_predictions_on_files(run: Path, photo: Path, tmp_path: Path, figure_bytes: Any) -> None:
    result = draw_predictions(run, tmp_path / "a.png", image=[photo, photo])
    assert result.images == 2
    figure_bytes(result.path)
