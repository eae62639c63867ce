"""Half precision: the last layer of every method computes in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssltool.encoders.registry import build_encoder
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method
from ssltool.probing.finetune import Classifier

LAST = {
    "jigsaw": {"": ["head.fc8"]},
    "context-prediction": {"": ["head.fc9"]},
    "colorization": {"fcn": ["head.3"], "deep": ["head.6"], "fc": ["head.6"]},
    "npid": {"": ["head"]},
    "cpc": {"": ["predictors.down.target", "predictors.down.predict.2"]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "paths"),
    [(name, head, paths) for name, heads in LAST.items() for head, paths in heads.items()],
)
def test_the_last_layer_computes_in_float32_under_autocast(
    name: str, head: str, paths: list[str]
) -> None:
    cls, info = find_method(name), DataInfo(16, 32, batch_size=4)
    options = cls.Options(**({"head": head} if head else {})).with_defaults(info)
    inputs = cls.inputs(options, info)
    torch.manual_seed(0)
    encoder = inputs.build_encoder("resnet10_w32", stem="small", in_channels=inputs.channels)
    method = cls(options, encoder, info).train()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    images[:, 0] //= 3  # some color
    method.prepare([(images, torch.arange(4))])
    view = method.view(images, torch.arange(4), torch.Generator().manual_seed(0))
    check_last_layers(method, [method.get_submodule(path) for path in paths], lambda m: m(view))


@pytest.mark.parametrize("decoder", ["resize", "tconv"])
def test_the_painting_and_the_discriminator_compute_in_float32(decoder: str) -> None:
    cls, info = find_method("context-encoder"), DataInfo(16, 32, batch_size=4)
    options = cls.Options(decoder=decoder, adversarial=0.1).with_defaults(info)
    torch.manual_seed(0)
    encoder = cls.inputs(options, info).build_encoder("resnet10_w32", stem="small", in_channels=3)
    method = cls(options, encoder, info).train()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    view = method.view(images, torch.arange(4), torch.Generator().manual_seed(0))
    layers = [method.decoder.layers[-1], method.discriminator.layers[-1]]
    check_last_layers(method, layers, lambda m: m(view))


def test_fine_tuning_classifies_in_float32() -> None:
    network = Classifier(build_encoder("resnet10_w32"), 5).train()
    nn.init.normal_(network.head.weight)
    check_last_layers(network, [network.head], lambda m: m(torch.randn(4, 3, 32, 32)))


def check_last_layers(network: nn.Module, layers: list[nn.Module], run: Any) -> None:
    """The output of each layer is that of a plain float32 layer of the same weights and input, and
    not that of one in bfloat16.
    """
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    for layer in layers:
        layer.register_forward_hook(
            lambda module, inputs, output: calls[module].append((inputs[0].detach(), output))
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(network)
    for layer, seen in calls.items():
        kind = next(k for k in (nn.Linear, nn.Conv2d, nn.ConvTranspose2d) if isinstance(layer, k))
        plain = copy.copy(layer)
        plain.__class__ = kind
        plain._forward_hooks = type(layer._forward_hooks)()
        assert seen
        for x, found in seen:
            assert found.dtype == torch.float32
            with torch.no_grad():
                torch.testing.assert_close(found, plain(x.float()), rtol=1e-5, atol=1e-7)
                rounded = copy.deepcopy(plain).bfloat16()(x.bfloat16()).float()
            assert not torch.allclose(found, rounded, rtol=1e-5, atol=1e-7)
