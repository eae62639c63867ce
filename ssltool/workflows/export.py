"""Hand an encoder on: write it where it is wanted, load it back, describe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssltool.atomic import atomic_file
from ssltool.errors import UsageError
from ssltool.exporting import torchvision
from ssltool.exporting.card import model_card
from ssltool.nn.weights import find_weights


def export(weights: Path, to: Path) -> dict[str, Any]:
    """Run ``ssltool export``.

    Args:
        weights: A run folder or a weights file.
        to: A ``.safetensors`` file to write; a model card goes beside it, with the suffix ``.md``.

    Returns:
        ``path, card, tensors, parameters`` and the weights' description, in JSON kinds.
    """
    if to.suffix != ".safetensors":
        raise UsageError(f"--to {to} should end in .safetensors; type --to {to.with_suffix('.safetensors')}")
    source = find_weights(weights)
    if to.exists() and source.resolve() == to.resolve():
        raise UsageError(f"--to {to} is the file to be exported; name another")
    encoder = torchvision.export(source, to)
    card = encoder.card
    assert card is not None, "load_encoder attaches it"
    page = to.with_suffix(".md")
    with atomic_file(page) as temporary:
        temporary.write_text(model_card(card, to.name), encoding="utf-8")
    state = encoder.backbone.state_dict()
    return {
        "path": str(to),
        "card": str(page),
        "tensors": len(state),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "weights": card.model_dump(mode="json"),
    }
