"""What samples cost: bytes of a round of six sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plasmid.recipes.query import PingDocument
from support.federation.in_memory import Federation

SIX = ("alpha", "beta", "delta", "epsilon", "eta", "gamma")


@pytest.mark.parametrize(("length", "most"), [(50_820, 0.022), (1_000_000, 0.017)])
def test_samples_are_a_small_share_of_the_bytes_of_a_round(tmp_path: Path, length: int, most: float) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=length, rounds=3), sites=SIX)
    federation.set_up()
    federation.rounds(1)
    sampled: list[int] = []
    fetched: list[int] = []
    honest, own = federation.sample, federation._served

    def sample(run: str, manifest: str, part: str, size: int) -> bytes:
        sampled.append(size)
        found = honest(run, manifest, part, size)
        assert len(found) == size
        return found

    def served(digest: str, size: int) -> bytes:
        fetched.append(size)
        return bytes(own(digest, size))

    federation.sample, federation._served = sample, served  # type: ignore[method-assign]
    vector = np.zeros(length, np.float32)
    up = len(federation.gateways["alpha"].contribute(federation.manifest(2), lambda _: vector).body)
    assert (len(fetched), len(sampled)) == (2, 3)  # total and state; the opening and two leaves
    assert 0 < sum(sampled) / (up + sum(fetched)) < most
