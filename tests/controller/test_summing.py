"""The ring sum over bodies on disk, whole or in parts, with what unmasks it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.coordinator import summing
from plasmid.coordinator.summing import check_body, sum_bodies
from plasmid.core.errors import ProtocolError
from plasmid.protocol.body import pack
from plasmid.secagg.keystream import Keystreams, Pad
from plasmid.secagg.ring import TAIL, Encoding, decode_sum, encode, plan_encoding

SITES = 5


def masked(folder: Path, plan: Encoding, length: int) -> tuple[list[Path], list[Pad], np.ndarray]:
    """Write bodies, each under a key stream; return them, what takes the streams off, and the plain sum."""
    source = np.random.default_rng(0)
    vectors = source.uniform(-2, 2, (SITES, length))
    paths, pads = [], []
    for index, vector in enumerate(vectors):
        key = bytes([index]) * 32
        words = encode(vector, plan)
        Keystreams([Pad(key)], words.dtype).add(words)
        paths.append(folder / str(index))
        paths[-1].write_bytes(pack("words", words))
        pads.append(Pad(key, subtract=True))
    return paths, pads, vectors.sum(axis=0)


@pytest.mark.parametrize("bits", [32, 64])
def test_the_sum_of_bodies_is_the_sum_of_what_they_hide(tmp_path: Path, bits: Any) -> None:
    plan = plan_encoding(length=1000, bound=2.0, sites=SITES, bits=bits)
    paths, pads, expected = masked(tmp_path, plan, 1000)
    total = sum_bodies(paths, plan, pads)
    assert total.dtype == plan.dtype
    assert np.abs(decode_sum(total, plan, SITES) - expected).max() <= SITES * plan.step / 2 + 1e-15
    for bodies, streams in ((paths[:-1], pads), (paths, pads[:-1]), (paths, [])):  # one too few of either
        with pytest.raises(ProtocolError) as caught:
            decode_sum(sum_bodies(bodies, plan, streams), plan, SITES)
        assert caught.value.code == "protocol.garbage_sum"


@pytest.mark.parametrize("words", [1, 100, 1003, 1004, 1005])
def test_parts_make_up_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: int) -> None:
    """1004 words, the tail's four included, cut anywhere."""
    plan = plan_encoding(length=1000, bound=2.0, sites=SITES, bits=32)
    paths, pads, _ = masked(tmp_path, plan, 1000)
    whole = sum_bodies(paths, plan, pads)
    made = []

    def remote(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            made.append(arguments[3:])
            return function(*arguments)

        return SimpleNamespace(remote=call)

    monkeypatch.setattr(summing, "PARALLEL_WORDS", words)
    monkeypatch.setattr(summing, "ray", SimpleNamespace(remote=remote, get=lambda part: part))
    assert (sum_bodies(paths, plan, pads) == whole).all()
    assert len(made) == (0 if words >= 1004 else -(-1004 // words))


def test_no_bodies_are_zero() -> None:
    plan = plan_encoding(length=3, bound=1.0, sites=3, bits=32)
    assert sum_bodies([], plan, []).tolist() == [0] * (3 + TAIL)


@pytest.mark.parametrize(
    "body",
    [
        pack("words", np.zeros(3 + TAIL - 1, np.uint32)),
        pack("words", np.zeros(3 + TAIL, np.uint64)),
        pack("words", np.zeros(3 + TAIL, np.float32)),
        pack("state", np.zeros(3 + TAIL, np.uint32)),
        pack("words", np.zeros(3 + TAIL, np.uint32))[:-1],
        b"\xff" * 108,
        b"\0",
    ],
)
def test_a_body_of_another_form_is_refused(tmp_path: Path, body: bytes) -> None:
    plan = plan_encoding(length=3, bound=1.0, sites=3, bits=32)
    (tmp_path / "body").write_bytes(body)
    for refuse in (lambda path: check_body(path, plan), lambda path: sum_bodies([path], plan, [])):
        with pytest.raises(ProtocolError) as caught:
            refuse(tmp_path / "body")
        assert caught.value.code == "protocol.body"


def test_a_body_of_the_plan_is_accepted(tmp_path: Path) -> None:
    plan = plan_encoding(length=3, bound=1.0, sites=3, bits=32)
    (tmp_path / "body").write_bytes(pack("words", np.zeros(3 + TAIL, np.uint32)))
    assert check_body(tmp_path / "body", plan) is None
