"""`with_activation`: a norm that is followed by an activation inside of the same module."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from ssltool.encoders.layers.channel_affine import ChannelAffine
from ssltool.encoders.layers.layer_norm import MapLayerNorm


class _Activated(nn.Module):
    act: nn.Module

    def forward(self, maps: Tensor) -> Tensor:
        activated: Tensor = self.act(super().forward(maps))
        return activated


class _ActivatedMapLayerNorm(_Activated, MapLayerNorm):
    pass


class _ActivatedLayerNorm2d(_Activated, LayerNorm2d):  # type: ignore[misc]
    pass


class _ActivatedChannelAffine(_Activated, ChannelAffine):
    pass


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    MapLayerNorm: _ActivatedMapLayerNorm,
    LayerNorm2d: _ActivatedLayerNorm2d,
    ChannelAffine: _ActivatedChannelAffine,
}


def with_activation(norm: nn.Module, act: nn.Module) -> nn.Module:
    """Let a norm end with an activation, in place; its keys stay.

    timm's batch norms of EfficientNets, MobileNets and RegNets have their activation inside.

    Args:
        norm: A `MapLayerNorm`, a ``LayerNorm2d`` or a `ChannelAffine`.
        act: From maps to maps of the same shape.
    """
    norm.__class__ = _KINDS[type(norm)]
    norm.act = act
    return norm
