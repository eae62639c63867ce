"""Any torchvision classification backbone, and our small ones, as an encoder with named stages.

An encoder is the backbone with its classifier taken off. The keys of
``encoder.backbone.state_dict()`` stay those of torchvision, so that the weights load into the plain
model. ``encoder(x)`` is one vector an image, ``encoder.map(x)`` the map that the vector summarizes,
``encoder.maps(x)`` one map for every named stage.

Letters used for shapes: B images, C input channels, H and W their sides in pixels, D width of the
pooled vector, C_s channels and h_s, w_s sides of stage s.

How it works: a torchvision model calls its parts in the order in which they are defined, ending in
a pooling and a classifier. The *chain* is the list of the parts before the pooling; a map is read
where the chain has a stage's end. What differs between families is a row of `ssltool.encoders.families`
each; the vision transformer, which adds a token, overrides the walk along the chain. An encoder cut
after one of its stages has the identity in place of the later parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain as joined

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision import models
from torchvision.models import VisionTransformer

from ssltool.encoders.families import Family
from ssltool.encoders.metadata import EncoderMetadata, Norm, Stage, Stem
from ssltool.errors import UnknownNameError

# Shapes are traced at this side: large enough that AlexNet's unpadded reductions round to their
# true strides.
_TRACE_SIDE = 256
# Channels and stride after each part of the chain, by name, stem and input channels: tracing takes
# 0.1 s or more.
_TRACED: dict[tuple[str, Stem, int], list[tuple[int, int]]] = {}


class Encoder(nn.Module):
    """A backbone without its classifier, with named stages. Build one with :func:`build_encoder`.

    Attributes:
        backbone: The torchvision (or our) module, its classifier replaced by the identity; keys
            unchanged.
        name: Name of the backbone.
        stem: ``"imagenet"``, the backbone's own, or ``"small"``: 3x3, stride 1, no max-pool.
        in_channels: C, 1 or 3.
        norm: What stands in place of batch norm; ``"batch"`` where the backbone is as it was
            published.
        image_size: Side in pixels of the only images it takes (vision transformers), else None.
        classifier: Path in the plain model of the classifier that was taken off; None where there
            is none.
        stages: The named stages in order. The last one is the map that :meth:`map` returns.
        width: D.
        metadata: What the weights file says, after ``load_encoder``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        stem: Stem,
        in_channels: int,
        norm: Norm,
        image_size: int | None,
        family: Family,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.stem = stem
        self.in_channels = in_channels
        self.norm = norm
        self.image_size = image_size
        self.classifier = family.classifier
        self.metadata: EncoderMetadata | None = None
        self._family = family
        self._chain, self.stages = self._find_stages()
        self.width = self.stages[-1].width

    def forward(self, x: Tensor) -> Tensor:
        """Pooled feature of each image, as the plain model would give it to its classifier.

        It is the global average of the last map. Three exceptions, all torchvision's own except the
        second: ConvNeXt normalizes the average; AlexNet and VGG, where torchvision keeps 6x6 or 7x7
        places, are averaged too; a vision transformer gives its class token after the final norm.

        Args:
            x: Float ``[B, C, H, W]``.

        Returns:
            ``[B, D]``.
        """
        pooled: Tensor = self.backbone(x)
        return pooled

    def map(self, x: Tensor) -> Tensor:
        """Last stage's map ``[B, C_last, h, w]`` of images ``[B, C, H, W]``: what the pooled
        feature summarizes.

        For AlexNet, CaffeNet, ContextNet and VGG it is the map after the last max-pool.
        """
        for _, found in self.walk(x):
            last = found
        return last

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Maps ``[B, C_s, h_s, w_s]`` of all stages by name, in the order of :attr:`stages`,
        channels first.
        """
        return dict(self.walk(x))

    def cut_after(self, stage: str) -> None:
        """Make ``stage`` the last one: what follows it becomes the identity, without parameters or
        keys.

        Raises:
            UnknownNameError: There is no such stage; the names are listed.
        """
        names = [known.name for known in self.stages]
        if stage not in names:
            raise UnknownNameError(f"stage of {self.name}", stage, names)
        if stage == names[-1]:
            return
        end = list(self._chain.values()).index(stage) + 1
        for path in list(self._chain)[end:]:
            self.backbone.set_submodule(path, nn.Identity())
        if isinstance(self.backbone, models.ConvNeXt):
            self.backbone.set_submodule(
                "classifier.0", nn.Identity()
            )  # it is as wide as the stage that is gone
        self._chain = dict(list(self._chain.items())[:end])
        self.stages = self.stages[: names.index(stage) + 1]
        self.width = self.stages[-1].width

    def walk(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Send ``x`` along the chain and yield name and map at each stage's end."""
        # Parts are looked up by path on every call because converting to synchronized batch norm
        # exchanges them.
        for path, stage in self._chain.items():
            x = self.backbone.get_submodule(path)(x)
            if stage:
                found = x.permute(0, 3, 1, 2) if self._family.channels_last else x
                last = stage == self.stages[-1].name
                yield stage, found.relu() if last and self._family.relu_last else found

    def _find_stages(self) -> tuple[dict[str, str | None], tuple[Stage, ...]]:
        """The chain (path to name of the stage that ends there, or None) and the stages."""
        paths = _chain_paths(self.backbone, self.classifier)
        key = (self.name, self.stem, self.in_channels)
        if key not in _TRACED:
            _TRACED[key] = _trace(
                self.backbone, paths, self.in_channels, self._family.channels_last
            )
        shapes = _TRACED[key]
        names = self._family.stages or _name_by_resolution(paths, [stride for _, stride in shapes])
        chain = {path: names.get(path) for path in paths}
        ends = zip(chain.values(), shapes, strict=True)
        return chain, tuple(Stage(name, width, stride) for name, (width, stride) in ends if name)


class ViTEncoder(Encoder):
    """A vision transformer: maps are the patch tokens after a quarter, half, three quarters and all
    of the blocks.
    """

    backbone: VisionTransformer

    def _find_stages(self) -> tuple[dict[str, str | None], tuple[Stage, ...]]:
        depth = len(self.backbone.encoder.layers)
        ends = [depth * quarter // 4 for quarter in (1, 2, 3, 4)]
        chain = {
            name: f"block{n}" if n in ends else None
            for n, name in enumerate(_block_names(self.backbone), 1)
        }
        width, stride = self.backbone.hidden_dim, self.backbone.patch_size
        return chain, tuple(Stage(name, width, stride) for name in chain.values() if name)

    def walk(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Send ``x`` through the blocks and yield name and map at each stage's end."""
        transformer = self.backbone.encoder
        patches = self.backbone.conv_proj(x)
        first = self.backbone.class_token.expand(len(x), -1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = transformer.dropout(tokens + transformer.pos_embedding)
        last = self.stages[-1].name
        for path, stage in self._chain.items():
            tokens = self.backbone.get_submodule(path)(tokens)
            if stage:
                shown = transformer.ln(tokens) if stage == last else tokens
                yield stage, shown[:, 1:].transpose(1, 2).unflatten(2, patches.shape[2:])


def _chain_paths(backbone: nn.Module, classifier: str | None) -> list[str]:
    """Paths of the parts before pooling and classifier, in the order in which the backbone calls
    them.
    """
    after = {"avgpool", "permute", "flatten", (classifier or "").split(".")[0]}
    paths = []
    for name, child in backbone.named_children():
        if name in ("features", "trunk_output"):
            paths += [f"{name}.{part}" for part, _ in child.named_children()]
        elif name not in after:
            paths.append(name)
    return paths


def _block_names(backbone: VisionTransformer) -> list[str]:
    return [f"encoder.layers.{part}" for part, _ in backbone.encoder.layers.named_children()]


def _trace(
    backbone: nn.Module, paths: list[str], channels: int, channels_last: bool
) -> list[tuple[int, int]]:
    """Channels and stride after each part of the chain; shapes only, nothing is computed."""
    x = torch.zeros(2, channels, _TRACE_SIDE, _TRACE_SIDE, device="meta")
    side, stride, found = _TRACE_SIDE, 1, []
    for path in paths:
        x = run_on_meta(backbone.get_submodule(path), x)
        width, now = (x.shape[3], x.shape[1]) if channels_last else (x.shape[1], x.shape[2])
        stride *= round(side / now)
        side = now
        found.append((width, stride))
    return found


def _name_by_resolution(paths: list[str], strides: list[int]) -> dict[str, str]:
    """Call the last part before each change of stride, and the very last part, stage1, stage2, ..."""
    following = [*strides[1:], None]
    ends = [path for path, now, then in zip(paths, strides, following, strict=True) if now != then]
    return {path: f"stage{number}" for number, path in enumerate(ends, 1)}


def run_on_meta(module: nn.Module, x: Tensor) -> Tensor:
    """Output shape of ``module`` in evaluation mode for a meta tensor, without touching its
    parameters.
    """
    state = {
        key: t.to("meta") for key, t in joined(module.named_parameters(), module.named_buffers())
    }
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            y: Tensor = functional_call(module, state, (x,))
    finally:
        for part, training in modes.items():
            part.training = training
    return y
