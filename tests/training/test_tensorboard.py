from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from ssltool.errors import UsageError
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain
from ssltool.training.tensorboard import TensorBoard


def events(folder: Path):  # type: ignore[no-untyped-def]  # tensorboard has no types
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_a_resumed_run_hides_what_a_killed_one_wrote_later(tmp_path: Path) -> None:
    for start, steps in ((0, (1, 2, 3, 4)), (2, (3, 4))):
        board = TensorBoard(tmp_path, start, {"loss": 2.5})
        for step in steps:
            board.line({"step": step, "loss": step + start, "knn": 0.5})
        board.close()
    found = events(tmp_path)
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [
        (1, 1),
        (2, 2),
        (3, 5),
        (4, 6),
    ]
    assert {event.value for event in found.Scalars("loss/chance")} == {2.5}
    assert "knn/chance" not in found.Tags()["scalars"]


@pytest.mark.slow
def test_a_run_writes_its_numbers_and_images(tmp_path: Path) -> None:
    given = {
        "data": ("demo:8",),
        "image_size": 32,
        "batch_size": 4,
        "steps": 2,
        "log_every": 1,
        "workers": 0,
    }
    values = {**given, "precision": "fp32", "out": tmp_path / "run", "tensorboard": True}
    pretrain(RunConfig.merged("jigsaw", values), console=Console(quiet=True))
    found = events(tmp_path / "run" / "tensorboard")
    assert [event.step for event in found.Scalars("accuracy")] == [1, 2]
    assert set(found.Tags()["images"]) == {"task", "samples", "predictions"}
    with Image.open(tmp_path / "run" / "figures" / "predictions-0000002.png") as image:
        shown = found.Images("predictions")[0]
        assert (shown.step, shown.width, shown.height) == (2, *image.size)


def test_without_its_package_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    values = {
        "data": ("demo:8",),
        "image_size": 32,
        "workers": 0,
        "out": tmp_path / "run",
        "tensorboard": True,
    }
    with pytest.raises(UsageError, match=r"ssltool\[tensorboard\]"):
        pretrain(RunConfig.merged("jigsaw", values), console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
