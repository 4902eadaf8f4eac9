"""What a document would promise, before it runs: the facts that the plan fixes.

Rules
-----
1. The figures are those of the run itself: :mod:`~plasmid.planner.attempts` for shared noise, a site's own
   calibration for ``dp-sgd``, all attempts charged.
2. Nothing here reads a site's folder or data; N is what somebody says it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plasmid.computations.api import Shape
from plasmid.dp.accountant import check_plan, refuse
from plasmid.dp.privacy_statement import PrivacyFacts, SiteFacts
from plasmid.planner.attempts import attempt_plan, attempts, sampling_rate, smallest_set, step_noise
from plasmid.protocol.messages import Planned
from plasmid.secagg.statements import PROTOCOL


def site_facts(document: Any, name: str, size: int | None) -> SiteFacts:
    """Return rate and noise of a site that declares *size* units; None where the unit counts none.

    Raises
    ------
    UsageError
        ``usage.privacy``: no size under unit record or patient, or one that delta does not fit.
    """
    privacy = document.privacy
    if privacy.unit not in ("record", "patient"):
        return SiteFacts(name)
    if size is None:
        refuse([f"unit {privacy.unit} needs the number of units that a site declares"])
        raise AssertionError
    refuse(check_plan(size=size, delta=privacy.delta))
    rate = sampling_rate(document, size)
    return SiteFacts(name, public_size=size, rate=rate, noise_multiplier=step_noise(document, rate))


def planned_facts(
    document: Any, shape: Shape | None, *, sites: int, c: int, participants: Sequence[SiteFacts]
) -> PrivacyFacts:
    """Return the facts of *document* at *sites* sites of which *c* collude.

    Parameters
    ----------
    shape
        Of the vector that is summed; needed where noise is shared.
    participants
        The sites that are known, or examples.

    Raises
    ------
    UsageError
        ``usage.privacy``: a mask would hide nothing among so few sites.
    ProtocolError
        As :func:`plasmid.planner.attempts.attempt_plan`.
    """
    privacy = document.privacy
    if privacy.protect == "masked" and not 1 <= c < sites - 1:
        refuse([f"with {sites} sites of which {c} collude a mask hides nothing; {c + 2} or more are needed"])
    theta, m = smallest_set(document, sites=sites, c=c)
    noise: dict[str, Any] = {}
    if privacy.shares_noise and privacy.unit != "none":
        assert shape is not None, "shared noise depends on the vector"
        planned = Planned(sites=sites, c=c, noise_rate=max(facts.rate for facts in participants))
        plan = attempt_plan(document, shape, sites=sites, c=c, planned=planned)
        noise = {
            "noise_std": plan.noise_std,
            "scale_log2": plan.encoding.scale_log2,
            "length": plan.encoding.length,
        }
    training = getattr(document, "training", None)
    return PrivacyFacts(
        protocol=PROTOCOL,
        protect=privacy.protect,
        unit=privacy.unit,
        participants=tuple(participants),
        n=sites,
        c=c,
        theta=theta,
        min_sites=m,
        rounds=document.rounds,
        attempts=attempts(document),
        steps=training.most_steps if training else 1,
        mechanism=privacy.mechanism,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        record_clip=privacy.record_clip,
        update_clip=getattr(privacy, "update_clip", None),
        max_records=privacy.max_records if privacy.unit == "patient" else None,
        **noise,
    )
