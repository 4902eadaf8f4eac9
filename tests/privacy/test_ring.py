"""Fixed point: the sum is the sum, nothing wraps, and what is not a bounded number is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.core.errors import ProtocolError
from plasmid.privacy.ring import TAIL, Encoding, check_no_overflow, decode_sum, encode, plan_encoding

bounds = st.floats(1e-6, 1e6)
sites_of_a_roster = st.integers(1, 64)
rings = st.sampled_from((32, 64))


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


@given(bits=rings, bound=bounds, sites=sites_of_a_roster, length=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_decoded_sum_is_the_sum_within_half_a_step_per_site(
    bits: int, bound: float, sites: int, length: int, seed: int
) -> None:
    plan = plan_encoding(length=length, bound=bound, sites=sites, bits=bits)
    source = np.random.default_rng(seed)
    vectors = source.uniform(-bound, bound, (sites, length))
    vectors[:, 0] = bound if seed % 2 else -bound  # every site at its bound, the worst case for the ring
    total = np.zeros(length + TAIL, plan.dtype)
    for vector in vectors:
        total += encode(vector, plan)
    decoded = decode_sum(total, plan, sites)
    assert decoded.dtype == np.float64
    for found, values in zip(decoded, vectors.T, strict=True):
        exact = sum(map(Fraction, values.tolist()))
        # a total of more than 53 bits is rounded once more, to the nearest float64
        slack = Fraction(sites) * Fraction(plan.step) / 2 + abs(exact) * Fraction(1, 2**52)
        assert abs(Fraction(float(found)) - exact) <= slack


@given(bits=rings, bound=bounds, sites=sites_of_a_roster)
def test_a_plan_cannot_wrap_and_its_step_is_the_finest(bits: int, bound: float, sites: int) -> None:
    plan = plan_encoding(length=1, bound=bound, sites=sites, bits=bits)
    largest = math.floor(Fraction(bound) * Fraction(2) ** plan.scale_log2 + Fraction(1, 2))
    assert sites * largest < 2 ** (bits - 1)
    if bits == 32:
        assert sites * (Fraction(bound) * Fraction(2) ** (plan.scale_log2 + 1) + 1) >= 2**31
    else:
        assert largest <= 2**53  # every step of one vector is exact in float64


@given(bits=rings, bound=bounds, sites=sites_of_a_roster, finer=st.integers(2, 40))
def test_an_encoding_that_could_wrap_is_refused(bits: int, bound: float, sites: int, finer: int) -> None:
    # a 64-bit plan leaves room, so that a vector stays exact in float64: start at the edge of the ring
    edge = math.floor(math.log2(2.0 ** (bits - 1) / sites / bound))
    with refusal("protocol.ring_overflow"):
        check_no_overflow(Encoding(bits=bits, scale_log2=edge + finer, bound=bound, length=1), sites)


@pytest.mark.parametrize(
    ("length", "bound", "sites", "bits"),
    [
        (0, 1.0, 3, 32),
        (1, 0.0, 3, 32),
        (1, -1.0, 3, 32),
        (1, math.nan, 3, 32),
        (1, math.inf, 3, 64),
        (1, 1.0, 0, 32),
        (1, 1e300, 3, 64),
        (1, 5e-324, 3, 32),  # the scale would not be a float any more
        (1, 1.0, 2**22, 32),  # the step would be coarser than a thousandth of the bound
        (1, 1.0, 2**31, 32),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(length: int, bound: float, sites: int, bits: int) -> None:
    with refusal("protocol.encoding"):
        plan_encoding(length=length, bound=bound, sites=sites, bits=bits)


PLAN = plan_encoding(length=5, bound=1.0, sites=3, bits=32)


def test_the_words_of_a_vector_are_pinned() -> None:
    assert (PLAN.scale_log2, PLAN.step) == (29, 2.0**-29)
    words = encode(np.array([1.0, -1.0, 0.5, 2.0**-30, 3 * 2.0**-30]), PLAN)
    assert words.dtype == np.dtype("<u4")
    # ties go to the even step: half a step to 0, one and a half steps to 2
    assert words.tolist() == [2**29, 2**32 - 2**29, 2**28, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 1.0000002, -1.0000002])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_value_that_is_no_bounded_number_is_refused(value: float, place: int, dtype: type) -> None:
    vector = np.zeros(5, dtype)
    vector[place] = value
    with refusal("protocol.vector"):
        encode(vector, PLAN)


@pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), (1, 5), ()])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with refusal("protocol.vector"):
        encode(np.zeros(shape), PLAN)


@pytest.mark.parametrize("place", range(5, 9))
def test_a_tail_that_is_not_zero_is_garbage(place: int) -> None:
    total = np.zeros(9, np.uint32)
    assert decode_sum(total, PLAN, 3).tolist() == [0.0] * 5
    total[place] = 1
    with refusal("protocol.garbage_sum"):
        decode_sum(total, PLAN, 3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_total_out_of_reach_is_garbage(sign: int) -> None:
    total = np.zeros(9, np.int32)
    total[2] = sign * 3 * 2**29
    assert decode_sum(total.view(np.uint32), PLAN, 3)[2] == sign * 3.0
    total[2] += sign
    with refusal("protocol.garbage_sum"):
        decode_sum(total.view(np.uint32), PLAN, 3)
    total[2] -= sign
    with refusal("protocol.garbage_sum"):
        decode_sum(total.view(np.uint32), PLAN, 2)


def test_random_words_are_garbage() -> None:
    source = np.random.default_rng(0)
    for _ in range(100):
        with refusal("protocol.garbage_sum"):
            decode_sum(source.integers(0, 2**32, 9, dtype=np.uint32), PLAN, 3)


@pytest.mark.parametrize("total", [np.zeros(8, np.uint32), np.zeros(9, np.uint64), np.zeros(9, np.int32)])
def test_a_total_of_another_shape_or_dtype_is_refused(total: np.ndarray) -> None:
    with refusal("protocol.vector"):
        decode_sum(total, PLAN, 3)
