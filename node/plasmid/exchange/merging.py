"""A merged adapter as a folder: the child, its card, and where it comes from, licences and privacy composed.

    provenance.json  {"schema": "plasmid.provenance.merge/1", "base", "merge", "parents", "privacy", "code"}

Rules
-----
1. A parent that carries attestations must verify. What the child carries is not signed by anybody, and says
   so.
2. ``parents`` names each with its commit, the SHA-256 of its files, its weight, licence, and the runs behind
   it with their privacy facts, so that the child's statement can be computed again, also when the child is a
   parent itself.
3. The card's front matter names base and parents, which is how a hub finds lineage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from plasmid.adapters.artifact import Adapter, read_adapter
from plasmid.adapters.card import CardFacts, card, section
from plasmid.adapters.files import adapter_files, hub_name, json_file
from plasmid.adapters.merge import Merged, check_alike, merge
from plasmid.adapters.merge_factors import Method
from plasmid.bases.licences import Licence, compose_licences
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.core.errors import ModelError
from plasmid.core.files import folder_atomic
from plasmid.dp.composition import Composed, compose, composed_statement
from plasmid.dp.privacy_statement import PrivacyFacts
from plasmid.exchange.sharing import check_folder, facts_of, front_matter

SCHEMA = "plasmid.provenance.merge/1"
MAX_RUNS = 256
_DEPTH = 16


@dataclass(frozen=True)
class Parent:
    """One adapter that is merged.

    Attributes
    ----------
    repo, commit
        Where it is on a hub; None for a folder.
    signed
        Whether its attestations were verified.
    files
        SHA-256 by name.
    """

    name: str
    repo: str | None
    commit: str | None
    adapter: Adapter
    licence: str
    signed: bool
    files: Mapping[str, str]


@dataclass(frozen=True)
class Child:
    """What :func:`merge_adapters` wrote."""

    folder: Path
    merged: Merged
    licence: Licence
    privacy: Composed


def read_parent(folder: Path, *, repo: str | None = None, commit: str | None = None) -> Parent:
    """Return the adapter in *folder* as a parent.

    Raises
    ------
    ModelError
        It cannot be read, or its attestations do not hold.
    """
    adapter = read_adapter(folder)
    signed = check_folder(folder) is not None
    card_file = folder / "README.md"
    said = front_matter(card_file.read_bytes()) if card_file.is_file() else {}
    name, licence = repo or folder.resolve().name, str(said.get("license_name") or said.get("license") or "")
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    }
    # It goes into the child's card, so it is a name and nothing else.
    licence = licence if re.fullmatch(r"[A-Za-z0-9.+_-]{1,100}", licence) else ""
    return Parent(name, repo, commit, adapter, licence, signed, files)


def merge_adapters(
    parents: Sequence[Parent],
    weights: Sequence[float],
    out: Path,
    *,
    method: Method,
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
    licence: str | None = None,
    title: str | None = None,
    disjoint: bool = False,
) -> Child:
    """Merge *parents*, and write the child to *out*, replacing what is there.

    Parameters
    ----------
    weights, method, rank, density, seed
        As :func:`plasmid.adapters.merge.merge`.
    licence
        What the caller states; None follows from the parents'.
    disjoint
        The caller states that nobody is in the data of two runs.

    Raises
    ------
    ModelError, UsageError
        As :func:`plasmid.adapters.merge.merge`, :func:`plasmid.bases.licences.compose_licences` and
        :func:`plasmid.bases.store.ensure_model`.
    ProtocolError
        ``protocol.claims``: a parent's privacy facts contradict themselves.
    StorageError
        *out* cannot be written; it is then as it was.
    """
    adapters = [parent.adapter for parent in parents]
    check_alike(adapters)
    composed = compose(runs_behind(parents), disjoint=disjoint)
    found = compose_licences(_by_name(parents), licence)
    about = adapters[0].about
    base = ensure_model(about.base.id, revision=about.base.revision, digest=about.base.digest)
    merged = merge(adapters, weights, base, method=method, rank=rank, density=density, seed=seed)
    files = adapter_files(
        schema=merged.schema,
        state=merged.state,
        base=base,
        lora=merged.lora,
        head=about.head,
        input_column=about.input,
        label_column=about.label,
        metric=about.metric,
        max_length=merged.max_length,
        columns=about.columns,
        quantization=about.base.quantization,
    )
    how: dict[str, Any] = {"method": method, "rank": merged.lora.rank, "density": density, "seed": seed}
    how |= {"distance": merged.distance, "peft": version("peft")}
    provenance = {
        "schema": SCHEMA,
        "base": {"id": base.id, "revision": base.revision, "digest": base.digest},
        "merge": how,
        "parents": [_parent_json(parent, weight) for parent, weight in zip(parents, weights, strict=True)],
        "privacy": composed.as_json(),
        "code": f"plasmid {version('plasmid')}",
    }
    files["provenance.json"] = json_file(provenance)
    title = title or f"Merge of {' and '.join(parent.name for parent in parents)}"
    facts = CardFacts(
        title=title,
        license=found.name or found.license,
        results={},
        limitations="Nobody has measured this adapter on data: merging is arithmetic, and may hurt.",
        privacy="\n".join(f"- {sentence}" for sentence in composed_statement(composed)),
        attested="Nobody has signed this adapter. `plasmid hub verify` checks its parents.",
    )
    body = card(_head_of(files), facts, merged.schema.size, base=hub_name(base.id)).partition("\n---\n")[2]
    made = "\n".join(_lines(parents, weights, merged, method))
    text = _front(base, about.head.kind, parents, found) + body + "\n" + section("Made from", made) + "\n"
    files["README.md"] = (text + section("Licence", _licence_text(parents, found))).encode()
    with folder_atomic(out) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)
    return Child(out, merged, found, composed)


def _head_of(files: Mapping[str, bytes]) -> Any:
    from plasmid.adapters.files import HeadFile

    return HeadFile.model_validate_json(files["head.json"])


def _by_name(parents: Sequence[Parent]) -> dict[str, str]:
    """Return the licences by name; two folders of one name are told apart by their place."""
    names = [parent.name for parent in parents]
    return {
        parent.name if names.count(parent.name) == 1 else f"{parent.name} ({place})": parent.licence
        for place, parent in enumerate(parents, 1)
    }


def runs_behind(parents: Sequence[Parent]) -> dict[str, PrivacyFacts | None]:
    """Return the privacy facts of every run behind *parents*, each once; None where nothing is known.

    Raises
    ------
    ModelError
        ``model.adapter_invalid``: too many, parents of parents without end, or two that tell different facts.
    ProtocolError
        ``protocol.claims``: facts contradict themselves.
    """
    found: dict[str, PrivacyFacts | None] = {}
    for parent in parents:
        for run, facts in runs_of(parent.adapter.provenance, parent.name).items():
            _take(found, run, facts, parent.name)
    return found


def runs_of(provenance: Mapping[str, Any], name: str) -> dict[str, PrivacyFacts | None]:
    """Return the runs behind one adapter called *name*. Raises as :func:`runs_behind`."""
    found: dict[str, PrivacyFacts | None] = {}
    for run, said in _runs(provenance, name, 0):
        _take(found, run, facts_of(said), name)
    return found


def _take(found: dict[str, PrivacyFacts | None], run: str, facts: PrivacyFacts | None, name: str) -> None:
    if run in found and found[run] != facts:
        raise ModelError(
            "model.adapter_invalid",
            f"two parents tell different facts of the run {run}.",
            "One of them was changed: verify both.",
        )
    found[run] = facts
    if len(found) > MAX_RUNS:
        raise _endless(name)


def _runs(provenance: Mapping[str, Any], name: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if depth > _DEPTH:
        raise _endless(name)
    parents = provenance.get("parents")
    if provenance.get("schema") == SCHEMA and isinstance(parents, list) and parents:
        for place, parent in enumerate(parents, 1):
            behind = parent.get("origin") if isinstance(parent, dict) else None
            yield from _runs(behind if isinstance(behind, dict) else {}, f"{name}, parent {place}", depth + 1)
        return
    run = provenance.get("run")
    if not isinstance(run, str) or not re.fullmatch(r"[A-Za-z0-9._:-]{1,100}", run):
        run = name
    yield run, provenance


def _endless(name: str) -> ModelError:
    return ModelError(
        "model.adapter_invalid",
        f"behind {name} are more than {MAX_RUNS} runs, or {_DEPTH} generations.",
        "Merge adapters that are nearer to their runs.",
    )


def _parent_json(parent: Parent, weight: float) -> dict[str, Any]:
    return {
        "name": parent.name,
        "repo": parent.repo,
        "commit": parent.commit,
        "weight": float(weight),
        "licence": parent.licence,
        "verified": parent.signed,
        "files": dict(parent.files),
        "origin": _origin(parent.adapter.provenance),
    }


def _origin(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a child needs to know of where its parent comes from."""
    kept = (
        ("schema", "run", "recipe", "privacy")
        if provenance.get("schema") != SCHEMA
        else ("schema", "merge", "parents")
    )
    return {name: provenance[name] for name in kept if name in provenance}


def _front(base: BaseModel, task: str, parents: Sequence[Parent], licence: Licence) -> str:
    names = [hub_name(base.id), *dict.fromkeys(parent.repo for parent in parents if parent.repo)]
    lines = ["---", "library_name: peft", f"license: {licence.license}"]
    lines += [f"license_name: {licence.name}"] if licence.name else []
    lines += ["base_model:", *(f"- {name}" for name in names), "base_model_relation: merge"]
    lines += [f"tags: [plasmid, lora, federated, {base.entry.input}, {task}, merge]"]
    return "\n".join([*lines, f"plasmid: {{task: {task}}}", "---", ""])


def _lines(parents: Sequence[Parent], weights: Sequence[float], merged: Merged, method: str) -> Iterator[str]:
    yield f"PEFT's `add_weighted_adapter`, method `{method}`, to rank {merged.lora.rank}. Its update differs"
    yield f"from the weighted sum of the parents' by {merged.distance:.3g} of its norm; trained heads are"
    yield "averaged.\n"
    yield "| parent | weight | revision | licence | verified |\n|---|---|---|---|---|"
    for parent, weight in zip(parents, weights, strict=True):
        commit = f"`{parent.commit[:12]}`" if parent.commit else "a folder"
        signed = "yes" if parent.signed else "not signed"
        yield f"| {parent.name} | {weight:g} | {commit} | {parent.licence} | {signed} |"


def _licence_text(parents: Sequence[Parent], licence: Licence) -> str:
    listed = "\n".join(f"- {name}: {theirs or 'none stated'}" for name, theirs in _by_name(parents).items())
    return f"{licence.name or licence.license}. {licence.sentence} The parents':\n\n{listed}"
