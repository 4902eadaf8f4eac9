"""Products of factors taken apart: the same factors on every machine, though libraries round differently.

Rules
-----
1. Every gateway does this again, in float64 with whatever LAPACK it has, and compares to 1e-5. A singular
   vector is unique up to its sign only, and those of equal singular values only up to a rotation. So a group
   of values that lie within :data:`CLOSE` of one another gets the basis that QR, with a positive diagonal,
   makes of the projection of fixed pseudo-random columns on its span: that follows from the span alone.
2. A direction in which the product is nothing (below :data:`DEAD`) would never learn again if its rows were
   zero; it gets rows from elsewhere, orthogonal to the others, and B stays zero there.
3. Pseudo-random numbers are made of Philox's raw bits, which no release of numpy changes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

CLOSE = 1e-6
DEAD = 1e-7
"""In units of the largest singular value."""


def uniform(size: tuple[int, ...], *key: object) -> Matrix:
    """Return public numbers in [-1, 1) that follow from *key*."""
    return 2.0 * _unit(size, *key) - 1.0


def gaussian(size: tuple[int, ...], *key: object) -> Matrix:
    """Return public normal numbers that follow from *key* (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log1p(-_unit(size, *key, "radius")))
    return np.asarray(radius * np.cos(2.0 * np.pi * _unit(size, *key, "angle")))


def _unit(size: tuple[int, ...], *key: object) -> Matrix:
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    source = np.random.Philox(int.from_bytes(digest[:16], "big"))
    raw = np.asarray(source.random_raw(int(np.prod(size))), np.uint64)
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(size)


def orthonormal(columns: NDArray[Any]) -> Matrix:
    """Return the Q of QR with a positive diagonal, [n, k]: unique where *columns* are independent."""
    q, r = np.linalg.qr(np.asarray(columns, np.float64))
    return np.asarray(q * np.where(np.diag(r) < 0.0, -1.0, 1.0))


def refactored(
    left: NDArray[Any], right: NDArray[Any], rank: int, spare: NDArray[Any]
) -> tuple[Matrix, Matrix]:
    """Return (B [n, rank], A [rank, m]): the nearest product of that rank to *left* [n, k] *right* [k, m].

    A has orthonormal rows, the right singular vectors; B is U S.

    Parameters
    ----------
    spare
        [any, m]: where rows for directions without size come from.
    """
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    _, upper = np.linalg.qr(left)
    q, lower = np.linalg.qr(right.T)
    _, sizes, turned = np.linalg.svd(upper @ lower.T, full_matrices=False)
    alive = int((sizes > DEAD * sizes[0]).sum()) if sizes.size else 0
    rows = (turned @ q.T)[: min(alive, rank)]
    down = _completed(_canonical(rows, sizes), rank, np.asarray(spare, np.float64))
    return left @ (right @ down.T), down


def _canonical(rows: Matrix, sizes: Matrix) -> Matrix:
    """Return the singular vectors [k, m] with the one basis that follows from each group's span."""
    found, start = rows.copy(), 0
    for end in range(1, len(rows) + 1):
        if end < len(rows) and sizes[end - 1] - sizes[end] <= CLOSE * sizes[0]:
            continue
        group = rows[start:end]
        fixed = uniform((rows.shape[1], end - start), "group", end - start)
        found[start:end] = orthonormal(group.T @ (group @ fixed)).T
        start = end
    return found


def _completed(rows: Matrix, rank: int, spare: Matrix) -> Matrix:
    """Return *rows*, orthonormal, and as many more of the span of *spare* as make up *rank*."""
    missing = rank - len(rows)
    if missing == 0:
        return rows
    rest = spare.T @ uniform((len(spare), missing), "spare", len(spare), missing)
    for _ in range(2):
        rest = orthonormal(rest - rows.T @ (rows @ rest))
    return np.concatenate([rows, rest.T])


def sketched(y: NDArray[Any], z: NDArray[Any], psi: Matrix, known: NDArray[Any]) -> tuple[Matrix, Matrix]:
    """Return (Q, X) with Q X = M, from y = M Omega [n, s] and z = psi M [l, m].

    Q has orthonormal columns that span y and *known* [n, r], X = (psi Q)^+ z. It is M exactly, but for
    rounding, where the columns of M lie in that span and *psi* [l, n] has at least as many rows as Q columns.
    The QR before the pseudo-inverse keeps it stable where y has a lower rank than columns (Tropp, Yurtsever,
    Udell, Cevher 2017, arXiv 1609.00048; Nakatsukasa 2020, arXiv 2009.11392, on Y (psi Y)^+ Z itself).
    """
    q, _ = np.linalg.qr(np.concatenate([np.asarray(known, np.float64), np.asarray(y, np.float64)], axis=1))
    x = np.linalg.lstsq(psi @ q, np.asarray(z, np.float64), rcond=None)[0]
    return np.asarray(q), np.asarray(x)
