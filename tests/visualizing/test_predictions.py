from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssltool.errors import CheckpointError, UsageError
from ssltool.visualizing.predictions import draw_predictions


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


def test_the_same_command_draws_the_same_bytes(
    run: Path, tmp_path: Path, figure_bytes: Any
) -> None:
    first, second = (
        draw_predictions(run, tmp_path / name, count=3).path for name in ("a.png", "b.png")
    )
    assert figure_bytes(first) == figure_bytes(second)


def test_predictions_that_refer_to_training_images_show_them(
    tmp_path: Path, pretrained: Any, figure_bytes: Any
) -> None:
    out = pretrained(tmp_path / "run", "npid")
    result = draw_predictions(out, tmp_path / "a.png", count=3)
    assert result.plots == (tmp_path / "a-similarities.png",)
    figure_bytes(result.path)
    with pytest.raises(UsageError, match="its own 16 training images"):
        draw_predictions(out, tmp_path / "b.png", data=("demo-test:40",))


@pytest.mark.slow
def test_plots_may_be_svg_while_sheets_stay_png(
    tmp_path: Path, pretrained: Any, figure_bytes: Any
) -> None:
    out = pretrained(tmp_path / "run", "context-prediction", steps=1)
    plots = []
    for stem in ("a", "b"):
        result = draw_predictions(out, tmp_path / f"{stem}.svg", count=2)
        assert result.path == tmp_path / f"{stem}.png"
        assert result.plots == (tmp_path / f"{stem}-confusion.svg",)
        plots.append(result.plots[0].read_bytes())
    assert plots[0] == plots[1]
    figure_bytes(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"images are written as \.png"):
        draw_predictions(out, tmp_path / "a.jpg")


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
