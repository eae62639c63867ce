"""The backbones: names, parameters, stages and smallest inputs, known without torch.

`ssltool.encoders.registry` builds them; a test compares this table with what it builds.
"""

from __future__ import annotations

from typing import NamedTuple

from ssltool.encoders.timm_names import check_timm, is_timm
from ssltool.errors import UnknownNameError


class Backbone(NamedTuple):
    """What is known of a backbone without building it.

    Attributes:
        parameters: Of the encoder, without a classifier, for three channels and its own stem.
        smallest: Side in pixels of the smallest input.
        smallest_map: Likewise, of which the map of the first stage is at least 2x2.
        stages: Names of its stages.
        patch: Side in pixels of a vision transformer's patches, of which sides are multiples; 0 for
            others.
    """

    parameters: int
    smallest: int
    smallest_map: int
    stages: tuple[str, ...]
    patch: int = 0

    def takes(self, side: int, least: int = 1) -> bool:
        """Whether inputs of ``side`` px are taken, and give the first stage a map of ``least``, 1
        or 2, by as many positions.
        """
        if self.patch:
            return side % self.patch == 0 and side // self.patch >= least
        return side >= (self.smallest if least == 1 else self.smallest_map)


def check_name(name: str) -> None:
    """Make sure that there is a backbone; of a network of timm, that timm is installed.

    Raises:
        UnknownNameError: There is none of this name; the nearest are suggested.
        UsageError: The name of a network of timm is malformed, or timm is not installed.
    """
    if is_timm(name):
        check_timm(name)
        return
    if name not in BACKBONES:
        raise UnknownNameError("backbone", name, BACKBONES, hint="'ssltool backbones' lists them")


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"stage{n}" for n in range(1, count + 1))


_ALEXNET = ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5")
_DENSENET = ("stem", "denseblock1", "denseblock2", "denseblock3", "denseblock4")
_RESNET = ("stem", "layer1", "layer2", "layer3", "layer4")
_SMALL_RESNET = ("stem", "layer1", "layer2", "layer3")

BACKBONES = {
    "alexnet": Backbone(2_469_696, 63, 11, _ALEXNET),
    "caffenet": Backbone(2_334_080, 25, 13, _ALEXNET),
    "color_alexnet": Backbone(2_334_080, 1, 5, _ALEXNET),
    "colornet": Backbone(
        28_873_536, 1, 3, ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7")
    ),
    "contextnet": Backbone(3_747_200, 29, 5, _ALEXNET),
    "convnext_base": Backbone(87_566_464, 32, 8, _numbered(4)),
    "convnext_large": Backbone(196_230_336, 32, 8, _numbered(4)),
    "convnext_small": Backbone(49_454_688, 32, 8, _numbered(4)),
    "convnext_tiny": Backbone(27_820_128, 32, 8, _numbered(4)),
    "densenet121": Backbone(6_953_856, 29, 3, _DENSENET),
    "densenet161": Backbone(26_472_000, 29, 3, _DENSENET),
    "densenet169": Backbone(12_484_480, 29, 3, _DENSENET),
    "densenet201": Backbone(18_092_928, 29, 3, _DENSENET),
    "efficientnet_b0": Backbone(4_007_548, 1, 3, _numbered(5)),
    "efficientnet_b1": Backbone(6_513_184, 1, 3, _numbered(5)),
    "efficientnet_b2": Backbone(7_700_994, 1, 3, _numbered(5)),
    "efficientnet_b3": Backbone(10_696_232, 1, 3, _numbered(5)),
    "efficientnet_b4": Backbone(17_548_616, 1, 3, _numbered(5)),
    "efficientnet_b5": Backbone(28_340_784, 1, 3, _numbered(5)),
    "efficientnet_b6": Backbone(40_735_704, 1, 3, _numbered(5)),
    "efficientnet_b7": Backbone(63_786_960, 1, 3, _numbered(5)),
    "efficientnet_v2_l": Backbone(117_234_272, 1, 3, _numbered(5)),
    "efficientnet_v2_m": Backbone(52_858_356, 1, 3, _numbered(5)),
    "efficientnet_v2_s": Backbone(20_177_488, 1, 3, _numbered(5)),
    "inpaintnet": Backbone(
        35_599_040, 128, 4, ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
    ),
    "mobilenet_v2": Backbone(2_223_872, 1, 3, _numbered(5)),
    "mobilenet_v3_large": Backbone(2_971_952, 1, 3, _numbered(5)),
    "mobilenet_v3_small": Backbone(927_008, 1, 3, _numbered(5)),
    "regnet_x_16gf": Backbone(52_229_536, 1, 3, _numbered(5)),
    "regnet_x_1_6gf": Backbone(8_277_136, 1, 3, _numbered(5)),
    "regnet_x_32gf": Backbone(105_290_560, 1, 3, _numbered(5)),
    "regnet_x_3_2gf": Backbone(14_287_552, 1, 3, _numbered(5)),
    "regnet_x_400mf": Backbone(5_094_976, 1, 3, _numbered(5)),
    "regnet_x_800mf": Backbone(6_586_656, 1, 3, _numbered(5)),
    "regnet_x_8gf": Backbone(37_651_648, 1, 3, _numbered(5)),
    "regnet_y_128gf": Backbone(637_419_894, 1, 3, _numbered(5)),
    "regnet_y_16gf": Backbone(80_565_140, 1, 3, _numbered(5)),
    "regnet_y_1_6gf": Backbone(10_313_430, 1, 3, _numbered(5)),
    "regnet_y_32gf": Backbone(141_333_770, 1, 3, _numbered(5)),
    "regnet_y_3_2gf": Backbone(17_923_338, 1, 3, _numbered(5)),
    "regnet_y_400mf": Backbone(3_903_144, 1, 3, _numbered(5)),
    "regnet_y_800mf": Backbone(5_647_512, 1, 3, _numbered(5)),
    "regnet_y_8gf": Backbone(37_364_472, 1, 3, _numbered(5)),
    "resnet101": Backbone(42_500_160, 1, 3, _RESNET),
    "resnet10_w32": Backbone(1_226_400, 1, 2, _RESNET),
    "resnet10_w32_s2": Backbone(1_226_400, 1, 3, _RESNET),
    "resnet152": Backbone(58_143_808, 1, 3, _RESNET),
    "resnet18": Backbone(11_176_512, 1, 3, _RESNET),
    "resnet20": Backbone(271_824, 1, 2, _SMALL_RESNET),
    "resnet32": Backbone(466_256, 1, 2, _SMALL_RESNET),
    "resnet34": Backbone(21_284_672, 1, 3, _RESNET),
    "resnet44": Backbone(660_688, 1, 2, _SMALL_RESNET),
    "resnet50": Backbone(23_508_032, 1, 3, _RESNET),
    "resnet56": Backbone(855_120, 1, 2, _SMALL_RESNET),
    "resnext101_32x8d": Backbone(86_742_336, 1, 3, _RESNET),
    "resnext101_64x4d": Backbone(81_406_272, 1, 3, _RESNET),
    "resnext50_32x4d": Backbone(22_979_904, 1, 3, _RESNET),
    "shufflenet_v2_x0_5": Backbone(341_792, 1, 3, ("stem", "stage2", "stage3", "stage4", "conv5")),
    "shufflenet_v2_x1_0": Backbone(
        1_253_604, 1, 3, ("stem", "stage2", "stage3", "stage4", "conv5")
    ),
    "shufflenet_v2_x1_5": Backbone(
        2_478_624, 1, 3, ("stem", "stage2", "stage3", "stage4", "conv5")
    ),
    "shufflenet_v2_x2_0": Backbone(
        5_344_996, 1, 3, ("stem", "stage2", "stage3", "stage4", "conv5")
    ),
    "swin_b": Backbone(86_743_224, 4, 8, _numbered(4)),
    "swin_s": Backbone(48_837_258, 4, 8, _numbered(4)),
    "swin_t": Backbone(27_519_354, 4, 8, _numbered(4)),
    "swin_v2_b": Backbone(86_905_848, 4, 8, _numbered(4)),
    "swin_v2_s": Backbone(48_968_442, 4, 8, _numbered(4)),
    "swin_v2_t": Backbone(27_582_570, 4, 8, _numbered(4)),
    "vgg11": Backbone(9_220_480, 32, 2, _numbered(6)),
    "vgg11_bn": Backbone(9_225_984, 32, 2, _numbered(6)),
    "vgg13": Backbone(9_404_992, 32, 2, _numbered(6)),
    "vgg13_bn": Backbone(9_410_880, 32, 2, _numbered(6)),
    "vgg16": Backbone(14_714_688, 32, 2, _numbered(6)),
    "vgg16_bn": Backbone(14_723_136, 32, 2, _numbered(6)),
    "vgg19": Backbone(20_024_384, 32, 2, _numbered(6)),
    "vgg19_bn": Backbone(20_035_392, 32, 2, _numbered(6)),
    "vit_b_16": Backbone(85_798_656, 16, 32, ("block3", "block6", "block9", "block12"), 16),
    "vit_b_32": Backbone(87_455_232, 32, 64, ("block3", "block6", "block9", "block12"), 32),
    "vit_h_14": Backbone(630_764_800, 14, 28, ("block8", "block16", "block24", "block32"), 14),
    "vit_l_16": Backbone(303_301_632, 16, 32, ("block6", "block12", "block18", "block24"), 16),
    "vit_l_32": Backbone(305_510_400, 32, 64, ("block6", "block12", "block18", "block24"), 32),
    "wide_resnet101_2": Backbone(124_837_696, 1, 3, _RESNET),
    "wide_resnet50_2": Backbone(66_834_240, 1, 3, _RESNET),
}
