"""Questions with noise, embedded: what is spent, what is told, and what is refused at once.

Those that are answered are slow tests: test_deployed.py asks the same of deployed sites, and trains there.
"""

from __future__ import annotations

import csv
from typing import Any

import pytest

from e2e.conftest import DONORS, DP_SGD, ROWS, Home
from plasmid.gateway.ledger import Ledger


def settings(**changes: str) -> list[str]:
    """Return ``--set`` options for a private ``tcr-covid``; a name's ``__`` stands for its dot."""
    chosen = DP_SGD | {name.replace("__", "."): value for name, value in changes.items()}
    return [word for path, value in chosen.items() for word in ("--set", f"{path}={value}")]


def ledger(home: Home, donor: str) -> Ledger:
    return Ledger(home.folder / "sites" / donor / "ledger.jsonl")


# -- a question ------------------------------------------------------------------------------------


def question(home: Home, *privacy: str) -> list[str]:
    how = ["--sites", str(home.sites), "--bounds", "0,120", "--yes"]
    return ["query", "mean", "--column", "age", *privacy, *how]


@pytest.fixture(scope="module")
def asked(home: Home) -> dict[str, Any]:
    status, answer, errors = home.run(*question(home, "--epsilon", "1", "--delta", "1e-6"))
    assert status == 0, (answer, errors)
    return dict(answer["data"])


@pytest.mark.slow
def test_a_mean_with_noise_says_what_it_promises(home: Home, asked: dict[str, Any]) -> None:
    values = []
    for path in home.sites.glob("*.csv"):
        with path.open(newline="") as file:
            values += [float(row["age"]) for row in csv.DictReader(file) if row["age"]]
    assert abs(asked["result"]["count"] - len(values)) < 200
    off = abs(asked["result"]["mean"] - sum(values) / len(values))
    assert 0 < off < 20  # the count is rounded: it may come out right, the mean never does
    said = asked["privacy"]
    assert said[0].startswith("This is a rehearsal:")
    assert "1e-06)-differential privacy for any one record at a site" in said[1]
    assert said[1].endswith("Each site's ledger is charged epsilon 1.")
    assert [sentence.split(":")[0] for sentence in said[2:5]] == list(DONORS)
    assert f"N = {ROWS} declared by its owner" in said[2]


@pytest.mark.slow
def test_every_site_s_ledger_was_charged(home: Home, asked: dict[str, Any]) -> None:
    for donor in DONORS:
        entries = [entry for entry in ledger(home, donor).entries() if entry["run"] == asked["run_id"]]
        assert [entry["event"] for entry in entries] == ["reserve", "spend", "attempt"]
        population = ledger(home, donor).summary()["mean-record"]
        assert (float(population.spent_epsilon), float(population.spent_delta)) == (1.0, 1e-6)


# -- what makes no sense ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"privacy__epsilon": "0"}, "privacy.epsilon"),
        ({"privacy__epsilon": "-1"}, "privacy.epsilon"),
        ({"privacy__delta": "1"}, "privacy.delta"),
        ({"privacy__unit": "none"}, "privacy.epsilon"),
        ({"privacy__unit": "patient"}, "data.patient"),
        ({"privacy__mechanism": "output"}, "privacy.record_clip"),
        ({"federation__min_sites": "2"}, "federation.min_sites"),
        ({"federation__colluding_organisations": "2"}, "federation.colluding_organisations"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_told_where(
    home: Home, changes: dict[str, str], where: str
) -> None:
    status, answer, _ = home.ask("recipes", "show", "tcr-covid", *settings(**changes))
    assert (status != 0, answer["error"]["code"]) == (True, "recipe.invalid")
    assert where in answer["error"]["message"]


@pytest.mark.parametrize(
    "privacy",
    [
        ("--epsilon", "0"),
        ("--epsilon", "1"),
        ("--epsilon", "-1", "--delta", "1e-6"),
        ("--epsilon", "1", "--delta", "1"),
        ("--delta", "1e-6"),
    ],
)
def test_a_question_without_a_sound_promise_is_refused_at_once(home: Home, privacy: tuple[str, ...]) -> None:
    status, answer, _ = home.ask(*question(home, *privacy))
    assert (status != 0, answer["error"]["code"]) == (True, "usage.query_privacy")
    assert "--delta" in answer["error"]["hint"]


@pytest.mark.slow
def test_a_delta_that_would_allow_publishing_a_record_is_refused_by_every_site(home: Home) -> None:
    status, answer, _ = home.run(*question(home, "--epsilon", "1", "--delta", "0.01"))
    assert (status != 0, answer["error"]["code"]) == (True, "recipe.too_few_sites")
    for donor in DONORS:
        assert f"\n  {donor}: The site asks for a smaller delta. [policy.delta]" in answer["error"]["message"]
