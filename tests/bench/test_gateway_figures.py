"""The figures of ``bench gateway`` are of what they say."""

from __future__ import annotations

import pytest

from bench.bench_gateway import CONTRIBUTION_LIMIT_MS, MEMORY_LIMIT_BYTES
from bench.ours import gateway_contribution


def test_a_contribution_is_measured_whole_and_without_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short vector, so that the parts which do not depend on its length are all there is."""
    monkeypatch.setattr(gateway_contribution, "LENGTH", 10_000)
    found = gateway_contribution.measure(3)
    assert 0.5 < found.gateway < CONTRIBUTION_LIMIT_MS
    assert 0 < found.masks < found.gateway


def test_the_limits_are_those_of_the_design() -> None:
    assert (CONTRIBUTION_LIMIT_MS, MEMORY_LIMIT_BYTES) == (50.0, 150_000_000)
