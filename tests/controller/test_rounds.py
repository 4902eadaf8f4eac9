"""The ring sum over bodies on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plasmid.controller.rounds import sum_bodies
from plasmid.core.errors import ProtocolError
from plasmid.privacy.ring import TAIL, decode_sum, encode, plan_encoding
from plasmid.protocol.body import pack


@pytest.mark.parametrize("bits", [32, 64])
def test_the_sum_of_bodies_is_the_sum_in_the_ring(tmp_path: Path, bits: int) -> None:
    plan = plan_encoding(length=1000, bound=2.0, sites=5, bits=bits)
    source = np.random.default_rng(0)
    vectors = source.uniform(-2, 2, (5, 1000))
    pads = [source.integers(0, 2**bits, 1000 + TAIL, dtype=np.uint64).astype(plan.dtype) for _ in range(4)]
    pads.append(-np.sum(pads, axis=0, dtype=plan.dtype))
    paths = []
    for index, (vector, pad) in enumerate(zip(vectors, pads, strict=True)):
        paths.append(tmp_path / str(index))
        paths[-1].write_bytes(pack("words", encode(vector, plan) + pad))
    total = sum_bodies(paths, plan)
    assert total.dtype == plan.dtype
    assert np.abs(decode_sum(total, plan, 5) - vectors.sum(axis=0)).max() <= 5 * plan.step / 2 + 1e-15
    with pytest.raises(ProtocolError) as caught:  # one missing: the pads do not cancel
        decode_sum(sum_bodies(paths[:-1], plan), plan, 5)
    assert caught.value.code == "protocol.garbage_sum"


def test_no_bodies_are_zero() -> None:
    plan = plan_encoding(length=3, bound=1.0, sites=3, bits=32)
    assert sum_bodies([], plan).tolist() == [0] * (3 + TAIL)


@pytest.mark.parametrize(
    "values",
    [np.zeros(3 + TAIL - 1, np.uint32), np.zeros(3 + TAIL, np.uint64), np.zeros(3 + TAIL, np.float32)],
)
def test_a_body_of_another_shape_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    plan = plan_encoding(length=3, bound=1.0, sites=3, bits=32)
    (tmp_path / "body").write_bytes(pack("words", values))
    with pytest.raises(ProtocolError) as caught:
        sum_bodies([tmp_path / "body"], plan)
    assert caught.value.code == "protocol.body"
