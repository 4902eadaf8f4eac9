"""Fixed point in the ring Z/2^b: reals to words, the sum of words back to reals.

Rules
-----
1. ``scale`` is a power of two, so that it is exact in JSON and in floating point.
2. :func:`plan_encoding` refuses a plan whose sum could reach half the ring; both ends call it.
3. :func:`encode` refuses non-finite input before the cast, which would be silent (NaN and 1e30
   become INT64_MIN in numpy).
4. Every vector ends in :data:`TAIL` zero words. Masks that do not cancel leave the tail random:
   :func:`decode_sum` refuses such a total, so a wrong sum passes with probability 2**-(4 b).
5. Rounding is to the nearest step, ties to even: the error of one value is at most half a step,
   that of a mean of n values too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plasmid.core.errors import ProtocolError

TAIL = 4
"""Words appended to every vector, each encoding zero without noise."""

_BLOCK = 32_768

RingBits = Literal[32, 64]
Words = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Encoding:
    """How one round's vectors are written.

    Attributes
    ----------
    bits
        Width of the ring, 32 or 64.
    scale_log2
        One step is ``2**-scale_log2``.
    bound
        Largest absolute value of a coordinate of one contribution.
    length
        Number of coordinates, without the tail.
    """

    bits: RingBits
    scale_log2: int
    bound: float
    length: int

    @property
    def step(self) -> float:
        """The fixed-point step."""
        return math.ldexp(1.0, -self.scale_log2)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian unsigned words of ``bits``."""
        return np.dtype("<u4" if self.bits == 32 else "<u8")

    @property
    def signed_dtype(self) -> np.dtype[Any]:
        """The same words read as two's complement."""
        return np.dtype("<i4" if self.bits == 32 else "<i8")


def plan_encoding(*, length: int, bound: float, sites: int, bits: RingBits) -> Encoding:
    """Choose the finest step at which the sum of *sites* vectors cannot wrap.

    Raises
    ------
    ProtocolError
        ``protocol.encoding``: a length or number of sites below 1, a bound outside 2**-100 to 2**100,
        or so many sites that the step would be coarser than 2**-10 of the bound.
    """
    if length < 1 or sites < 1 or not 2.0**-100 <= bound <= 2.0**100:
        raise ProtocolError(
            "protocol.encoding",
            f"cannot encode {length} values bounded by {bound} of {sites} sites.",
            "Length and sites must be at least 1 and the bound within 2**-100 to 2**100.",
        )
    # n * (bound * scale + 1/2) < 2**(bits - 1); the half is what rounding may add per site.
    room = (math.ldexp(1.0, bits - 1) / sites - 1.0) / bound
    scale_log2 = math.floor(math.log2(room)) if room > 0 else -1
    if bits == 64:
        scale_log2 = min(scale_log2, 52 - math.ceil(math.log2(bound)))
    encoding = Encoding(bits=bits, scale_log2=scale_log2, bound=bound, length=length)
    if room <= 0 or encoding.step > bound * 2**-10:
        raise ProtocolError(
            "protocol.encoding",
            f"{sites} sites with a bound of {bound} do not fit a ring of {bits} bits.",
            "Lower the update clip or the number of sites, or use a wider ring.",
        )
    check_no_overflow(encoding, sites)
    return encoding


def check_no_overflow(encoding: Encoding, sites: int) -> None:
    """Refuse an encoding in which the sum of *sites* vectors could reach half the ring.

    Raises
    ------
    ProtocolError
        ``protocol.ring_overflow``.
    """
    largest = math.floor(math.ldexp(encoding.bound, encoding.scale_log2) + 0.5)
    if sites * largest >= 2 ** (encoding.bits - 1):
        raise ProtocolError(
            "protocol.ring_overflow",
            f"the sum of {sites} vectors bounded by {encoding.bound} at 2^{encoding.scale_log2} steps "
            f"per unit could wrap a ring of {encoding.bits} bits.",
            "The plan is wrong: lower the scale or the bound.",
        )


def blocks(vector: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield *vector* in consecutive views that stay in the processor's cache."""
    for start in range(0, vector.size, _BLOCK):
        yield vector[start : start + _BLOCK]


def encode(values: NDArray[np.floating[Any]], encoding: Encoding) -> Words:
    """Return *values* (float [length], each within ±bound) as words [length + TAIL].

    Raises
    ------
    ProtocolError
        ``protocol.vector``: wrong shape, a non-finite value, or one outside the bound.
    """
    if values.shape != (encoding.length,):
        raise ProtocolError(
            "protocol.vector", f"the vector has shape {values.shape}, the plan says ({encoding.length},)."
        )
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ProtocolError("protocol.vector", "the vector holds NaN or infinity.")
    if max(-low, high) > encoding.bound:
        raise ProtocolError("protocol.vector", f"the vector leaves its bound of {encoding.bound}.")
    words = np.zeros(encoding.length + TAIL, dtype=encoding.dtype)
    signed = words.view(encoding.signed_dtype)  # two's complement is the ring
    scale = math.ldexp(1.0, encoding.scale_log2)
    for source, target in zip(blocks(values), blocks(signed[: encoding.length]), strict=True):
        steps = np.multiply(source, scale, dtype=np.float64)
        np.copyto(target, np.rint(steps, out=steps), casting="unsafe")
    return words


def decode_sum(total: Words, encoding: Encoding, sites: int) -> NDArray[np.float64]:
    """Return the real sum [length] of *sites* encoded vectors.

    Raises
    ------
    ProtocolError
        ``protocol.garbage_sum``: the tail is not zero or a value lies outside what *sites* bounded
        vectors can reach, so the masks did not cancel.
    """
    if total.shape != (encoding.length + TAIL,) or total.dtype != encoding.dtype:
        raise ProtocolError("protocol.vector", f"the total has shape {total.shape} and dtype {total.dtype}.")
    reach = sites * (math.floor(math.ldexp(encoding.bound, encoding.scale_log2) + 0.5))
    body = total.view(encoding.signed_dtype)[: encoding.length]
    if total[encoding.length :].any() or int(body.max()) > reach or int(body.min()) < -reach:
        raise ProtocolError(
            "protocol.garbage_sum",
            "the masks do not cancel: the sites did not mask for the same manifest.",
            "The round is void; nothing was revealed. Start the run again.",
        )
    return np.asarray(np.multiply(body, encoding.step, dtype=np.float64))
