"""``plasmid privacy``: the calculator, the promise in words, the ledger."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.privacy import _planned, app
from plasmid.cli.verbs.site import init_site
from plasmid.computations import finetune
from plasmid.dp.claims import statement
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import Cost
from plasmid.gateway.ledger import Budget, Ledger
from plasmid.recipes import catalogue
from plasmid.recipes.schema import Recipe
from support.tiny.tiny_task import tiny_recipe

SITE_LEVEL = shlex.split(
    "calibrate --epsilon 8 --delta 1e-5 --rounds 20 --spare-attempts 0 --mechanism output --unit site "
    "--sites 10 --parameters 20000"
)
DP_SGD = shlex.split("calibrate --epsilon 2 --delta 1e-5 --rounds 10 --steps 8 --size 2000 --batch 100")
WRONG = shlex.split("calibrate --epsilon 0 --delta 1e-3 --rounds 0 --size 5000 --batch 0 --clip -1")


def ask(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--format", "json"])
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert answer["schema"] == "plasmid.cli/1"
    assert (answer["status"] == "ok") == (result.exit_code == 0)
    return answer


def told(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


# -- calibrate -------------------------------------------------------------------------------------


def test_the_calculator_says_no() -> None:
    data = ask(*SITE_LEVEL)["data"]
    assert data["answer"] == "no"
    assert data["central_noise_to_signal"] == pytest.approx(38.0, abs=0.1)
    assert data["noise_to_signal"] == pytest.approx(57.1, abs=0.1)
    text = told(*SITE_LEVEL)
    assert "noise to signal    57 (a trusted curator's: 38)" in text
    assert "worth it           no: the noise in the mean of 10 sites is 57 times the clip norm" in text


def test_the_calculator_of_dp_sgd() -> None:
    data = ask(*DP_SGD, "--parameters", "60000")["data"]
    assert (data["noise_multiplier"], data["rate"], data["attempts"]) == (1.3298, 0.05, 12)
    assert 1.9 < data["epsilon"] <= 2.0
    assert data["epsilon_round"] < data["epsilon"]
    assert data["answer"] == "perhaps"
    text = told(*DP_SGD)
    assert "noise multiplier   1.3298" in text
    assert "epsilon in all     2.00 at delta 1e-05, 12 attempts of 8 steps" in text
    assert "worth it           unknown: give the number of trained parameters" in text


def test_all_wrong_figures_are_one_error() -> None:
    error = ask(*WRONG)["error"]
    assert error["code"] == "usage.privacy"
    assert error["message"] == (
        "the privacy figures cannot be used: epsilon must be a number above 0, not 0; delta must be below "
        "1/5000 = 0.0002 (one unit of 5000), not 0.001; the rounds must be at least 1, not 0; the batch must "
        "be at least 1, not 0; the clip must be a number above 0, not -1."
    )
    assert error["hint"]


# -- explain ---------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Write the catalogue's tcr-covid with another privacy section."""
    source = catalogue.get("tcr-covid")
    for vocabulary in source.parent.glob("*.txt"):
        shutil.copy(vocabulary, tmp_path)
    head, _, rest = source.read_text(encoding="utf-8").partition("\nprivacy:\n")
    tail = rest[rest.index("\nrelease:\n") :]

    def write(privacy: str, *, federation: tuple[str, str] = ("", "")) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(head.replace(*federation) + f"\nprivacy: {privacy}\n" + tail, encoding="utf-8")
        return str(path)

    return write


RECORD = "{unit: record, mechanism: dp-sgd, epsilon: 4, delta: 1.0e-5, record_clip: 1}"


def test_a_recipe_without_a_unit_promises_no_differential_privacy() -> None:
    data = ask("explain", "tcr-covid")["data"]
    assert data["statement"][0].startswith("There is no differential privacy in this run")
    assert data["epsilon_round"] == {"a site": None}
    assert (data["facts"]["n"], data["facts"]["theta"], data["facts"]["min_sites"]) == (4, 3, 3)
    assert "epsilon" not in told("explain", "tcr-covid")


def test_a_recipe_under_a_unit_is_explained_for_one_size(recipe: Any) -> None:
    data = ask("explain", recipe(RECORD), "--size", "700", "--sites", "5")["data"]
    (site,) = data["facts"]["participants"]
    assert (site["public_size"], site["rate"]) == (700, 32 / 700)
    assert 3.9 < site["epsilon"] <= 4.0
    assert 0 < data["epsilon_round"]["a site with N = 700"] < site["epsilon"]
    text = told("explain", recipe(RECORD), "--size", "700", "--sites", "5")
    assert "(4.00, 1e-05)-differential privacy for any one record at a site" in text
    assert "n = 5 sites, of which c = 1" in text
    assert "Where all records of a site are one person's, that person is not protected" in text


def test_without_a_size_there_are_examples_that_delta_fits(recipe: Any) -> None:
    wide = "{unit: record, mechanism: dp-sgd, epsilon: 1, delta: 2.0e-5, record_clip: 1}"
    data = ask("explain", recipe(wide))["data"]
    sizes = [site["public_size"] for site in data["facts"]["participants"]]
    assert sizes == [1_000, 10_000]  # 2e-5 is not below 1/100,000
    first, second = (site["noise_multiplier"] for site in data["facts"]["participants"])
    assert second < first


def test_two_organisations_under_dp_sgd(recipe: Any) -> None:
    path = recipe(
        RECORD.replace("{", "{protect: none, "),
        federation=("min_sites: 3 ", "min_sites: 2 "),
    )
    text = told("explain", path, "--size", "700")
    assert "Contributions are not masked" in text
    assert "fewer than three organisations may take part" in text


@pytest.mark.usefixtures("at_home")
def test_shared_noise_is_planned_for_the_adapters_size(tiny: dict[str, BaseModel]) -> None:
    document = tiny_recipe(tiny["esm"], steps=1).model_dump()
    privacy = {"unit": "site", "mechanism": "output", "epsilon": 8.0, "delta": 1e-5, "update_clip": 2.0}
    recipe = Recipe.model_validate({**document, "privacy": privacy})
    facts = _planned(recipe, size=None, sites=6)
    assert facts.length == finetune.shape(recipe, tiny["esm"]).schema.size
    assert 7.99 < facts.spent()["a site"] <= 8.0
    assert "3 shares (m - c = 4 - 1) alone give each value" in "".join(statement(facts))


def test_bad_sizes_and_sites(recipe: Any) -> None:
    assert ask("explain", recipe(RECORD), "--size", "200000")["error"]["code"] == "usage.privacy"
    assert ask("explain", recipe(RECORD), "--size", "700", "--sites", "2")["error"]["code"] == "usage.privacy"
    assert ask("explain", "tcr")["error"]["code"] == "recipe.unknown"


# -- ledger ----------------------------------------------------------------------------------------

BUDGET = Budget(unit="record", epsilon=8.0, delta=1e-5)


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    found = SiteHome(tmp_path / "site")
    words = "twelve letters and more"
    init_site(found, name="a", organisation="A", data=None, passphrase=lambda: words, cost=Cost(n=2))
    found.policy.write_text("budgets:\n  default: {unit: record, epsilon: 8, delta: 1.0e-5}\n")
    return found


def reserve(site: SiteHome, run: str, epsilon: float, population: str = "default") -> None:
    Ledger(site.ledger).reserve(
        run=run,
        digest="d" * 64,
        project="e" * 64,
        population=population,
        unit="record",
        epsilon=epsilon,
        delta=1e-6,
        attempts=3,
        budget=BUDGET,
    )


def test_the_ledger_shows_what_is_left(site: SiteHome) -> None:
    reserve(site, "run-1", 3.0)
    Ledger(site.ledger).spend("run-1")
    reserve(site, "run-2", 1.5)
    reserve(site, "run-3", 1.0, population="others")
    data = ask("ledger", "--home", str(site.folder))["data"]
    default, others = data["populations"]
    assert default["epsilon"] == {"budget": 8.0, "spent": 3.0, "reserved": 1.5, "left": 3.5}
    assert default["delta"]["left"] == pytest.approx(8e-6)
    assert (others["population"], others["epsilon"]["budget"], others["epsilon"]["left"]) == (
        "others",
        None,
        None,
    )
    assert [entry["event"] for entry in data["entries"]] == ["reserve", "spend", "reserve", "reserve"]
    assert data["head"]["counter"] == 4
    text = told("ledger", "--home", str(site.folder))
    assert "default (unit: record): epsilon 3.5 left of 8 (3 spent, 1.5 reserved)" in text
    assert "others (unit: record): epsilon no budget (0 spent, 1 reserved)" in text
    assert "4 entries, the newest is 4" in text


def test_a_site_without_policy_or_entries(site: SiteHome) -> None:
    site.policy.unlink()
    data = ask("ledger", "--home", str(site.folder))["data"]
    assert (data["populations"], data["entries"]) == ([], [])
    assert "nothing spent" in told("ledger", "--home", str(site.folder))


def test_carrying_a_damaged_ledger_forward(site: SiteHome) -> None:
    where = ("ledger", "--home", str(site.folder))
    reserve(site, "run-1", 3.0)
    site.ledger.write_bytes(site.ledger.read_bytes()[7:])
    error = ask(*where)["error"]
    assert error["code"] == "storage.ledger_damaged"
    assert "plasmid privacy ledger --carry-forward" in error["hint"]
    unsure = ask(*where, "--carry-forward")["error"]
    assert unsure["code"] == "usage.not_confirmed"
    assert "the budgets of default as wholly spent, for good" in unsure["message"]
    data = ask(*where, "--carry-forward", "--yes")["data"]
    assert Path(data["kept"]).is_file()
    (row,) = data["populations"]
    assert row["epsilon"] == {"budget": 8.0, "spent": 8.0, "reserved": 0.0, "left": 0.0}
    assert ask(*where)["data"]["populations"][0]["epsilon"]["left"] == 0.0


def test_carrying_forward_names_populations_of_the_policy(site: SiteHome) -> None:
    where = ("ledger", "--home", str(site.folder))
    for arguments in (("--carry-forward", "--population", "ward"), ("--population", "default"), ("--yes",)):
        assert ask(*where, *arguments)["error"]["code"] == "usage.privacy"
    site.policy.unlink()
    assert ask(*where, "--carry-forward", "--yes")["error"]["code"] == "usage.privacy"
    assert not site.ledger.exists()


def test_a_folder_without_a_site(tmp_path: Path) -> None:
    assert ask("ledger", "--home", str(tmp_path))["error"]["code"] == "usage.no_site"
