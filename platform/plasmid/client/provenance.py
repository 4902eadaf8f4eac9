"""What an adapter's card and provenance say: computed from the run's result, never from the recipe's wishes.

Rules
-----
1. Privacy is stated by :mod:`plasmid.privacy.claims` from what was done: attempts, noise, participants.
2. With several key epochs the weakest one counts: the fewest honest sites in a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from plasmid.models.store import BaseModel
from plasmid.privacy.audit import Audit
from plasmid.privacy.claims import PrivacyFacts, SiteFacts


def privacy_facts(result: Mapping[str, Any], document: Mapping[str, Any], *, rehearsal: bool) -> PrivacyFacts:
    """Return the facts of a run that SUCCEEDED, from its *result* and its resolved *document*."""
    privacy = document["privacy"]
    weakest = min(result["epochs"], key=lambda epoch: (epoch["m"] - epoch["c"], epoch["c"]))
    shared = privacy["mechanism"] in ("dp-fedsgd", "output")
    audit = result["audit"]
    return PrivacyFacts(
        protocol=result["protocol"],
        protect=privacy["protect"],
        unit=privacy["unit"],
        participants=tuple(_site(site, result["terms"][site]) for site in result["participants"]),
        n=weakest["n"],
        c=weakest["c"],
        theta=weakest["theta"],
        min_sites=weakest["m"],
        rounds=int(result["rounds"]),
        attempts=int(result["attempts_used"]),
        steps=int(document.get("training", {}).get("steps", 1)),
        mechanism=privacy["mechanism"],
        epsilon=privacy["epsilon"],
        delta=privacy["delta"],
        record_clip=privacy["record_clip"],
        update_clip=privacy.get("update_clip"),
        max_records=privacy["max_records"] if privacy["unit"] == "patient" else None,
        noise_std=result["noise_std"] if shared else None,
        scale_log2=result["scale_log2"] if shared else None,
        length=result["length"] if shared else None,
        survivors=tuple(len(survivors) for survivors in result["survivors"]),
        audit=None if audit is None else Audit(**{name: audit[name] for name in Audit.__dataclass_fields__}),
        rehearsal=rehearsal,
    )


def _site(site: str, terms: Mapping[str, Any] | None) -> SiteFacts:
    if terms is None:
        return SiteFacts(site)
    return SiteFacts(site, terms["public_size"], terms["rate"], terms["noise_multiplier"])


def project_line(project: Mapping[str, str], requester: str) -> str:
    """Return what a card says of the project that a run belonged to, and of the person who asked for it."""
    return (
        f"Project `{project['name']}`, for {project['purpose']}, digest `{project['digest']}`. "
        f"The run was asked for by `{requester}`."
    )


def provenance(
    shown: Mapping[str, Any],
    recipe: Any,
    base: BaseModel | None,
    facts: PrivacyFacts,
    *,
    coordinator: str,
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """Return ``provenance.json``: JSON values.

    Parameters
    ----------
    shown
        The finished run, as the coordinator shows it.
    base
        None where no model was trained.
    coordinator
        Its fingerprint.
    """
    result = shown["result"]
    return {
        "schema": "plasmid.provenance/3",
        "run": shown["run_id"],
        "project": dict(shown["project"]),
        "requester": shown["requester"],
        "rehearsal": facts.rehearsal,
        "recipe": {"name": recipe.name, "digest": shown["digest"]},
        "base": base and {"id": base.id, "revision": base.revision, "digest": base.digest},
        "rounds": shown["rounds_done"],
        "participants": result["participants"],
        "survivors": result["survivors"],
        "key_epochs": result["epochs"],
        "privacy": facts.as_json(),
        "update_clip": recipe.privacy.update_clip,
        "fixed_point_step": result["step"],
        "manifests": [done["manifest"] for done in shown["round_log"]],
        "state": result["state"],
        "coordinator": coordinator,
        "code": f"plasmid {version('plasmid')}",
        "metrics": dict(metrics),
    }
