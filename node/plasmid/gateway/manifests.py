"""A manifest is compared, field by field, with what the admitted document implies: nothing is believed."""

from __future__ import annotations

from dataclasses import replace

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.gateway.admission import AdmittedRun
from plasmid.planner.attempts import AUDIT_LENGTH, attempt_plan, audit_plan
from plasmid.protocol.body import body_bytes
from plasmid.protocol.messages import Manifest
from plasmid.secagg.statements import PROTOCOL

_AUDIT_SCHEMA = AdapterSchema(tensors=(TensorSpec(name="audit", shape=(AUDIT_LENGTH,)),))


def check_manifest(site: str, admitted: AdmittedRun, manifest: Manifest) -> api.Shape:
    """Return the shape of the vector that *site* answers *manifest* with.

    Raises
    ------
    ProtocolError
        ``protocol.manifest``: it is not what the admitted run implies; which fields differ.
    """
    document, planned = admitted.document, admitted.planned
    ready = not admitted.masked or (admitted.epoch is not None and admitted.epoch.sealed)
    if planned is None or not ready:  # before anything is charged
        raise ProtocolError("protocol.manifest", f"{manifest.run} has no key epoch yet.")
    audit = manifest.phase == "audit"
    sites = len(admitted.roster)
    shape = admitted.shape
    if audit:
        if getattr(document.privacy, "audit", None) is None:
            raise ProtocolError("protocol.manifest", "the document asks for no audit.")
        plan = audit_plan(document, sites=sites, c=admitted.c, planned=planned)
        shape = replace(shape, schema=_AUDIT_SCHEMA, bound=plan.encoding.bound, norm=None, bits=64)
    else:
        plan = attempt_plan(document, shape, sites=sites, c=admitted.c, planned=planned)
    expected = {
        "protocol": PROTOCOL if admitted.masked else "none",
        "epoch": admitted.number,
        "rho": admitted.epoch.rho if admitted.epoch else None,
        "document": admitted.digest,
        "base": admitted.base.digest if admitted.base else None,
        "state_bytes": body_bytes("state", admitted.shape.state.size, admitted.shape.dtype),
        "mechanism": "none" if audit else document.privacy.mechanism or "none",
        "min_sites": plan.min_sites,
        "theta": plan.theta,
    }
    wrong = [name for name, value in expected.items() if getattr(manifest, name) != value]
    if manifest.encoding() != plan.encoding:
        wrong.append("encoding")
    if manifest.slot < 0 or (admitted.epoch and manifest.slot >= admitted.epoch.slots):
        wrong.append("slot")
    first, last = (document.rounds + 1,) * 2 if audit else (1, document.rounds)
    if not first <= manifest.round <= last:
        wrong.append("round")
    if (manifest.round == 1) != (manifest.total is None):
        wrong.append("total")
    invited = manifest.invited
    if (
        sorted(set(invited) & set(admitted.roster)) != invited
        or site not in invited
        or len(invited) < plan.min_sites
    ):
        wrong.append("invited")
    if wrong:
        raise ProtocolError(
            "protocol.manifest",
            f"round {manifest.round}: the manifest differs from the admitted run in {', '.join(wrong)}.",
        )
    return shape
