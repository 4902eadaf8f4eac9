"""Which states of a run are nearly the same: two sums at one state over two sets of sites give one site away.

Rules
-----
1. Two states are near if the L2 norm of their difference is at most :data:`NEAR` of the larger one's.
2. A state is remembered as a sketch of :data:`SIZE` numbers (Alon, Matias and Szegedy 1996, in buckets as in
   Charikar, Chen and Farach-Colton 2002): each coordinate, with a random sign, is added to one of them. The
   norm of a difference of sketches is that of the difference of states within some 3 %.
3. The signs are fresh for each run and stay in memory, so that nobody can make two states for them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEAR = 1e-3
"""Of a state's norm."""
SIZE = 4096
_BLOCK = 256 * SIZE


class Summed:
    """The states of a run that were summed, each with the sites over which it was.

    Parameters
    ----------
    near
        See :data:`NEAR`.
    """

    def __init__(self, near: float = NEAR) -> None:
        self._near, self._seed = near, secrets.randbits(128)
        self._known: list[tuple[NDArray[np.float64], frozenset[str]]] = []

    def is_near(self, state: NDArray[Any], sites: Iterable[str]) -> bool:
        """Return whether *state* [n] is near one that was summed over other sites than *sites*."""
        own, chosen = self._sketch(state), frozenset(sites)
        return any(
            np.linalg.norm(own - other) <= self._near * max(np.linalg.norm(own), np.linalg.norm(other))
            for other, summed in self._known
            if summed != chosen
        )

    def add(self, state: NDArray[Any], sites: Iterable[str]) -> None:
        """Remember that *state* was summed, or begun to be, over *sites*."""
        self._known.append((self._sketch(state), frozenset(sites)))

    def _sketch(self, state: NDArray[Any]) -> NDArray[np.float64]:
        signs, sketch = np.random.Generator(np.random.PCG64(self._seed)), np.zeros(SIZE)
        for start in range(0, state.size, _BLOCK):
            part = np.zeros(-(-min(_BLOCK, state.size - start) // SIZE) * SIZE)
            part[: state.size - start] = state[start : start + _BLOCK]
            bits = np.unpackbits(np.frombuffer(signs.bytes(part.size // 8), np.uint8))
            part *= 1.0 - 2.0 * bits
            sketch += part.reshape(-1, SIZE).sum(axis=0)
        return sketch
