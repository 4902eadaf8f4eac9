"""Set-up of a key epoch: adverts, bundles, recoveries and ready statements fit together, or it is void."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import ProtocolError
from plasmid.secagg.site import SiteEpoch
from plasmid.secagg.statements import Advert, Bundle, Ready
from support.federation.secure_sum import (
    DOCUMENT,
    NAMES,
    H,
    adverts,
    bundled,
    recovered,
    sealed,
    started,
    statements_of,
)


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


def masked(site: SiteEpoch, words: np.ndarray) -> np.ndarray:
    words = words.copy()
    site.mask(words, slot=0, manifest=H, invited=site.roster)
    return words


# -- adverts ---------------------------------------------------------------------------------------


def changed(advert: Advert, **fields: Any) -> Advert:
    return advert.model_copy(update=fields)


def other(site: str, **settings: Any) -> Advert:
    """Return a well-formed advert of *site* by somebody else."""
    made: dict[str, Any] = {"run": "run", "epoch": 1, "document": DOCUMENT, "slots": 2} | settings
    return SiteEpoch(site=site, **made).advert


BAD_ADVERTS: dict[str, Callable[[list[Advert]], list[Advert]]] = {
    "own swapped": lambda all_: [other("alpha"), *all_[1:]],
    "own missing": lambda all_: all_[1:],
    "own x25519 changed": lambda all_: [changed(all_[0], x25519=other("alpha").x25519), *all_[1:]],
    "own commitments changed": lambda all_: [changed(all_[0], key_commitments=bytes(range(64))), *all_[1:]],
    "a site twice": lambda all_: [*all_, other("beta")],
    "the same advert twice": lambda all_: [*all_, all_[1]],
    "x25519 key twice": lambda all_: [*all_[:3], changed(all_[3], x25519=all_[1].x25519)],
    "ml-kem key twice": lambda all_: [*all_[:3], changed(all_[3], mlkem768=all_[1].mlkem768)],
    "own key reflected": lambda all_: [*all_[:3], changed(all_[3], x25519=all_[0].x25519)],
    "commitments copied": lambda all_: [*all_[:3], changed(all_[3], key_commitments=all_[0].key_commitments)],
    "b committed to as k": lambda all_: [
        *all_[:3],
        changed(all_[3], key_commitments=all_[3].self_commitments),
    ],
    "one secret for two slots": lambda all_: [*all_[:3], changed(all_[3], self_commitments=bytes(64))],
    "another run": lambda all_: [*all_[:3], other("delta", run="run-2")],
    "another epoch": lambda all_: [*all_[:3], other("delta", epoch=2)],
    "another recipe": lambda all_: [*all_[:3], other("delta", document="e" * 64)],
    "another number of slots": lambda all_: [*all_[:3], other("delta", slots=3)],
    "fewer self-masks than slots": lambda all_: [
        *all_[:3],
        changed(all_[3], self_commitments=all_[3].self_commitments[:32]),
    ],
    "two sites": lambda all_: all_[:2],
    "65 sites": lambda all_: [*all_, *(changed(all_[1], site=f"site-{index}") for index in range(61))],
    "x25519 of small order": lambda all_: [*all_[:3], changed(all_[3], x25519=bytes(32))],
    "ml-kem key out of range": lambda all_: [*all_[:3], changed(all_[3], mlkem768=b"\xff" * 1184)],
}


@pytest.mark.parametrize("attack", BAD_ADVERTS)
def test_adverts_that_do_not_belong_together_are_refused(attack: str) -> None:
    sites = started()
    with refusal("protocol.adverts"):
        sites["alpha"].bundles(BAD_ADVERTS[attack](adverts(sites)), c=1, least=1)
    with refusal("protocol.ready"):  # and the epoch is void
        sites["alpha"].bundles(adverts(sites), c=1, least=1)


def test_adverts_are_taken_once() -> None:
    sites = started()
    first = adverts(sites)
    assert len(sites["alpha"].bundles(first, c=1, least=1)) == 3
    for again in (first, [*first[:3], other("delta")]):
        with refusal("protocol.ready"):
            sites["alpha"].bundles(again, c=1, least=1)


def test_the_order_of_the_adverts_does_not_matter() -> None:
    sites = started()
    for index, site in enumerate(sites.values()):
        theirs = adverts(sites)
        sent = site.bundles(theirs[index:] + theirs[:index], c=1, least=1)
        assert [bundle.receiver for bundle in sent] == [name for name in sorted(NAMES) if name != site.site]
    assert len({site.rho for site in sites.values()}) == 1
    assert sites["alpha"].roster == tuple(sorted(NAMES))


def test_a_swapped_key_changes_what_the_others_agree_on() -> None:
    """A coordinator that shows two sites different adverts of a third: their rho differ, none masks."""
    sites = started(("a", "b", "c"))
    sites["a"].bundles(adverts(sites), c=1, least=1)
    sites["b"].bundles([sites["a"].advert, sites["b"].advert, other("c")], c=1, least=1)
    assert sites["a"].rho != sites["b"].rho


@pytest.mark.parametrize("slots", [0, -1, 257])
def test_a_number_of_slots_out_of_range_is_refused(slots: int) -> None:
    with refusal("protocol.slots"):
        SiteEpoch(run="run", epoch=1, site="alpha", document=DOCUMENT, slots=slots)


@pytest.mark.parametrize(("c", "least"), [(1, 2), (3, 1), (0, 0)])
def test_no_share_is_dealt_under_a_plan_that_the_site_does_not_accept(c: int, least: int) -> None:
    sites = started()
    with refusal("protocol.colluders"):
        sites["beta"].bundles(adverts(sites), c=c, least=least)


# -- bundles ---------------------------------------------------------------------------------------


def test_a_bundle_holds_shares_and_only_for_later_sites_seeds() -> None:
    inbox = bundled(started(slots=5))
    sizes = {bundle.sender: len(bundle.sealed) - 16 for bundle in inbox["delta"]}
    assert sizes == {"alpha": 32 + 5 * 96, "beta": 32 + 5 * 96, "gamma": 32 + 5 * 64}


BAD_BUNDLES: dict[str, dict[str, Any]] = {
    "another run": {"run": "run-2"},
    "another epoch": {"epoch": 2},
    "another rho": {"rho": "0" * 64},
    "another receiver": {"receiver": "alpha"},
    "another sender": {"sender": "gamma"},
    "a stranger": {"sender": "omega"},
    "its own": {"sender": "beta"},
    "other bytes": {"sealed": bytes(32 + 2 * 96 + 16)},
    "another ciphertext": {"kem": bytes(1088)},
}


@pytest.mark.parametrize("attack", BAD_BUNDLES)
def test_a_bundle_that_was_changed_is_refused(attack: str) -> None:
    sites = started()
    inbox = bundled(sites)["beta"]
    with refusal("protocol.bundles"):
        sites["beta"].recovery([inbox[0].model_copy(update=BAD_BUNDLES[attack]), *inbox[1:]])
    with refusal("protocol.ready"):  # and the epoch is void
        sites["beta"].recovery(inbox)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_missing_or_superfluous_bundles_are_refused(count: int) -> None:
    sites = started()
    inbox = bundled(sites)["delta"]
    with refusal("protocol.bundles"):
        sites["delta"].recovery((inbox * 2)[:count])


def test_a_bundle_of_another_epoch_does_not_open() -> None:
    old, new = started(), started(epoch=2)
    stale = bundled(old)["beta"][0]
    fresh = bundled(new)["beta"]
    forged = stale.model_copy(update={"epoch": 2, "rho": new["beta"].rho})
    with refusal("protocol.bundles"):
        new["beta"].recovery([forged, *fresh[1:]])


@pytest.mark.parametrize("size", [96, 32 + 2 * 64, 32 + 3 * 96])
def test_a_bundle_of_another_length_is_refused(size: int) -> None:
    """Properly sealed by its sender: seeds or slots are missing, or there are more."""
    sites = started()
    inbox = bundled(sites)["beta"]
    alpha, beta = sites["alpha"], sites["beta"]
    short: Bundle = alpha._channel.seal(bytes(size), sender=alpha.advert, receiver=beta.advert, rho=alpha.rho)
    with refusal("protocol.bundles"):
        beta.recovery([short, *(bundle for bundle in inbox if bundle.sender != "alpha")])


# -- recovery and ready ----------------------------------------------------------------------------


def test_each_slot_has_a_blob_as_long_as_the_sites_before() -> None:
    for place, (_, blobs) in enumerate(sorted_by_name(recovered(started(slots=3)))):
        assert [len(blob) for blob in blobs] == [16 + 32 * place] * 3


def sorted_by_name(recoveries: dict[str, Any]) -> list[Any]:
    return [recoveries[name] for name in sorted(recoveries)]


@pytest.mark.parametrize(
    "change", [{"run": "r"}, {"epoch": 2}, {"rho": "0" * 64}, {"site": "beta"}, {"site": "omega"}, None]
)
def test_recoveries_that_do_not_belong_together_are_refused(change: dict[str, Any] | None) -> None:
    sites = started()
    said = statements_of(recovered(sites))
    last = [] if change is None else [said[-1].model_copy(update=change)]
    with refusal("protocol.recovery"):
        sites["alpha"].ready([*said[:-1], *last])


def test_a_site_must_find_its_own_blobs_digest() -> None:
    sites = started()
    said = statements_of(recovered(sites))
    with refusal("protocol.recovery"):
        sites["alpha"].ready([said[0].model_copy(update={"blob": "0" * 64}), *said[1:]])


def test_another_sites_blobs_change_what_all_agree_on() -> None:
    sites = started()
    said = statements_of(recovered(sites))
    told = sites["alpha"].ready(said)
    lied = sites["beta"].ready([*said[:3], said[3].model_copy(update={"blob": "0" * 64})])
    assert told.blobs != lied.blobs
    others = [sites[name].ready(said) for name in ("gamma", "delta")]
    with refusal("protocol.ready"):
        sites["alpha"].seal([told, lied, *others])


def test_one_set_of_blobs_and_one_ready_statement_an_epoch() -> None:
    sites = started()
    inbox = bundled(sites)
    recoveries = {name: site.recovery(inbox[name]) for name, site in sites.items()}
    with refusal("protocol.ready"):
        sites["delta"].recovery(inbox["delta"])
    sites["delta"].ready(statements_of(recoveries))
    with refusal("protocol.ready"):
        sites["delta"].ready(statements_of(recoveries))


def test_steps_out_of_order_are_refused() -> None:
    site = started()["alpha"]
    for step in (site.recovery, site.ready, site.seal):
        with refusal("protocol.ready"):
            step([])
    with refusal("protocol.slot_used"):
        site.shares(0, [])


@pytest.mark.parametrize(
    "change",
    [
        {"n": 3},
        {"c": 2},
        {"theta": 2},
        {"rho": "0" * 64},
        {"blobs": "0" * 64},
        {"epoch": 2},
        {"run": "run-2"},
        {"site": "beta"},
        None,
    ],
)
def test_statements_that_are_not_equal_seal_nothing(change: dict[str, Any] | None) -> None:
    sites, statements = ready()
    last = [] if change is None else [statements[-1].model_copy(update=change)]
    with refusal("protocol.ready"):
        sites["alpha"].seal([*statements[:-1], *last])
    with refusal("protocol.ready"):
        masked(sites["alpha"], np.zeros(8, np.uint32))
    with refusal("protocol.ready"):  # the epoch is void
        sites["alpha"].seal(statements)


def ready() -> tuple[dict[str, SiteEpoch], list[Ready]]:
    sites = started()
    recoveries = recovered(sites)
    return sites, [site.ready(statements_of(recoveries)) for site in sites.values()]


def test_statements_equal_among_the_others_but_not_to_mine_seal_nothing() -> None:
    sites, statements = ready()
    with refusal("protocol.ready"):
        sites["alpha"].seal([statement.model_copy(update={"c": 2}) for statement in statements])


def test_two_epochs_have_nothing_in_common() -> None:
    """A failed set-up draws fresh secrets: no key, commitment or pad of it comes back."""
    first, second = sealed(epoch=1), sealed(epoch=2)
    for name in NAMES:
        one, two = first.sites[name].advert, second.sites[name].advert
        assert not {one.x25519, one.mlkem768, one.key_commitments, one.self_commitments} & {
            two.x25519,
            two.mlkem768,
            two.key_commitments,
            two.self_commitments,
        }
    assert first.coordinator.rho != second.coordinator.rho
