"""The set-up of a key epoch: everyone speaks in due form, or is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.conftest import Scene
from plasmid.coordinator.key_epoch import SETUP_TIMEOUT_S, DroppedOut, set_up
from plasmid.core.canonical import canonical_json
from plasmid.protocol.messages import Signed
from plasmid.secagg.coordinator import CoordinatorEpoch
from support.federation.virtual_link import fails, late, says, vanish

Make = Callable[..., Scene]


def go(made: Scene, **changes: Any) -> CoordinatorEpoch:
    request = made.federation.epoch(**{"slots": 3} | changes)
    return set_up(made.link.context(made.runs), request)


def test_all_steps_are_taken_in_order(scene: Make) -> None:
    made = scene(4)
    epoch = go(made)
    assert (epoch.roster, epoch.theta, epoch.slots) == (("alpha", "beta", "delta", "epsilon"), 3, 3)
    kinds = [kind for site, kind, *_ in made.link.said if site == "beta"]
    assert kinds == ["advert", "bundles", "blobs", "ready"]
    sites = [made.federation.gateways[site].run(made.federation.run) for site in epoch.roster]
    assert {admitted.epoch.rho for admitted in sites if admitted.epoch} == {epoch.rho}


@pytest.mark.parametrize("step", ["advert", "bundles", "blobs", "ready"])
def test_who_is_silent_is_named(scene: Make, step: str) -> None:
    made = scene(4)
    made.link.on("beta", step, vanish)
    with pytest.raises(DroppedOut) as caught:
        go(made)
    assert caught.value.missing == {"beta": "it has been silent for 20 s"}
    assert not any(line["action"] == "manifest" for line in made.federation.log("alpha"))


def test_who_fails_is_named_with_its_reason(scene: Make) -> None:
    made = scene(4)
    made.link.on("beta", "bundles", fails)
    made.link.on("delta", "bundles", fails)
    with pytest.raises(DroppedOut) as caught:
        go(made)
    why = "The worker ended. [site.worker_died]"
    assert caught.value.missing == {"beta": why, "delta": why}


def test_who_is_too_slow_is_named(scene: Make) -> None:
    made = scene(4)
    made.link.on("beta", "blobs", late(SETUP_TIMEOUT_S + 1))
    with pytest.raises(DroppedOut) as caught:
        go(made)
    assert caught.value.missing == {"beta": "it did not answer within 120 s"}


def test_a_site_that_the_owner_s_peers_do_not_know_is_a_matter_for_the_sites(scene: Make) -> None:
    """The coordinator relays; each site finds out, and says so."""
    made = scene(4, strangers=["beta"])
    with pytest.raises(DroppedOut) as caught:
        go(made, c=2)
    unknown = "The roster names a site that the owner has not confirmed. [protocol.unknown_peer]"
    assert caught.value.missing == dict.fromkeys(("alpha", "delta", "epsilon"), unknown)


def resigned(made: Scene, signed: Signed, **changes: Any) -> Signed:
    """Return a statement with other fields under its author's own signature."""
    statement = signed.payload | changes
    identity = made.federation.identities[signed.signer]
    signature = identity.sign(b"plasmid-message/1\n" + canonical_json(statement))
    return Signed(payload=statement, signer=signed.signer, signature=signature)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"blob": "e" * 64}, "its blobs are not those that its recovery statement names"),
        ({"blob": 7}, "its recovery statement does not have its form"),
        ({"surplus": 1}, "its recovery statement does not have its form"),
    ],
)
def test_a_recovery_that_is_none_is_named(scene: Make, changes: dict[str, Any], why: str) -> None:
    made = scene(4)
    made.link.on("beta", "blobs", says(statement=lambda signed: resigned(made, signed, **changes)))
    with pytest.raises(DroppedOut) as caught:
        go(made)
    assert caught.value.missing == {"beta": why}


def test_bundles_for_nobody_or_too_many_for_one_reach_nobody_else(scene: Make) -> None:
    """One site's flood must not keep the bundles of the others from their receiver, nor end the run."""
    made = scene(4)

    def flood(statements: list[Signed]) -> list[Signed]:
        odd = [resigned(made, statements[0], receiver=name) for name in ("nobody", ["alpha"], None)]
        return [*odd, *statements, *[statements[0]] * 50]

    made.link.on("beta", "bundles", says(statements=flood))
    epoch = go(made)
    assert epoch.roster == ("alpha", "beta", "delta", "epsilon")


def test_a_bundle_that_is_missing_stops_its_receiver(scene: Make) -> None:
    made = scene(4)
    made.link.on("beta", "bundles", says(statements=lambda statements: statements[1:]))
    with pytest.raises(DroppedOut) as caught:
        go(made)
    assert caught.value.missing == {
        "alpha": "A bundle of shares is missing, wrong or does not open. [protocol.bundles]"
    }


def test_an_epoch_number_serves_once(scene: Make) -> None:
    made = scene(4)
    go(made)
    with pytest.raises(DroppedOut) as caught:
        go(made)
    assert {why.rsplit(" ", 1)[1] for why in caught.value.missing.values()} == {"[protocol.epoch_used]"}
