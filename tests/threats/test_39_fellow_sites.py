"""Row 39. Attack: a fellow site subtracts itself (two organisations; n = 3 with c = 2).

Must hold: refused without record-level DP; rows 4 and 10 tested from a site's seat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.core.errors import PolicyRefused
from plasmid.dp.accounting import dp_sgd_epsilon
from plasmid.gateway.policy.file import read_policy
from plasmid.planner.attempts import attempts
from plasmid.recipes.query import PingDocument
from plasmid.recipes.schema import Recipe
from plasmid.secagg.ring import decode_sum, encode
from support.federation.attacks import FOUR, as_csv, never, private, refusal
from support.federation.in_memory import SITES, Federation
from support.tiny.tiny_task import tiny_recipe, tiny_table

DOCUMENT = PingDocument(length=6, rounds=2)
PAIRS = {"alpha": "X", "beta": "X", "delta": "Y", "gamma": "Y"}


def test_control_of_two_sites_each_reads_the_other(tmp_path: Path) -> None:
    """The sum of two vectors, less one's own, is the other's: masks or not."""
    federation = Federation(tmp_path, document=DOCUMENT)
    federation.set_up()
    encoding = federation.manifest().encoding()
    mine, other = (encode(np.full(6, value, np.float32), encoding) for value in (0.25, -0.5))
    assert decode_sum(mine + other - mine, encoding, 1).tolist() == [-0.5] * 6


@pytest.mark.promise("colluders-assumed")
@pytest.mark.parametrize("c", [0, 1, 2, 3])
def test_two_sites_are_no_roster(tmp_path: Path, c: int) -> None:
    federation = Federation(tmp_path, document=DOCUMENT)
    federation.admit_all()
    for roster in (["alpha", "beta"], ["alpha"]):
        with refusal("protocol.manifest"):
            federation.gateways["alpha"].begin_epoch(federation.epoch(roster=roster, c=c))


def test_three_sites_of_which_two_may_collude_are_refused(tmp_path: Path) -> None:
    """By the plan's own c, and because two of the three are one organisation's."""
    federation = Federation(tmp_path / "c", document=DOCUMENT)
    federation.admit_all()
    for gateway in federation.gateways.values():
        with refusal("protocol.colluders"):
            gateway.begin_epoch(federation.epoch(c=2))
    owned = Federation(tmp_path / "owned", document=DOCUMENT, organisations={"beta": "Y", "gamma": "Y"})
    owned.admit_all()
    for c in (1, 2):
        with refusal("protocol.colluders"):
            owned.gateways["alpha"].begin_epoch(owned.epoch(c=c))
    with refusal("policy.min_organisations"):  # from Y's seat: itself and alpha's
        owned.gateways["beta"].begin_epoch(owned.epoch(c=1))


@pytest.mark.parametrize("c", [1, 2])
def test_two_organisations_are_refused_however_many_sites_they_have(tmp_path: Path, c: int) -> None:
    federation = Federation(tmp_path, document=DOCUMENT, sites=FOUR, organisations=PAIRS)
    federation.admit_all()
    for gateway in federation.gateways.values():
        with refusal("protocol.colluders" if c == 1 else "policy.min_organisations"):
            gateway.begin_epoch(federation.epoch(c=c))
        with refusal("protocol.manifest"):
            gateway.contribute(federation.manifest(rho=None), never)


@pytest.mark.parametrize("least", [1, 2])
def test_no_policy_can_ask_for_fewer_than_three(tmp_path: Path, least: int) -> None:
    federation = Federation(tmp_path, document=DOCUMENT, require={"min_organisations": least})
    with pytest.raises(PolicyRefused, match="greater than or equal to 3") as caught:
        read_policy(federation.home("alpha").policy)
    assert caught.value.code == "policy.invalid"
    assert federation.admit("alpha").code == "policy.invalid"


def test_shared_noise_does_not_make_two_organisations_enough(tmp_path: Path) -> None:
    """Its shares are inside the masks; only noise that each site makes alone needs no mask."""
    federation = private(tmp_path, organisations=PAIRS)
    federation.admit_all()
    for gateway in federation.gateways.values():
        with refusal("policy.min_organisations"):
            gateway.begin_epoch(federation.epoch(c=2))
    values = federation.document.model_dump(mode="json")
    values["privacy"]["protect"] = "none"
    with pytest.raises(ValueError, match="only dp-sgd needs no mask"):
        type(federation.document).model_validate(values | {"bounds": (0.0, 120.0), "missing_markers": ()})


# -- with record-level DP --------------------------------------------------------------------------


def dp_sgd(base: BaseModel, **privacy: Any) -> Recipe:
    values = tiny_recipe(base).model_dump(mode="json")
    values["federation"]["min_sites"] = 2
    values["privacy"] |= {
        "protect": "none", "unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5,
        "record_clip": 1.0,
    } | privacy  # fmt: skip
    return Recipe.model_validate(values)


def two_sites(tmp_path: Path, recipe: Recipe, **settings: Any) -> Federation:
    two = ("alpha", "beta")
    values: dict[str, Any] = {
        "sites": two,
        "tables": dict.fromkeys(two, as_csv(tiny_table(12))),
        "public_size": 100,
        "budgets": {"default": {"unit": "record", "epsilon": 8.0, "delta": 1e-5}},
        "require": {"protect": "none"},
    }
    return Federation(tmp_path, document=recipe, **values | settings)


@pytest.mark.usefixtures("at_home")
def test_two_organisations_may_train_with_noise_that_each_makes_alone(
    tmp_path: Path, tiny: dict[str, BaseModel]
) -> None:
    recipe = dp_sgd(tiny["esm"])
    federation = two_sites(tmp_path, recipe)
    federation.set_up()
    manifest = federation.manifest()
    assert (manifest.protocol, manifest.mechanism, manifest.noise_variance) == ("none", "dp-sgd", 0.0)
    terms = federation.gateways["alpha"].run(federation.run).terms
    assert terms is not None
    assert terms.noise_multiplier is not None
    # what the fellow site has after it subtracted itself is one site's vector: its noise alone meets epsilon
    spent = dp_sgd_epsilon(
        rate=terms.rate,
        noise_multiplier=terms.noise_multiplier,
        steps=attempts(recipe) * recipe.training.steps,
        delta=1e-5,
    )
    assert 7.9 < spent <= 8.0
    answers = federation.answers(manifest)
    for site, answer in answers.items():
        assert federation.words(answer, manifest)[:4].tolist() == [0] * 4  # in the clear, as the plan says
        events = [entry["event"] for entry in federation.gateways[site].ledger.entries()]
        assert events == ["reserve", "spend", "attempt"]


@pytest.mark.usefixtures("at_home")
def test_where_the_owner_does_not_allow_it_not_even_with_dp(
    tmp_path: Path, tiny: dict[str, BaseModel]
) -> None:
    federation = two_sites(tmp_path, dp_sgd(tiny["esm"]), require={})
    assert federation.admit("alpha").code == "policy.protection"


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    "privacy", [{"mechanism": "output", "record_clip": None}, {"mechanism": "dp-fedsgd"}]
)
def test_no_other_mechanism_runs_in_the_clear(tiny: dict[str, BaseModel], privacy: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="contradict"):
        dp_sgd(tiny["esm"], **privacy)


# -- from a site's seat, row 4 ---------------------------------------------------------------------


def test_of_three_organisations_a_site_learns_the_sum_of_the_two_others(tmp_path: Path) -> None:
    """What is revealed, and said in the docs: not one of the two, but the two together."""
    federation = Federation(tmp_path, document=DOCUMENT)
    federation.set_up()
    manifest = federation.manifest()
    vectors = {
        "alpha": np.array([1, 0, 0, 0.5, 0.25, 0], np.float32),
        "beta": np.array([0, 1, 0, 0.5, 0.25, 0], np.float32),
        "gamma": np.array([0, 0, 1, 0.5, 0.25, 0], np.float32),
    }
    answers = federation.answers(manifest, vectors)
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), len(SITES))
    assert (total - vectors["alpha"]).tolist() == [0.0, 1.0, 1.0, 1.0, 0.5, 0.0]
