from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
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


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    module, optimizer = stepped("sgd")
    for step in (9_999_999, 10_000_000, 10_000_001):
        checkpoint.save(tmp_path, step, module, optimizer, {}, keep=2)
    names = [path.name for path in checkpoint.checkpoints(tmp_path)]
    assert names == ["step-10000000", "step-10000001"]


def test_other_files_beside_the_checkpoints_are_left_alone(tmp_path: Path) -> None:
    strays = ["step-abc", "step-5", "step-0000009 copy", "step-00000010", "step-٠٠٠٠٠٠٩", "best"]
    for name in strays:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-0000011").write_text("a file")
    assert checkpoint.newest(tmp_path) is None
    module, optimizer = stepped("sgd")
    for step in (5, 6):
        saved = checkpoint.save(tmp_path, step, module, optimizer, {}, keep=1)
    assert checkpoint.checkpoints(tmp_path) == [saved]
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {*strays, "step-0000011", "step-0000006"}


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


def saved(folder: Path) -> tuple[Path, nn.Module, torch.optim.Optimizer]:
    module, optimizer = stepped("adamw")
    extra = {"scaler": {"scale": 2.0, "_growth_tracker": 3}}
    return checkpoint.save(folder, 5, module, optimizer, extra, keep=1), module, optimizer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(step=6), "of step 6 instead of that of its folder"),
        (lambda d: d.update(step=5.0), "of step 5.0"),
        (lambda d: d.update(step=True), "of step True"),
        (lambda d: d.pop("step"), "of step None"),
        (lambda d: d.pop("optimizer"), "no optimizer"),
        (lambda d: d.pop("scaler"), "no such scaler"),
        (lambda d: d["scaler"].update(scale="2"), "no such scaler"),
        (lambda d: d["scaler"].clear(), "no such scaler"),
        (lambda d: d["optimizer"].pop("groups"), "no settings"),
        (lambda d: d["optimizer"].update(scalars=[]), "no settings"),
        (lambda d: d["optimizer"]["groups"].pop(), "another optimizer"),
        (lambda d: d["optimizer"]["groups"][0].update(lr="fast"), "another optimizer"),
        (lambda d: d["optimizer"]["groups"][0].update(params=[9, 8]), "another optimizer"),
        (lambda d: d["optimizer"]["groups"][0].update(betas=[0.9]), "another optimizer"),
        (lambda d: d["optimizer"]["scalars"].update({"0.step": "x"}), "no state of one of its"),
        (lambda d: d["optimizer"]["scalars"].update({"99.step": 1}), "no state of one of its"),
        (lambda d: d["optimizer"]["scalars"].update({"-1.step": 1}), "no state of one of its"),
        (lambda d: d["optimizer"]["scalars"].update({"x": 1}), "no state of one of its"),
        (lambda d: d["optimizer"]["scalars"].update({"9" * 5000 + ".step": 1}), "no state of one"),
    ],
)
def test_a_wrong_state_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    place, module, optimizer = saved(tmp_path)
    state = json.loads((place / "state.json").read_text())
    change(state)
    (place / "state.json").write_text(json.dumps(state))
    like = {"scaler": {"scale": 1.0, "_growth_tracker": 0}}
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.load(place, module, optimizer, like)
    assert "\n" not in str(caught.value)
    assert f"remove {place} to use an older one" in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"step": NaN}', "\xff"])
def test_a_state_that_is_no_document_is_refused(tmp_path: Path, text: str) -> None:
    place, module, optimizer = saved(tmp_path)
    (place / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"is damaged: state\.json"):
        checkpoint.load(place, module, optimizer)


def test_settings_of_another_torch_are_read_as_far_as_they_are_known(tmp_path: Path) -> None:
    place, module, optimizer = saved(tmp_path)
    state = json.loads((place / "state.json").read_text())
    del state["optimizer"]["groups"][0]["amsgrad"]
    state["optimizer"]["groups"][0]["invented"] = 3
    (place / "state.json").write_text(json.dumps(state))
    checkpoint.load(place, module, optimizer)
    advance(module, optimizer, 1)
    assert "invented" not in optimizer.param_groups[0]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("0.exp_avg", torch.zeros(7), "no state of one of its"),
        ("0.exp_avg", torch.tensor(0.0), "no state of one of its"),
        ("0.exp_avg", torch.full((4, 3, 3, 3), torch.nan), "no state of one of its"),
        ("0.exp_avg", torch.zeros(4, 3, 3, 3, dtype=torch.int64), "no state of one of its"),
        ("0.step", torch.zeros(2), "no state of one of its"),
        ("0.mood", torch.zeros(4, 3, 3, 3), "state of a parameter is not exp_avg"),
        ("1000.exp_avg", torch.zeros(4), "no state of one of its"),
    ],
)
def test_a_wrong_state_of_a_parameter_is_refused(
    tmp_path: Path, name: str, value: torch.Tensor, words: str
) -> None:
    place, module, optimizer = saved(tmp_path)
    file = place / "optimizer.safetensors"
    save_file({**load_file(file), name: value}, file)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(place, module, optimizer)


def test_tensors_of_another_type_are_refused(tmp_path: Path) -> None:
    place, module, _ = saved(tmp_path)
    file = place / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "0.weight": tensors["0.weight"].half()}, file)
    with pytest.raises(CheckpointError, match=r"0\.weight is torch\.float16 instead of"):
        checkpoint.load_model(place, module)
