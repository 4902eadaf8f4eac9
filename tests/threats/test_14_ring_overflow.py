"""Row 14. Attack: ring overflow.

Must hold: n * bound * scale + 8 sigma >= half the ring is refused at plan time (property test).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.messages import Planned
from plasmid.recipes.query import PingDocument
from plasmid.secagg.ring import (
    Encoding,
    RingBits,
    add_noise,
    check_no_overflow,
    decode_sum,
    encode,
    plan_encoding,
)

rings = st.sampled_from([32, 64])
scales = st.integers(-20, 62)
bounds = st.floats(2.0**-20, 2.0**40)


@given(bits=rings, sites=st.integers(1, 64), scale_log2=scales, bound=bounds, std=st.floats(0.0, 2.0**40))
def test_what_could_reach_half_the_ring_is_refused(
    bits: RingBits, sites: int, scale_log2: int, bound: float, std: float
) -> None:
    """The row's formula, in whole numbers; *std* is that of one site's share, in steps."""
    encoding = Encoding(bits=bits, scale_log2=scale_log2, bound=bound, length=1, noise_variance=std**2)
    largest = sites * math.floor(math.ldexp(bound, scale_log2) + 0.5)
    over = largest + 8.0 * math.sqrt(sites) * std >= 2 ** (bits - 1)
    if over:
        with pytest.raises(ProtocolError) as caught:
            check_no_overflow(encoding, sites)
        assert caught.value.code == "protocol.ring_overflow"
    elif largest + 8.0 * math.sqrt(sites) * std < 2 ** (bits - 1) - 2:  # not within rounding of the limit
        check_no_overflow(encoding, sites)


@given(
    bits=rings,
    sites=st.integers(1, 64),
    bound=st.floats(2.0**-30, 2.0**30),
    noise=st.floats(0.0, 4.0),
    signs=st.integers(0, 2**8 - 1),
)
def test_every_plan_holds_the_largest_sum_with_its_noise(
    bits: RingBits, sites: int, bound: float, noise: float, signs: int
) -> None:
    """All sites at the bound, all noise at its margin, in either direction: the sum is right to a step."""
    try:
        plan = plan_encoding(length=8, bound=bound, sites=sites, bits=bits, noise_std=noise * bound)
    except ProtocolError as error:
        assert error.code == "protocol.encoding"  # noqa: PT017 - both outcomes are right
        assume(False)
    direction = np.array([1.0 if signs >> bit & 1 else -1.0 for bit in range(8)])
    # sites shares of this size are just within 8 sigma of the sum
    share = math.floor(8.0 * math.sqrt(plan.noise_variance / sites) * (1 - 1e-12))
    total = np.zeros(8 + 4, plan.dtype)
    for _ in range(sites):
        words = encode(direction * plan.bound, plan)
        add_noise(words, (direction * share).astype(np.int64), plan)
        total += words
    largest = sites * (round(math.ldexp(bound, plan.scale_log2)) + share)
    found = decode_sum(total, plan, sites) / plan.step
    assert found.tolist() == [sign * float(largest) for sign in direction]


def test_control_one_step_finer_would_wrap() -> None:
    plan = plan_encoding(length=1, bound=1.0, sites=3, bits=32)
    finer = Encoding(bits=32, scale_log2=plan.scale_log2 + 1, bound=1.0, length=1)
    with pytest.raises(ProtocolError) as caught:
        check_no_overflow(finer, 3)
    assert caught.value.code == "protocol.ring_overflow"
    total = sum(encode(np.array([1.0]), finer) for _ in range(3))
    assert int(np.asarray(total).view(np.int32)[0]) < 0  # three ones are negative


@pytest.mark.parametrize(("sites", "accepted"), [(3, True), (4, False), (64, False)])
def test_an_epoch_with_more_sites_than_planned_is_refused_where_its_sum_could_wrap(
    sites: int, accepted: bool
) -> None:
    """The run's encoding is the first epoch's; a later epoch may have more sites."""
    document = PingDocument(length=4)
    shape = api.load("ping").shape(document, None)
    planned = Planned(sites=3, c=1, noise_rate=0.0)
    settings: dict[str, Any] = {"sites": sites, "c": 1, "planned": planned}
    if accepted:
        assert attempt_plan(document, shape, **settings).encoding.scale_log2 == 29
    else:
        with pytest.raises(ProtocolError) as caught:
            attempt_plan(document, shape, **settings)
        assert caught.value.code == "protocol.ring_overflow"
