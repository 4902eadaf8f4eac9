"""The coordinator's part in setting up a key epoch: it relays signed statements, and can alter none.

    advert -> bundle -> recovery -> ready

Rules
-----
1. Every site of the roster must speak at every step; whoever does not is named in :class:`DroppedOut`, and
   the caller begins a new epoch without it.
2. Recovery blobs stay here; sites see the statements that commit to them.
"""

from __future__ import annotations

from plasmid.controller.context import RunContext
from plasmid.link.switchboard import Collected
from plasmid.privacy.statements import Advert, Recovery
from plasmid.privacy.unmasking import CoordinatorEpoch
from plasmid.protocol.messages import Blobs, Epoch, Signed

SETUP_TIMEOUT_S = 120.0


class DroppedOut(Exception):
    """Sites are missing; ``collected`` says which and why."""

    def __init__(self, collected: Collected) -> None:
        super().__init__(", ".join(sorted(collected.missing)))
        self.collected = collected


def set_up(context: RunContext, request: Epoch) -> CoordinatorEpoch:
    """Take the sites of *request* through a key epoch of masks.

    Raises
    ------
    DroppedOut
        A site did not answer.
    ProtocolError
        What a site said does not belong to the epoch.
    """
    roster, epoch = request.roster, request.epoch

    def everyone(kind: str) -> dict[str, Signed]:
        collected = context.collect(kind, roster, timeout_s=SETUP_TIMEOUT_S)
        if collected.missing:
            raise DroppedOut(collected)
        return collected.got

    begin(context, request)
    adverts = list(everyone("advert").values())
    context.relay("advert", dict.fromkeys(roster, adverts), epoch=epoch)
    addressed: dict[str, list[Signed]] = {site: [] for site in roster}
    for signed in everyone("bundles").values():
        for bundle in map(Signed.model_validate, signed.payload["statements"]):
            if bundle.payload.get("receiver") in addressed:
                addressed[bundle.payload["receiver"]].append(bundle)
    context.relay("bundle", addressed, epoch=epoch)
    blobs = {site: Blobs.model_validate(said.payload) for site, said in everyone("blobs").items()}
    statements = [said.statement for said in blobs.values()]
    context.relay("recovery", dict.fromkeys(roster, statements), epoch=epoch)
    ready = list(everyone("ready").values())
    context.relay("ready", dict.fromkeys(roster, ready), epoch=epoch)
    return CoordinatorEpoch(
        [Advert.model_validate(said.payload) for said in adverts],
        {
            site: (Recovery.model_validate(said.statement.payload), said.sealed)
            for site, said in blobs.items()
        },
        c=request.c,
    )


def begin(context: RunContext, request: Epoch) -> None:
    """Tell the sites of an epoch that it begins."""
    context.move_on(request.epoch, 0)
    context.send((site, request) for site in request.roster)
