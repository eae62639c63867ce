"""Losses of context encoders: masked reconstruction and adversarial.

Pathak et al. 2016, sections 3.2 and 5.1. Letters: B images of side S, C channels, t side of the
predicted window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

_BAND_WEIGHT = 10.0  # of the visible band around a central hole (section 5.1)


def reconstruction_loss(
    predicted: Tensor, target: Tensor, weights: Tensor, kind: str, normalized: bool
) -> Tensor:
    """Weighted mean error over the predicted window (equation 1).

    Args:
        predicted: float ``[B, C, t, t]``.
        target: float ``[B, C, t, t]``.
        weights: float, broadcasts to ``[B, 1, t, t]``.
        kind: ``l2`` or ``l1``.
        normalized: Divide by the sum of the weights (equation 1 over a random mask); else by the
            number of pixels, as the released code does for the central hole.

    Returns:
        Scalar.
    """
    error = predicted - target
    error = error.square() if kind == "l2" else error.abs()
    weights = weights.expand(len(error), 1, *error.shape[2:])
    total = (
        weights.sum() if normalized else torch.full((), float(weights.numel()), device=error.device)
    )
    return (error * weights).sum() / (total * error.shape[1])


def band_weights(side: int, overlap: int) -> Tensor:
    """Weights of the central window, float ``[1, 1, S/2, S/2]``: 10 in the visible band, else 1."""
    weights = torch.full((1, 1, side // 2, side // 2), _BAND_WEIGHT)
    weights[..., overlap : side // 2 - overlap, overlap : side // 2 - overlap] = 1.0
    return weights


def adversarial_losses(
    discriminator: nn.Module, predicted: Tensor, real: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both players' losses of one step, whose sum can be minimized in a single backward pass.

    The generator loss treats the discriminator's parameters as constants, the discriminator loss
    the images: neither has a gradient for the other player, as if each had its own backward pass.

    Args:
        discriminator: ``[B, C, t, t]`` -> logits ``[B]``.
        predicted: Windows ``[B, C, t, t]`` from the decoder.
        real: The same windows of the original images.

    Returns:
        The generator's loss -log D(predicted), the discriminator's -log D(real) -
        log(1 - D(predicted)), both scalar means, and the fractions of real and of predicted windows
        that the discriminator classifies as real.
    """
    constants = {name: p.detach() for name, p in discriminator.named_parameters()}
    statistics = {name: b.clone() for name, b in discriminator.named_buffers()}
    on_generated = _exact(functional_call(discriminator, constants | statistics, (predicted,)))
    on_real, on_predicted = _exact(discriminator(real)), _exact(discriminator(predicted.detach()))
    generator = F.softplus(-on_generated).mean()
    discriminator_loss = F.softplus(-on_real).mean() + F.softplus(on_predicted).mean()
    return (
        generator,
        discriminator_loss,
        (on_real > 0).float().mean(),
        (on_predicted > 0).float().mean(),
    )


def _exact(logits: Tensor) -> Tensor:
    """At least float32: small differences of large logits decide the adversarial loss."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
