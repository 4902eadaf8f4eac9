"""The coordinator's part in setting up a key epoch: it relays signed statements, and can alter none.

    advert -> bundle -> recovery -> ready

Rules
-----
1. Every site of the roster must speak at every step, in due form; whoever does not is named in
   :class:`DroppedOut`, and the caller begins a new epoch without it.
2. Recovery blobs stay here; sites see the statements that commit to them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from plasmid.coordinator.context import RunContext
from plasmid.core.canonical import sha256_hex
from plasmid.protocol.messages import Blobs, Epoch, Signed
from plasmid.secagg.coordinator import CoordinatorEpoch
from plasmid.secagg.statements import Advert, Recovery

SETUP_TIMEOUT_S = 120.0


class DroppedOut(Exception):
    """Sites are missing; ``missing`` says which and why."""

    def __init__(self, missing: dict[str, str]) -> None:
        super().__init__(", ".join(sorted(missing)))
        self.missing = missing


def set_up(context: RunContext, request: Epoch) -> CoordinatorEpoch:
    """Take the sites of *request* through a key epoch of masks.

    Raises
    ------
    DroppedOut
        A site did not answer, or not in due form.
    ProtocolError
        What a site said does not belong to the epoch.
    """
    roster, epoch = request.roster, request.epoch

    def everyone(kind: str) -> dict[str, Signed]:
        collected = context.collect(kind, roster, timeout_s=SETUP_TIMEOUT_S)
        if collected.missing:
            raise DroppedOut(collected.missing)
        return collected.got

    begin(context, request)
    adverts = list(everyone("advert").values())
    context.relay("advert", dict.fromkeys(roster, adverts), epoch=epoch)
    addressed: dict[str, list[Signed]] = {site: [] for site in roster}
    for signed in everyone("bundles").values():
        bundles = [Signed.model_validate(bundle) for bundle in signed.payload["statements"]]
        for receiver, bundle in _by_receiver(bundles, roster).items():
            addressed[receiver].append(bundle)
    context.relay("bundle", addressed, epoch=epoch)
    recoveries = _recoveries(everyone("blobs"))
    statements = [statement for statement, _, _ in recoveries.values()]
    context.relay("recovery", dict.fromkeys(roster, statements), epoch=epoch)
    ready = list(everyone("ready").values())
    context.relay("ready", dict.fromkeys(roster, ready), epoch=epoch)
    return CoordinatorEpoch(
        [Advert.model_validate(said.payload) for said in adverts],
        {site: (recovery, sealed) for site, (_, recovery, sealed) in recoveries.items()},
        c=request.c,
    )


def _by_receiver(bundles: Iterable[Signed], roster: list[str]) -> dict[str, Signed]:
    """Return one of a site's bundles for each receiver, who finds out whether it is the right one."""
    named = [(str(bundle.payload.get("receiver")), bundle) for bundle in bundles]
    return {receiver: bundle for receiver, bundle in named if receiver in roster}


def _recoveries(said: dict[str, Signed]) -> dict[str, tuple[Signed, Recovery, list[bytes]]]:
    """Return each site's signed recovery statement, what it says, and its blobs."""
    found: dict[str, tuple[Signed, Recovery, list[bytes]]] = {}
    wrong: dict[str, str] = {}
    for site, signed in said.items():
        blobs = Blobs.model_validate(signed.payload)
        try:
            recovery = Recovery.model_validate(blobs.statement.payload)
        except ValidationError:
            wrong[site] = "its recovery statement does not have its form"
            continue
        if sha256_hex(b"".join(blobs.sealed)) != recovery.blob:
            wrong[site] = "its blobs are not those that its recovery statement names"
        found[site] = (blobs.statement, recovery, blobs.sealed)
    if wrong:
        raise DroppedOut(wrong)
    return found


def begin(context: RunContext, request: Epoch) -> None:
    """Tell the sites of an epoch that it begins."""
    context.move_on(request.epoch, 0)
    context.send((site, request) for site in request.roster)
