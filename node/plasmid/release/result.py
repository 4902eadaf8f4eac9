"""What a run came to, from its document and record alone: the adapter's files and the facts of privacy.

Rules
-----
1. The same bytes and figures come out at the coordinator, at every site and at whoever fetches the result.
2. Privacy is stated by :mod:`plasmid.dp.claims` from what was done: attempts, noise, participants.
3. With several key epochs the weakest one counts: the fewest honest sites in a sum.
4. A run is a rehearsal where its project says so: one owner holds all sites' data and keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from plasmid.adapters.adapter import Vector, adapter_schema
from plasmid.adapters.files import adapter_files
from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.dp.canary_audit import Audit
from plasmid.dp.claims import PrivacyFacts, SiteFacts
from plasmid.dp.plausible import check_plausible
from plasmid.protocol.project import Project

REHEARSAL = "rehearsal"
"""The purpose of a project whose sites are one person's."""


def is_rehearsal(project: Project) -> bool:
    """Return whether one owner holds the data and the keys of every site of *project*."""
    return project.purpose == REHEARSAL


def release_settings(recipe: Any, base: BaseModel, state: Vector) -> dict[str, Any]:
    """Return what :func:`plasmid.adapters.files.adapter_files` is to be given for a public *state*."""
    return adapter_settings(recipe, base, api.method(recipe).adapter(recipe, base, state))


def adapter_settings(recipe: Any, base: BaseModel, adapter: Vector) -> dict[str, Any]:
    """Return what it is to be given for an *adapter*, float32 [adapter size]."""
    head = recipe.head()
    label = () if recipe.data.label is None else (recipe.data.label,)
    own = (recipe.data.input, *recipe.adapter.covariates, *label)
    return {
        "schema": adapter_schema(base, recipe.adapter.lora, head),
        "state": adapter,
        "base": base,
        "lora": recipe.adapter.lora,
        "head": head,
        "input_column": recipe.data.input,
        "label_column": recipe.data.label,
        "metric": recipe.task.metric,
        "max_length": recipe.max_length,
        "columns": {name: recipe.data.columns[name].model_dump(mode="json") for name in own},
        "quantization": recipe.model.quantization,
    }


def release_files(recipe: Any, base: BaseModel, state: Vector) -> dict[str, bytes]:
    """Return the files that follow from the trained *state*, by name.

    Raises
    ------
    ModelError
        As :func:`plasmid.adapters.files.adapter_files`.
    """
    return adapter_files(**release_settings(recipe, base, state))


def privacy_facts(result: Mapping[str, Any], document: Mapping[str, Any], *, rehearsal: bool) -> PrivacyFacts:
    """Return the facts of a run that SUCCEEDED, from its *result* and its resolved *document*."""
    privacy = document["privacy"]
    weakest = min(result["epochs"], key=lambda epoch: (epoch["m"] - epoch["c"], epoch["c"]))
    audit = result["audit"]
    shared = privacy["mechanism"] in ("dp-fedsgd", "output")
    return PrivacyFacts(
        protocol=result["protocol"],
        participants=tuple(site_facts(site, result["terms"][site]) for site in result["participants"]),
        n=weakest["n"],
        c=weakest["c"],
        theta=weakest["theta"],
        min_sites=weakest["m"],
        attempts=int(result["attempts_used"]),
        noise_std=result["noise_std"] if shared else None,
        scale_log2=result["scale_log2"] if shared else None,
        length=result["length"] if shared else None,
        survivors=tuple(len(survivors) for survivors in result["survivors"]),
        audit=None if audit is None else Audit(**{name: audit[name] for name in Audit.__dataclass_fields__}),
        rehearsal=rehearsal,
        rounds=int(result["rounds"]),
        **declared(document),
    )


def declared(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the facts that stand in the document."""
    privacy, training = document["privacy"], document.get("training", {})
    return {
        "protect": privacy["protect"],
        "unit": privacy["unit"],
        "steps": max([training.get("steps", 1), *training.get("first_steps", ())]),
        "mechanism": privacy["mechanism"],
        "epsilon": privacy["epsilon"],
        "delta": privacy["delta"],
        "record_clip": privacy["record_clip"],
        "update_clip": privacy.get("update_clip"),
        "max_records": privacy["max_records"] if privacy["unit"] == "patient" else None,
    }


def site_facts(site: str, terms: Mapping[str, Any] | None) -> SiteFacts:
    """Return the figures of *site* under its *terms*; None without a privacy unit."""
    if terms is None:
        return SiteFacts(site)
    return SiteFacts(site, terms["public_size"], terms["rate"], terms["noise_multiplier"])


def sound_facts(values: Mapping[str, Any]) -> PrivacyFacts:
    """Return the facts in *values*, which somebody else wrote.

    Raises
    ------
    ProtocolError
        ``protocol.claims``: as :meth:`PrivacyFacts.from_json`, or no accountant takes these figures.
    """
    check_plausible(values)
    try:
        return PrivacyFacts.from_json(values)
    except (ValueError, ArithmeticError, TypeError, LookupError, AttributeError):
        raise ProtocolError(
            "protocol.claims",
            "the facts about privacy hold figures that no accountant takes.",
            "Nothing is claimed about this run; its record was changed.",
        ) from None


def hardware_name(devices: Iterable[str] = ()) -> str:
    """Return what a computation here runs on, for example ``"x86_64, nvidia"``."""
    return ", ".join([os.uname().machine, *devices])
