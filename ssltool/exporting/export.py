"""Hand an encoder on: write it where it is wanted, load it back, describe it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.atomic import atomic_file
from ssltool.data.sample import sample
from ssltool.data.sources.registry import open_source
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import find_weights, load_encoder
from ssltool.errors import UsageError
from ssltool.exporting import forms, torchvision
from ssltool.exporting.model_card import model_card
from ssltool.probing.features import POOLED, extract

_PICTURES, _BATCH = 512, 64  # looked at to judge a form


def export(
    weights: Path, to: Path, *, form: forms.Form | None = None, data: Sequence[str] = ()
) -> dict[str, Any]:
    """Run ``ssltool export``.

    Args:
        weights: A run folder or a weights file.
        to: A ``.safetensors`` file to write; a model card goes beside it, with the suffix ``.md``.
        form: What an encoder that reads lightness shall read, see `ssltool.exporting.forms`; as it
            is if not given.
        data: Images on which to say how near the form comes to the weights.

    Returns:
        ``path, card, tensors, parameters`` and the weights' description, in JSON kinds; with
        ``data`` also ``similarity``, the mean cosine between the features of the form and those of
        the weights.
    """
    if to.suffix != ".safetensors":
        raise UsageError(
            f"--to {to} should end in .safetensors; type --to {to.with_suffix('.safetensors')}"
        )
    if data and form is None:
        raise UsageError(
            "--data is there to compare a --form with the weights; type --form rgb, or drop --data"
        )
    source = find_weights(weights)
    if to.exists() and source.resolve() == to.resolve():
        raise UsageError(f"--to {to} is the file to be exported; name another")
    original = load_encoder(source)
    metadata = original.metadata
    assert metadata is not None, "load_encoder attaches it"
    encoder = forms.converted(original, form) if form else original
    compared: dict[str, float] = {}
    if data:
        images, _ = sample(open_source(tuple(data)), metadata.image_size, _PICTURES)
        similarity = torch.cosine_similarity(
            _features(original, images), _features(encoder, images)
        )
        compared["similarity"] = float(similarity.mean())
    copy = torchvision.export(encoder, to)
    assert copy.metadata is not None, "load_encoder attaches it"
    page = to.with_suffix(".md")
    with atomic_file(page) as temporary:
        temporary.write_text(model_card(copy.metadata, to.name), encoding="utf-8")
    return {
        "path": str(to),
        "card": str(page),
        "tensors": len(copy.backbone.state_dict()),
        "parameters": sum(p.numel() for p in copy.parameters()),
        **compared,
        "weights": copy.metadata.model_dump(mode="json"),
    }


def _features(encoder: Encoder, images: Tensor) -> Tensor:
    """The pooled features ``[N, D]`` of images uint8 ``[N, 3, S, S]``."""
    assert encoder.metadata is not None, "every exported encoder has one"
    return extract(encoder, torch.split(images, _BATCH), InputTransform.of(encoder.metadata))[
        POOLED
    ]
