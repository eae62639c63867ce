from __future__ import annotations

import pytest
import torch
from torch import nn

from ssltool.encoders.registry import build_encoder, keep_last_resolution
from ssltool.errors import UsageError
from ssltool.methods.colorization.networks import color_head


def test_the_network_that_makes_images_has_the_papers_shapes_and_parameters() -> None:
    encoder = build_encoder("colornet", in_channels=1).eval()
    head = color_head("deep", encoder.width, 313).eval()
    with torch.no_grad():
        maps = encoder.maps(torch.zeros(1, 1, 176, 176))
        logits = head(maps["conv7"])
    sides = [tuple(values.shape[1:3]) for values in maps.values()]
    assert sides == [(64, 88), (128, 44), (256, 22), (512, 22), (512, 22), (512, 22), (512, 22)]
    assert logits.shape == (1, 313, 44, 44)
    assert sum(p.numel() for part in (encoder, head) for p in part.parameters()) == 32_230_393


def test_the_alexnet_for_features() -> None:
    encoder = build_encoder("color_alexnet", in_channels=1).eval()
    with torch.no_grad():
        maps = encoder.maps(torch.zeros(1, 1, 180, 180))
        logits = color_head("fc", encoder.width, 313).eval()(maps["pool5"])
    assert [values.shape[-1] for values in maps.values()] == [45, 23, 12, 12, 12, 12]
    assert logits.shape == (1, 313, 12, 12)
    assert sum(p.numel() for p in encoder.parameters()) == 2_310_848
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.groups for conv in convolutions] == [1, 2, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "order"), [("colornet", ["relu", "norm"]), ("color_alexnet", ["norm", "relu"])]
)
def test_batch_norm_stands_where_the_release_has_it(name: str, order: list[str]) -> None:
    names = [part for part, _ in build_encoder(name).backbone.features.named_children()]
    position = next(i for i, part in enumerate(names) if part.startswith("norm"))
    around = (
        names[position - 1 : position + 1] if name == "colornet" else names[position : position + 2]
    )
    assert [part[:4] for part in around] == order
    norms = [m for m in build_encoder(name, empty=True).modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.affine for norm in norms)


@pytest.mark.parametrize("name", ["colornet", "color_alexnet"])
def test_initial_weights_keep_the_size_of_the_signal(name: str) -> None:
    torch.manual_seed(0)
    encoder, sizes = build_encoder(name, in_channels=1).train(), []
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _m, _i, out: sizes.append(out.square().mean().sqrt().item())
            )
    with torch.no_grad():
        encoder(torch.randn(4, 1, 96, 96))
    assert 0.5 < min(sizes) <= max(sizes) < 3


@pytest.mark.parametrize(
    ("name", "stem", "side"),
    [("resnet10_w32", "small", 32), ("resnet18", "imagenet", 96), ("resnet50", "imagenet", 64)],
)
def test_a_last_stage_without_its_stride_computes_the_same_at_every_other_position(
    name: str, stem: str, side: int
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, stem=stem).eval()  # type: ignore[arg-type]
    keys = set(encoder.state_dict())
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        coarse = encoder.map(x)
        keep_last_resolution(encoder)
        fine = encoder.map(x)
    assert fine.shape[-1] > coarse.shape[-1]
    assert torch.allclose(fine[:, :, ::2, ::2], coarse, atol=1e-5 * float(coarse.abs().max()))
    assert set(encoder.state_dict()) == keys


@pytest.mark.parametrize("name", ["alexnet", "colornet", "vgg11", "mobilenet_v2"])
def test_backbones_without_such_a_stage_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="drop --last-stride 1"):
        keep_last_resolution(build_encoder(name, empty=True))
