"""What a launcher writes for the sites that it owns: a public size, a policy, a budget that adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.site import init_site
from plasmid.client.embedded import Embedded, public_size
from plasmid.core.errors import StorageError
from plasmid.gateway.keys.keystore import Cost
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.policy.file import read_policy
from plasmid.gateway.policy.grants import Grant
from plasmid.isolation.bubblewrap import Bubblewrap
from plasmid.isolation.choice import choose, strongest
from plasmid.isolation.landlock import Landlock
from plasmid.recipes.query import mean_from_bounds, noised
from plasmid.recipes.schema import Recipe
from support.federation.in_memory import document_of
from support.tiny.tiny_task import tiny_recipe

SITES = ("alpha", "beta", "gamma")


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Embedded:
    """Three sites of 123 rows each, not started; the owner of gamma gave a policy."""
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    tables = {}
    for site in SITES:
        tables[site] = tmp_path / f"{site}.csv"
        tables[site].write_text("age\n" + "50\n" * 123)
    own = tmp_path / "gamma.policy.yaml"
    own.write_text("allow: []\n")
    made = Embedded(tables, policies={"gamma": own})
    for site in SITES:
        init_site(
            made._site(site),
            name=site,
            organisation=site,
            data=tables[site],
            passphrase=lambda: "twelve letters and more",
            cost=Cost(n=2),
        )
    made._site("gamma").policy.write_bytes(own.read_bytes())
    return made


def query(epsilon: float | None = None, delta: float | None = None) -> tuple[dict[str, Any], str]:
    return document_of(mean_from_bounds("age", (0.0, 120.0), privacy=noised(epsilon, delta)))


def test_a_policy_names_one_digest_and_an_owner_s_own_stays(embedded: Embedded) -> None:
    document, digest = query()
    embedded.allow(document, digest)
    for site in ("alpha", "beta"):
        policy = read_policy(embedded._site(site).policy)
        assert (policy.allow, policy.budgets) == ([Grant(recipes=[digest])], {})
        assert policy.require.protect == "masked"
        assert embedded._site(site).config().public_size is None
    assert embedded._site("gamma").policy.read_text() == "allow: []\n"
    assert [embedded.has_own_policy(site) for site in SITES] == [False, False, True]


def test_under_a_unit_the_budget_is_what_was_spent_and_what_this_run_costs(embedded: Embedded) -> None:
    home = embedded._site("alpha")
    for number, epsilon in enumerate((0.1, 0.2, 0.7), start=1):
        document, digest = query(epsilon, 1e-6)
        embedded.allow(document, digest)
        config = home.config()
        assert (config.public_size, config.population) == (120, "mean-record")
        budget = read_policy(home.policy).budgets["mean-record"]
        spent = (0.1, 0.3, 1.0)[number - 1]
        assert (budget.unit, budget.epsilon, budget.delta) == ("record", spent, number * 1e-6)
        ledger, run = Ledger(home.ledger), f"run-{number}"
        what = {"population": "mean-record", "unit": "record", "epsilon": epsilon, "delta": 1e-6}
        ledger.reserve(run=run, digest=digest, project="e" * 64, attempts=1, budget=budget, **what)
        ledger.spend(run)


def test_an_owner_who_gave_a_policy_has_given_its_budget_for_the_population_default(
    embedded: Embedded,
) -> None:
    document, digest = query(1.0, 1e-6)
    embedded.allow(document, digest)
    config = embedded._site("gamma").config()
    assert (config.public_size, config.population) == (120, "default")
    assert embedded._site("gamma").policy.read_text() == "allow: []\n"


def test_a_long_name_makes_a_population_too(embedded: Embedded) -> None:
    document, digest = query(1.0, 1e-6)
    embedded.allow(document | {"name": "m" * 63}, digest)
    assert embedded._site("alpha").config().population == "m" * 55 + "-record"


def test_a_damaged_ledger_ends_the_rehearsal_before_it_begins(embedded: Embedded) -> None:
    embedded._site("beta").ledger.write_text('{"counter": 7}\n')
    with pytest.raises(StorageError) as caught:
        embedded.allow(*query(1.0, 1e-6))
    assert caught.value.code == "storage.ledger_damaged"


@pytest.mark.parametrize(
    ("rows", "size"),
    [(1, 1), (9, 9), (42, 42), (123, 120), (999, 990), (1000, 1000), (1999, 1900), (54321, 54000)],
)
def test_a_public_size_has_two_digits(tmp_path: Path, rows: int, size: int) -> None:
    table = tmp_path / "table.csv"
    table.write_text("age\n" + "50\n" * rows)
    assert public_size(table, query(1.0, 1e-6)[0]) == size


@pytest.mark.usefixtures("at_home")
def test_patients_are_counted_not_their_records(tmp_path: Path, tiny: dict[str, BaseModel]) -> None:
    values = tiny_recipe(tiny["esm"]).model_dump(mode="json")
    values["data"]["columns"]["person"] = {"type": "identifier"}
    values["data"]["patient"] = "person"
    values["privacy"] |= {
        "unit": "patient",
        "mechanism": "dp-sgd",
        "epsilon": 8.0,
        "delta": 1e-5,
        "record_clip": 1.0,
    }
    document = Recipe.model_validate(values).model_dump(mode="json")
    table = tmp_path / "table.csv"
    rows = [f"CASS,a,no,p{number % 7}" for number in range(60)]
    table.write_text("\n".join(["sequence,gene,label,person", *rows, ""]))
    assert public_size(table, document) == 7
    record = json.loads(json.dumps(document))
    record["privacy"]["unit"] = "record"
    assert public_size(table, record) == 60


def test_workers_are_locked_in_as_well_as_the_host_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strongest() == (choose("best").level, "")
    for level in (Bubblewrap, Landlock):
        monkeypatch.setattr(level, "unavailable", lambda self: f"no {self.level}")
    level, problem = strongest()
    assert level == "none"
    assert problem.startswith(
        "no sandbox can be had here (bubblewrap: no bubblewrap; landlock: no landlock)."
    )
