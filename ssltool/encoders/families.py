"""The table of backbone families: classifier, stages and quirks, one row each.

A *chain* is the list of a backbone's modules before pooling, see `ssltool.encoders.encoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from ssltool.encoders.backbones.caffenet import CaffeNet
from ssltool.encoders.backbones.colornets import COLORNETS
from ssltool.encoders.backbones.contextnet import ContextNet
from ssltool.encoders.backbones.inpaintnet import InpaintNet
from ssltool.encoders.backbones.small_resnet import SMALL_RESNETS

# Networks of the papers that torchvision does not have.
PAPER_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "caffenet": CaffeNet,
    "contextnet": ContextNet,
    "inpaintnet": InpaintNet,
    **COLORNETS,
}


@dataclass(frozen=True)
class Family:
    """What distinguishes a family of backbones.

    Attributes:
        pattern: Regular expression that the whole name matches.
        classifier: Path of the module replaced by the identity; None where there is none.
        stages: Chain path to stage name. If empty, a stage ends before each change of resolution
            and at the end, and the stages are named stage1, stage2, ...
        small_stem: Whether the stem can become a 3x3 stride-1 convolution without max-pool.
        scaled_by_fan_in: Whether the standard deviation of the first convolution's initial values
            is proportional to 1/sqrt(fan-in).
        channels_last: Whether the chain's maps are ``[B, h, w, C]``.
        relu_last: Whether torchvision applies a ReLU to the last map outside of any module.
    """

    pattern: str
    classifier: str | None
    stages: Mapping[str, str] = field(default_factory=dict)
    small_stem: bool = False
    scaled_by_fan_in: bool = False
    channels_last: bool = False
    relu_last: bool = False


def _ends(container: str = "", /, **stages: str) -> Mapping[str, str]:
    """Invert stage name -> module of ``container`` (the backbone by default) to path -> name."""
    prefix = f"{container}." if container else ""
    return {prefix + part: name for name, part in stages.items()}


_RESNET = _ends(stem="relu", layer1="layer1", layer2="layer2", layer3="layer3", layer4="layer4")
_ALEXNET = _ends("features", conv1="1", conv2="4", conv3="7", conv4="9", conv5="11", pool5="12")
_CAFFENET = _ends(
    "features",
    conv1="relu1",
    conv2="relu2",
    conv3="relu3",
    conv4="relu4",
    conv5="relu5",
    pool5="pool5",
)
_INPAINTNET = _ends("features", **{f"conv{n}": f"relu{n}" for n in range(1, 7)})
_COLORNET = _ends("features", **{f"conv{n}": f"norm{n}" for n in range(1, 8)})
_COLOR_ALEXNET = _ends("features", **{f"conv{n}": f"relu{n}" for n in range(1, 6)}, pool5="pool5")
_DENSENET = _ends(
    "features",
    stem="relu0",
    denseblock1="denseblock1",
    denseblock2="denseblock2",
    denseblock3="denseblock3",
    denseblock4="norm5",
)
_SHUFFLENET = _ends(stem="conv1", stage2="stage2", stage3="stage3", stage4="stage4", conv5="conv5")
VIT = Family(r"vit_[a-z]_\d+", "heads", scaled_by_fan_in=True)

FAMILIES = (
    Family("|".join(SMALL_RESNETS), "fc", _RESNET),
    Family(r"resnet\d+|resnext\d+_.*|wide_resnet\d+_.*", "fc", _RESNET, small_stem=True),
    Family("alexnet", "classifier", _ALEXNET, scaled_by_fan_in=True),
    Family("caffenet|contextnet", None, _CAFFENET, scaled_by_fan_in=True),
    Family("inpaintnet", None, _INPAINTNET),
    Family("colornet", None, _COLORNET, scaled_by_fan_in=True),
    Family("color_alexnet", None, _COLOR_ALEXNET, scaled_by_fan_in=True),
    Family(r"vgg\d+(_bn)?", "classifier"),
    Family(r"densenet\d+", "classifier", _DENSENET, scaled_by_fan_in=True, relu_last=True),
    Family(r"efficientnet_.*", "classifier"),
    Family(r"convnext_.*", "classifier.2"),
    Family(r"mobilenet_v[23].*", "classifier"),
    Family(r"shufflenet_.*", "fc", _SHUFFLENET, scaled_by_fan_in=True),
    Family(r"regnet_.*", "fc"),
    Family(r"swin_.*", "head", scaled_by_fan_in=True, channels_last=True),
    VIT,
)
