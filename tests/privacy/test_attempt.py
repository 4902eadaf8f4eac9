"""Steps 5 to 7 from a site's seat: one contribution, one survivor list, one answer, never both shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmid.core.errors import ProtocolError
from plasmid.secagg import site as secure_aggregation
from plasmid.secagg.roster import threshold
from plasmid.secagg.shamir import combine, lagrange
from plasmid.secagg.statements import Consent, Contribution, Shares, survivors_digest
from support.federation.secure_sum import NAMES, H, Sealed, contribution, sealed

ROSTER = tuple(sorted(NAMES))  # alpha, beta, delta, gamma; c = 1, theta = 3
ZEROS = np.zeros(14, np.uint32)


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


def contributed(epoch: Sealed, *, slot: int = 0) -> list[Contribution]:
    """Let everyone contribute."""
    return [epoch.contribute(name, ZEROS, slot=slot) for name in epoch.roster]


# -- one contribution ------------------------------------------------------------------------------


def test_a_slot_has_one_contribution() -> None:
    epoch = sealed()
    said = epoch.contribute("beta", ZEROS)
    epoch.sites["beta"].contributed(said)  # the same again
    for change in ({"body": "0" * 64}, {"round": 2}, {"ledger_counter": 1}):
        with refusal("protocol.survivors"):
            epoch.sites["beta"].contributed(said.model_copy(update=change))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"site": "alpha"}, "protocol.survivors"),
        ({"run": "run-2"}, "protocol.survivors"),
        ({"epoch": 2}, "protocol.survivors"),
        ({"manifest": "b2" * 32}, "protocol.survivors"),
        ({"slot": 1}, "protocol.slot_used"),
    ],
)
def test_a_contribution_is_of_the_attempt_that_was_masked(change: dict[str, object], code: str) -> None:
    epoch = sealed()
    site = epoch.sites["beta"]
    site.mask(ZEROS.copy(), slot=0, manifest=H, invited=ROSTER)
    with refusal(code):
        site.contributed(contribution("beta", ZEROS).model_copy(update=change))


# -- one survivor list -----------------------------------------------------------------------------


BAD_LISTS: dict[str, Callable[[list[Contribution]], Sequence[Contribution]]] = {
    "mine missing": lambda said: [said[0], *said[2:]],
    "mine changed": lambda said: [said[0], said[1].model_copy(update={"body": "0" * 64}), *said[2:]],
    "a site twice": lambda said: [*said[:3], said[2]],
    "a site twice, differently": lambda said: [*said, said[3].model_copy(update={"body": "0" * 64})],
    "mine twice": lambda said: [*said, said[1]],
    "a stranger": lambda said: [*said, contribution("omega", ZEROS)],
    "another manifest": lambda said: [*said[:3], said[3].model_copy(update={"manifest": "b2" * 32})],
    "another round": lambda said: [*said[:3], said[3].model_copy(update={"round": 2})],
    "another slot": lambda said: [*said[:3], said[3].model_copy(update={"slot": 1})],
    "another epoch": lambda said: [*said[:3], said[3].model_copy(update={"epoch": 2})],
    "another run": lambda said: [*said[:3], said[3].model_copy(update={"run": "run-2"})],
    "fewer than theta": lambda said: said[:2],
    "none": lambda said: [],
}


@pytest.mark.parametrize("attack", BAD_LISTS)
def test_a_survivor_list_that_is_wrong_is_refused(attack: str) -> None:
    epoch = sealed()
    said = contributed(epoch)
    with refusal("protocol.survivors"):
        epoch.sites["beta"].consent(0, BAD_LISTS[attack](said), m=1)
    with refusal("protocol.consents"):  # and nothing was agreed to
        epoch.sites["beta"].shares(0, [])


def test_a_survivor_who_was_not_invited_is_refused() -> None:
    epoch = sealed()
    three = ("alpha", "beta", "gamma")
    said = [epoch.contribute(name, ZEROS, invited=three) for name in three]
    with refusal("protocol.survivors"):
        epoch.consents(["alpha"], [*said, contribution("delta", ZEROS)])
    assert len(epoch.consents(three, said)) == 3


@pytest.mark.parametrize(("m", "accepted"), [(0, True), (3, True), (4, False)])
def test_a_survivor_list_has_m_and_theta_sites(m: int, accepted: bool) -> None:
    epoch = sealed()
    said = contributed(epoch)[:3]
    if accepted:
        assert epoch.sites["beta"].consent(0, said, m=m).survivors == survivors_digest(said)
    else:
        with refusal("protocol.survivors"):
            epoch.sites["beta"].consent(0, said, m=m)


def test_a_site_agrees_to_one_survivor_list_a_slot() -> None:
    epoch = sealed()
    said = contributed(epoch)
    site = epoch.sites["beta"]
    consent = site.consent(0, said, m=3)
    assert site.consent(0, said[::-1], m=3) is consent  # the same survivors again
    with refusal("protocol.survivors"):
        site.consent(0, said[:3], m=3)


def test_a_site_that_contributed_nothing_agrees_to_nothing() -> None:
    epoch = sealed()
    said = [epoch.contribute(name, ZEROS) for name in ("alpha", "gamma", "delta")]
    with refusal("protocol.slot_used"):
        epoch.sites["beta"].consent(0, [*said, contribution("beta", ZEROS)], m=3)
    epoch.sites["beta"].mask(ZEROS.copy(), slot=0, manifest=H, invited=ROSTER)
    with refusal("protocol.survivors"):
        epoch.sites["beta"].consent(0, [*said, contribution("beta", ZEROS)], m=3)


def test_a_later_slot_ends_the_attempt_before() -> None:
    """Restart differencing: a site that went on to another attempt opens nothing of the first one."""
    epoch = sealed()
    first = contributed(epoch)
    consents = epoch.consents(["alpha"], first)
    contributed(epoch, slot=1)
    for name in ROSTER:
        with refusal("protocol.slot_used"):
            epoch.sites[name].consent(0, first, m=3)
        with refusal("protocol.slot_used"):
            epoch.sites[name].shares(0, consents)


# -- one answer ------------------------------------------------------------------------------------


def agreed(epoch: Sealed, survivors: int = 4) -> list[Consent]:
    """Let everyone contribute, and the first sites of the roster agree to themselves."""
    said = contributed(epoch)[:survivors]
    return epoch.consents(epoch.roster[:survivors], said)


BAD_CONSENTS: dict[str, Callable[[list[Consent]], Sequence[Consent]]] = {
    "none": lambda said: [],
    "fewer than theta": lambda said: said[:2],
    "mine twice": lambda said: [said[1], said[1], said[0]],
    "one twice": lambda said: [said[0], said[0], said[1]],
    "over another list": lambda said: [*said[:2], said[2].model_copy(update={"survivors": "0" * 64})],
    "over another manifest": lambda said: [*said[:2], said[2].model_copy(update={"manifest": "b2" * 32})],
    "of another slot": lambda said: [*said[:2], said[2].model_copy(update={"slot": 1})],
    "of another epoch": lambda said: [*said[:2], said[2].model_copy(update={"epoch": 2})],
    "of another run": lambda said: [*said[:2], said[2].model_copy(update={"run": "run-2"})],
    "of a stranger": lambda said: [*said[:2], said[2].model_copy(update={"site": "omega"})],
    "of one that dropped out": lambda said: [*said[:2], said[2].model_copy(update={"site": "gamma"})],
}


@pytest.mark.parametrize("attack", BAD_CONSENTS)
def test_no_share_leaves_against_consents_that_are_wrong(attack: str) -> None:
    epoch = sealed()
    consents = agreed(epoch, survivors=3)
    with refusal("protocol.consents"):
        epoch.sites["beta"].shares(0, BAD_CONSENTS[attack](consents))
    assert len(epoch.shares(["beta"], consents)) == 1  # the right ones still open it


def test_no_share_leaves_without_this_sites_own_consent() -> None:
    epoch = sealed()
    said = contributed(epoch)
    consents = epoch.consents(["alpha", "gamma", "delta"], said)
    with refusal("protocol.consents"):
        epoch.sites["beta"].shares(0, consents)
    own = epoch.consents(["beta"], said)
    with refusal("protocol.consents"):
        epoch.sites["beta"].shares(0, [consents[0]])  # two with its own
    assert len(epoch.shares(["beta"], consents[:2])) == 1  # three with its own
    assert own[0].site == "beta"


def test_a_slot_is_answered_once_and_erased() -> None:
    epoch = sealed()
    consents = agreed(epoch)
    epoch.shares(["beta"], consents)
    assert not epoch.sites["beta"]._held[:, :, 0].any()
    with refusal("protocol.slot_used"):
        epoch.shares(["beta"], consents)


def test_an_answer_holds_b_of_survivors_and_k_of_drop_outs_and_of_nobody_both() -> None:
    epoch = sealed()
    consents = agreed(epoch, survivors=3)
    held = epoch.sites["beta"]._held[:, :, 0].copy()
    (answer,) = epoch.shares(["beta"], consents)
    assert answer.self_shares == {name: held[place, 0].tobytes() for place, name in enumerate(ROSTER[:3])}
    assert answer.key_shares == {"gamma": held[3, 1].tobytes()}
    assert all(any(share) for share in (*answer.self_shares.values(), *answer.key_shares.values()))


def test_nothing_leaves_about_a_site_that_was_not_invited() -> None:
    epoch = sealed()
    three = ("alpha", "beta", "delta")
    answers = epoch.attempt(dict.fromkeys(three, ZEROS), invited=three)
    assert all((set(a.self_shares), a.key_shares) == (set(three), {}) for a in answers)


# -- a coordinator and c sites against the rest ----------------------------------------------------


def attack(epoch: Sealed, c: int, lists: Sequence[Sequence[bool]]) -> tuple[dict[str, int], dict[str, int]]:
    """Show each honest site a survivor list of its own; return how many shares of b and k are known of each.

    The last *c* sites collude: they sign every list, and their own shares are all known. Each row of *lists*
    says who is in the list of one honest site.
    """
    roster = epoch.roster
    honest, bad = roster[: len(roster) - c], roster[len(roster) - c :]
    said = {name: epoch.contribute(name, ZEROS) for name in roster}
    agreed_to: dict[str, list[Consent]] = {}
    for name, row in zip(honest, lists, strict=True):
        chosen = [said[site] for site, inside in zip(roster, row, strict=True) if inside or site == name]
        try:
            consent = epoch.sites[name].consent(0, chosen, m=1)
        except ProtocolError:
            continue
        agreed_to.setdefault(consent.survivors, []).append(consent)
    self_shares, key_shares = dict.fromkeys(roster, c), dict.fromkeys(roster, c)
    for consents in agreed_to.values():
        forged = [consents[0].model_copy(update={"site": name}) for name in bad]
        for consent in consents:
            survivors = {
                name
                for name in bad
                if name in epoch.sites[consent.site]._attempt._survivors  # type: ignore[union-attr]
            }
            usable = [*consents, *(said for said in forged if said.site in survivors)]
            try:
                answer = epoch.sites[consent.site].shares(0, usable)
            except ProtocolError:
                continue
            for site in answer.self_shares:
                self_shares[site] += 1
            for site in answer.key_shares:
                key_shares[site] += 1
    return self_shares, key_shares


@st.composite
def attacks(draw: st.DrawFn) -> tuple[int, int, list[list[bool]]]:
    """Two survivor lists, dealt to the honest sites at will."""
    n = draw(st.integers(3, 7))
    c = draw(st.integers(1, n - 2))
    row = st.lists(st.booleans(), min_size=n, max_size=n)
    two = [draw(row), draw(st.one_of(row, st.just([True] * n)))]
    return n, c, [two[draw(st.integers(0, 1))] for _ in range(n - c)]


@settings(max_examples=80)
@given(attacks())
def test_two_survivor_lists_never_open_both_secrets_of_one_site(
    attacked: tuple[int, int, list[list[bool]]],
) -> None:
    n, c, lists = attacked
    epoch = sealed([f"s{index}" for index in range(n)], c=c, slots=1)
    self_shares, key_shares = attack(epoch, c, lists)
    for site in epoch.roster[: n - c]:
        assert self_shares[site] < epoch.theta or key_shares[site] < epoch.theta


def test_a_threshold_that_is_one_lower_would_open_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: with 2 theta = n + c the same attack opens a site's vector."""
    lists = [[True] * 4, [False, True, True, True]]
    for lower in (0, 1):
        monkeypatch.setattr(secure_aggregation, "threshold", lambda n, c, less=lower: threshold(n, c) - less)
        monkeypatch.setattr("plasmid.secagg.coordinator.threshold", secure_aggregation.threshold)
        epoch = sealed(("a", "b", "c", "d"), c=2, slots=1)
        assert epoch.theta == 4 - lower
        self_shares, key_shares = attack(epoch, 2, lists)
        opened = self_shares["a"] >= epoch.theta and key_shares["a"] >= epoch.theta
        assert opened is bool(lower)


def test_fewer_than_theta_answers_fit_every_secret() -> None:
    """The shares of theta - 1 sites leave each byte of a self-mask secret open: every value fits, once."""
    epoch = sealed()
    answers: list[Shares] = epoch.shares(ROSTER, agreed(epoch))
    two = np.frombuffer(b"".join(a.self_shares["alpha"] for a in answers[:2]), np.uint8).reshape(2, 32)
    # a third share of every possible value gives every possible secret, each once
    weights = lagrange([1, 2, 3])
    for place in range(32):
        thirds = np.arange(256, dtype=np.uint8)
        column = np.vstack([np.full(256, two[0, place]), np.full(256, two[1, place]), thirds]).astype(
            np.uint8
        )
        assert sorted(combine(weights, column).tolist()) == list(range(256))
