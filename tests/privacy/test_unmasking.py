"""Opening a sum: exact over the survivors in every pattern of drop-outs, or an error and nothing revealed."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.secagg import coordinator as unmasking
from plasmid.secagg.coordinator import CoordinatorEpoch, sum_words
from plasmid.secagg.keystream import Pad, self_key
from plasmid.secagg.ring import decode_sum, encode, plan_encoding
from plasmid.secagg.roster import threshold
from plasmid.secagg.statements import Shares
from support.federation.secure_sum import NAMES, H, Sealed, adverts, plan, reader, recovered, sealed, started

ROSTER = tuple(sorted(NAMES))  # alpha, beta, delta, gamma; c = 1, theta = 3
SIX = tuple("abcdef")  # c = 1, theta = 4
ZEROS = np.zeros(14, np.uint32)


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


# -- drop-outs in every phase ----------------------------------------------------------------------

FATES = ("before mask", "before consent", "before shares", "late")
"""When a site leaves; "late": its vector arrives after the deadline, and it hears of nothing any more."""


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, int, dict[str, str], int, int]:
    """n, c, the fate of each invited site, the ring, a seed; about as many leave as may."""
    n = draw(st.integers(3, 8))
    c = draw(st.integers(1, max(1, n - 4)))
    names = [f"site-{index}" for index in range(n)]
    spare = n - threshold(n, c)
    leaving = draw(st.permutations(names))[: draw(st.integers(1, spare + 1))]
    uninvited = leaving[: draw(st.integers(0, spare))]
    fates = {name: draw(st.sampled_from(FATES)) if name in leaving else "stays" for name in names}
    invited = {name: fate for name, fate in fates.items() if name not in uninvited}
    return n, c, invited, draw(st.sampled_from((32, 64))), draw(st.integers(0, 99))


def left_behind(answers: list[Shares], site: str) -> tuple[int, int]:
    """Return how many shares of b and of k of *site* left."""
    return sum(site in a.self_shares for a in answers), sum(site in a.key_shares for a in answers)


def collect(
    epoch: Sealed, said: dict[str, Any], here: dict[str, list[str]], answers: list[Shares]
) -> list[Shares]:
    """Go on as far as the sites let one, and note what left."""
    consents = epoch.consents(here["consents"], [said[name] for name in here["in time"]])
    for name in here["answers"]:
        answers += epoch.shares([name], consents)
    return answers


@settings(max_examples=200)
@given(rounds())
def test_the_sum_is_exact_or_an_error_and_nothing_is_revealed(
    drawn: tuple[int, int, dict[str, str], int, int],
) -> None:
    n, c, fates, bits, seed = drawn
    epoch = sealed([f"site-{index}" for index in range(n)], c=c, slots=1)
    encoding = plan_encoding(length=7, bound=1.0, sites=n, bits=bits)
    source, invited = np.random.default_rng(seed), sorted(fates)
    plain = {name: encode(source.uniform(-1, 1, 7), encoding) for name in invited}
    here = {
        phase: [name for name in invited if fates[name] not in earlier]
        for phase, earlier in {
            "masks": {"before mask"},
            "in time": {"before mask", "late"},
            "consents": {"before mask", "late", "before consent"},
            "answers": {"before mask", "late", "before consent", "before shares"},
        }.items()
    }
    said = {name: epoch.contribute(name, plain[name], invited=invited) for name in here["masks"]}
    alive = here["in time"]
    answers: list[Shares] = []
    if len(here["answers"]) >= epoch.theta:
        consents = epoch.consents(here["consents"], [said[name] for name in alive])
        answers = epoch.shares(here["answers"], consents)
        total = epoch.total(encoding, answers, alive, invited=invited)
        assert np.array_equal(total, np.sum([plain[name] for name in alive], axis=0, dtype=encoding.dtype))
        assert decode_sum(total, encoding, len(alive)).shape == (7,)
    else:
        with pytest.raises(ProtocolError) as caught:
            epoch.total(encoding, collect(epoch, said, here, answers), alive, invited=invited)
        too_few = {
            "protocol.survivors": "in time",
            "protocol.consents": "consents",
            "protocol.shares": "answers",
        }
        assert len(here[too_few[caught.value.code]]) < epoch.theta
        assert len(answers) < epoch.theta  # too few for any secret
        if len(here["consents"]) < epoch.theta:
            assert answers == []  # without theta consents no share left at all
    for name in epoch.roster:
        of_self, of_key = left_behind(answers, name)
        assert min(of_self, of_key) == 0  # never both from one site, here from none
        assert not (of_self and name not in alive)
        assert not (of_key and name in alive)


@pytest.mark.parametrize(("n", "c", "dropouts"), [(3, 1, 0), (4, 1, 1), (6, 1, 2), (10, 3, 3)])
def test_as_many_drop_outs_as_the_plan_says(n: int, c: int, dropouts: int) -> None:
    names = [f"s{index}" for index in range(n)]
    encoding = plan(n)
    for gone, opens in ((dropouts, True), (dropouts + 1, False)):
        epoch = sealed(names, c=c)
        plain = {name: encode(np.full(10, 0.0625), encoding) for name in names[gone:]}
        if opens:
            total = epoch.total(encoding, epoch.attempt(plain), plain)
            assert decode_sum(total, encoding, len(plain)).tolist() == [0.0625 * len(plain)] * 10
        else:
            with refusal("protocol.survivors"):
                epoch.attempt(plain)


def test_a_late_vector_stays_hidden_under_its_self_mask() -> None:
    """All its pair masks can be taken off, and yet: no share of its b ever leaves."""
    epoch, encoding = sealed(), plan(4)
    late = encode(np.full(10, 0.25), encoding)
    own_secret = epoch.sites["beta"]._held[1, 2, 0].tobytes()
    said = [epoch.contribute(name, late if name == "beta" else ZEROS) for name in ROSTER]
    alive = ["alpha", "delta", "gamma"]
    answers = epoch.shares(alive, epoch.consents(alive, [said[0], *said[2:]]))
    assert not any("beta" in answer.self_shares for answer in answers)
    pads = epoch.coordinator.pads(0, H, invited=ROSTER, survivors=alive, shares=answers)
    # what opens the sum: three self-masks, and the survivors' side of beta's three pairs
    pairs = [Pad(pad.key, not pad.subtract) for pad in pads[3:]]
    opened = sum_words([reader(epoch.vectors["beta"])], encoding, pairs, 0, 14)
    with refusal("protocol.garbage_sum"):
        decode_sum(opened, encoding, 1)
    # the positive control: the self-mask is all that is left
    own = Pad(self_key(own_secret, H), subtract=True)
    assert np.array_equal(sum_words([reader(opened)], encoding, [own], 0, 14), late)


def test_a_round_after_a_failed_one_is_exact() -> None:
    epoch, encoding = sealed(slots=3), plan(4)
    epoch.contribute("alpha", ZEROS)  # slot 0: nobody else came
    plain = {name: encode(np.full(10, 0.125), encoding) for name in ROSTER}
    answers = epoch.attempt(plain, slot=2)
    total = epoch.total(encoding, answers, ROSTER, slot=2)
    assert decode_sum(total, encoding, 4).tolist() == [0.5] * 10


# -- answers that are wrong ------------------------------------------------------------------------


def opened(epoch: Sealed, answers: list[Shares], alive: tuple[str, ...]) -> bool:
    """Whether the sum over *alive* is opened, to zero."""
    total = epoch.total(plan(len(SIX)), answers, alive)
    return not total.any()


def spoilt(answer: Shares) -> Shares:
    """Return an answer whose every share is wrong."""
    wrong = {site: bytes(share[:-1]) + bytes([share[-1] ^ 1]) for site, share in answer.self_shares.items()}
    return answer.model_copy(update={"self_shares": wrong})


@pytest.mark.parametrize("wrong", [(0,), (3,), (5,), (0, 1), (1, 4), (2, 5)])
def test_wrong_shares_do_not_stop_theta_right_ones(wrong: tuple[int, ...]) -> None:
    epoch = sealed(SIX)
    answers = epoch.attempt(dict.fromkeys(SIX, ZEROS))
    answers = [spoilt(a) if place in wrong else a for place, a in enumerate(answers)]
    assert opened(epoch, answers, SIX)


def test_a_site_may_lie_about_one_other_alone() -> None:
    epoch = sealed(SIX)
    first, *rest = epoch.attempt(dict.fromkeys(SIX, ZEROS))
    lie = first.model_copy(update={"self_shares": {**first.self_shares, "e": bytes(32)}})
    assert opened(epoch, [lie, *rest], SIX)


def test_with_fewer_than_theta_right_shares_the_owner_is_named() -> None:
    epoch = sealed(SIX)
    answers = [
        spoilt(a) if place < 3 else a for place, a in enumerate(epoch.attempt(dict.fromkeys(SIX, ZEROS)))
    ]
    with refusal("protocol.shares") as caught:
        opened(epoch, answers, SIX)
    assert caught.value.message == "the answers of a, b, c, d, e, f hold no 4 right shares of a."


def test_a_dealer_of_wrong_shares_is_named() -> None:
    """A malicious site whose shares fit no commitment: its fellow sites' answers are right."""
    epoch = sealed(SIX)
    for name in SIX:
        epoch.sites[name]._held[4, 0, 0] ^= 7  # what e dealt of its b
    answers = epoch.attempt(dict.fromkeys(SIX, ZEROS))
    with refusal("protocol.shares") as caught:
        opened(epoch, answers, SIX)
    assert "right shares of e." in caught.value.message
    assert "Leave out e" in caught.value.hint


def test_any_two_liars_of_64_are_found_within_the_limit() -> None:
    """The two that come last among the sets; Lagrange and XOR alone, without a roster of 64."""
    sets = list(unmasking._sets(64, tuple(range(60))))
    assert len(sets) <= 1 + unmasking.MAX_TRIES
    assert any(58 not in chosen and 59 not in chosen for chosen in sets)
    assert any(0 not in chosen and 59 not in chosen for chosen in sets)
    assert len(set(sets)) == len(sets)
    assert all(len(set(chosen)) == 60 for chosen in sets)


@pytest.mark.parametrize("answers", range(4, 13))
def test_up_to_twelve_answers_every_set_is_tried(answers: int) -> None:
    tried = {tuple(sorted(chosen)) for chosen in unmasking._sets(answers, (0, 1, 2, 3))}
    assert tried == set(combinations(range(answers), 4))


BAD_ANSWERS: dict[str, dict[str, Any]] = {
    "another slot": {"slot": 1},
    "another manifest": {"manifest": "b2" * 32},
    "another epoch": {"epoch": 2},
    "another run": {"run": "run-2"},
    "a stranger": {"site": "omega"},
    "one that dropped out": {"site": "f"},
    "twice the same site": {"site": "b"},
    "no share of b": {"self_shares": {}},
    "no share of k": {"key_shares": {}},
    "a share too many": {"key_shares": {"a": bytes(32), "f": bytes(32)}},
    "b of a drop-out": {"key_shares": {}, "self_shares": dict.fromkeys(SIX, bytes(32))},
}


@pytest.mark.parametrize("attack", BAD_ANSWERS)
def test_an_answer_in_another_form_counts_as_none(attack: str) -> None:
    alive = SIX[:5]
    epoch = sealed(SIX)
    answers = epoch.attempt(dict.fromkeys(alive, ZEROS))
    bad = [answers[0].model_copy(update=BAD_ANSWERS[attack]), *answers[1:]]
    assert opened(epoch, bad, alive)  # four right ones are left: theta
    with refusal("protocol.shares"):
        opened(epoch, bad[:4], alive)


@pytest.mark.parametrize(
    ("slot", "invited", "alive"),
    [
        (0, SIX, SIX[:3]),  # fewer than theta
        (0, SIX[:4], SIX),  # not invited
        (0, SIX, (*SIX[:4], "omega")),
        (0, (*SIX, "omega"), SIX),
        (0, SIX, (*SIX[:4], "a")),
        (2, SIX, SIX),
        (-1, SIX, SIX),
    ],
)
def test_only_theta_invited_sites_of_the_roster_are_opened(
    slot: int, invited: tuple[str, ...], alive: tuple[str, ...]
) -> None:
    epoch = sealed(SIX)
    answers = epoch.attempt(dict.fromkeys(SIX, ZEROS))
    with refusal("protocol.invited"):
        epoch.coordinator.pads(slot, H, invited=invited, survivors=alive, shares=answers)


# -- recovery --------------------------------------------------------------------------------------


def test_blobs_in_the_wrong_places_do_not_open_and_their_owner_is_named() -> None:
    """A malicious site that commits to them so: nothing is amiss before it drops out."""
    epoch = sealed(SIX)
    said, blobs = epoch.recoveries["f"]
    swapped = blobs[::-1]
    told = said.model_copy(update={"blob": sha256_hex(b"".join(swapped))})
    recoveries = {**epoch.recoveries, "f": (told, swapped)}
    epoch.coordinator = CoordinatorEpoch(adverts(epoch.sites), recoveries, c=1)
    answers = epoch.attempt(dict.fromkeys(SIX[:5], ZEROS))
    with refusal("protocol.recovery") as caught:
        opened(epoch, answers, SIX[:5])
    assert caught.value.message == "the recovery blob of f does not open."


@pytest.mark.parametrize("site", ["a", "f"])
def test_only_the_slots_own_secret_opens_its_blob(site: str) -> None:
    """Whoever recovers k of a slot has the seeds of that slot and of no other."""
    sites = started(SIX)
    secrets = sites[site]._secrets[1].copy()
    recoveries = recovered(sites)
    coordinator = CoordinatorEpoch(adverts(sites), recoveries, c=1)
    seeds = coordinator._seeds(0, site, secrets[0].tobytes())
    held = {other: sites[other]._held[SIX.index(site), 2, 0].tobytes() for other in SIX if other != site}
    assert {other: seeds(other) for other in held} == held
    with refusal("protocol.recovery"):
        coordinator._seeds(1, site, secrets[0].tobytes())


@pytest.mark.parametrize(
    "change", [{"run": "r"}, {"epoch": 2}, {"site": "b"}, {"rho": "0" * 64}, {"blob": "0" * 64}]
)
def test_a_recovery_that_is_wrong_ends_the_set_up(change: dict[str, Any]) -> None:
    sites = started(SIX)
    recoveries = recovered(sites)
    said, blobs = recoveries["c"]
    for bad in (
        {**recoveries, "c": (said.model_copy(update=change), blobs)},
        {**recoveries, "c": (said, blobs[:1])},
        {**recoveries, "c": (said, [blobs[0], bytes(len(blobs[1]))])},
        {**recoveries, "c": (said.model_copy(update={"blob": sha256_hex(blobs[0])}), blobs[:1])},
        {name: pair for name, pair in recoveries.items() if name != "c"},
    ):
        with refusal("protocol.recovery") as caught:
            CoordinatorEpoch(adverts(sites), bad, c=1)
        assert "of c" in caught.value.message


@pytest.mark.parametrize(("c", "code"), [(0, "protocol.colluders"), (5, "protocol.colluders")])
def test_the_coordinator_plans_nothing_that_no_site_accepts(c: int, code: str) -> None:
    sites = started(SIX)
    recoveries = recovered(sites)
    with refusal(code):
        CoordinatorEpoch(adverts(sites), recoveries, c=c)


# -- chunks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_chunks_of_a_sum_are_the_sum(bits: int) -> None:
    length = 150_000
    epoch = sealed(SIX)
    encoding = plan_encoding(length=length, bound=1.0, sites=6, bits=bits)
    source, alive = np.random.default_rng(3), SIX[:5]
    plain = {name: encode(source.uniform(-1, 1, length), encoding) for name in alive}
    answers = epoch.attempt(plain)
    pads = epoch.coordinator.pads(0, H, invited=SIX, survivors=alive, shares=answers)
    readers = [reader(epoch.vectors[name]) for name in alive]
    cuts = [0, 1, 2, 3, 77, 65_536, 65_537, 131_071, length, length + 4]
    chunks = [sum_words(readers, encoding, pads, *ends) for ends in pairwise(cuts)]
    assert np.array_equal(np.concatenate(chunks), np.sum(list(plain.values()), axis=0, dtype=encoding.dtype))
    assert sum_words(readers, encoding, pads, 5, 5).size == 0


def test_a_sum_without_masks_is_the_sum() -> None:
    words = [np.arange(14, dtype=np.uint32), np.full(14, 2**32 - 1, np.uint32)]
    total = sum_words([reader(one) for one in words], plan(2), [], 0, 14)
    assert total.tolist() == [2**32 - 1, *range(13)]
