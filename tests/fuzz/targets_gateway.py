"""What a gateway and the coordinator make of statements that are well formed: a federation in memory.

Changed messages are signed anew by whoever is named in them, inner statements too. After each input the
gateway is as it was before, so that each meets the step that it is for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from fuzz.registry import json_object, maker, scratch, signed_anew
from fuzz.runner import Target
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import ProtocolError
from plasmid.protocol.messages import Admit, Ask, Epoch, Manifest, Relay
from plasmid.recipes.query import PingDocument
from plasmid.secagg.site import SiteEpoch
from plasmid.secagg.statements import Shares
from support.federation.in_memory import Federation

SITES = ("alpha", "beta", "gamma", "delta")
_TO_SITE: TypeAdapter[Any] = TypeAdapter(
    Annotated[Ask | Admit | Epoch | Relay | Manifest, Field(discriminator="type")]
)


def _new(name: str) -> Federation:
    return Federation(scratch() / name, document=PingDocument(length=6, rounds=2), sites=SITES)


class Step:
    """Alpha's gateway in a federation of its own, about to hear a message of the coordinator's."""

    def __init__(self, name: str, before: Callable[[Federation], Any]) -> None:
        self.federation = federation = _new(name)
        federation.admit_all()
        self.message = before(federation)
        self._gateway = federation.gateways["alpha"]
        self._identities = {**federation.identities, federation.requester.name: federation.requester}
        self._gateway.audit.write = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        self._admitted = self._gateway.run(federation.run)
        self._mark = federation.home("alpha").runs / f"{federation.run}.json"
        self._kept = dict(vars(self._admitted))
        self._kept_mark = self._mark.read_bytes() if self._mark.exists() else None

    def hear(self, data: bytes) -> None:
        """Have the gateway answer the message in *data*, as if the coordinator had signed it."""
        self._restore()
        gateway, values = self._gateway, signed_anew(json_object(data), self._identities)
        try:
            message = _TO_SITE.validate_json(canonical_json(values))
        except (ValidationError, ValueError) as error:
            raise ProtocolError("protocol.malformed", "the form is tested elsewhere") from error
        if isinstance(message, Ask | Admit):
            gateway.answer(message)
        elif isinstance(message, Epoch):
            gateway.begin_epoch(message)
        elif isinstance(message, Relay):
            gateway.relay(message)
        else:
            gateway.contribute(message, lambda _: np.zeros(6, np.float32))

    def _restore(self) -> None:
        vars(self._admitted).update(self._kept, epoch=_clone(self._kept["epoch"]))
        if self._kept_mark is None:
            self._mark.unlink(missing_ok=True)
        else:
            self._mark.write_bytes(self._kept_mark)


def _clone(epoch: SiteEpoch | None) -> SiteEpoch | None:
    """Return an epoch that shares nothing with *epoch* that a step changes in place."""
    made = copy.copy(epoch)
    held: list[Any] = [made, made and made._attempt]
    if made is not None:
        made._attempt = held[1] = copy.copy(made._attempt)
    for part in filter(None, held):
        for name, value in vars(part).items():
            if isinstance(value, np.ndarray):
                setattr(part, name, value.copy())
    return made


def _contributions(federation: Federation) -> list[Any]:
    federation.key_epoch()
    return list(federation.answers(federation.manifest()).values())


def _relayed(kind: str) -> Callable[[Federation], Relay]:
    """Return a function that goes as far as the message by which alpha hears what the others say."""

    def before(federation: Federation) -> Relay:
        return federation.relay(kind, _SAID[kind](federation))

    return before


_SAID: dict[str, Callable[[Federation], Any]] = {
    "advert": lambda them: them.adverts(),
    "bundle": lambda them: them.bundles(them.adverts())["alpha"],
    "recovery": lambda them: [
        said.statement for said in them.recoveries(them.bundles(them.adverts())).values()
    ],
    "ready": lambda them: them.ready(them.recoveries(them.bundles(them.adverts()))),
    "contribution": lambda them: [answer.contribution for answer in _contributions(them)],
    "consent": lambda them: them.consents(_contributions(them)),
}


def _ready_for_manifest(federation: Federation) -> Manifest:
    federation.key_epoch()
    return federation.manifest()


@maker
def _gateway() -> Iterator[Target]:
    steps: dict[str, Callable[[Federation], Any]] = {
        "request": lambda them: them.admitting(),
        "epoch": lambda them: them.epoch(),
        "manifest": _ready_for_manifest,
        **{kind: _relayed(kind) for kind in _SAID},
    }
    for name, before in steps.items():
        step = Step(name, before)
        seed = canonical_json(step.message.model_dump(mode="json"))
        yield Target(f"gateway: {name}", [seed], step.hear, cost=20)


@maker
def _coordinator() -> Iterator[Target]:
    """The coordinator's opening of a sum: shares of four sites, each changed as one that lies would."""
    federation = _new("opening")
    federation.set_up()
    manifest = federation.manifest()
    answers = federation.answers(manifest)
    shares = federation.shares(federation.consents(list(answers.values())))
    said = {signed.signer: signed.payload for signed in shares}

    def run(data: bytes) -> None:
        values = json_object(data)
        try:
            given = [
                Shares.model_validate_json(canonical_json(values[site])) for site in SITES if site in values
            ]
        except (ValidationError, ValueError) as error:
            raise ProtocolError("protocol.malformed", "the form is tested elsewhere") from error
        federation.coordinator_epoch.pads(
            0, manifest.digest(), invited=manifest.invited, survivors=list(SITES), shares=given
        )

    yield Target("coordinator: shares", [canonical_json(said)], run, cost=10)
