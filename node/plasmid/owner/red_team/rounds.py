"""Attacks by a coordinator in a run under way: manifests, keys, vectors."""

from __future__ import annotations

from functools import partial

import numpy as np

from plasmid.core.errors import DataError, PlasmidError
from plasmid.gateway.members.peers import Peers, read_peers, write_peers
from plasmid.gateway.output import bounded
from plasmid.gateway.pause import pause
from plasmid.gateway.sentences import SENTENCES
from plasmid.owner.red_team.attack import DidNotHoldError, attacks, never, refuses, works
from plasmid.owner.red_team.scratch import Scratch
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Manifest, sign

_CANARY = "canary-4711"


def not_the_coordinator(scratch: Scratch) -> None:
    """A message that somebody else signs in the coordinator's name."""
    admit = scratch.admit()
    works(scratch.target.open(sign(scratch.coordinator, admit)) == admit, "the coordinator's own is refused")
    forged = sign(Identity.generate("coordinator"), admit)
    refuses("protocol.signature", lambda: scratch.target.open(forged))


def swapped_key(scratch: Scratch) -> None:
    """The coordinator puts its own key in the place of a peer's, to read what is sealed for that peer."""
    scratch.admit_everywhere()
    adverts = scratch.adverts()
    place = next(index for index, said in enumerate(adverts) if said.signer != scratch.name)
    payload, name = adverts[place].payload, adverts[place].signer
    peer = scratch.gateways[name].run(scratch.run).epoch
    assert peer is not None
    stranger = Identity.generate(name)
    swapped = [*adverts]
    swapped[place] = sign(stranger, peer.advert.model_copy(update={"x25519": b"\x09" + bytes(31)}))
    refuses("protocol.signature", lambda: scratch.target.relay(scratch.relay("advert", swapped)))
    works(payload["site"] == name, "an advert names its site")
    said = scratch.target.relay(scratch.relay("advert", adverts))
    works(said is not None, "honest adverts are refused")


def invented_site(scratch: Scratch) -> None:
    """The roster counts a site that the owner has not confirmed."""
    scratch.admit_everywhere()
    works(scratch.target.begin_epoch(scratch.epoch(1)) is not None, "an honest roster is refused")
    home = scratch.home()
    known = read_peers(home.peers)
    write_peers(home.peers, Peers(coordinator=known.coordinator, sites=known.sites[1:]))
    refused = 0
    try:
        scratch.target.begin_epoch(scratch.epoch(2))
    except PlasmidError as error:
        refused = error.code in ("policy.min_organisations", "protocol.colluders", "protocol.unknown_peer")
    if not refused:
        raise DidNotHoldError("an unconfirmed site counted as an organisation")


def replayed_manifest(scratch: Scratch) -> None:
    """The same manifest again, now and after a restart: the same bytes, or nothing."""
    manifest = scratch.set_up()
    first = scratch.contribute(manifest, np.full(6, 0.5, np.float32))
    again = scratch.contribute(manifest, np.full(6, -0.5, np.float32))
    if first.body != again.body:
        raise DidNotHoldError("a replayed manifest got a second vector under one mask")
    restarted = scratch.gateway()
    refuses("run.unknown", lambda: restarted.contribute(manifest, never))
    works(restarted.answer(scratch.admit()).accepted, "a restarted site does not admit its run again")
    refuses("protocol.epoch_used", lambda: restarted.begin_epoch(scratch.epoch(1)))


def slot_reuse(scratch: Scratch) -> None:
    """A slot that was passed over is asked for, and a vector at a state that nobody has made."""
    passed_over = scratch.set_up()
    scratch.contribute(scratch.manifest(slot=1))
    refuses("protocol.second_manifest", partial(scratch.target.contribute, passed_over, never))
    made_up = scratch.publish(np.ones(6, np.float32))
    begun = scratch.manifest(slot=2, state=made_up)
    refuses("protocol.step", partial(scratch.target.contribute, begun, never))


def downgrade(scratch: Scratch) -> None:
    """A manifest without masks, with a coarser ring, with fewer sites, or for another document."""
    manifest = scratch.set_up()
    for changes in (
        {"protocol": "none", "rho": None, "theta": 0},
        {"bound": manifest.bound * 1024},
        {"min_sites": 1},
        {"invited": [scratch.name]},
        {"document": "0" * 64},
        {"round": 99},
    ):
        weaker = manifest.model_copy(update=changes)
        refuses("protocol.manifest", partial(scratch.target.contribute, weaker, never))
    works(len(scratch.contribute(manifest).body) > 0, "the honest manifest is refused")


def bad_vector(scratch: Scratch) -> None:
    """NaN, infinity, another shape or type in what a computation returns."""
    manifest = scratch.set_up()
    bad = [np.full(6, value, np.float32) for value in (np.nan, np.inf, -np.inf)]
    bad += [np.zeros(5, np.float32), np.zeros(6, np.float64), np.zeros((2, 3), np.float32)]
    for slot, vector in enumerate(bad[:2]):
        tried = manifest.model_copy(update={"slot": slot})
        refuses("protocol.vector", partial(scratch.contribute, tried, vector))
    shape = scratch.target.run(scratch.run).shape
    for vector in bad:
        refuses("protocol.vector", partial(bounded, vector, shape, noised=False))
    works(len(scratch.contribute(manifest.model_copy(update={"slot": 2})).body) > 0, "zeros are refused")


def size_is_clipped(scratch: Scratch) -> None:
    """A vector of 1e30: what leaves is inside the public bound."""
    scratch.set_up()
    shape = scratch.target.run(scratch.run).shape
    small, _ = bounded(np.full(6, 1e-3, np.float32), shape, noised=False)
    works(bool(np.allclose(small, 1e-3)), "a small vector is changed")
    large, _ = bounded(np.full(6, 1e30, np.float32), shape, noised=False)
    if not float(np.abs(large).max()) <= shape.bound:
        raise DidNotHoldError(
            f"a coordinate of {float(np.abs(large).max()):g} leaves, beyond {shape.bound:g}"
        )


def pause_while_computing(scratch: Scratch) -> None:
    """The owner pauses while a worker computes: its result must not leave."""
    manifest = scratch.set_up()

    def compute(_: Manifest) -> np.ndarray:
        pause(scratch.home(), by="red team", reason="an exercise")
        return np.zeros(6, np.float32)

    refuses("site.paused", lambda: scratch.target.contribute(manifest, compute))
    if any(entry["action"] == "released" for entry in scratch.target.audit.entries()):
        raise DidNotHoldError("a body was released after the pause")


def row_in_an_error(scratch: Scratch) -> None:
    """An error whose text quotes a cell: what leaves is a constant sentence."""
    manifest = scratch.set_up()

    def compute(_: Manifest) -> np.ndarray:
        raise DataError("data.number_out_of_bounds", f"the cell {_CANARY} is out of bounds")

    try:
        scratch.target.contribute(manifest, compute)
    except PlasmidError as error:
        works(_CANARY in error.message, "the error does not quote the cell")
        code, sentence = scratch.target.public(error)
        if _CANARY in f"{code}{sentence}" or (sentence and sentence not in SENTENCES.values()):
            raise DidNotHoldError(f"the sentence {sentence!r} is not one of the constant ones") from None


ATTACKS = attacks(
    (31, not_the_coordinator),
    (1, swapped_key),
    (38, invented_site),
    (34, replayed_manifest),
    (34, slot_reuse),
    (18, downgrade),
    (12, bad_vector),
    (13, size_is_clipped),
    (None, pause_while_computing),
    (28, row_in_an_error),
)
