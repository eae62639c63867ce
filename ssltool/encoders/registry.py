"""Encoders by name: torchvision's classification models, networks of the papers, small ResNets.

Nothing is ever downloaded: weights are random, or empty until a file is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models.convnext import LayerNorm2d

from ssltool.encoders.backbones.small_resnet import SMALL_RESNETS
from ssltool.encoders.catalog import BACKBONES, check_name
from ssltool.encoders.encoder import Encoder, ViTEncoder
from ssltool.encoders.families import FAMILIES, PAPER_NETWORKS, VIT, Family
from ssltool.encoders.layers.activated import with_activation
from ssltool.encoders.layers.channel_affine import ChannelAffine
from ssltool.encoders.layers.layer_norm import MapLayerNorm
from ssltool.encoders.layers.small_maps import use_small_map_convolutions
from ssltool.encoders.metadata import Norm, Stem
from ssltool.encoders.timm_names import is_timm
from ssltool.errors import UsageError
from ssltool.options import LARGEST_CHANNELS


def backbone_names() -> tuple[str, ...]:
    """Names of all backbones, sorted: ours and torchvision's, as far as `FAMILIES` covers them."""
    return tuple(BACKBONES)


def build_encoder(
    name: str,
    *,
    stem: Stem = "imagenet",
    in_channels: int = 3,
    image_size: int | None = None,
    norm: Norm = "batch",
    last_stage: str | None = None,
    empty: bool = False,
) -> Encoder:
    """Build an encoder with random weights, sampled from torch's global generator.

    Args:
        name: One of :func:`backbone_names`, or ``timm/NAME``.
        stem: ``"imagenet"`` for the backbone's own stem, ``"small"`` for a 3x3 stride-1 first
            convolution without max-pool (ResNet, ResNeXt and wide ResNet). The small ResNets
            always have the small stem.
        in_channels: 3, 1 or any other number. The first convolution is initialized by the
            backbone's own rule.
        image_size: Side of the images in pixels, a multiple of the patch; used by vision
            transformers and timm's window attention only, where None means 224.
        norm: What replaces batch norm: ``"ln"`` normalizes each image over channels and positions
            together (a group norm of one group), ``"ln2d"`` over the channels at each position,
            ``"none"`` leaves its scale and offset per channel, see `ChannelAffine`, ``"batch"``
            replaces nothing. The first three never mix the images of a batch. Keys stay the same,
            without the running statistics.
        last_stage: Remove the modules after this stage, see :meth:`Encoder.cut_after`; None
            removes none.
        empty: Initialize nothing: parameters and buffers of the state dict are on the meta device,
            to be replaced by ``load_state_dict(..., assign=True)``. Of no effect on networks of
            timm, which compute buffers outside of it while they are built.

    Raises:
        UsageError: Unknown name; a stem, channel count, image size or stage the backbone cannot
            have.
    """
    check_name(name)
    if not 1 <= in_channels <= LARGEST_CHANNELS:
        raise UsageError(
            f"an encoder takes 1 to {LARGEST_CHANNELS} input channels, not {in_channels}"
        )
    if is_timm(name):
        encoder = _timm_encoder(name, stem, in_channels, image_size, norm)
    else:
        encoder = _encoder(name, stem, in_channels, image_size, norm, empty=empty)
    if last_stage is not None:
        encoder.cut_after(last_stage)
    return encoder


def _encoder(
    name: str, stem: Stem, in_channels: int, image_size: int | None, norm: Norm, *, empty: bool
) -> Encoder:
    """An encoder of `FAMILIES`; see `build_encoder`."""
    family = next(family for family in FAMILIES if re.fullmatch(family.pattern, name))
    stem = _stem_of(name, family, stem)
    side = _vit_side(name, image_size or 224) if family is VIT else None
    with _MetaTensors() if empty else nullcontext():
        backbone = _create(name, side)
        _adapt(backbone, family)
        if stem == "small" and family.small_stem:
            _give_small_stem(backbone)
        if in_channels != 3:
            _give_channels(backbone, family, in_channels)
        _replace_batch_norm(backbone, norm)
    use_small_map_convolutions(backbone)
    kind = ViTEncoder if family is VIT else Encoder
    return kind(
        backbone,
        name=name,
        stem=stem,
        in_channels=in_channels,
        norm=norm,
        image_size=side,
        family=family,
    )


def _stem_of(name: str, family: Family, stem: Stem) -> Stem:
    """The stem that a backbone gets: small ResNets have no other than the small one.

    Raises:
        UsageError: The backbone has no small stem.
    """
    if name in SMALL_RESNETS:
        return "small"
    if stem == "small" and not family.small_stem:
        raise UsageError(
            f"{name} has no small stem, only resnet*, resnext* and wide_resnet* have; "
            "type --stem imagenet, --backbone resnet18 or --backbone resnet10_w32"
        )
    return stem


def _timm_encoder(
    name: str, stem: Stem, in_channels: int, image_size: int | None, norm: Norm
) -> Encoder:
    """An encoder of timm, which is an extra and imported here; see `build_encoder`."""
    from ssltool.encoders.timm_encoder import TimmEncoder, build_backbone

    backbone, side = build_backbone(name, stem=stem, in_channels=in_channels, image_size=image_size)
    _replace_batch_norm(backbone, norm)
    use_small_map_convolutions(backbone)
    return TimmEncoder(
        backbone, name=name, stem=stem, in_channels=in_channels, norm=norm, position_size=side
    )


def check_known(name: str) -> None:
    """Make sure that there is a backbone, by importing timm if its name is one of timm's.

    Raises:
        UsageError: There is none, or timm is not installed.
    """
    check_name(name)
    if is_timm(name):
        from ssltool.encoders.timm_encoder import find_network

        find_network(name)


def size_to_build_for(name: str, *, train_size: int, feature_size: int) -> int:
    """Image size to build a vision transformer for.

    Args:
        name: Of the backbone.
        train_size: Side in pixels of its input in pretraining.
        feature_size: Side in pixels of whole images for feature extraction.

    Returns:
        ``train_size``, if it takes images of one size only, else the multiple of the patch nearest
        to ``feature_size``: positions are learned for whole images and interpolated for parts.
    """
    if is_timm(name):
        from ssltool.encoders.timm_encoder import find_network

        network = find_network(name)
        if network.any_size and network.patch:
            return max(1, round(feature_size / network.patch)) * network.patch
    return train_size


def vit_patch(name: str) -> int | None:
    """Side in pixels of a vision transformer's patches; None for other backbones."""
    if is_timm(name):
        from ssltool.encoders.timm_encoder import find_network

        return find_network(name).patch
    return int(name.rsplit("_", 1)[1]) if re.fullmatch(VIT.pattern, name) else None


def reinitialized_copy(
    encoder: Encoder, *, in_channels: int | None = None, empty: bool = False
) -> Encoder:
    """The same architecture with new weights, sampled from torch's global generator.

    Args:
        encoder: The encoder, which is not changed.
        in_channels: How many; None for as many as ``encoder`` has.
        empty: Initialize nothing, see :func:`build_encoder`.
    """
    return build_encoder(
        encoder.name,
        stem=encoder.stem,
        in_channels=in_channels or encoder.in_channels,
        image_size=encoder.position_size,
        norm=encoder.norm,
        last_stage=encoder.stages[-1].name,
        empty=empty,
    )


def keep_last_resolution(encoder: Encoder) -> None:
    """Make the last stage of a ResNet keep the resolution of the one before, in place.

    Its stride becomes 1 and the 3x3 convolutions after it are dilated by 2, so that at every other
    position the map is unchanged. The weights fit the plain backbone.

    Raises:
        UsageError: Not a ResNet, or its last stage has no stride.
    """
    last = getattr(encoder.backbone, encoder.stages[-1].name, None)
    parts = list(last.modules()) if isinstance(last, nn.Sequential) else []
    convolutions = [part for part in parts if isinstance(part, nn.Conv2d)]
    if any(isinstance(part, nn.AvgPool2d) for part in parts):  # timm's resnet18d pools shortcuts
        convolutions = []
    if not any(conv.stride == (2, 2) for conv in convolutions):
        raise UsageError(
            f"{encoder.name} has no stride in its last stage, only resnet* have; "
            "drop --last-stride 1 or type --backbone resnet18"
        )
    dilate = False
    for conv in convolutions:  # in the order of the forward pass
        if dilate and conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (2, 2)
        if conv.stride == (2, 2):
            conv.stride = (1, 1)
            dilate = True


class _MetaTensors(TorchFunctionMode):
    """Puts parameters and buffers on the meta device, and no other tensor: RegNets compute with
    tensors while they are built.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        meta = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **meta})


def _create(name: str, side: int | None) -> nn.Module:
    """The plain model with random weights; ``side`` is that of a vision transformer's images."""
    if name in SMALL_RESNETS:
        return SMALL_RESNETS[name]()
    if name in PAPER_NETWORKS:
        return PAPER_NETWORKS[name]()
    sized = {} if side is None else {"image_size": side}
    model: nn.Module = models.get_model(name, weights=None, **sized)
    return model


def _adapt(backbone: nn.Module, family: Family) -> None:
    """Remove the classifier, and average the last map where torchvision pools to a grid."""
    if family.classifier is not None:
        backbone.set_submodule(family.classifier, nn.Identity())
    if isinstance(backbone, models.AlexNet | models.VGG):
        backbone.avgpool = nn.AdaptiveAvgPool2d(1)


def _give_small_stem(backbone: nn.Module) -> None:
    """Replace a ResNet's 7x7 stride-2 convolution and max-pool; keys and initialization stay."""
    conv = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    backbone.set_submodule("conv1", conv)
    backbone.set_submodule("maxpool", nn.Identity())


def _give_channels(backbone: nn.Module, family: Family, channels: int) -> None:
    """Give the first convolution another number of input channels, initialized as it was for three.

    The weights are independent samples, so one of the three channels has the right distribution, up
    to its scale where initialization divides by the square root of the fan-in. More channels than
    three are samples of the samples.
    """
    conv = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    gain = math.sqrt(conv.in_channels / channels) if family.scaled_by_fan_in else 1.0
    weight = conv.weight.detach()
    if channels > conv.in_channels:
        shape = (weight.shape[0], channels, *weight.shape[2:])
        if weight.is_meta:
            weight = weight.new_empty(shape)
        else:
            weight = weight.flatten()[torch.randint(weight.numel(), shape)]
    conv.in_channels = channels
    conv.weight = nn.Parameter(weight[:, :channels] * gain)
    if conv.bias is not None:
        conv.bias = nn.Parameter(conv.bias.detach() * gain)


def _replace_batch_norm(backbone: nn.Module, norm: Norm) -> None:
    """Replace every batch norm by a norm within each image, or none; weight and bias keep their
    keys.

    Without a norm the residual branches of ResNets start at zero: the variance would double in each
    block (Zhang, Dauphin & Ma 2019; De & Smith 2020).
    """
    if norm == "batch":
        return
    for path, module in list(backbone.named_modules()):
        if not isinstance(module, nn.BatchNorm2d):
            continue
        channels, eps = module.num_features, module.eps
        if norm == "none":
            owner = backbone.get_submodule(path.rpartition(".")[0])
            replacement: nn.Module = ChannelAffine(channels, zero=_ends_branch(owner, module))
        else:
            replacement = (MapLayerNorm if norm == "ln" else LayerNorm2d)(channels, eps)
        act: Any = getattr(module, "act", None)
        if act is not None:  # timm's batch norm with activation
            replacement = with_activation(replacement, act)
        backbone.set_submodule(path, replacement)


def _ends_branch(block: nn.Module, norm: nn.Module) -> bool:
    """Whether a norm is the last module of the residual branch of a ResNet, torchvision's or
    timm's.
    """
    kind = type(block).__name__
    if kind == "Bottleneck":
        return norm is getattr(block, "bn3", None)
    return kind == "BasicBlock" and norm is getattr(block, "bn2", None)


def _vit_side(name: str, side: int) -> int:
    """Check the image size of a vision transformer and return it.

    Raises:
        UsageError: It is not a multiple of the patch; the nearest multiples are named.
    """
    patch = vit_patch(name)
    if patch is None or (side > 0 and side % patch == 0):
        return side
    below = max(side // patch * patch, patch)
    near = sorted({below, max(math.ceil(side / patch) * patch, patch)})
    raise UsageError(
        f"{name} needs an image size that is a multiple of its {patch} px patch, not {side}; "
        "type " + " or ".join(f"--image-size {size}" for size in near)
    )
