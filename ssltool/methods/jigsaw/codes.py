"""Permutation codes in closed form, with the largest possible or largest known minimum distance.

Affine maps over finite fields and projective maps over GF(8) with infinity.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

# Grid -> number of permutations that `closed_form` has for it.
LARGEST_CODE = {2: 12, 3: 1512, 4: 240, 5: 600}
# Field order -> prime p and the irreducible polynomial over 0..p-1, lowest coefficient first.
_FIELDS = {
    4: (2, (1, 1, 1)),
    8: (2, (1, 1, 0, 1)),
    9: (3, (1, 0, 1)),
    16: (2, (1, 1, 0, 0, 1)),
    25: (5, (3, 0, 1)),
}


def closed_form(count: int, tiles: int) -> Bytes:
    """The first ``count`` of a known set of permutations with the largest possible or largest known
    minimum distance.

    The maps ax + b over the field of n elements, those with a = 1 first: n of them with minimum
    distance n, n(n-1) with n - 1. Beyond that, for 9 tiles, (ax + b)/(cx + d) over GF(8) with
    infinity: 504 with minimum 7, and followed by x -> x^2 and x -> x^4, 1512 with minimum 6. No
    larger set has a minimum of n, n - 1, or 7 for 9 tiles.

    The maps come in blocks of n that show every cell once in every slot, so any count reaches
    ``mean_bound``: taking them in this order is what choosing greedily by mean distance does.

    Args:
        count: At most 12, 1512, 240 and 600 for 4, 9, 16 and 25 tiles.
        tiles: n, one of those.

    Returns:
        uint8 ``[count, n]``, the identity first.
    """
    maps = _affine_maps(tiles) if count <= tiles * (tiles - 1) else _projective_maps()
    return maps[:count].astype(np.uint8)


def _field(order: int) -> tuple[Ints, Ints]:
    """Addition and multiplication tables ``[q, q]`` of the field with q = ``order`` elements.

    Element x stands for the polynomial whose coefficients are its digits to the base p, so 0 and 1
    are themselves.
    """
    prime, modulus = _FIELDS[order]
    degree = len(modulus) - 1
    weights = prime ** np.arange(degree)
    digits = np.arange(order)[:, None] // weights % prime
    add = (digits[:, None] + digits) % prime @ weights
    product = np.zeros((order, order, 2 * degree - 1), dtype=np.int64)
    for i, j in itertools.product(range(degree), repeat=2):
        product[..., i + j] += digits[:, None, i] * digits[None, :, j]
    for top in range(2 * degree - 2, degree - 1, -1):
        product[..., top - degree : top + 1] -= product[..., top : top + 1] * np.array(modulus)
    return add, product[..., :degree] % prime @ weights


def _affine_maps(order: int) -> Ints:
    """Maps x -> ax + b with a != 0 over the field of q = ``order`` elements, ``[q(q-1), q]``."""
    add, multiply = _field(order)
    a, b = np.divmod(np.arange(order, order * order), order)
    return add[multiply[a], b[:, None]]


def _projective_maps() -> Ints:
    """The maps of GF(8) with infinity, which is number 8, onto itself: ``[1512, 9]``, PGL(2, 8) in
    the first 504.

    A map that leaves infinity in place is affine, followed or not by squarings. x -> 1/(x + 2)
    visits all nine points in turn, so each map is one of those followed by 0 to 8 of such turns.
    """
    add, multiply = _field(8)
    reciprocal = (multiply == 1).argmax(axis=1)
    reciprocal[0] = 8
    turn = np.append(reciprocal[add[2]], 0)
    turns = [np.arange(9)]
    for _ in range(8):
        turns.append(turn[turns[-1]])
    square = np.append(np.diagonal(multiply), 8)
    affine = np.pad(_affine_maps(8), ((0, 0), (0, 1)), constant_values=8)
    fixing = np.vstack([affine, square[affine], square[square[affine]]])
    return np.stack(turns)[:, fixing].swapaxes(0, 1).reshape(-1, 9)
