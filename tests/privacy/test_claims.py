"""The sentences: their numbers are computed from the facts, and what is not promised is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plasmid.core.errors import ProtocolError
from plasmid.dp.accounting import dp_sgd_epsilon
from plasmid.dp.canary_audit import Audit
from plasmid.dp.claims import TOLD, PrivacyFacts, SiteFacts, shown, statement
from plasmid.dp.skellam import skellam_epsilon
from plasmid.secagg.samples import SAMPLES
from support.federation.privacy_facts import DP_SGD, MASKED, SITES, shared


def text(facts: PrivacyFacts) -> str:
    return "\n".join(statement(facts))


def broken(facts: PrivacyFacts) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        statement(facts)
    assert caught.value.code == "protocol.claims"
    return caught.value


# -- numbers ---------------------------------------------------------------------------------------


def test_dp_sgd_is_recomputed_for_each_site_and_the_worst_leads() -> None:
    spent = {
        site.site: dp_sgd_epsilon(
            rate=site.rate, noise_multiplier=site.noise_multiplier or 0.0, steps=60, delta=1e-5
        )
        for site in SITES
    }
    assert DP_SGD.spent() == spent
    assert [shown(value) for value in spent.values()] == ["1.64", "2.99"]
    lines = statement(DP_SGD)
    assert lines[0].startswith("(2.99, 1e-05)-differential privacy for any one record at a site:")
    assert lines[0].endswith("Each site's ledger is charged epsilon 8.")
    assert lines[1] == (
        "a: epsilon 1.64 at delta 1e-05; N = 5,000 declared by its owner, sampling rate 0.0128, "
        "noise multiplier 0.8."
    )
    assert "over 12 attempts at 10 rounds" in lines[3]
    assert "clipped to an L2 norm of 1, and each site adds Gaussian noise in each of 5 steps" in text(DP_SGD)


@pytest.mark.parametrize(
    ("changed", "grows"),
    [({"attempts": 14}, True), ({"steps": 6}, True), ({"attempts": 10}, False), ({"delta": 1e-4}, False)],
)
def test_every_figure_that_decides_epsilon_moves_the_one_printed(
    changed: dict[str, Any], grows: bool
) -> None:
    before, after = DP_SGD.spent()["b"], replace(DP_SGD, **changed).spent()["b"]
    assert (after > before) == grows
    assert after != before
    assert f"epsilon {shown(after)} at delta" in text(replace(DP_SGD, **changed))


def test_shared_noise_counts_m_minus_c_shares_whoever_took_part() -> None:
    facts = shared()
    spent = facts.spent()
    assert spent["a"] == skellam_epsilon(
        sensitivity=1.0,
        length=3000,
        scale_log2=facts.scale_log2 or 0,
        std=facts.noise_std or 0.0,
        releases=12,
        rate=0.05,
        delta=1e-5,
    )
    assert spent["b"] < spent["a"] <= 4.0
    assert replace(facts, survivors=(5, 5, 4)).spent() == spent
    assert "3 shares (m - c = 4 - 1) alone give each value of a sum a standard deviation of" in text(facts)
    assert (
        f"deviation of {facts.noise_std:.4g}, and epsilon is accounted as if only these were there"
        in text(facts)
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7.9984, "8.00"),
        (2.9901, "3.00"),
        (3.0, "3.00"),
        (0.0123, "0.0123"),
        (0.01234, "0.0124"),
        (0.0, "0.00"),
    ],
)
def test_an_epsilon_is_rounded_up(value: float, told: str) -> None:
    assert shown(value) == told
    assert float(told) >= value


# -- nothing is printed that does not follow -------------------------------------------------------


def test_more_than_was_charged_is_never_printed() -> None:
    error = broken(replace(DP_SGD, epsilon=2.9))
    assert error.message == "the facts give epsilon 2.99 at b; the ledgers were charged 2.9."
    broken(replace(DP_SGD, attempts=200, steps=50))
    broken(replace(shared(), noise_std=0.5))


@pytest.mark.parametrize(
    "missing", ["delta", "epsilon", "noise_multiplier", "noise_std", "scale_log2", "length", "record_clip"]
)
def test_a_missing_figure_is_no_epsilon(missing: str) -> None:
    if missing == "noise_multiplier":
        broken(replace(DP_SGD, participants=(SiteFacts("a", 5000, 0.0128, None),)))
    else:
        broken(replace(shared(), **{missing: None}))


# -- who is protected from whom --------------------------------------------------------------------


def test_dp_sgd_trusts_nobody_and_shared_noise_names_its_adversary() -> None:
    assert "It holds against everyone who sees anything outside the site" in text(DP_SGD)
    assert "every fellow site" in text(DP_SGD)
    assert "coordinator together with up to 1 of the 5 sites, against each fellow site" in text(shared())
    assert "not against more colluding sites" in text(shared())
    assert "Gaussian" not in text(shared())
    assert "Skellam" not in text(DP_SGD)


def test_the_masks_figures() -> None:
    assert (
        "Contributions are masked (plasmid-sa/2) for n = 5 sites, of which c = 1 may collude with the "
        "coordinator or one another: they learn sums over at least m = 4 sites, at least 3 of them honest, "
        "and nothing else of a contribution. Opening a sum takes theta = 4 sites, so 1 may drop out of a "
        "round."
    ) in statement(MASKED)


def test_without_a_unit_no_epsilon_is_printed_and_that_is_said() -> None:
    told = text(MASKED)
    assert statement(MASKED)[0].startswith("There is no differential privacy in this run")
    assert "epsilon" not in told
    assert MASKED.spent() == {}
    assert MASKED.accountant is None
    assert "can subtract its own part" in told


def test_fewer_than_three_organisations_need_no_mask_under_dp_sgd() -> None:
    facts = replace(DP_SGD, protect="none", n=2, c=0, theta=0, min_sites=2)
    told = text(facts)
    assert "Contributions are not masked: the coordinator sees what each site sends." in told
    assert "fewer than three organisations may take part: with two, a mask would hide nothing" in told
    assert "masked (plasmid" not in told
    clear = text(replace(MASKED, protect="none"))
    assert "not masked" in clear
    assert "fewer than three" not in clear  # no noise stands in for the mask there


def test_the_limits_of_each_unit() -> None:
    record = text(DP_SGD)
    assert "A record is protected, not a person" in record
    assert "Where all records of a site are one person's, that person is not protected" in record
    assert "covered by the sum of their epsilons and deltas. Such overlap is not detected" in record
    patient = text(replace(DP_SGD, unit="patient", max_records=16))
    assert "differential privacy for all records of any one patient at a site" in patient
    assert "At most 16 records of a patient count in a sample, summed, then clipped." in patient
    assert "one person under two identifiers is two" in patient
    assert "not a person" not in patient
    assert "A person is assumed to be at one site only." in text(shared())
    site = shared(
        unit="site", mechanism="output", record_clip=None, update_clip=1.0, participants=(SiteFacts("a"),)
    )
    assert "That a site takes part is public" in text(site)
    assert "person" not in text(site)
    for facts in (DP_SGD, shared()):
        assert "Peers who collude in rolling a ledger back are not detected." in text(facts)
        assert "Across runs on the same population epsilons and deltas add up" in text(facts)
    unmasked = replace(DP_SGD, protect="none")
    assert "limited, not detected. Nobody proves that the published totals are honest." in text(unmasked)


@pytest.mark.parametrize("unit", ["none", "record"])
def test_what_a_drop_out_leaves_is_said_without_a_unit(unit: str) -> None:
    told = text(MASKED) if unit == "none" else text(shared())
    assert f"passes one site with a probability of (1 - f)^{SAMPLES} at most" in told
    assert "Nobody proves" not in told
    trace = f"{TOLD}. Sites refuse a sum at a state within 0.001 of one that was summed over others."
    assert (trace in told) is (unit == "none")
    once = text(replace(MASKED, rounds=1, attempts=1))
    assert TOLD not in once, "one sum has no other beside it"


def test_participation_audit_and_rehearsal() -> None:
    assert "opened" not in text(DP_SGD)  # before the run
    told = text(replace(DP_SGD, survivors=(5, 4, 5)))
    assert "3 sums were opened, over 4 to 5 sites; m = 4 are required." in told
    assert "2 sums were opened, over 4 sites" in text(replace(DP_SGD, survivors=(4, 4)))
    audit = Audit(canaries=400, guesses=100, right=60, epsilon=8.0, delta=1e-5)
    assert statement(replace(DP_SGD, audit=audit))[-1] == audit.sentence
    assert "This is a rehearsal" in statement(replace(MASKED, rehearsal=True))[0]
    assert "rehearsal" not in text(MASKED)
