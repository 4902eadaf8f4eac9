"""The figures of ``bench gateway`` are of what they say, and the page for the officer says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.bench_gateway import CONTRIBUTION_LIMIT_MS, MEMORY_LIMIT_BYTES, SOURCE_LIMIT_LINES, source_figures
from bench.ours import gateway_contribution, gateway_process

REPOSITORY = Path(__file__).parents[2]


def test_a_site_s_process_has_imported_the_gateway_and_nothing_heavy() -> None:
    read = gateway_process.source()
    assert read.heavy == frozenset()
    assert 0 < read.gateway_lines < read.lines < SOURCE_LIMIT_LINES
    (figure,) = source_figures()
    assert (figure.ours, figure.met) == (read.lines, True)


def test_the_page_for_the_officer_says_how_long_it_is() -> None:
    text = (REPOSITORY / "docs" / "gateway.md").read_text(encoding="utf-8")
    found = re.search(r"([\d,]+)\s+lines\s+of\s+Python\s+in\s+([\d,]+)\s+modules", text)
    assert found, "docs/gateway.md gives no figures"
    lines, modules = (int(figure.replace(",", "")) for figure in found.groups())
    read = gateway_process.source()
    assert lines == pytest.approx(read.lines, rel=0.05)
    assert modules == pytest.approx(read.files, rel=0.05)


def test_a_contribution_is_measured_whole_and_without_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short vector, so that the parts which do not depend on its length are all there is."""
    monkeypatch.setattr(gateway_contribution, "LENGTH", 10_000)
    found = gateway_contribution.measure(3)
    assert 0.5 < found.gateway < CONTRIBUTION_LIMIT_MS
    assert 0 < found.masks < found.gateway


def test_the_limits_are_those_of_the_design() -> None:
    assert (CONTRIBUTION_LIMIT_MS, MEMORY_LIMIT_BYTES) == (50.0, 150_000_000)
