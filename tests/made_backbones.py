"""A training step of any method on any backbone, on the meta device: shapes without arithmetic."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any
from unittest import mock

import torch

from ssltool.encoders import registry
from ssltool.encoders.encoder import Encoder
from ssltool.errors import UsageError
from ssltool.methods import base
from ssltool.methods.options import DataInfo
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import build_method
from ssltool.runs.resolve import resolve

BATCH = 4


def _on_meta(*args: Any, **options: Any) -> Encoder:
    return registry.build_encoder(*args, empty=True, **options).to("meta")


def step(method: str, backbone: str, options: Mapping[str, Any]) -> None:
    """Build a method as a run does, and pass a random batch forward and backward.

    Raises:
        UsageError: The backbone does not fit.
    """
    given = {"backbone": backbone, "batch_size": BATCH, **options}
    config = resolve(
        RunConfig.merged(method, given), DataInfo(count=16, image_size=given["image_size"])
    )
    with mock.patch.object(base, "build_encoder", _on_meta):
        built = build_method(config).train()
    side = config.data.image_size
    images = torch.randint(256, (BATCH, 3, side, side), dtype=torch.uint8)
    view = built.view(images, torch.arange(BATCH), torch.Generator().manual_seed(0))
    tensors = (part.to("meta") if isinstance(part, torch.Tensor) else part for part in view)
    built.to("meta")
    # Methods switch autocast off, which the meta device does not have.
    with mock.patch.object(torch, "autocast", return_value=contextlib.nullcontext()):
        built(type(view)(*tensors)).value.backward()


def outcome(method: str, backbone: str, image_size: int) -> str:
    """``runs``, or the line that says why not; all advice in it was followed and runs.

    Raises:
        AssertionError: The line gives no advice.
    """
    try:
        step(method, backbone, {"image_size": image_size})
    except UsageError as error:
        for options in advised(str(error)):
            changed = {"image_size": image_size, **options}
            step(method, str(changed.pop("backbone", backbone)), changed)
        return str(error)
    return "runs"


def advised(line: str) -> list[dict[str, Any]]:
    """Each alternative that a line says to type, as options."""
    alternatives = line.partition("; type ")[2].split(" or ")
    found = [dict(re.findall(r"--([a-z-]+) (\w+)", words)) for words in alternatives]
    assert all(found), f"no advice: {line}"
    return [
        {
            name.replace("-", "_"): int(value) if value.isdecimal() else value
            for name, value in options.items()
        }
        for options in found
    ]
