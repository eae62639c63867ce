from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from rich.console import Console
from safetensors.torch import load_file

import ssltool
from ssltool.encoders.projection import load_projection
from ssltool.errors import UsageError
from ssltool.exporting.export import export
from ssltool.exporting.model_card import is_model_card
from ssltool.exporting.provenance import Provenance
from ssltool.runs.config import RunConfig
from ssltool.training.pretrain import pretrain


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "resnet18"
    given = {
        "data": ("demo:16",),
        "image_size": 96,
        "backbone": "resnet18",
        "batch_size": 2,
        "steps": 2,
        "out": out,
    }
    choice = RunConfig.merged("jigsaw", {**given, "workers": 0, "precision": "fp32"})
    pretrain(choice, console=Console(quiet=True))
    return out


@pytest.mark.slow
def test_torchvision_finds_everything_but_the_classifier_and_computes_the_same(
    run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "encoder.safetensors"
    result = export(run, file)
    model = torchvision.models.resnet18()
    missing, unexpected = model.load_state_dict(load_file(file), strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert not unexpected
    model.fc = torch.nn.Identity()
    images = torch.rand(4, 3, 96, 96)
    with torch.no_grad():
        ours, theirs = ssltool.load_encoder(file).eval()(images), model.eval()(images)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert (
        result.metadata.image_size == 256
    )  # 24 px tiles are enlarged to 64 px, and 96 px images as much
    assert result.metadata.training is not None
    assert result.metadata.training.steps == 2
    assert (result.path, result.model_card) == (file, tmp_path / "encoder.md")
    assert result.similarity is None
    (compared,) = result.comparisons
    assert compared.reader == "torchvision"
    assert compared.difference < 1e-5
    assert compared.cosine > 0.999999
    assert result.compared_on == "16 of 16 images of the demo world (seed 0)"
    assert result.notes == ()  # the run's own images


@pytest.mark.slow
@pytest.mark.ci
def test_the_code_in_the_model_card_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'an "encoder" `\u732b`.safetensors'
    export(run, file)
    page = file.with_suffix(".md").read_text(encoding="utf-8")
    assert 'file: `` an "encoder" `\u732b`.safetensors `` (' in page
    monkeypatch.chdir(tmp_path)
    blocks = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "model card", "exec"), {})


def test_the_target_must_be_safetensors_and_not_the_source(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder is expected, or a file that ends in"):
        export(run, tmp_path / "encoder.pt")
    with pytest.raises(UsageError, match=r"--to .*encoder$"):
        export(run, tmp_path / "encoder.safetensors", formats=["timm"])
    with pytest.raises(UsageError, match="exists already"):
        export(run, run)
    with pytest.raises(UsageError, match="name another"):
        export(run, run / "encoder.safetensors")


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "light"
    given = {"data": ("demo:16",), "image_size": 32, "batch_size": 4, "steps": 2, "out": out}
    choice = RunConfig.merged("colorization", {**given, "workers": 0, "precision": "fp32"})
    pretrain(choice, console=Console(quiet=True))
    return out


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("form", "least"), [("lightness", 0.99999), ("lab", 0.99999), ("rgb", 0.9)]
)
def test_forms_of_weights_that_read_lightness(
    light: Path, tmp_path: Path, form: Any, least: float
) -> None:
    result = export(light, tmp_path / "encoder.safetensors", form=form, data=("demo:32",))
    assert result.similarity is not None
    assert least < result.similarity < 1.00001
    metadata = ssltool.load_encoder(tmp_path / "encoder.safetensors").metadata
    assert metadata.color_space == form
    assert metadata.in_channels == (1 if form == "lightness" else 3)
    assert metadata.converted_from == (None if form == "lightness" else "lightness")
    assert {"lightness": "lightness L", "lab": "CIE Lab", "rgb": "RGB"}[form] in (
        tmp_path / "encoder.md"
    ).read_text()


def test_a_text_of_the_user_is_not_replaced(light: Path, tmp_path: Path) -> None:
    notes = tmp_path / "a.md"
    notes.write_text("mine")
    with pytest.raises(UsageError, match=r"a\.md, which is another text"):
        export(light, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == [notes]
    assert notes.read_text() == "mine"


@pytest.mark.slow
def test_a_model_card_is_replaced(light: Path, tmp_path: Path) -> None:
    for _ in range(2):
        card = export(light, tmp_path / "a.safetensors").model_card
        assert is_model_card(card)


def test_weights_of_another_run_are_not_said_to_be_of_this_one(
    light: Path, run: Path, tmp_path: Path
) -> None:
    stranger = tmp_path / "run" / "other.safetensors"
    shutil.copytree(light, stranger.parent)
    shutil.copy(run / "encoder.safetensors", stranger)
    own = Provenance.of(light / "encoder.safetensors", ssltool.load_encoder(light))
    assert own.datasets == ("demo:16",)
    assert Provenance.of(stranger, ssltool.load_encoder(stranger)).datasets == ()
    shutil.copy(light / "encoder.safetensors", stranger)
    record = json.loads((stranger.parent / "run.json").read_text())
    record["options"]["seed"] = 7
    (stranger.parent / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="is not of the run in"):
        export(stranger, tmp_path / "b.safetensors", with_head=True)


def test_metadata_give_the_color_space_of_training(light: Path) -> None:
    metadata = ssltool.load_encoder(light).metadata
    assert (metadata.color_space, metadata.in_channels, metadata.mean, metadata.std) == (
        "lightness",
        1,
        (0.5,),
        (0.5,),
    )


def test_forms_are_for_lightness_and_fixed_norms_for_others(
    run: Path, light: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="drop --form"):
        export(run, tmp_path / "encoder.safetensors", form="rgb")
    with pytest.raises(UsageError, match="fixed mean and deviation already"):
        export(light, tmp_path / "encoder.safetensors", fixed_norm=True)
    assert not (tmp_path / "encoder.safetensors").exists()


@pytest.mark.slow
def test_the_projection_of_npid_is_exported_on_request(run: Path, tmp_path: Path) -> None:
    given = {"data": ("demo:16",), "image_size": 32, "batch_size": 4, "steps": 2}
    given |= {"workers": 0, "precision": "fp32", "out": tmp_path / "npid"}
    pretrain(RunConfig.merged("npid", given), console=Console(quiet=True))
    file = tmp_path / "a.safetensors"
    assert len(export(tmp_path / "npid", file).files) == 2
    result = export(tmp_path / "npid", file, with_projection=True)
    assert result.files[-1] == tmp_path / "a.projection.safetensors"
    own = tmp_path / "npid" / "encoder.projection.safetensors"
    assert result.files[-1].read_bytes() == own.read_bytes()
    tensors = load_file(result.files[-1])
    encoder = ssltool.load_encoder(file)
    projection = load_projection(file, encoder.metadata)
    x = torch.rand(3, encoder.width)
    by_hand = x @ tensors["linear.weight"].T + tensors["linear.bias"]
    assert torch.allclose(projection(x), torch.nn.functional.normalize(by_hand), atol=1e-6)
    with pytest.raises(UsageError, match="only npid trains one"):
        export(run, tmp_path / "b.safetensors", with_projection=True)
