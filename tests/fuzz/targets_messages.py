"""Messages and statements: discovered, and signed anew after they were changed, as a member can do.

Their seeds are made from their annotations (:mod:`fuzz.instances`).
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from random import Random
from typing import Any, get_args

import plasmid.gateway
import plasmid.protocol
from fuzz.instances import instance
from fuzz.registry import ALPHA, canonical_object, maker
from fuzz.runner import Target
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import ProtocolError
from plasmid.protocol import messages
from plasmid.protocol.envelope import Envelope, Statement, parse_envelope
from plasmid.protocol.project import Project, open_project
from plasmid.protocol.revocation import Revocation, open_revocation
from plasmid.release.attestation import (
    Attestation,
    Round,
    pack_bundle,
    pack_rounds,
    read_bundle,
    read_rounds,
)

SEEDS = 8


def _instances(model: Any) -> list[bytes]:
    random = Random(model.__name__)
    made = [instance(model, random).model_dump(mode="json", by_alias=True) for _ in range(SEEDS)]
    return [canonical_json(values) for values in made]


def message_types() -> list[Any]:
    """Return every type of message."""
    return sorted(get_args(messages.Message), key=lambda kind: str(kind.__name__))


def statement_types() -> list[type[Statement]]:
    """Return every type of statement that goes into an envelope."""
    for package in (plasmid.protocol, plasmid.gateway):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found: list[type[Statement]] = []
    waiting = [Statement]
    while waiting:
        known = [kind for kind in waiting.pop().__subclasses__() if kind.__module__.startswith("plasmid.")]
        found += known
        waiting += known
    return sorted(found, key=lambda kind: kind.__name__)


@maker
def _messages() -> Iterator[Target]:
    def run(data: bytes) -> None:
        _, payload = canonical_object(data)
        signature = ALPHA.sign(b"plasmid-message/1\n" + payload).encode()
        signed = b'{"payload":%b,"signer":"alpha","signature":"%b"}' % (payload, signature)
        message = messages.open_signed(messages.parse_signed(signed), ALPHA.public)
        if isinstance(message, messages.RunRequest):
            messages.run_id(message)

    for kind in message_types():
        yield Target(f"message {kind.model_fields['type'].default}", _instances(kind), run)


@maker
def _signed() -> Iterator[Target]:
    def run(data: bytes) -> None:
        messages.open_signed(messages.parse_signed(data), ALPHA.public)

    seeds = [
        messages.wire(messages.sign(ALPHA, instance(kind, Random(kind.__name__)))) for kind in message_types()
    ]
    yield Target("signed message", seeds, run)


@maker
def _statements() -> Iterator[Target]:
    for kind in statement_types():

        def run(data: bytes, kind: type[Statement] = kind) -> None:
            _, payload = canonical_object(data)
            if len(payload) > 200_000:
                raise ProtocolError("protocol.malformed", "larger than a payload")
            signed = Envelope(payload=payload, payloadType=kind.payload_type()).signed(ALPHA)
            opened = parse_envelope(signed.wire())
            opened.signers({ALPHA.public})
            if kind is Project:
                open_project(opened)
            elif kind is Revocation:
                open_revocation(opened, ALPHA.public)
            else:
                opened.open(kind)

        seeds = _instances(kind)
        if kind is Project:  # with one member, the one that signs
            seeds = [_alone(seed) for seed in seeds]
        yield Target(f"statement {kind.__name__.lower()}", seeds, run)


@maker
def _attested() -> Iterator[Target]:
    random = Random(0)
    made: list[Any] = [instance(Attestation, random) for _ in range(SEEDS)]
    bundle = pack_bundle(Envelope.of(one).signed(ALPHA) for one in made)
    yield Target("bundle of attestations", [bundle], read_bundle, structured=False)
    rounds: list[Any] = [instance(Round, random) for _ in range(SEEDS)]
    yield Target("history of a run", [pack_rounds(rounds)], read_rounds)


def _alone(seed: bytes) -> bytes:
    values = json.loads(seed)
    return canonical_json(values | {"sites": [values["sites"][0] | {"key": ALPHA.public}]})


@maker
def _envelope() -> Iterator[Target]:
    kinds = statement_types()

    def run(data: bytes) -> None:
        opened = parse_envelope(data)
        opened.signers({ALPHA.public})
        for kind in kinds:
            if kind.payload_type() == opened.payloadType:
                opened.open(kind)

    seeds = [Envelope.of(instance(kind, Random(0))).signed(ALPHA).wire() for kind in kinds]  # type: ignore[arg-type]
    yield Target("envelope", seeds, run)
