"""The report's two audiences, and the direction of every ratio."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable

import pytest

from bench import __main__ as runner
from bench.harness import Result, report

FIELDS = {"what", "ours", "peer", "unit", "ratio", "goal", "met"}


def test_times_better_is_peer_over_ours() -> None:
    exact = Result.times_better("round", ours=0.0625, peer=3.125, unit="s", goal=50.0)
    below = Result.times_better("round", ours=0.0625, peer=3.0, unit="s", goal=50.0)
    assert (exact.ratio, exact.met) == (50.0, True)
    assert (below.ratio, below.met) == (48.0, False)


def test_share_is_ours_over_peer() -> None:
    exact = Result.share("start", ours=4.0, peer=16.0, unit="s", goal=0.25)
    above = Result.share("start", ours=5.0, peer=16.0, unit="s", goal=0.25)
    assert (exact.ratio, exact.met) == (0.25, True)
    assert (above.ratio, above.met) == (0.3125, False)


@pytest.mark.parametrize("figure", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("side", ["ours", "peer"])
@pytest.mark.parametrize("make", [Result.times_better, Result.share])
def test_a_figure_that_is_no_measurement_is_refused(
    make: Callable[..., Result], side: str, figure: float
) -> None:
    figures = {"ours": 1.0, "peer": 1.0, side: figure}
    with pytest.raises(ValueError, match=f"round: the figure of {side} is"):
        make("round", **figures, unit="s", goal=1.0)


def test_the_last_line_of_stdout_is_the_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    report("link", [Result.times_better("round", ours=0.05, peer=3.0, unit="s", goal=50.0)])
    captured = capsys.readouterr()
    line = captured.out.splitlines()[-1]
    document = json.loads(line)
    assert document["bench"] == "link"
    assert [set(result) for result in document["results"]] == [FIELDS]
    assert document["results"][0]["ratio"] == pytest.approx(60.0)
    assert document["results"][0]["met"] is True
    assert "bench link" in captured.err
    assert "round" in captured.err


def test_every_benchmark_is_discovered_by_its_file() -> None:
    names = ["agreement", "connectors", "demo", "dp_step", "gateway", "hub", "hub_load", "link", "predict"]
    assert runner.names() == [*names, "secure_aggregation", "serving", "simulation", "verified_totals"]
    for name in runner.names():
        module = importlib.import_module(f"bench.bench_{name}")
        assert callable(module.main)
        assert module.__doc__ is not None
        assert module.__doc__.startswith(f"``{name}``: ")


def test_an_unknown_benchmark_is_named_with_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["lnik"]) == 2
    assert capsys.readouterr().err == "there is no benchmark 'lnik'. Did you mean link?\n"
