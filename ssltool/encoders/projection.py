"""The projection of instance discrimination: pooled features to unit vectors, and its file.

The file lies beside a weights file, ``encoder.projection.safetensors`` beside
``encoder.safetensors``: ``linear.weight`` ``[D, F]``, ``linear.bias`` ``[D]`` and, with a norm,
its running statistics. Its metadata have one entry, ``ssltool``: `ProjectionMetadata` as JSON.

Letters: B images, F dimensions of the pooled feature, D of the projection.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.arrays import open_tensors
from ssltool.atomic import atomic_file
from ssltool.documents import DocumentError, parse_json, validated
from ssltool.encoders.metadata import EncoderMetadata, TrainingSummary
from ssltool.errors import WeightsError

FORMAT: Final = 1
_METADATA_KEY = "ssltool"
_EPS = 1e-6  # smallest norm that a vector is divided by


class Projection(nn.Module):
    """A linear layer, optionally a batch norm without scale, and the division by the length.

    Wu et al. 2018, section 3.1. Computed in float32 at any precision.

    Args:
        linear: F -> D.
        norm: Batch norm without scale, or the identity.
    """

    def __init__(self, linear: nn.Linear, norm: nn.Module) -> None:
        super().__init__()
        self.linear, self.norm = linear, norm

    @classmethod
    def build(cls, width: int, dim: int, *, norm: bool) -> Projection:
        """An untrained projection from F = ``width`` to D = ``dim`` dimensions."""
        batch_norm = nn.BatchNorm1d(dim, affine=False) if norm else nn.Identity()
        return cls(nn.Linear(width, dim), batch_norm)

    def forward(self, pooled: Tensor) -> Tensor:
        """Unit vectors float32 ``[B, D]`` of pooled features ``[B, F]``."""
        with torch.autocast(pooled.device.type, enabled=False):
            return F.normalize(self.norm(self.linear(pooled.float())), eps=_EPS)


class ProjectionMetadata(BaseModel):
    """What a projection's file says of itself.

    Attributes:
        format: 1.
        method: Pretext task that trained it.
        width: F, that of the encoder.
        dim: D.
        norm: Whether the linear layer is followed by a batch norm without scale.
        training: As in the metadata of the encoder it belongs to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = FORMAT
    method: str = Field(max_length=200)
    width: int = Field(ge=1)
    dim: int = Field(ge=1)
    norm: bool
    training: TrainingSummary | None = None


def projection_path(weights: Path) -> Path:
    """Where the projection of a weights file lies."""
    return weights.with_suffix(".projection.safetensors")


def save_projection(projection: Projection, metadata: EncoderMetadata, weights: Path) -> Path:
    """Write the projection beside a weights file; equal tensors and metadata give equal bytes.

    Args:
        projection: Of the encoder.
        metadata: Of the encoder.
        weights: The encoder's file.

    Returns:
        The file.

    Raises:
        DiskFullError, CheckpointError: It cannot be written.
    """
    own = ProjectionMetadata(
        method=metadata.method,
        width=projection.linear.in_features,
        dim=projection.linear.out_features,
        norm=isinstance(projection.norm, nn.BatchNorm1d),
        training=metadata.training,
    )
    tensors = {
        key: tensor.detach().to("cpu", copy=True).contiguous()
        for key, tensor in projection.state_dict().items()
    }
    text = json.dumps(own.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    path = projection_path(weights)
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={_METADATA_KEY: text})
    return path


def load_projection(weights: Path, metadata: EncoderMetadata) -> Projection | None:
    """The projection beside a weights file, in evaluation mode; None if there is none.

    Args:
        weights: The encoder's file.
        metadata: Of the encoder.

    Raises:
        WeightsError: It is damaged, or of another encoder.
    """
    path = projection_path(weights)
    if not path.is_file():
        return None
    try:
        with open_tensors(path) as file:
            text = (file.metadata() or {}).get(_METADATA_KEY, "")
            own = validated(ProjectionMetadata, parse_json(text))
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        expected = (metadata.method, metadata.width, metadata.training)
        if (own.method, own.width, own.training) != expected:
            raise DocumentError("it belongs to another encoder, or to other steps of it")
        with torch.device("meta"):
            projection = Projection.build(own.width, own.dim, norm=own.norm)
        _check(tensors, projection.state_dict())
    except DocumentError as error:
        raise WeightsError(
            f"{path} cannot be used: {error}; copy it again together with {weights.name}, or "
            "remove it"
        ) from error
    projection.load_state_dict(tensors, assign=True)
    return projection.eval().requires_grad_(False)


def _check(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse other keys, shapes or dtypes, and values that are not finite.

    Raises:
        DocumentError: The first fault.
    """
    if tensors.keys() != expected.keys():
        raise DocumentError(f"it holds {sorted(tensors)[:5]} instead of {sorted(expected)}")
    for key, tensor in tensors.items():
        found, right = (tensor.shape, tensor.dtype), (expected[key].shape, expected[key].dtype)
        if found != right:
            raise DocumentError(f"{key} is {list(found[0])} {found[1]} instead of {list(right[0])}")
        if not tensor.isfinite().all():
            raise DocumentError(f"{key} holds NaN or infinity")
