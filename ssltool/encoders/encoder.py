"""`Encoder`: a backbone without its classifier, with named stages and their feature maps.

The keys of ``encoder.backbone.state_dict()`` are those of torchvision, or of timm
(`ssltool.encoders.timm_encoder`), so the weights load into the plain model. ``encoder(x)`` is the
pooled feature of each image, ``encoder.map(x)`` the map that is pooled, ``encoder.maps(x)`` the map
of every named stage.

A torchvision model calls its modules in the order in which they are defined, ending with pooling
and a classifier. The *chain* is the list of the modules before pooling; a map is read after the
last module of each stage. `ssltool.encoders.families` holds what differs between families. A
vision transformer, which adds a class token, has a walk of its own. In an encoder that was cut
after a stage, the later modules are identities.

Shapes: B images, C input channels, H and W sides in pixels, D dimensions of the pooled feature,
C_s channels and h_s, w_s sides of the map of stage s.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import VisionTransformer

from ssltool.encoders.dry_run import run_on_meta
from ssltool.encoders.families import Family
from ssltool.encoders.metadata import EncoderMetadata, Norm, Stage, Stem
from ssltool.encoders.transform import InputTransform
from ssltool.errors import UnknownNameError, UsageError

# Strides are traced at this side: large enough that AlexNet's unpadded reductions round correctly.
_TRACE_SIDE = 256
# Channels and stride after each module of the chain, by name, stem and input channels: a trace
# takes 0.1 s or more.
_TRACED: dict[tuple[str, Stem, int], list[tuple[int, int]]] = {}


class Encoder(nn.Module):
    """A backbone without its classifier, with named stages.

    `ssltool.encoders.registry.build_encoder` builds one.

    Attributes:
        backbone: The torchvision module (or one of ours), its classifier replaced by the identity;
            keys unchanged.
        name: Name of the backbone.
        stem: ``"imagenet"``, the backbone's own, or ``"small"``: 3x3, stride 1, no max-pool.
        in_channels: C.
        norm: What replaces batch norm; ``"batch"`` if the backbone is as published.
        image_size: Side in pixels of the only images it takes (vision transformers), else None.
        classifier: Path in the plain model of the classifier that was removed; None if there is
            none.
        stages: The named stages in order. The last one is the map that :meth:`map` returns.
        width: D.
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
        self._metadata: EncoderMetadata | None = None
        self._family = family
        self._chain, self.stages = self._find_stages()
        self.width = self.stages[-1].width

    @property
    def position_size(self) -> int | None:
        """Side in pixels of the images that its position embeddings are for; None without any.

        Images of another size are encoded if ``image_size`` is None: positions are interpolated.
        """
        return self.image_size

    @property
    def patch(self) -> int | None:
        """Side in pixels of the patches of which sides of images are multiples; None if any side
        will do.
        """
        return None

    @property
    def usual_size(self) -> int:
        """Side in pixels of the images that the backbone was published for."""
        return 224

    @property
    def timm_version(self) -> str | None:
        """Version of timm that built the backbone; None for other backbones."""
        return None

    @property
    def metadata(self) -> EncoderMetadata:
        """What the weights file says of itself; `load_encoder` attaches it.

        Raises:
            RuntimeError: The encoder was not loaded from a file.
        """
        if self._metadata is None:
            raise RuntimeError(f"this {self.name} was not loaded from a file: it has no metadata")
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: EncoderMetadata) -> None:
        self._metadata = metadata

    @property
    def transform(self) -> InputTransform:
        """From uint8 RGB images ``[B, 3, S, S]`` to the encoder's input, as ``metadata`` says."""
        return InputTransform.of(self.metadata)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled feature of each image, as the plain model would give it to its classifier.

        It is the global average of the last map, with three exceptions: ConvNeXt normalizes the
        average, and a vision transformer returns its class token after the final norm, as in
        torchvision; AlexNet and VGG, which torchvision pools to 6x6 or 7x7, are averaged too.

        Args:
            x: Float ``[B, C, H, W]``.

        Returns:
            ``[B, D]``.

        Raises:
            UsageError: ``x`` has another number of channels, or is not floating point.
        """
        self._check(x)
        pooled: Tensor = self.backbone(x)
        return pooled

    def map(self, x: Tensor) -> Tensor:
        """Map of the last stage, which the pooled feature summarizes.

        For AlexNet, CaffeNet, ContextNet and VGG it is the map after the last max-pool.

        Args:
            x: Float ``[B, C, H, W]``.

        Returns:
            ``[B, C_last, h, w]``.
        """
        self._check(x)
        for _, feature_map in self.walk(x):
            last = feature_map
        return last

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Maps ``[B, C_s, h_s, w_s]`` of all stages by name, in the order of :attr:`stages`."""
        self._check(x)
        return dict(self.walk(x))

    def cut_after(self, stage: str) -> None:
        """Make ``stage`` the last one: later modules become identities, without parameters or keys.

        Raises:
            UnknownNameError: There is no such stage; the names are listed.
        """
        self._check_stage(stage)
        names = [each.name for each in self.stages]
        if stage == names[-1]:
            return
        end = list(self._chain.values()).index(stage) + 1
        for path in list(self._chain)[end:]:
            self.backbone.set_submodule(path, nn.Identity())
        if isinstance(self.backbone, models.ConvNeXt):
            # Its norm is as wide as the stage that was removed.
            self.backbone.set_submodule("classifier.0", nn.Identity())
        self._chain = dict(list(self._chain.items())[:end])
        self.stages = self.stages[: names.index(stage) + 1]
        self.width = self.stages[-1].width

    def paths_up_to(self, stage: str) -> list[str]:
        """Paths in the backbone of the modules, and of tensors outside of them, that the map of a
        stage is computed by.

        Raises:
            UnknownNameError: There is no such stage; the names are listed.
        """
        self._check_stage(stage)
        return list(self._chain)[: list(self._chain.values()).index(stage) + 1]

    def walk(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Send ``x`` along the chain and yield name and map at the end of each stage."""
        # Modules are looked up by path on every call: a conversion to synchronized batch norm
        # replaces them.
        for path, stage in self._chain.items():
            x = self.backbone.get_submodule(path)(x)
            if stage:
                feature_map = x.permute(0, 3, 1, 2) if self._family.channels_last else x
                if stage == self.stages[-1].name and self._family.relu_last:
                    feature_map = feature_map.relu()
                yield stage, feature_map

    def _check_stage(self, stage: str) -> None:
        names = [each.name for each in self.stages]
        if stage not in names:
            raise UnknownNameError(f"stage of {self.name}", stage, names)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels or not x.is_floating_point():
            dtype = str(x.dtype).removeprefix("torch.")
            raise UsageError(
                f"{self.name} takes float [B, {self.in_channels}, H, W] but was given {dtype} "
                f"{list(x.shape)}; encoder.transform converts uint8 [B, 3, S, S] images"
            )

    def _find_stages(self) -> tuple[dict[str, str | None], tuple[Stage, ...]]:
        """The chain (path to the name of the stage that ends there, or None) and the stages."""
        paths = _chain_paths(self.backbone, self.classifier)
        key = (self.name, self.stem, self.in_channels)
        if key not in _TRACED:
            channels_last = self._family.channels_last
            _TRACED[key] = _trace(self.backbone, paths, self.in_channels, channels_last)
        shapes = _TRACED[key]
        names = self._family.stages or _name_by_resolution(paths, [stride for _, stride in shapes])
        chain = {path: names.get(path) for path in paths}
        ends = zip(chain.values(), shapes, strict=True)
        return chain, tuple(Stage(name, width, stride) for name, (width, stride) in ends if name)


class ViTEncoder(Encoder):
    """A vision transformer; its stages end after each quarter of the blocks.

    The maps hold the patch tokens, without the class token.
    """

    backbone: VisionTransformer

    @property
    def patch(self) -> int:
        """See `Encoder.patch`."""
        return int(self.backbone.patch_size)

    def _find_stages(self) -> tuple[dict[str, str | None], tuple[Stage, ...]]:
        blocks = self.backbone.encoder.layers
        ends = [len(blocks) * quarter // 4 for quarter in (1, 2, 3, 4)]
        chain = {
            f"encoder.layers.{name}": f"block{number}" if number in ends else None
            for number, (name, _) in enumerate(blocks.named_children(), 1)
        }
        width, stride = self.backbone.hidden_dim, self.backbone.patch_size
        return chain, tuple(Stage(name, width, stride) for name in chain.values() if name)

    def paths_up_to(self, stage: str) -> list[str]:
        """See `Encoder.paths_up_to`; patches, class token and positions are before all blocks."""
        return ["conv_proj", "class_token", "encoder.pos_embedding", *super().paths_up_to(stage)]

    def walk(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Send ``x`` through the blocks and yield name and map at the end of each stage."""
        transformer = self.backbone.encoder
        patches = self.backbone.conv_proj(x)
        class_token = self.backbone.class_token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = transformer.dropout(tokens + transformer.pos_embedding)
        last = self.stages[-1].name
        for path, stage in self._chain.items():
            tokens = self.backbone.get_submodule(path)(tokens)
            if stage:
                outputs = transformer.ln(tokens) if stage == last else tokens
                yield stage, outputs[:, 1:].transpose(1, 2).unflatten(2, patches.shape[2:])


def _chain_paths(backbone: nn.Module, classifier: str | None) -> list[str]:
    """Paths of the modules before pooling and classifier, in the order of the forward pass."""
    after = {"avgpool", "permute", "flatten", (classifier or "").split(".")[0]}
    paths = []
    for name, child in backbone.named_children():
        if name in ("features", "trunk_output"):
            paths += [f"{name}.{part}" for part, _ in child.named_children()]
        elif name not in after:
            paths.append(name)
    return paths


def _trace(
    backbone: nn.Module, paths: list[str], channels: int, channels_last: bool
) -> list[tuple[int, int]]:
    """Channels and stride after each module of the chain, by a run on the meta device."""
    x = torch.zeros(2, channels, _TRACE_SIDE, _TRACE_SIDE, device="meta")
    previous, stride, shapes = _TRACE_SIDE, 1, []
    for path in paths:
        x = run_on_meta(backbone.get_submodule(path), x)
        width, side = (x.shape[3], x.shape[1]) if channels_last else (x.shape[1], x.shape[2])
        stride *= round(previous / side)
        previous = side
        shapes.append((width, stride))
    return shapes


def _name_by_resolution(paths: list[str], strides: list[int]) -> dict[str, str]:
    """Name the last module before each change of stride, and the very last, stage1, stage2, ..."""
    following = [*strides[1:], None]
    ends = [path for path, now, then in zip(paths, strides, following, strict=True) if now != then]
    return {path: f"stage{number}" for number, path in enumerate(ends, 1)}
