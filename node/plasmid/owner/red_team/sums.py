"""Attacks on sums: who is in one, who agrees to it, how often it is opened, and what its parts show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from plasmid.gateway.admission import Answer
from plasmid.gateway.members.peers import Peer, Peers, read_peers, write_peers
from plasmid.owner.red_team.attack import (
    DidNotHoldError,
    accepted,
    attacks,
    never,
    refuses,
    turned_away,
    works,
)
from plasmid.owner.red_team.scratch import Scratch, counted, digest_of
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.messages import Manifest, Signed

_LENGTH = 6


def _answers(scratch: Scratch, shown: Callable[[str], Manifest]) -> list[Answer]:
    """Have every site answer the manifest that it is *shown*, with zeros."""
    return [
        gateway.contribute(shown(name), lambda _: np.zeros(_LENGTH, np.float32))
        for name, gateway in scratch.gateways.items()
    ]


def _consents(scratch: Scratch, slot: int, answers: list[Answer]) -> list[Signed]:
    """Show the survivors of a slot to every site; return what they agree to."""
    message = scratch.relay("contribution", [answer.contribution for answer in answers], slot=slot)
    made: list[Any] = [gateway.relay(message) for gateway in scratch.gateways.values()]
    return made


def all_others_collude(scratch: Scratch) -> None:
    """The plan of a key epoch in which everybody but this site may collude."""
    scratch.admit_everywhere()
    refuses(
        "protocol.colluders", lambda: scratch.target.begin_epoch(scratch.epoch(c=len(scratch.roster) - 1))
    )
    works(scratch.target.begin_epoch(scratch.epoch()) is not None, "an honest plan is refused")


def two_organisations(scratch: Scratch) -> None:
    """All other sites are one organisation's, which would take its own part out of the sum."""
    scratch.admit_everywhere()
    works(scratch.target.begin_epoch(scratch.epoch(1)) is not None, "an honest roster is refused")
    home = scratch.home()
    known = read_peers(home.peers)
    owned = [Peer(name=peer.name, organisation="one", key=peer.key) for peer in known.sites]
    write_peers(home.peers, Peers(coordinator=known.coordinator, sites=owned))
    refuses("protocol.colluders", lambda: scratch.target.begin_epoch(scratch.epoch(2)))


def two_views(scratch: Scratch) -> None:
    """Two sites are shown different manifests of a round, and asked to agree to a sum of both answers."""
    shown = dict.fromkeys(scratch.roster, scratch.set_up())
    other = next(name for name in scratch.roster if name != scratch.name)
    shown[other] = scratch.manifest(slot=1)
    answers = _answers(scratch, lambda name: shown[name])
    refuses("protocol.survivors", lambda: _consents(scratch, 0, answers))
    honest = scratch.manifest(slot=2)
    works(len(_consents(scratch, 2, _answers(scratch, lambda _: honest))) > 0, "an honest sum is refused")


def opened_early(scratch: Scratch) -> None:
    """Shares that open a sum are asked for before enough sites have agreed to it, and again afterwards."""
    manifest = scratch.set_up()
    consents = _consents(scratch, 0, _answers(scratch, lambda _: manifest))
    epoch = scratch.target.run(scratch.run).epoch
    assert epoch is not None

    def ask(some: list[Signed]) -> Any:
        return scratch.target.relay(scratch.relay("consent", some))

    refuses("protocol.consents", lambda: ask(consents[: epoch.theta - 1]))
    works(ask(consents) is not None, "shares of an honest sum are refused")
    refuses("protocol.slot_used", lambda: ask(consents))


def summed_again(scratch: Scratch) -> None:
    """A round that was summed is begun anew: the difference of two sums of it would show who dropped out."""
    manifest = scratch.set_up()
    consents = _consents(scratch, 0, _answers(scratch, lambda _: manifest))
    works(len(consents) > 0, "an honest sum is refused")
    again = scratch.manifest(slot=1)
    refuses("protocol.consented", lambda: scratch.target.contribute(again, never))


def length_of_a_body(scratch: Scratch) -> None:
    """The bytes that leave are counted: they must be as many for zeros as for anything else."""
    scratch.set_up()
    lengths = set()
    for slot, value in enumerate((0.0, 1e30)):
        vector = np.full(_LENGTH, value, np.float32)
        lengths.add(len(scratch.contribute(scratch.manifest(slot=slot), vector).body))
    works(bool(lengths) and min(lengths) >= _LENGTH, "no body leaves")
    if len(lengths) != 1:
        raise DidNotHoldError(f"bodies of {' and '.join(map(str, sorted(lengths)))} bytes leave")


def header_bombs(_: Scratch) -> None:
    """A state whose header says that it is 200 MB long, or that 2^40 values follow."""
    values = np.zeros(_LENGTH, np.float32)
    read = partial(unpack, name="state", length=_LENGTH, dtype=values.dtype)
    works(bool((read(pack("state", values)) == values).all()), "an honest state is not read")
    shape = b'{"state":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    for size, header in ((200_000_000, b"{}"), (2**63, b"{}"), (len(shape), shape)):
        refuses("protocol.body", partial(read, size.to_bytes(8, "little") + header))


def renamed_view(scratch: Scratch) -> None:
    """The same people under another file's name: the budget is theirs, not the file's."""
    accepted(scratch.target.answer(scratch.admit(scratch.make_request(counted(0.6)))))
    document = counted(0.6, name="renamed")
    scratch.allow([digest_of(document)])
    data = scratch.home().folder / "data"
    (data / "renamed.csv").write_bytes((data / "table.csv").read_bytes())
    turned_away("policy.budget", scratch.target.answer(scratch.admit(scratch.make_request(document))))


ATTACKS = attacks(
    (4, all_others_collude),
    (39, two_organisations),
    (2, two_views),
    (16, opened_early),
    (17, summed_again),
    (33, length_of_a_body),
    (26, header_bombs),
    (36, renamed_view),
)
