"""Where a result comes from: what the card says of the project, and ``provenance.json`` of sums.

An adapter's provenance is written from what was signed about it (:mod:`plasmid.release.provenance`); a run
that trains no model has sums, which nobody countersigns: theirs is written here, from the run's record.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from plasmid.dp.claims import PrivacyFacts
from plasmid.release.attestation import digests
from plasmid.release.provenance import SCHEMA


def project_line(project: Mapping[str, str], requester: str) -> str:
    """Return what a card says of the project that a run belonged to, and of the person who asked for it."""
    return (
        f"Project `{project['name']}`, for {project['purpose']}, digest `{project['digest']}`. "
        f"The run was asked for by `{requester}`."
    )


def sums_provenance(
    shown: Mapping[str, Any],
    recipe: Any,
    facts: PrivacyFacts,
    *,
    coordinator: str,
    files: Mapping[str, bytes],
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """Return ``provenance.json`` of a run that trains no model: JSON values.

    Parameters
    ----------
    shown
        The finished run, as the coordinator shows it.
    coordinator
        Its fingerprint.
    files
        What was made of the last state: their digests are told.
    metrics
        As :meth:`plasmid.experiments.table.Table.as_json`; empty where nothing was measured.
    """
    result = shown["result"]
    return {
        "schema": SCHEMA,
        "run": shown["run_id"],
        "project": dict(shown["project"]),
        "requester": shown["requester"],
        "rehearsal": facts.rehearsal,
        "recipe": {"name": recipe.name, "digest": shown["digest"]},
        "base": None,
        "code": f"plasmid {version('plasmid')}",
        "rounds": shown["rounds_done"],
        "participant_count": len(result["participants"]),
        "participants": result["participants"],
        "survivors": result["survivors"],
        "key_epochs": result["epochs"],
        "aggregation": {
            "protocol": facts.protocol,
            "protect": facts.protect,
            "strategy": None,
            "server_step": "not re-run",
            "fixed_point_step": result["step"],
        },
        "privacy": facts.as_json(),
        "manifests": [done["manifest"] for done in shown["round_log"]],
        "state": result["state"],
        "coordinator": coordinator,
        "countersigned": {},
        "not_countersigned": result["participants"],
        "files": digests(files),
        "metrics": dict(metrics),
    }
