"""timm's networks by name, with what `ssltool.encoders.catalog` says of other backbones."""

from __future__ import annotations

import timm
import torch

from ssltool.encoders.catalog import Backbone
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.sizes import smallest_size
from ssltool.encoders.timm_names import PREFIX
from ssltool.errors import UnknownNameError, UsageError

_MOST = 40  # each of them is built, on the meta device


def find_networks(pattern: str) -> dict[str, Backbone]:
    """Networks of timm by name, ``timm/NAME``.

    Args:
        pattern: With ``*`` and ``?``, such as ``convnext_*``; ``timm/`` before it is ignored.

    Raises:
        UnknownNameError: There is none.
        UsageError: There are more than 40.
    """
    pattern = pattern.removeprefix(PREFIX)
    names = timm.list_models(pattern)
    if not names:
        raise UnknownNameError("timm network", pattern, timm.list_models())
    if len(names) > _MOST:
        raise UsageError(
            f"--timm {pattern}: {len(names)} networks have such a name, more than {_MOST}; type "
            f"more of it, such as '{names[0]}*'"
        )
    return {PREFIX + name: _describe(PREFIX + name) for name in names}


def _describe(name: str) -> Backbone:
    with torch.device("meta"):
        encoder = build_encoder(name)
    patch = encoder.patch or 0
    return Backbone(
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        smallest=patch or smallest_size(encoder),
        smallest_map=2 * patch or smallest_size(encoder, least=2),
        stages=tuple(stage.name for stage in encoder.stages),
        patch=patch,
    )
