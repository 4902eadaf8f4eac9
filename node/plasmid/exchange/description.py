"""What a repository of a hub is, in a page: from its files, and what the hub says of lineage and retirement.

Rules
-----
1. Everything here is what its publisher says; :func:`plasmid.release.folder.verify_release` is what
   checks it.
2. A stranger's file never stops it: what cannot be read is left out.
3. Of weights nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plasmid.bases.catalogue import RECORD
from plasmid.core.errors import PlasmidError
from plasmid.dp.claims import statement
from plasmid.dp.composition import compose, composed_statement
from plasmid.dp.privacy_statement import PrivacyFacts
from plasmid.exchange.merging import SCHEMA as MERGED
from plasmid.exchange.merging import runs_of
from plasmid.exchange.sharing import (
    MAX_CARD_BYTES,
    commit_of,
    facts_of,
    fetched_json,
    front_matter,
    retired_of,
)
from plasmid.hubclient.client import Hub, RemoteFile, retirement_told
from plasmid.release.attestation import BUNDLE
from plasmid.tasks.metrics import FEWER_IS_BETTER

_WORDS = 400


def describe(hub: Hub, repo: str, revision: str | None, scratch: Path) -> dict[str, Any]:
    """Return JSON values about a revision of *repo*.

    Parameters
    ----------
    scratch
        An empty folder for the files that are read.

    Raises
    ------
    HubError
        What the hub says.
    """
    with retirement_told():
        commit = commit_of(hub, repo, revision)
        info = hub.info(repo, commit)
        files = {file.path: file for file in hub.files(repo, commit)}
        said = hub.ours(repo)
        card = _card(hub, repo, commit, files, scratch)
        read = {
            name: fetched_json(hub, repo, commit, files, name, scratch)
            for name in ("provenance.json", "head.json", "adapter_config.json", RECORD)
        }
    provenance = read["provenance.json"]
    kind = "adapter" if "adapter_config.json" in files else "base" if read[RECORD] else "model"
    matter = front_matter(card)
    head = _map(read["head.json"].get("head"))
    found: dict[str, Any] = {
        "id": repo,
        "commit": commit,
        "kind": kind,
        "title": _title(card),
        "summary": _summary(card),
        "private": bool(info.private),
        "gated": info.gated or False,
        "licence": matter.get("license_name") or matter.get("license"),
        "base": _base(read),
        "reads": read["head.json"].get("input"),
        "task": _map(matter.get("plasmid")).get("task"),
        "labels": head["labels"] if isinstance(head.get("labels"), list) else None,
        "metrics": _map(provenance.get("metrics")),
        "privacy": privacy_of(provenance) if kind == "adapter" else None,
        "signed": BUNDLE in files,
        "retired": retired_of(said),
        "lineage": _map(said.get("lineage")),
        "files": [{"path": file.path, "size": file.size} for file in files.values()],
    }
    return found | {"commands": commands(hub, found)}


def privacy_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return unit, epsilon, delta and sentences of an adapter; None where nothing is promised."""
    try:
        if provenance.get("schema") == MERGED:
            runs = runs_of(provenance, "this adapter")
            merged = compose(runs, disjoint=_map(provenance.get("privacy")).get("composition") == "parallel")
            figures: tuple[Any, ...] = (merged.unit, merged.spent, merged.epsilon, merged.delta)
            sentences = composed_statement(merged)
        else:
            facts = facts_of(provenance)
            if facts is None:
                return _unknown("Nothing is said about privacy.")
            spent = max(facts.spent().values(), default=None)
            figures = (facts.unit, spent, facts.epsilon, facts.delta)
            sentences = _short(facts)
    except PlasmidError as error:
        return _unknown(f"Its privacy facts contradict themselves: {error.message}")
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError):
        return _unknown("Its privacy facts cannot be read.")
    return {
        "unit": figures[0],
        "spent": figures[1],
        "epsilon": figures[2],
        "delta": figures[3],
        "statement": sentences,
    }


def _unknown(why: str) -> dict[str, Any]:
    return {"unit": None, "spent": None, "epsilon": None, "delta": None, "statement": [why]}


def _short(facts: PrivacyFacts) -> list[str]:
    """Return the promise, and against whom it holds."""
    kept = ("(", "It holds against", "There is no differential privacy", "This is a rehearsal")
    return [sentence for sentence in statement(facts) if sentence.startswith(kept)]


def commands(hub: Hub, found: Mapping[str, Any]) -> list[str]:
    """Return command lines that work as pasted into a shell."""
    repo, commit = found["id"], found["commit"][:12]
    folder = repo.partition("/")[2]
    lines = [f"export HF_ENDPOINT={hub.endpoint}"]
    if found["kind"] == "adapter":
        lines += [
            f"plasmid hub pull {repo}@{commit} --to {folder}",
            f"plasmid predict {repo}@{commit} --data rows.csv",
        ]
        lines += [f"plasmid hub verify {folder}"] if found["signed"] else []
    elif found["kind"] == "base":
        lines.append(f"plasmid models import {repo} --revision {commit}")
    return [*lines, f"hf download {repo} --revision {found['commit']} --local-dir {folder}"]


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what :func:`describe` found as lines for people."""
    access = ("private, " if found["private"] else "") + (
        f"gated ({found['gated']}), " if found["gated"] else ""
    )
    yield f"{found['id']}: {found['title'] or found['kind']}"
    licence = found["licence"] or "not stated"
    yield f"{found['kind']}, {access}commit {found['commit'][:12]}, licence {licence}"
    if found["summary"]:
        yield found["summary"]
    if found["base"]:
        yield f"base: {found['base']}"
    if found["labels"]:
        yield f"reads {found['reads']}; tells apart: {', '.join(map(str, found['labels']))}"
    elif found["task"]:
        yield f"reads {found['reads']}; task: {found['task']}"
    if found["metrics"]:
        yield from _measured(found["metrics"])
    if found["privacy"]:
        for sentence in found["privacy"]["statement"]:
            yield f"privacy: {sentence}"
    if found["kind"] == "adapter":
        yield (
            "signed: attestations are there, 'plasmid hub verify' checks them"
            if found["signed"]
            else "not signed"
        )
    for title, edges in (("made from", "parents"), ("built on it", "children")):
        for edge in found["lineage"].get(edges) or ():
            revision = f"@{edge['revision']}" if edge.get("revision") else ""
            gone = " (retired)" if edge.get("retired") else ""
            yield f"{title}: {edge.get('kind')} {edge.get('name')}{revision}{gone}"
    yield ""
    yield from found["commands"]


def _measured(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line of the figures in a run's table, of the single sites the best, if it has any."""
    alone = [value for value in _map(metrics.get("local")).values() if _is_figure(value)]
    best = min if metrics.get("metric") in tuple(FEWER_IS_BETTER) else max
    told = {
        "federated": metrics.get("federated"),
        "central": metrics.get("central"),
        "best single site": best(alone, default=None),
    }
    shown = [f"{what} {value:.3f}" for what, value in told.items() if _is_figure(value)]
    if shown and isinstance(metrics.get("metric"), str):
        yield f"{metrics['metric']} on unseen data: {', '.join(shown)}"


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _card(hub: Hub, repo: str, commit: str, files: Mapping[str, RemoteFile], scratch: Path) -> bytes:
    file = files.get("README.md")
    if file is None or file.size > MAX_CARD_BYTES:
        return b""
    return hub.fetch(repo, commit, file, scratch).read_bytes()


def _body(card: bytes) -> list[str]:
    text = card.decode("utf-8", "replace").replace("\r\n", "\n")
    return (text.partition("\n---\n")[2] if text.startswith("---\n") else text).split("\n")


def _title(card: bytes) -> str:
    return next((line.lstrip("# ").strip()[:200] for line in _body(card) if line.startswith("# ")), "")


def _summary(card: bytes) -> str:
    """Return the first paragraph below the title."""
    told: list[str] = []
    for line in _body(card):
        if line.strip() and not line.startswith(("#", "|", "```", "<")):
            told.append(line.strip())
        elif told:
            break
    return " ".join(told)[:_WORDS]


def _base(read: Mapping[str, Any]) -> str | None:
    config = read["adapter_config.json"]
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str):
        return None
    return f"{name}@{revision}" if isinstance(revision, str) else name


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
