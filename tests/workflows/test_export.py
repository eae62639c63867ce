from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from safetensors.torch import load_file

import ssltool
from ssltool.errors import UsageError
from ssltool.methods.find import find_method
from ssltool.workflows.export import export
from ssltool.workflows.options import combine
from ssltool.workflows.pretrain import pretrain


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "resnet18"
    given = {"data": ("demo:16",), "image_size": 96, "backbone": "resnet18", "batch_size": 4, "steps": 2, "out": out}
    choice = combine("jigsaw", find_method("jigsaw"), {**given, "workers": 0, "precision": "fp32"})
    pretrain(choice, console=Console(quiet=True))
    return out


def test_torchvision_finds_everything_but_the_classifier_and_computes_the_same(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    result = export(run, file)
    model = torchvision.models.resnet18()
    missing, unexpected = model.load_state_dict(load_file(file), strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert not unexpected
    model.fc = torch.nn.Identity()
    pictures = torch.rand(4, 3, 96, 96)
    with torch.no_grad():
        ours, theirs = ssltool.load_encoder(file).eval()(pictures), model.eval()(pictures)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert result["weights"]["image_size"] == 256  # 24 px tiles are enlarged to 64 px, and 96 px pictures as much
    assert result["weights"]["training"]["steps"] == 2


def test_the_model_cards_code_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(run, tmp_path / "encoder.safetensors")
    page = (tmp_path / "encoder.md").read_text()
    monkeypatch.chdir(tmp_path)
    blocks = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "card", "exec"), {})


def test_the_target_must_be_safetensors_and_not_the_source(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.safetensors"):
        export(run, tmp_path / "encoder.pt")
    with pytest.raises(UsageError, match="name another"):
        export(run, run / "encoder.safetensors")
