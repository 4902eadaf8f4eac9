"""Fixed point in the ring Z/2^b: reals to words, the sum of words back to reals.

Rules
-----
1. ``scale`` is a power of two, so that it is exact in JSON and in floating point.
2. :func:`plan_encoding` refuses a plan whose sum could reach half the ring; both ends call it.
3. :func:`encode` refuses non-finite input before the cast, which would be silent (NaN and 1e30
   become INT64_MIN in numpy).
4. Every vector ends in :data:`TAIL` zero words, which no noise touches. Masks that do not cancel leave the
   tail random: :func:`decode_sum` refuses such a total, so a wrong sum passes with probability 2**-(4 b).
5. Rounding is to the nearest step, ties to even: the error of one value is at most half a step,
   that of a mean of n values too.
6. Noise that is drawn in the ring counts in every margin with :data:`SIGMAS` standard deviations of
   its total over n sites.
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

SIGMAS = 8.0
"""Margin for noise, in standard deviations of the total; beyond it a Gaussian is with 1e-15."""

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
    noise_variance
        Variance of one site's noise share, in squared steps; 0: the words carry no noise.
    """

    bits: RingBits
    scale_log2: int
    bound: float
    length: int
    noise_variance: float = 0.0

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


def plan_encoding(
    *, length: int, bound: float, sites: int, bits: RingBits, noise_std: float = 0.0
) -> Encoding:
    """Choose the finest step at which the sum of *sites* vectors cannot wrap.

    Parameters
    ----------
    noise_std
        Standard deviation of one site's noise share, in the unit of the values.

    Raises
    ------
    ProtocolError
        ``protocol.encoding``: a length or number of sites below 1, a bound outside 2**-100 to 2**100, a
        noise that is not within 0 to 2**100, or so many sites or so much noise that the step would be
        coarser than 2**-10 of the bound.
    """
    if length < 1 or sites < 1 or not 2.0**-100 <= bound <= 2.0**100 or not 0 <= noise_std <= 2.0**100:
        raise ProtocolError(
            "protocol.encoding",
            f"cannot encode {length} values bounded by {bound} with noise of {noise_std} of {sites} sites.",
            "Length and sites must be at least 1, the bound within 2**-100 to 2**100, the noise 0 to 2**100.",
        )
    # n * (bound * scale + 1/2) + 8 sigma < 2**(bits - 1); the half is what rounding may add per site.
    room = (math.ldexp(1.0, bits - 1) / sites - 1.0) / (bound + SIGMAS * noise_std / math.sqrt(sites))
    scale_log2 = math.floor(math.log2(room)) if room > 0 else -1
    if bits == 64:
        scale_log2 = min(scale_log2, 52 - math.ceil(math.log2(bound)))
    encoding = Encoding(
        bits=bits,
        scale_log2=scale_log2,
        bound=bound,
        length=length,
        noise_variance=math.ldexp(noise_std, scale_log2) ** 2,
    )
    if room <= 0 or encoding.step > bound * 2**-10:
        raise ProtocolError(
            "protocol.encoding",
            f"{sites} sites, a bound of {bound} and noise of {noise_std} do not fit a ring of {bits} bits.",
            "Lower the update clip, the noise or the number of sites, or use a wider ring.",
        )
    check_no_overflow(encoding, sites)
    return encoding


def check_no_overflow(encoding: Encoding, sites: int) -> None:
    """Refuse an encoding in which the sum of *sites* vectors, noise included, could reach half the ring.

    Raises
    ------
    ProtocolError
        ``protocol.ring_overflow``.
    """
    if reach(encoding, sites) >= 2 ** (encoding.bits - 1):
        raise ProtocolError(
            "protocol.ring_overflow",
            f"the sum of {sites} vectors bounded by {encoding.bound} at 2^{encoding.scale_log2} steps "
            f"per unit could wrap a ring of {encoding.bits} bits.",
            "The plan is wrong: lower the scale or the bound.",
        )


def reach(encoding: Encoding, sites: int) -> int:
    """Return the largest absolute value, in steps, of a coordinate of the sum of *sites* vectors.

    Raises
    ------
    ProtocolError
        ``protocol.encoding``: the noise's variance is no number from 0 upward.
    """
    if not 0 <= encoding.noise_variance < math.inf:
        raise ProtocolError(
            "protocol.encoding", f"a noise variance of {encoding.noise_variance} squared steps is none."
        )
    largest = math.floor(math.ldexp(encoding.bound, encoding.scale_log2) + 0.5)
    return sites * largest + math.ceil(SIGMAS * math.sqrt(sites * encoding.noise_variance))


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
    words = np.empty(encoding.length + TAIL, dtype=encoding.dtype)
    words[encoding.length :] = 0
    signed = words.view(encoding.signed_dtype)  # two's complement is the ring
    # A power of two times a float32 is exact in float32, where it is neither too large nor subnormal;
    # what is subnormal rounds to step 0 either way.
    narrow = values.dtype == np.float32 and abs(encoding.scale_log2) < 126
    dtype = np.dtype(np.float32 if narrow else np.float64)
    scale = dtype.type(math.ldexp(1.0, encoding.scale_log2))
    buffer = np.empty(min(_BLOCK, encoding.length), dtype)
    for source, target in zip(blocks(values), blocks(signed[: encoding.length]), strict=True):
        low, high = float(source.min()), float(source.max())  # NaN if any value is
        if not max(-low, high) <= encoding.bound:
            finite = math.isfinite(low) and math.isfinite(high)
            raise ProtocolError(
                "protocol.vector",
                f"the vector leaves its bound of {encoding.bound}."
                if finite
                else "the vector holds NaN or infinity.",
            )
        steps = np.multiply(source, scale, out=buffer[: source.size], dtype=dtype)
        np.copyto(target, np.rint(steps, out=steps), casting="unsafe")
    return words


def add_noise(words: Words, noise: NDArray[np.int64], encoding: Encoding) -> None:
    """Add one site's *noise* (whole steps [length]) to encoded *words* [length + TAIL] in place.

    Raises
    ------
    ProtocolError
        ``protocol.vector``: either has another shape or dtype.
    """
    if words.shape != (encoding.length + TAIL,) or words.dtype != encoding.dtype:
        raise ProtocolError("protocol.vector", f"words of shape {words.shape} and dtype {words.dtype}.")
    if noise.shape != (encoding.length,) or noise.dtype != np.dtype(np.int64):
        raise ProtocolError("protocol.vector", f"noise of shape {noise.shape} and dtype {noise.dtype}.")
    body = words[: encoding.length]
    np.add(body, noise.astype(encoding.dtype), out=body)


def decode_sum(total: Words, encoding: Encoding, sites: int) -> NDArray[np.float64]:
    """Return the real sum [length] of *sites* encoded vectors.

    Raises
    ------
    ProtocolError
        ``protocol.garbage_sum``: the tail is not zero or a value lies outside what *sites* bounded
        vectors with their noise can reach, so the masks did not cancel.
    """
    if total.shape != (encoding.length + TAIL,) or total.dtype != encoding.dtype:
        raise ProtocolError("protocol.vector", f"the total has shape {total.shape} and dtype {total.dtype}.")
    most = reach(encoding, sites)
    body = total.view(encoding.signed_dtype)[: encoding.length]
    if total[encoding.length :].any() or int(body.max()) > most or int(body.min()) < -most:
        raise ProtocolError(
            "protocol.garbage_sum",
            "the masks do not cancel: the sites did not mask for the same manifest.",
            "The round is void; nothing was revealed. Start the run again.",
        )
    return np.asarray(np.multiply(body, encoding.step, dtype=np.float64))
