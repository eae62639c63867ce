"""timm folders: ``config.json`` and ``model.safetensors`` under timm's architecture and key names.

``timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0)`` and transformers'
``AutoModel.from_pretrained("FOLDER")`` open one. ResNets and DenseNets have the same keys in both
libraries. In other families the modules have other names but the same order, so the n-th tensor of
a shape here is the n-th of that shape there, with two exceptions, see `_order`. That this is right
is not assumed: every export is loaded by timm and its features are compared.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssltool.encoders.catalog import BACKBONES
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.timm_names import TimmName, is_timm
from ssltool.errors import SslToolError, UsageError
from ssltool.exporting.input_forms import expand_gray

WEIGHTS, CONFIG = "model.safetensors", "config.json"

_REGNET_SIZES = {"400mf": 4, "800mf": 8, "1_6gf": 16, "3_2gf": 32, "8gf": 80, "16gf": 160,
                 "32gf": 320, "128gf": 1280}  # fmt: skip
_PLAIN = {
    **{f"vit_{size[0]}_{patch}": f"vit_{size}_patch{patch}_224" for size, patch in
       (("base", 16), ("base", 32), ("large", 16), ("large", 32), ("huge", 14))},
    **{f"swin_{size[0]}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")},
    **{f"efficientnet_v2_{size}": f"efficientnetv2_{size}" for size in "sml"},
    "mobilenet_v2": "mobilenetv2_100",
}  # fmt: skip
# Where timm has both a paper's and torchvision's reading of it.
_TORCHVISIONS_OWN = {name: f"{name}_tv" for name in ("regnetx_004", "regnety_008", "regnety_080")}
_SAME = re.compile(
    r"resnet(18|34|50|101|152)|resnext\d+_.*|wide_resnet\d+_2|densenet\d+|efficientnet_b\d"
    r"|convnext_.*"
)
_WITHOUT_BATCH_NORM = ("convnext", "swin", "vit")
_REASONS = {
    r"mobilenet_v3_.*": "timm's applies one more layer after pooling, which these weights lack",
    r"vgg.*": "timm's applies two more layers after the last map, which these weights lack",
    r"swin_v2_.*": "timm's stores its attention in another form",
}


class Architecture(NamedTuple):
    """A network of timm.

    Attributes:
        name: As `timm.create_model` takes it.
        arguments: Of `timm.create_model`, beside the name; they are plain JSON.
    """

    name: str
    arguments: dict[str, Any]


def architecture(encoder: Encoder) -> Architecture:
    """The network of timm that computes what an encoder does.

    Raises:
        UsageError: timm has none, or its transform cannot make the encoder's input; the message
            says why and which formats work.
    """
    metadata = encoder.metadata
    if metadata.color_space not in ("rgb", "channels"):
        form = "type --form rgb for an approximation" if metadata.in_channels == 1 else "export rgb"
        raise _refusal(
            f"these weights read {metadata.color_space}, which timm's transform cannot make; {form}"
        )
    if metadata.standardize != "data":
        raise _refusal(
            "these weights read images normalized each by its own mean and deviation, and timm's "
            "transform has only fixed ones; type --fixed-norm for an approximation"
        )
    if encoder.stem == "small":
        raise _refusal("timm's ResNets have no 3x3 stem without max-pool")
    if is_timm(encoder.name):
        found = _own(encoder)
    else:
        found = Architecture(_name(encoder.name), _arguments(encoder))
    if metadata.color_space == "channels" and encoder.in_channels != 3:
        found.arguments["in_chans"] = encoder.in_channels
    return found


def write(encoder: Encoder, folder: Path) -> Architecture:
    """Write ``config.json`` and ``model.safetensors``.

    An encoder of one channel, the mean of R, G and B, becomes one of three: a third of each kernel
    for each color, which computes the same.

    Args:
        encoder: On the CPU, with its metadata; not changed.
        folder: Where the files go.

    Raises:
        UsageError: See `architecture`.
        SslToolError: timm is not installed, or its network has other tensors.
    """
    found = architecture(encoder)
    model = _build(found)
    if encoder.in_channels == 1 and encoder.metadata.color_space == "rgb":
        encoder = expand_gray(encoder)
    tensors = renamed(encoder.backbone.state_dict(), model.state_dict())
    if tensors is None:
        raise _refusal(f"the {found.name} of the installed timm has other tensors")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    document = json.dumps(_config(encoder, found, model), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(document + "\n", encoding="utf-8")
    return found


def renamed(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Give tensors the keys of another network of the same structure.

    Args:
        tensors: State dict of one network.
        expected: State dict of the other; only its keys and shapes are read.

    Returns:
        The tensors by the other network's keys, in its shapes; None if they do not fit.
    """
    if {key: t.shape for key, t in tensors.items()} == {k: t.shape for k, t in expected.items()}:
        return {key: tensor.contiguous() for key, tensor in tensors.items()}
    queues: dict[tuple[int, ...], deque[Tensor]] = defaultdict(deque)
    for key in _order(tensors):
        queues[_squeezed(tensors[key])].append(tensors[key])
    if sum(map(len, queues.values())) != len(expected):
        return None
    found = {}
    for key, tensor in expected.items():
        queue = queues[_squeezed(tensor)]
        if not queue:
            return None
        found[key] = queue.popleft().reshape(tensor.shape).contiguous()
    return found


def _order(keys: Iterable[str]) -> list[str]:
    """Keys of torchvision in timm's order: a RegNet block ends with its projection; the table of
    relative positions' index is computed by timm.
    """
    kept = [key for key in keys if not key.endswith("relative_position_index")]
    blocks: dict[str, list[str]] = defaultdict(list)
    for key in kept:
        block = re.match(r"trunk_output\.[^.]+\.[^.]+\.", key)
        blocks[block[0] if block else key].append(key)
    return [
        key for part in blocks.values() for key in sorted(part, key=lambda key: ".proj." in key)
    ]


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """A shape without sides of 1: timm keeps some scales and 1x1 convolutions as vectors and
    matrices.
    """
    return tuple(side for side in tensor.shape if side != 1)


def _name(backbone: str) -> str:
    if _SAME.fullmatch(backbone):
        return backbone
    if backbone in _PLAIN:
        return _PLAIN[backbone]
    regnet = re.fullmatch(r"regnet_([xy])_(.*)", backbone)
    if regnet:
        name = f"regnet{regnet[1]}_{_REGNET_SIZES[regnet[2]]:03d}"
        return _TORCHVISIONS_OWN.get(name, name)
    reasons = (reason for pattern, reason in _REASONS.items() if re.fullmatch(pattern, backbone))
    raise _refusal(next(reasons, f"timm has no {backbone}"))


def _own(encoder: Encoder) -> Architecture:
    """A backbone that is timm's already."""
    name = TimmName.parse(encoder.name)
    arguments: dict[str, Any] = {}
    if encoder.norm != "batch":
        raise _refusal(f"{name.model} with norm {encoder.norm!r} is none of timm's")
    if encoder.position_size is not None:
        arguments["img_size"] = encoder.position_size
    if name.patch_size is not None:
        arguments["patch_size"] = name.patch_size
    blocks = getattr(encoder.backbone, "blocks", None)
    last = encoder.stages[-1].name
    if last.startswith("block") and blocks is not None:
        arguments["depth"] = len(blocks)
    return Architecture(name.model, arguments)


def _arguments(encoder: Encoder) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    name, stages = encoder.name, [stage.name for stage in encoder.stages]
    if name.startswith(("resnet", "resnext", "wide_resnet")):
        arguments |= _resnet_arguments(encoder, stages)
    elif encoder.norm != "batch" and not name.startswith(_WITHOUT_BATCH_NORM):
        raise _refusal(f"timm's {name} has no norm {encoder.norm!r}")
    elif len(stages) < len(BACKBONES[name].stages):
        if not name.startswith("vit"):
            raise _refusal(f"timm's {name} cannot end after {stages[-1]}")
        arguments["depth"] = int(stages[-1].removeprefix("block"))
    if name.startswith("vit"):
        arguments["img_size"] = encoder.image_size
    if name.startswith("swin"):
        arguments["img_size"] = _swin_side(encoder)
    if name.startswith(("efficientnet", "mobilenet")):
        norm = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
        arguments["bn_eps"] = norm.eps
    return arguments


def _swin_side(encoder: Encoder) -> int:
    """Side of images whose maps in a Swin transformer are whole windows of 7 at every stage."""
    side = encoder.metadata.image_size
    if side % 224:
        raise _refusal(
            f"timm and torchvision pad windows differently, so {encoder.name} needs images of 224 "
            f"px or a multiple, and these weights read {side} px"
        )
    return side


def _resnet_arguments(encoder: Encoder, stages: list[str]) -> dict[str, Any]:
    """Group norm in place of batch norm, and stages without blocks for those that were cut."""
    arguments: dict[str, Any] = {}
    if encoder.norm == "ln":
        arguments["norm_layer"] = "groupnorm1"
    elif encoder.norm != "batch":
        raise _refusal(f"timm's {encoder.name} has no norm {encoder.norm!r}")
    layers = [stage for stage in stages if stage != "stem"]
    if not layers:
        raise _refusal(f"timm's {encoder.name} cannot end after its stem")
    if len(layers) < 4:
        blocks = [len(list(encoder.backbone.get_submodule(layer).children())) for layer in layers]
        widths = [64 * 2**number for number in range(len(layers))]
        missing = 4 - len(layers)
        arguments["layers"] = blocks + [0] * missing
        arguments["channels"] = widths + widths[-1:] * missing
    return arguments


def _build(found: Architecture) -> nn.Module:
    """The network of timm, on the meta device.

    Raises:
        SslToolError: timm is not installed.
        UsageError: The installed timm does not have it.
    """
    try:
        import timm
    except ImportError as error:
        raise SslToolError("--format timm needs timm; type pip install 'ssltool[timm]'") from error
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(found.name, num_classes=0, **found.arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise _refusal(f"the installed timm cannot build {found.name}: {reason}") from error
    return model


def _config(encoder: Encoder, found: Architecture, model: nn.Module) -> dict[str, Any]:
    """``config.json`` as timm and transformers read it."""
    metadata = encoder.metadata
    side = metadata.image_size
    own = getattr(model, "pretrained_cfg", None) or {}
    pretrained = {
        "classifier": own.get("classifier"),
        "crop_mode": "center",
        "crop_pct": 1.0,
        # Named, timm would convert the weights to in_chans once more.
        "first_conv": None if "in_chans" in found.arguments else own.get("first_conv"),
        "fixed_input_size": "img_size" in found.arguments,
        "input_size": [found.arguments.get("in_chans", 3), side, side],
        "interpolation": "bilinear",
        "mean": list(metadata.mean),
        "num_classes": 0,
        "pool_size": None,
        "std": list(metadata.std),
        "tag": f"ssltool_{metadata.method}".replace("-", "_"),
    }
    return {
        "architecture": found.name,
        "model_args": found.arguments,
        "num_classes": 0,
        "num_features": encoder.width,
        "pretrained_cfg": pretrained,
    }


def _refusal(reason: str) -> UsageError:
    return UsageError(f"--format timm: {reason}; these work: --format safetensors,onnx,torch")
