from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ssltool.encoders.registry import build_encoder
from ssltool.errors import SslToolError, UnknownNameError, UsageError
from ssltool.methods.base import Method
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import available, find_method, find_options, methods_with

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin_rotation"


def install(folder: Path, package: str, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves of a package: its metadata on the path."""
    info = folder / f"{package.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\nSummary: a pretext task\n"
    )
    (info / "entry_points.txt").write_text(f"[ssltool.methods]\n{entry}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_names_are_files() -> None:
    assert find_method("jigsaw").__module__ == "ssltool.methods.jigsaw.task"
    assert available()["jigsaw"].origin == "built in"
    assert available()["jigsaw"].summary.startswith("Jigsaw puzzles")


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean jigsaw"):
        find_method("jigsow")


def test_the_example_package_is_a_whole_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "ssltool-rotation", "rotation = ssltool_rotation.task:Rotation", monkeypatch)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in [name for name in sys.modules if name.startswith("ssltool_rotation")]:
        monkeypatch.delitem(sys.modules, name)
    listing = available()["rotation"]
    assert (listing.origin, listing.summary) == ("ssltool-rotation 1.2", "a pretext task")
    assert "ssltool_rotation" not in sys.modules  # listing imports nothing
    assert list(find_options("rotation").presets) == ["paper"]
    assert "ssltool_rotation.task" not in sys.modules  # nor torch, see cli/test_startup.py
    cls = find_method("rotation")
    assert cls.Options is find_options("rotation")
    info = DataInfo(8, 32)
    method = cls(cls.Options().with_defaults(info), build_encoder("resnet20"), info)
    assert isinstance(method, Method)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    view = method.view(images, torch.arange(3), torch.Generator().manual_seed(0))
    loss = method(view)
    loss.value.backward()
    assert float(loss.value.detach()) == pytest.approx(method.chance["loss"], rel=0.05)
    for image, copies, turns in zip(images, view.images, view.turns, strict=True):
        assert sorted(turns.tolist()) == [0, 1, 2, 3]
        upright = [
            copy.rot90(-int(turn), dims=(-2, -1)) for copy, turn in zip(copies, turns, strict=True)
        ]
        assert all(torch.equal(u, image) or torch.equal(u, image.flip(-1)) for u in upright)
    predictions = method.eval().figures.draw_predictions(
        method, images, torch.arange(3), torch.Generator().manual_seed(0)
    )
    assert len(predictions.sheet.captions) == 3


def test_options_without_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "one-file", "one-file = one_file_task:Task", monkeypatch)
    (tmp_path / "one_file_task.py").write_text(
        "from ssltool.methods.jigsaw.task import Jigsaw, JigsawOptions\n"
        "class Options(JigsawOptions):\n    own: int = 3\n"
        "class Task(Jigsaw):\n    Options = Options\n"
    )
    assert find_options("one-file")().own == 3
    assert find_options("one-file") is find_method("one-file").Options


def test_options_of_another_class_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "two-options", "two = two_options.task:Task", monkeypatch)
    package = tmp_path / "two_options"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "options.py").write_text(
        "from ssltool.methods.options import MethodOptions\nclass Options(MethodOptions): pass\n"
    )
    (package / "task.py").write_text(
        "from ssltool.methods.jigsaw.task import Jigsaw\nclass Task(Jigsaw): pass\n"
    )
    with pytest.raises(SslToolError, match=r"two-options 1\.2.*not those of the module options"):
        find_method("two")


def test_methods_with_an_option() -> None:
    assert methods_with("temperature") == ["colorization", "npid"]
    assert methods_with("grid") == ["jigsaw"]
    assert methods_with("nothing") == []


def test_two_packages_with_one_name_are_both_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "a", "first", "twice = first:Method", monkeypatch)
    install(tmp_path / "b", "second", "twice = second:Method", monkeypatch)
    with pytest.raises(UsageError, match=r"first 1\.2.*second 1\.2|second 1\.2.*first 1\.2"):
        available()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_of_this_name", "cannot be loaded"),
        ("x = 1", "cannot be loaded"),
        ("class Task: pass", "not a subclass"),
    ],
)
def test_a_broken_package_is_reported_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    install(tmp_path, "broken-task", "broken = broken_task:Task", monkeypatch)
    (tmp_path / "broken_task.py").write_text(code)
    monkeypatch.delitem(sys.modules, "broken_task", raising=False)
    assert find_method("jigsaw").__name__ == "Jigsaw"
    with pytest.raises(SslToolError, match=r"broken-task 1\.2") as error:
        find_method("broken")
    assert words in str(error.value)
    monkeypatch.delitem(sys.modules, "broken_task", raising=False)


def test_what_a_method_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "half-task", "half = half_task:Half", monkeypatch)
    (tmp_path / "half_task.py").write_text(
        "from ssltool.methods.base import Method\nclass Half(Method): pass\n"
    )
    with pytest.raises(SslToolError, match=r"Options.*forward.*figures\.draw_task.*figures\.plots"):
        find_method("half")
