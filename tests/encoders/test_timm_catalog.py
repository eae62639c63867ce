"""The list of timm's networks against the encoders that are built."""

from __future__ import annotations

import json

import pytest

timm = pytest.importorskip("timm")

from ssltool.cli import run  # noqa: E402
from ssltool.encoders.registry import build_encoder  # noqa: E402
from ssltool.encoders.sizes import accepts, deepest_stage  # noqa: E402
from ssltool.encoders.timm_catalog import find_networks  # noqa: E402
from ssltool.errors import UnknownNameError, UsageError  # noqa: E402


@pytest.mark.slow
def test_rows_say_what_is_built() -> None:
    rows = find_networks("timm/test_*net")
    assert {"timm/test_resnet", "timm/test_efficientnet"} <= rows.keys()
    for name, row in rows.items():
        encoder = build_encoder(name)
        assert row.parameters == sum(parameter.numel() for parameter in encoder.parameters())
        assert row.stages == tuple(stage.name for stage in encoder.stages)
        assert accepts(encoder, row.smallest)
        if name == "timm/test_coatnet":  # it takes only sizes about its own
            assert row.smallest == 160
            continue
        assert row.smallest == 1 or not accepts(encoder, row.smallest - 1)
        assert deepest_stage(encoder.eval(), row.smallest_map, 2) is not None


@pytest.mark.slow
def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backbones", "--timm", "test_vit", "--method", "npid", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "timm/test_vit"
    assert row["smallest_input"] == row["smallest_image_size"] == 16
    assert row["stages"][-1] == "block6"


def test_too_many_and_none() -> None:
    with pytest.raises(UsageError, match=r"--timm vit_\*: \d+ networks have such a name"):
        find_networks("vit_*")
    with pytest.raises(UnknownNameError, match=r"unknown timm network 'convnext_atta'; did you"):
        find_networks("convnext_atta")
