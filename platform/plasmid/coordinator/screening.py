"""Which of the sites' answers belong to an attempt. One that does not is left out, and said in the run's log.

Rules
-----
1. A contribution is for this manifest and round, and its body is here and has the plan's form: so that no
   site can spoil the sum, or make the others refuse to open it.
2. A consent is to the survivor list that was relayed; with any other among them no site would answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plasmid.coordinator.context import RunContext
from plasmid.coordinator.summing import check_body
from plasmid.core.errors import ProtocolError
from plasmid.protocol.messages import Manifest, Signed
from plasmid.secagg import tags
from plasmid.secagg.statements import Consent, Contribution, survivors_digest


def sound_bodies(
    context: RunContext, contributions: Mapping[str, Signed], manifest: Manifest
) -> dict[str, Path]:
    """Return the bodies of those that answered *manifest* in due form."""
    found = {}
    for site, signed in contributions.items():
        said = Contribution.model_validate(signed.payload)
        path = context.bodies.received(context.run, site, said.body)
        problem = _problem(said, path, manifest)
        if problem:
            context.runs.say(context.run, f"{site} is left out: its contribution names {problem}")
        else:
            found[site] = path
    return found


def _problem(said: Contribution, path: Path, manifest: Manifest) -> str:
    if (said.manifest, said.round) != (manifest.digest(), manifest.round):
        return "another manifest"
    if not path.exists():
        return "a body that it did not send"
    masked = manifest.rho is not None
    if (said.tag is not None) != masked or (said.tag is not None and not tags.is_element(said.tag)):
        return "no tag of its vector"
    try:
        check_body(path, manifest.encoding())
    except ProtocolError:
        return "a body of another form"
    return ""


def same_consents(
    context: RunContext,
    consents: Mapping[str, Signed],
    manifest: Manifest,
    contributions: Mapping[str, Signed],
) -> dict[str, Signed]:
    """Return those of *consents* that are to the survivor list of *contributions*."""
    said = [Contribution.model_validate(signed.payload) for signed in contributions.values()]
    listed = (manifest.digest(), survivors_digest(said))
    found = {}
    for site, signed in consents.items():
        consent = Consent.model_validate(signed.payload)
        if (consent.manifest, consent.survivors) == listed:
            found[site] = signed
        else:
            context.runs.say(context.run, f"{site} is left out: it agreed to another sum than it was shown")
    return found
