"""The Python API: what is public, paths and datasets alike, silence, notebook display."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

import ssltool
from ssltool.errors import UnknownNameError, UsageError

EXAMPLE = Path(__file__).parents[1] / "examples" / "from_a_dataset.py"
QUICK = {"image_size": 32, "steps": 2, "batch_size": 8, "workers": 0, "precision": "fp32"}
PUBLIC = [
    "AuditRecord",
    "DataInfo",
    "EncoderInput",
    "InputTransform",
    "Loss",
    "Method",
    "MethodOptions",
    "Metric",
    "ProbeRecord",
    "Run",
    "SslToolError",
    "__version__",
    "audit",
    "embed",
    "export",
    "load_encoder",
    "predict",
    "pretrain",
    "probe",
    "visualize",
]


class Squares(Dataset[tuple[Tensor, int]]):
    """Noise with a bright square, whose corner is the class."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 128, (3, 40, 40), dtype=torch.uint8, generator=generator)
        label = index % 2
        image[:, :20, 20 * label : 20 * label + 20] += 100
        return image, label


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as PNG files, a folder per class, in the order of the dataset."""
    root = tmp_path_factory.mktemp("squares")
    for index in range(40):
        image, label = Squares()[index]
        path = root / str(label) / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.asarray(image.permute(1, 2, 0))).save(path)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ssltool.Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return ssltool.pretrain("jigsaw", data=Squares(), out=out, **QUICK)


def test_the_public_names_are_few_and_pinned() -> None:
    assert dir(ssltool) == PUBLIC == sorted(ssltool.__all__)
    assert all(getattr(ssltool, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        ssltool.train  # noqa: B018
    assert (Path(ssltool.__file__).parent / "py.typed").is_file()


def test_importing_loads_no_torch() -> None:
    code = "import sys, ssltool; dir(ssltool); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


@pytest.mark.slow
def test_a_dataset_trains_as_files_do(tmp_path: Path, run: ssltool.Run, folder: Path) -> None:
    """The same images in the same order give the same weights, wherever they come from."""
    files = [folder / label for label in ("0", "1")]
    from torch.utils.data import Subset

    by_class = Subset(Squares(), [*range(0, 40, 2), *range(1, 40, 2)])
    from_files = ssltool.pretrain("jigsaw", data=files, out=tmp_path / "files", **QUICK)
    from_dataset = ssltool.pretrain("jigsaw", data=by_class, out=tmp_path / "dataset", **QUICK)
    first, second = (
        ssltool.load_encoder(each).backbone.state_dict() for each in (from_files, from_dataset)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert run.metrics()[-1]["step"] == 2


@pytest.mark.slow
def test_nothing_is_printed_unless_asked(
    tmp_path: Path, run: ssltool.Run, capfd: pytest.CaptureFixture[str]
) -> None:
    ssltool.pretrain("jigsaw", data="demo:16", out=tmp_path / "run", **QUICK)
    ssltool.probe(run, Squares(), kind=("knn",), keep_features=False, workers=0)
    ssltool.embed(run, Squares(), workers=0)
    ssltool.export(run, tmp_path / "encoder.safetensors")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    ssltool.embed(run, Squares(), workers=0, progress=True)
    ssltool.pretrain("jigsaw", data="demo:16", out=tmp_path / "shown", progress=True, **QUICK)
    assert "loss" in capfd.readouterr().err


@pytest.mark.slow
def test_a_probe_of_a_dataset_is_that_of_its_files(
    run: ssltool.Run, folder: Path, tmp_path: Path
) -> None:
    options = {"kind": "knn", "keep_features": False, "workers": 0, "baselines": False}
    train, test = tmp_path / "train", tmp_path / "test"
    shutil.copytree(folder, train)
    for name in ("0/38.png", "1/39.png", "0/36.png", "1/37.png"):
        (test / name).parent.mkdir(parents=True, exist_ok=True)
        (train / name).rename(test / name)
    files = ssltool.probe(run, train, test_data=test, **options)
    parts = (Subset(Squares(), range(36)), Subset(Squares(), range(36, 40)))
    dataset = ssltool.probe(run, parts[0], test_data=parts[1], **options)
    assert [row.accuracy for row in files.rows] == [row.accuracy for row in dataset.rows]
    assert dataset.classes == ("0", "1")
    assert "<table>" in dataset._repr_html_()
    assert dataset.to_dict()["format"] == 3


def test_embeddings_come_with_labels(run: ssltool.Run, tmp_path: Path) -> None:
    embedding = ssltool.embed(run, Squares(), workers=0, to=tmp_path / "e.safetensors")
    encoder = ssltool.load_encoder(run)
    assert embedding.features.shape == (40, encoder.width)
    assert embedding.labels.tolist() == [0, 1] * 20
    assert (tmp_path / "e.safetensors").is_file()
    batch = torch.stack([Squares()[i][0] for i in range(4)])[..., 4:36, 4:36]
    assert encoder(encoder.transform(batch)).shape == (4, encoder.width)


@pytest.mark.slow
def test_figures_are_shown_in_notebooks(run: ssltool.Run, tmp_path: Path) -> None:
    figure = ssltool.visualize("filters", run, to=tmp_path / "filters.png")
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert ssltool.visualize("curves", run, to=tmp_path / "curves.svg")._repr_png_() is None
    with pytest.raises(UnknownNameError, match="did you mean filters"):
        ssltool.visualize("filtres", run)


def test_a_run_is_shown_in_notebooks(run: ssltool.Run) -> None:
    shown = run._repr_html_()
    assert re.search(r"<td>loss</td>.*chance level", shown) or "chance level" in shown
    assert "jigsaw" in shown
    assert str(run.folder) in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stepz": 3}, "did you mean --steps"),
        ({"lr": -1}, "--lr -1"),
        ({"devices": 2}, "a dataset object cannot be sent to other processes"),
    ],
)
def test_wrong_arguments_are_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        ssltool.pretrain("jigsaw", data=Squares(), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.ci
def test_the_notebook_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "random init" in capsys.readouterr().out
    assert (tmp_path / "encoder.safetensors").is_file()
    assert len([line for line in EXAMPLE.read_text().splitlines() if line and line[0] != '"']) <= 10
