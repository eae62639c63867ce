"""The table of backbones against the networks that the registry builds."""

from __future__ import annotations

import re

import pytest
from torchvision import models

from ssltool.encoders.backbones.small_resnet import SMALL_RESNETS
from ssltool.encoders.catalog import BACKBONES, check_name
from ssltool.encoders.families import FAMILIES, PAPER_NETWORKS
from ssltool.encoders.registry import build_encoder, vit_patch
from ssltool.encoders.sizes import accepts, deepest_stage
from ssltool.errors import UnknownNameError

QUICK = ["caffenet", "resnet10_w32", "resnet18", "vit_b_32"]


def test_names_are_ours_and_all_that_the_families_cover() -> None:
    patterns = "|".join(f"({family.pattern})" for family in FAMILIES)
    theirs = {name for name in models.list_models(module=models) if re.fullmatch(patterns, name)}
    assert set(BACKBONES) == theirs | set(SMALL_RESNETS) | set(PAPER_NETWORKS)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"resnet81.*did you mean resnet"):
        check_name("resnet81")


@pytest.mark.parametrize("name", QUICK)
def test_some_rows(name: str) -> None:
    compare(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in QUICK])
def test_all_rows(name: str) -> None:
    compare(name)


def compare(name: str) -> None:
    row = BACKBONES[name]
    # Buffers that swin_v2 computes while it is built leave it half on the meta device.
    encoder = build_encoder(name, empty=not name.startswith("swin_v2"))
    assert row.parameters == sum(parameter.numel() for parameter in encoder.parameters())
    assert row.stages == tuple(stage.name for stage in encoder.stages)
    assert row.patch == (vit_patch(name) or 0)
    if row.patch:
        assert [row.takes(side) for side in (row.patch, row.patch + 1)] == [True, False]
        assert [row.takes(k * row.patch, 2) for k in (1, 2)] == [False, True]
        return
    assert accepts(encoder, row.smallest)
    assert row.smallest == 1 or not accepts(encoder, row.smallest - 1)
    assert deepest_stage(encoder, row.smallest_map, 2) is not None
    assert deepest_stage(encoder, row.smallest_map - 1, 2) is None
