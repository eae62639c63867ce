"""`TimmEncoder`: networks of timm with named stages; keys and pooled features are timm's.

timm gives the maps of all its networks by one function, ``forward_intermediates``. The stages are
those of timm's ``feature_info``; of a network whose maps are all alike, such as a vision
transformer, every quarter of the blocks. The last map is what timm's ``forward_features`` returns,
without class token.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.families import Family
from ssltool.encoders.metadata import Norm, Stage, Stem
from ssltool.encoders.timm_names import PREFIX, TimmName, check_timm
from ssltool.errors import UnknownNameError, UsageError

_DEFAULT_SIDE = 224


class TimmNetwork(NamedTuple):
    """What timm says of a network.

    Attributes:
        arguments: Names of the arguments that its constructor takes.
        patch: Side in pixels of its patches, of which sides of images are multiples; None for
            convolutional networks.
        sized: Whether it is built for one image size.
        any_size: Whether it then takes other sizes too: its position embeddings are interpolated.
        classifier: Path of its classifier.
        small_stem: Whether its first convolution can have stride 1.
    """

    arguments: frozenset[str]
    patch: int | None
    sized: bool
    any_size: bool
    classifier: str | None
    small_stem: bool


@lru_cache(maxsize=256)
def find_network(name: str) -> TimmNetwork:
    """Look a network up; it is built on the meta device.

    Args:
        name: ``timm/NAME``, with or without ``,patch_size=N``.

    Raises:
        UnknownNameError: timm has none of this name.
        UsageError: It gives no maps of its stages, or has no patches to be resized.
    """
    check_timm(name)
    model, patch_size = TimmName.parse(name)
    if not timm.is_model(model):
        names = [PREFIX + each for each in timm.list_models()]
        raise UnknownNameError(
            "backbone", name, names, hint="'ssltool backbones --timm NAME*' lists them"
        )
    with torch.device("meta"):
        network: Any = timm.create_model(model, pretrained=False, num_classes=0)
    if not hasattr(network, "forward_intermediates"):
        raise UsageError(
            f"timm gives no maps of the stages of {name}; type another --backbone, such as "
            "timm/resnet18d"
        )
    arguments = _arguments(type(network))
    patch = _patch(network)
    if patch_size is not None:
        if "patch_size" not in arguments:
            raise UsageError(f"{name} has no patches; type --backbone {PREFIX}{model}")
        patch = patch and patch_size  # a ConvNeXt's first convolution takes images of any size
    classifier = network.pretrained_cfg["classifier"]
    return TimmNetwork(
        arguments=arguments,
        patch=patch,
        sized="img_size" in arguments and patch is not None,
        # Window attention has tables that depend on the image size.
        any_size="dynamic_img_size" in arguments and isinstance(_positions(network), nn.Parameter),
        classifier=classifier if isinstance(classifier, str) else None,
        small_stem=_takes_small_stem(network),
    )


def _arguments(cls: type[nn.Module]) -> frozenset[str]:
    """Names of the constructor's arguments, as far as ``**kwargs`` hands them on."""
    names: set[str] = set()
    for each in cls.__mro__:
        parameters = inspect.signature(vars(each)["__init__"]).parameters
        names |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return frozenset(names)


def _patch(network: Any) -> int | None:
    side = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    return int(side[0] if isinstance(side, tuple) else side) if side else None


def _positions(network: Any) -> object:
    return getattr(network, "pos_embed", None)


def build_backbone(
    name: str, *, stem: Stem, in_channels: int, image_size: int | None
) -> tuple[nn.Module, int | None]:
    """The plain model without classifier, with random weights by timm's own rules.

    Args:
        name: As for `find_network`.
        stem: ``small``: the first convolution has stride 1, and there is no max-pool.
        in_channels: How many.
        image_size: Side in pixels that its position embeddings or windows are for; 224 if None. Of
            no effect on convolutional networks.

    Returns:
        The model, and the size that it is built for; None if it is built for none.

    Raises:
        UsageError: It cannot have this stem or size.
    """
    network = find_network(name)
    model, patch_size = TimmName.parse(name)
    options: dict[str, Any] = {"in_chans": in_channels}
    if patch_size is not None:
        options["patch_size"] = patch_size
    side = None
    if network.sized:
        options["img_size"] = side = image_size or _default_side(network)
    if network.any_size:
        options["dynamic_img_size"] = True
    if stem == "small" and not network.small_stem:
        raise UsageError(
            f"{name} has no small stem: its first convolution is no 3x3 of stride 2; type --stem "
            "imagenet, --backbone timm/resnet18d or --backbone resnet10_w32"
        )
    try:
        backbone = timm.create_model(model, pretrained=False, num_classes=0, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"timm cannot build {name} for {side} px images ({error}); type another --image-size"
        ) from error
    if stem == "small":
        _give_small_stem(backbone)
    return backbone, side


def _default_side(network: TimmNetwork) -> int:
    patch = network.patch or 1
    return max(1, _DEFAULT_SIDE // patch) * patch


class TimmEncoder(Encoder):
    """A network of timm.

    Attributes:
        position_size: Side in pixels of the images that position embeddings are for; None without.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        stem: Stem,
        in_channels: int,
        norm: Norm,
        position_size: int | None,
    ) -> None:
        network = find_network(name)
        self._indices: list[int] = []  # of the stages, in timm's list
        self._pools_map = False
        super().__init__(
            backbone,
            name=name,
            stem=stem,
            in_channels=in_channels,
            norm=norm,
            image_size=None if network.any_size else position_size,
            family=Family(name, network.classifier),
        )
        self.width = int(self._network.head_hidden_size)
        self._position_size = position_size

    @property
    def _network(self) -> Any:
        """The backbone with the attributes of timm's networks."""
        return self.backbone

    @property
    def position_size(self) -> int | None:
        """See `Encoder.position_size`."""
        return self._position_size

    @property
    def usual_size(self) -> int:
        """See `Encoder.usual_size`."""
        return int(self._network.pretrained_cfg["input_size"][-1])

    @property
    def timm_version(self) -> str:
        """See `Encoder.timm_version`."""
        return str(timm.__version__)

    @property
    def patch(self) -> int | None:
        """See `Encoder.patch`."""
        return find_network(self.name).patch

    def forward(self, x: Tensor) -> Tensor:
        """See `Encoder.forward`: as the plain model of timm without a classifier.

        In an encoder that was cut after a stage it is the average of the last map; a network whose
        maps are all alike keeps its final norm and its pooling.
        """
        self._check(x)
        if self._pools_map:
            return self.map(x).mean(dim=(2, 3))
        pooled: Tensor = self.backbone(x)
        return pooled

    def cut_after(self, stage: str) -> None:
        """See `Encoder.cut_after`."""
        self._check_stage(stage)
        names = [each.name for each in self.stages]
        position = names.index(stage)
        if position == len(names) - 1:
            return
        self._pools_map = not _isotropic(self.backbone)
        self._network.prune_intermediate_layers(
            [self._indices[position]], prune_norm=False, prune_head=False
        )
        self._indices = self._indices[: position + 1]
        self.stages = self.stages[: position + 1]
        if self._pools_map:
            self.width = self.stages[-1].width

    def paths_up_to(self, stage: str) -> list[str]:
        """See `Encoder.paths_up_to`: the owners of all parameters that the map depends on."""
        self._check_stage(stage)
        twin = copy.deepcopy(self).to("meta").eval().requires_grad_(True)
        side = self.position_size or self.usual_size
        images = torch.zeros(2, self.in_channels, side, side, device="meta")
        with torch.enable_grad():
            feature_map = next(found for name, found in twin.walk(images) if name == stage)
        keys, parameters = zip(*twin.backbone.named_parameters(), strict=True)
        ones = torch.ones_like(feature_map)
        gradients = torch.autograd.grad(feature_map, parameters, ones, allow_unused=True)
        used = [key for key, grad in zip(keys, gradients, strict=True) if grad is not None]
        return list(dict.fromkeys(key.rpartition(".")[0] or key for key in used))

    def walk(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Encoder.walk`."""
        try:
            final, maps = self._maps(x, self._indices, stop_early=False)
        except (RuntimeError, AssertionError):
            # A map may have become too small: those before it are given nevertheless.
            for stage, index in zip(self.stages[:-1], self._indices[:-1], strict=True):
                yield stage.name, self._maps(x, [index], stop_early=True)[1][0]
            raise
        *earlier, last = maps
        for stage, feature_map in zip(self.stages[:-1], earlier, strict=True):
            yield stage.name, feature_map
        yield self.stages[-1].name, self._as_map(final, last)

    def _maps(self, x: Tensor, indices: list[int], *, stop_early: bool) -> tuple[Tensor, Any]:
        found: tuple[Tensor, Any] = self._network.forward_intermediates(
            x, indices=indices, stop_early=stop_early
        )
        return found

    def _as_map(self, final: Tensor, like: Tensor) -> Tensor:
        """The final features as ``[B, C, h, w]``, from tokens or from a map of either layout."""
        height, width = like.shape[2:]
        if final.dim() == 3:
            tokens = final[:, final.shape[1] - height * width :]  # without class token
            return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)
        return final if final.shape[1] == self.stages[-1].width else final.permute(0, 3, 1, 2)

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        height, width = x.shape[2:]
        if self.image_size is not None and (height, width) != (self.image_size,) * 2:
            raise UsageError(
                f"{self.name} was built for {self.image_size} px images, not {height}x{width}"
            )
        if self.patch and (height % self.patch or width % self.patch):
            raise UsageError(
                f"{self.name} takes images whose sides are multiples of its {self.patch} px "
                f"patch, not {height}x{width}"
            )

    def _find_stages(self) -> tuple[dict[str, str | None], tuple[Stage, ...]]:
        infos: list[dict[str, Any]] = list(self._network.feature_info)
        self._indices = list(range(len(infos)))
        names = [f"stage{number}" for number in range(1, len(infos) + 1)]
        if _isotropic(self.backbone):
            self._indices = [len(infos) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
            names = [f"block{index + 1}" for index in range(len(infos))]
        elif infos[-1].get("module") == "layer4":  # a ResNet: its stages are named as torchvision's
            names = ["stem", "layer1", "layer2", "layer3", "layer4"][-len(infos) :]
        widths = [int(info["num_chs"]) for info in infos]
        widths[-1] = int(self._network.num_features)
        strides = [int(info["reduction"]) for info in infos]
        if self.stem == "small":
            pooled = hasattr(self.backbone, "maxpool")
            strides = [s // (4 if pooled and i else 2) for i, s in enumerate(strides)]
        stages = [Stage(*each) for each in zip(names, widths, strides, strict=True)]
        return {}, tuple(stages[index] for index in self._indices)


def _isotropic(network: Any) -> bool:
    """Whether the maps of all stages have the same shape."""
    infos: Any = network.feature_info
    return len(infos) > 4 and len({(info["num_chs"], info["reduction"]) for info in infos}) == 1


def _first_convolution(network: Any) -> nn.Conv2d | None:
    path = network.pretrained_cfg["first_conv"]
    with suppress(AttributeError, TypeError):
        found = network.get_submodule(path)
        return found if isinstance(found, nn.Conv2d) else None
    return None


def _takes_small_stem(network: Any) -> bool:
    first, pool = _first_convolution(network), getattr(network, "maxpool", None)
    if first is None or first.stride != (2, 2) or (pool and any(True for _ in pool.parameters())):
        return False
    return first.kernel_size == (3, 3) or isinstance(network, timm.models.ResNet)


def _give_small_stem(network: Any) -> None:
    """Let the first convolution have stride 1, as 3x3, and remove the max-pool; keys stay."""
    first = _first_convolution(network)
    assert first is not None
    if first.kernel_size != (3, 3):
        with torch.no_grad():
            smaller = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(smaller.weight, mode="fan_out", nonlinearity="relu")
        network.set_submodule(network.pretrained_cfg["first_conv"], smaller)
    else:
        first.stride = (1, 1)
    if hasattr(network, "maxpool"):
        network.maxpool = nn.Identity()
