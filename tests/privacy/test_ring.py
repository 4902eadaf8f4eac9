"""Fixed point: the sum is the sum, nothing wraps, and what is not a bounded number is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.core.errors import ProtocolError
from plasmid.secagg.ring import (
    TAIL,
    Encoding,
    add_noise,
    check_no_overflow,
    decode_sum,
    encode,
    plan_encoding,
    reach,
)

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


# -- float32 in ------------------------------------------------------------------------------------


@given(
    bits=rings,
    bound=st.floats(2.0**-100, 2.0**100),
    sites=sites_of_a_roster,
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20),
)
def test_float32_and_float64_give_the_same_words(
    bits: int, bound: float, sites: int, values: list[float]
) -> None:
    """Whether the product is taken in float32 or, where the scale is out of its range, in float64."""
    scaled = (np.array(values) * bound * (1 - 1e-6)).astype(np.float32)
    encoding = plan_encoding(length=scaled.size, bound=bound, sites=sites, bits=bits)
    assert np.array_equal(encode(scaled, encoding), encode(scaled.astype(np.float64), encoding))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_out_of_bounds_is_found_in_any_block(dtype: type) -> None:
    encoding = plan_encoding(length=100_000, bound=1.0, sites=3, bits=32)
    vector = np.linspace(-1, 1, 100_000).astype(dtype)
    encode(vector, encoding)
    for place, value in ((99_999, 1.5), (40_000, math.nan), (0, -1.5)):
        bad = vector.copy()
        bad[place] = value
        with refusal("protocol.vector"):
            encode(bad, encoding)


# -- noise in the ring -----------------------------------------------------------------------------


@given(bits=rings, bound=bounds, sites=sites_of_a_roster, noise=st.floats(0, 20))
def test_a_plan_with_noise_leaves_room_for_eight_sigma_of_the_total(
    bits: int, bound: float, sites: int, noise: float
) -> None:
    std = noise * bound
    encoding = plan_encoding(length=1, bound=bound, sites=sites, bits=bits, noise_std=std)
    assert math.isclose(encoding.noise_variance, (std / encoding.step) ** 2)
    largest = math.floor(Fraction(bound) * Fraction(2) ** encoding.scale_log2 + Fraction(1, 2))
    sigma_total = math.sqrt(sites) * std / encoding.step
    assert sites * largest + 8 * sigma_total < 2 ** (bits - 1)
    if bits == 32:  # and the step is the finest
        assert sites * (bound * 2.0 ** (encoding.scale_log2 + 1) + 1) + 16 * sigma_total >= 2**31


def test_without_noise_the_plan_is_what_it_was() -> None:
    assert plan_encoding(length=5, bound=1.0, sites=3, bits=32, noise_std=0.0) == PLAN
    assert PLAN.noise_variance == 0.0


@pytest.mark.parametrize("noise_std", [-1.0, math.nan, math.inf, 1e6])
def test_noise_that_makes_no_sense_is_refused(noise_std: float) -> None:
    with refusal("protocol.encoding"):
        plan_encoding(length=5, bound=1.0, sites=3, bits=32, noise_std=noise_std)


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf])
def test_a_variance_that_is_none_is_refused(variance: float) -> None:
    with refusal("protocol.encoding"):
        check_no_overflow(Encoding(bits=32, scale_log2=20, bound=1.0, length=5, noise_variance=variance), 3)


def test_noise_alone_can_make_a_plan_wrap() -> None:
    room = 2**31 - 3 * 2**29  # beside three vectors within the bound
    edge = (room / 8) ** 2 / 3
    for factor, refused in ((0.999, False), (1.001, True)):
        encoding = Encoding(bits=32, scale_log2=29, bound=1.0, length=5, noise_variance=edge * factor)
        if refused:
            with refusal("protocol.ring_overflow"):
                check_no_overflow(encoding, 3)
        else:
            check_no_overflow(encoding, 3)


NOISY = Encoding(bits=32, scale_log2=10, bound=1.0, length=5, noise_variance=100.0)


def test_the_reach_is_bound_and_eight_sigma_of_those_who_are_in_the_sum() -> None:
    assert reach(NOISY, 4) == 4 * 1024 + 160
    assert reach(NOISY, 1) == 1024 + 80


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_noise_is_added_in_the_ring_and_never_to_the_tail(dtype: str) -> None:
    bits = 32 if dtype == "<u4" else 64
    encoding = Encoding(bits=bits, scale_log2=10, bound=1.0, length=5, noise_variance=100.0)
    words = encode(np.array([0.5, -0.5, 0, 1, -1]), encoding)
    add_noise(words, np.array([3, -3, -1, 70, -70], np.int64), encoding)
    assert words.view(encoding.signed_dtype).tolist() == [515, -515, -1, 1094, -1094, 0, 0, 0, 0]
    decoded = decode_sum(words, encoding, 1)  # 1024 + 80 is the reach of one
    assert decoded.tolist() == [value / 1024 for value in (515, -515, -1, 1094, -1094)]


@pytest.mark.parametrize("value", [1105, -1105])
def test_a_total_beyond_eight_sigma_is_garbage(value: int) -> None:
    words = np.zeros(9, np.int32)
    words[1] = value - (1 if value > 0 else -1)
    assert decode_sum(words.view(np.uint32), NOISY, 1)[1] == words[1] / 1024
    words[1] = value
    with refusal("protocol.garbage_sum"):
        decode_sum(words.view(np.uint32), NOISY, 1)


@pytest.mark.parametrize(
    ("words", "noise"),
    [
        (np.zeros(9, np.uint32), np.zeros(9, np.int64)),
        (np.zeros(9, np.uint32), np.zeros(5, np.float64)),
        (np.zeros(9, np.uint32), np.zeros(5, np.int32)),
        (np.zeros(5, np.uint32), np.zeros(5, np.int64)),
        (np.zeros(9, np.uint64), np.zeros(5, np.int64)),
    ],
)
def test_noise_of_another_shape_or_dtype_is_refused(words: np.ndarray, noise: np.ndarray) -> None:
    with refusal("protocol.vector"):
        add_noise(words, noise, NOISY)
    assert not words.any()
