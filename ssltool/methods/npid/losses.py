"""Instance-discrimination losses: full softmax, NCE, InfoNCE.

Wu, Xiong, Yu & Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
CVPR 2018, section 3.

Everything is written with logits a = <f, v> / tau of unit vectors and with ln c, c the mean of
exp(a) over the others. The paper's Z is c n; n cancels in NCE (equations 4-7), so no probability of
1e-13 and no exp of a raw logit appears: h = P(i|f) / (P(i|f) + m/n) = sigmoid(a - ln(c m)).

Negatives are processed in chunks. A chunk's logits give the loss and at once its gradient, the
weighted sum of the rows, so that neither the logits ``[B, n]`` nor copied rows ``[B, m, D]`` are
ever held as a whole.

Letters: B queries, D their dimension, n rows, m sampled rows, k rows of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.ops.per_image_rng import PerImageRNG

_AT_ONCE = {"cpu": 2**20}  # elements of a chunk, logits or copied rows: what stays near the cache,
_AT_ONCE_ELSEWHERE = 2**24  # or 64 MB, so that a GPU has something to do

_MOST_LOG_ODDS = 80.0  # exp stays finite in float32; rows c m times likelier than e^80 do not occur


class Others(NamedTuple):
    """The negatives of a batch of queries.

    Attributes:
        rows: float ``[n, D]``, of any precision, without gradient.
        ids: Rows sampled: int64 ``[m]``, the same for all queries, or ``[B, m]``; -1 stands for
            none. None: all rows.
        own: int64 ``[B]``, the row that is left out for each query; -1 for none.
    """

    rows: Tensor
    ids: Tensor | None
    own: Tensor


class Comparison(NamedTuple):
    """Queries of this process compared with the whole bank.

    Attributes:
        similarity: With each image's own memory vector, ``[B]``.
        against: Of the softmaxes, ln of the sum of exp over the negatives; of NCE, the noise terms;
            ``[B]``.
        hardest: Largest logit of a negative, ``[B]``.
        log_c: ln c of the batches of all processes, scalar.
    """

    similarity: Tensor
    against: Tensor
    hardest: Tensor
    log_c: Tensor


def log_constant(width: int, temperature: float) -> float:
    """Ln of c = E exp(<f, v> / tau) for independent, uniformly distributed unit vectors of
    dimension ``width``.

    The power series of the hypergeometric 0F1(; D/2; 1 / (4 tau^2)); about 1 / (2 D tau^2).
    """
    total, term, k = 0.0, 1.0, 0
    while term > 1e-17 * total:
        total += term
        k += 1
        term /= 4 * temperature**2 * k * (width / 2 + k - 1)
    return math.log(total)


def moving_average(log_c: Tensor, measured: Tensor, rate: float = 0.99) -> Tensor:
    """Moving average of c itself, since early batches differ by whole factors; all as logarithms.

    A measurement that is not finite changes nothing.
    """
    average = torch.logaddexp(log_c + math.log(rate), measured + math.log(1 - rate))
    return torch.where(average.isfinite(), average, log_c)


def sample(
    seeds: Tensor, index: Tensor, count: int, number: int, *, shared: bool, exclude: bool
) -> Tensor:
    """Sample rows uniformly with replacement, at a cost that does not grow with ``count``.

    Args:
        seeds: int64 ``[B]``, random, of each query.
        index: int64 ``[B]``, own row of each query.
        count: n.
        number: m.
        shared: One sample for all queries, from the first one's seed; own rows in it are to be left
            out by `Others`.
        exclude: Sample from the n - 1 other rows only; a shared sample is always taken from all.

    Returns:
        int64 ``[m]`` if shared, else ``[B, m]``.
    """
    if shared:
        return PerImageRNG.seeded(seeds[:1]).integers(count, number)[0]
    if not exclude:
        return PerImageRNG.seeded(seeds).integers(count, number)
    drawn = PerImageRNG.seeded(seeds).integers(count - 1, number)
    return drawn + (drawn >= index[:, None])  # a gap of one at the own row


def softmax_loss(positive: Tensor, log_sum: Tensor) -> Tensor:
    """-ln of the share that the positive has of the softmax (equation 2), float ``[B]``.

    Args:
        positive: Logit of the positive, float ``[B]``.
        log_sum: ln of the sum of exp over the others, see `log_sum_exp`; with a sample of them it
            is InfoNCE.
    """
    return F.softplus(log_sum - positive)


def nce_loss(positive: Tensor, noise: Tensor, log_cm: Tensor) -> Tensor:
    """-ln h(positive) - sum of ln(1 - h) over the noise samples (equation 7), float ``[B]``.

    Args:
        positive: Logit of the positive, float ``[B]``.
        noise: The sum over the noise samples, see `noise_terms`.
        log_cm: ln(c m), scalar.
    """
    return F.softplus(log_cm - positive) + noise


def proximal(queries: Tensor, similarity: Tensor, weight: float) -> Tensor:
    """The term ``weight * |f - v|^2`` (equation 9), float ``[B]``, of unit rows v known by their
    products with f.

    Args:
        queries: float ``[B, D]``.
        similarity: <f, v>, float ``[B]``.
        weight: lambda.
    """
    return weight * (queries.square().sum(dim=1) + 1 - 2 * similarity)


def log_sum_exp(
    queries: Tensor, others: Others, temperature: float, at_once: int | None = None
) -> tuple[Tensor, Tensor]:
    """Ln of the sum of exp of the logits with the others.

    Args:
        queries: float ``[B, D]``; float32 or float64 decides the precision.
        others: The rows.
        temperature: tau.
        at_once: Most elements of a chunk; by default what suits the device.

    Returns:
        The logarithm, float ``[B]`` (-inf if nothing is left), and the largest logit, ``[B]``,
        without gradient.
    """
    total, largest = _LogSumExp.apply(queries, others, temperature, at_once)
    return total, largest


def noise_terms(
    queries: Tensor, others: Others, temperature: float, log_cm: Tensor, at_once: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum over the noise samples of -ln(1 - h) = softplus(a - ln(c m)).

    Args:
        queries: float ``[B, D]``.
        others: The rows, m to a query.
        temperature: tau.
        log_cm: ln(c m), scalar, without gradient.
        at_once: Most elements of a chunk; by default what suits the device.

    Returns:
        The sum, ``[B]``, and without gradient the two of `log_sum_exp`.
    """
    noise, total, largest = _NoiseTerms.apply(queries, others, temperature, log_cm, at_once)
    return noise, total, largest


def _chunks(
    queries: Tensor, others: Others, temperature: float, at_once: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk through the others: logits ``[B, k]``, -inf where left out, and rows ``[k, D]`` or ``[B,
    k, D]``.
    """
    rows, ids, own = others
    scaled = queries / temperature
    single = ids is not None and ids.dim() == 2  # each query has rows of its own
    width = len(rows) if ids is None else ids.shape[-1]
    at_once = at_once or _AT_ONCE.get(rows.device.type, _AT_ONCE_ELSEWHERE)
    step = max(
        1, at_once // queries.numel() if single else at_once // max(len(queries), rows.shape[1])
    )
    for start in range(0, width, step):
        if ids is None:
            part = rows[start : start + step].to(queries.dtype)
            logits = scaled @ part.T
            column = own - start
            inside = (column >= 0) & (column < len(part))
            column = column.clamp(0, len(part) - 1)[:, None]
            kept = torch.where(inside[:, None], -math.inf, logits.gather(1, column))
            yield logits.scatter_(1, column, kept), part
        else:
            chosen = ids[..., start : start + step]
            # Whole rows are copied; indexing would go number by number.
            part = (
                rows.index_select(0, chosen.flatten().clamp_min(0))
                .to(queries.dtype)
                .view(*chosen.shape, -1)
            )
            logits = torch.einsum("bd,bkd->bk", scaled, part) if single else scaled @ part.T
            yield logits.masked_fill_((chosen == own[:, None]) | (chosen < 0), -math.inf), part


def _pull(weights: Tensor, part: Tensor) -> Tensor:
    """Weighted sums of a chunk's rows, ``[B, D]``."""
    return weights @ part if part.dim() == 2 else torch.einsum("bk,bkd->bd", weights, part)


class _LogSumExp(torch.autograd.Function):
    """One walk for value and gradient; sums are rescaled whenever a larger logit turns up."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, others: Others, temperature: float, at_once: int | None
    ) -> tuple[Tensor, Tensor]:
        largest = queries.new_full((len(queries),), -math.inf)
        total, pull = torch.zeros_like(largest), torch.zeros_like(queries)
        for logits, part in _chunks(queries, others, temperature, at_once):
            grown = torch.maximum(largest, logits.amax(dim=1))
            level = grown.clamp_min(-1e30)  # -inf - -inf would be NaN where everything is left out
            weights = logits.sub_(level[:, None]).exp_()
            scale = (largest - level).exp()
            total = total * scale + weights.sum(dim=1)
            if ctx.needs_input_grad[0]:
                pull = pull * scale[:, None] + _pull(weights, part)
            largest = grown
        ctx.save_for_backward(pull / (temperature * total.clamp_min(1e-30))[:, None])
        ctx.mark_non_differentiable(largest)
        return largest.clamp_min(-1e30) + total.log(), largest

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (pull,) = ctx.saved_tensors
        return gradient[:, None] * pull, None, None, None


class _NoiseTerms(torch.autograd.Function):
    """One walk for value and gradient, 1/tau times the sum of h v."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        others: Others,
        temperature: float,
        log_cm: Tensor,
        at_once: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        largest = queries.new_full((len(queries),), -math.inf)
        total, noise, pull = largest, torch.zeros_like(largest), torch.zeros_like(queries)
        for logits, part in _chunks(queries, others, temperature, at_once):
            highest = logits.amax(dim=1)
            level = highest.clamp_min(
                -1e30
            )  # -inf - -inf would be NaN where everything is left out
            shares = logits.sub_(level[:, None]).exp_()
            total = torch.logaddexp(total, level + shares.sum(dim=1).log())
            # One exponential serves all: with e = exp(a - ln(c m)), softplus is ln(1 + e) and h is
            # e / (1 + e).
            odds = shares.mul_((level - log_cm).clamp_max(_MOST_LOG_ODDS).exp()[:, None])
            noise = noise + odds.log1p().sum(dim=1)
            if ctx.needs_input_grad[0]:
                pull = pull + _pull(odds.div_(odds + 1), part)
            largest = torch.maximum(largest, highest)
        ctx.save_for_backward(pull / temperature)
        ctx.mark_non_differentiable(total, largest)
        return noise, total, largest

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None, None]:
        (pull,) = ctx.saved_tensors
        return gradient[:, None] * pull, None, None, None, None
