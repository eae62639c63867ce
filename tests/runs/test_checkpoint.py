from __future__ import annotations

import copy
import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from ssltool.errors import CheckpointError, DiskFullError
from ssltool.runs import checkpoint
from ssltool.training.optim import build_optimizer


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)).to(
        memory_format=torch.channels_last
    )


def stepped(name: str, count: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    module = network()
    optimizer = build_optimizer(module, name, lr=0.1, weight_decay=0.01, momentum=0.9)
    advance(module, optimizer, count)
    return module, optimizer


def advance(module: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for step in range(count):
        x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_a_loaded_state_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    module, optimizer = stepped(name)
    checkpoint.save(tmp_path, 3, module, optimizer, {"scaler": {"scale": 2.0}}, keep=2)
    other, fresh = stepped(name, 1)
    place = checkpoint.newest(tmp_path)
    assert place is not None
    state = checkpoint.load(place, other, fresh)
    assert state == {"step": 3, "scaler": {"scale": 2.0}}
    advance(module, optimizer, 4)
    advance(other, fresh, 4)
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_the_last_few_are_kept_and_nothing_else_is_left(tmp_path: Path) -> None:
    module, optimizer = stepped("sgd")
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, step, module, optimizer, {}, keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "step-0000010",
        "step-0000015",
    ]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-0000010",
        "step-0000015",
    ]
    files = sorted(path.name for path in (tmp_path / "checkpoints" / "step-0000015").iterdir())
    assert files == ["model.safetensors", "optimizer.safetensors", "state.json"]


def test_what_a_kill_leaves_behind_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    module, optimizer = stepped("sgd")
    checkpoint.save(tmp_path, 5, module, optimizer, {}, keep=2)
    half = tmp_path / "checkpoints" / ".step-0000010.123.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.name == "step-0000005"


def test_a_full_disk_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, optimizer = stepped("sgd")
    checkpoint.save(tmp_path, 5, module, optimizer, {}, keep=1)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DiskFullError):
        checkpoint.save(tmp_path, 10, module, optimizer, {}, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000005"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, damage: str) -> None:
    module, optimizer = stepped("sgd")
    place = checkpoint.save(tmp_path, 5, module, optimizer, {}, keep=1)
    file = place / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(place, module, optimizer)


def test_another_model_is_refused(tmp_path: Path) -> None:
    module, optimizer = stepped("sgd")
    place = checkpoint.save(tmp_path, 5, module, optimizer, {}, keep=1)
    other = copy.deepcopy(module)
    other.add_module("more", nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"more\.weight"):
        checkpoint.load_model(place, other)
