"""Base models through a hub: put there with licence, digest and card; fetched from there, and checked.

Rules
-----
1. A base on a hub is the folder of :mod:`plasmid.bases.store`, record included, and a card; its Plasmid
   revision is a tag. What is fetched is the record and exactly the files that it names.
2. A fetched base has the digest that its record says, that was asked for, and that the catalogue pins for its
   name; it is checked like one that is imported here, and appears whole or not at all.
3. Files are fetched beside the store and moved into it: a broken download goes on, none is held in memory.
4. A repository that is no base of ours is converted: safetensors, JSON and plain-text tokenizer files are
   fetched, nothing else.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from plasmid.adapters.files import hub_name
from plasmid.bases.architectures import InputKind, OwnHead
from plasmid.bases.catalogue import RECORD, Entry, HubSource, Record, models_folder, read_record, shipped
from plasmid.bases.converting import GENERATION, TOKENIZER_FILES
from plasmid.bases.importer import check_model, import_folder, locked
from plasmid.bases.sources import MAX_JSON_BYTES
from plasmid.bases.store import BaseModel, hash_files, model_folder, open_model
from plasmid.core.canonical import canonical_json, digest_json
from plasmid.core.errors import HubError, ModelError
from plasmid.core.files import folder_atomic
from plasmid.hubclient.client import Hub, RemoteFile, check_repo
from plasmid.hubclient.errors import told

_FETCHED = ("config.json", "model.safetensors", "model.safetensors.index.json", GENERATION, *TOKENIZER_FILES)
_SHARD = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.safetensors")
_CARD = """---
license: {licence}
library_name: transformers
tags: [plasmid, base, {architecture}, reads-{reads}]
---

# {title}

The base model `{id}` of Plasmid, revision `{revision}`: {what} as float32.
It reads {kind}. Adapters are trained on exactly these files:

    digest {digest}

## Use it

With `HF_ENDPOINT` naming this hub:

```python
import transformers
model = transformers.{made}.from_pretrained("{repo}", revision="{revision}")
tokenizer = transformers.AutoTokenizer.from_pretrained("{repo}", revision="{revision}")
```

or `plasmid models import {repo}`, which checks the digest. `plasmid.json` has the SHA-256 of each file.
"""


def fetch_base(hub: Hub, repo: str, *, revision: str | None, digest: str | None = None) -> BaseModel:
    """Return the base model in *repo*, fetched into the store, or found there.

    Parameters
    ----------
    revision
        A tag, branch or commit; None is the branch ``main``.
    digest
        Of the base that is meant; None takes the record's word for it.

    Raises
    ------
    HubError
        ``hub.no_base``: the repository holds no base model of Plasmid; what the hub says.
    ModelError
        ``model.digest_differs``: it is not the one that is meant, or a file is not as its record says;
        ``model.refused``, ``model.tensors_missing``, ``model.tokenizer_unknown``: it cannot be used.
    StorageError
        The state folder cannot be written.
    """
    commit, files = _files(hub, repo, revision)
    if RECORD not in files:
        raise HubError(
            "hub.no_base",
            f"{repo} holds no base model of Plasmid: it has no {RECORD}.",
            f"Run 'plasmid models import {repo}', which converts it.",
        )
    with locked():
        stage = _stage(repo, commit)
        record = _record(hub, repo, commit, files[RECORD], stage, digest)
        entry = record.entry
        folder = model_folder(entry.id, entry.revision)
        kept = read_record(folder)
        if kept is None or kept.files != record.files:
            absent = sorted(record.files.keys() - files.keys())
            if absent:
                raise _differs(entry, f"{repo} lacks {', '.join(absent)}, which its record names")
            hub.fetch_all(repo, commit, stage, [files[name] for name in sorted(record.files)])
            _keep(stage, record)
            with folder_atomic(folder) as final:
                for name in (*record.files, RECORD):
                    (stage / name).rename(final / name)
        shutil.rmtree(stage, ignore_errors=True)
    return open_model(entry.id, revision=entry.revision, digest=record.entry.digest)


def _files(hub: Hub, repo: str, revision: str | None) -> tuple[str, dict[str, RemoteFile]]:
    commit = str(hub.info(check_repo(repo), revision).sha)
    return commit, {file.path: file for file in hub.files(repo, commit)}


def _stage(repo: str, commit: str) -> Path:
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise HubError("hub.strange_answer", "the hub names a commit that is none.", "Tell its operator.")
    folder = models_folder() / ".fetched" / f"{repo.replace('/', '--')}--{commit}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _record(hub: Hub, repo: str, commit: str, file: RemoteFile, stage: Path, digest: str | None) -> Record:
    """Return the record as it will be kept; its source says where the model comes from."""
    if file.size > MAX_JSON_BYTES:
        raise HubError("hub.no_base", f"{RECORD} of {repo} is too long.", "Use another repository.")
    hub.fetch(repo, commit, file, stage)
    record = read_record(stage)
    if record is None:
        (stage / RECORD).unlink()
        raise HubError("hub.no_base", f"{RECORD} of {repo} cannot be read.", "Use another repository.")
    entry = record.entry
    found = digest_json(record.files)
    names = [name for name in record.files if name not in _FETCHED or name.endswith(".index.json")]
    if found != entry.digest or names:
        raise _differs(entry, f"the record of {repo} contradicts itself")
    if digest is not None and found != digest:
        raise _differs(entry, f"{repo} holds digest {found[:16]}..., {digest[:16]}... was asked for")
    known = shipped(entry.id)
    if known is None:
        source = HubSource(kind="hub", repo=repo, revision=commit)
        return record.model_copy(update={"entry": entry.model_copy(update={"source": source})})
    if (known.revision, known.digest) != (entry.revision, found):
        raise _differs(entry, f"{repo} holds digest {found[:16]}..., {known.digest[:16]}... is pinned")
    return record.model_copy(update={"entry": known})


def _keep(stage: Path, record: Record) -> None:
    """Check the files in *stage*, and write the record that is kept with them."""
    (stage / RECORD).unlink(missing_ok=True)
    entry = record.entry
    found = hash_files(stage)
    changed = sorted(name for name in record.files if found.get(name) != record.files[name])
    for name in changed:
        (stage / name).unlink(missing_ok=True)
    if changed:
        raise _differs(entry, f"{', '.join(changed)} not as the record says")
    check_model(stage, entry)
    (stage / RECORD).write_bytes(canonical_json(record.model_dump(mode="json")))


def _differs(entry: Entry, what: str) -> ModelError:
    return ModelError(
        "model.digest_differs",
        f"the base model {entry.id} {entry.revision} from the hub is not used: {what}.",
        "The hub serves something else than the catalogue, recipe or adapter means; nothing was kept.",
    )


def import_repo(
    hub: Hub,
    repo: str,
    *,
    revision: str | None = None,
    model_id: str | None = None,
    kind: InputKind | None = None,
    licence: str | None = None,
    head: OwnHead = "none",
    template: str | None = None,
) -> BaseModel:
    """Return the model in *repo*, fetched as it is if it is a base of ours, else converted.

    Parameters
    ----------
    model_id, kind, licence, head, template
        As :func:`plasmid.bases.importer.import_folder`; None is the repository's name, and what its card
        says. A base of ours has its own.

    Raises
    ------
    HubError
        ``hub.no_base``: it has no safetensors; what the hub says.
    ModelError, UsageError, StorageError
        As :func:`fetch_base` and :func:`plasmid.bases.importer.import_folder`.
    """
    info = hub.info(check_repo(repo), revision)
    commit, files = _files(hub, repo, revision)
    if RECORD in files:
        return fetch_base(hub, repo, revision=commit)
    wanted = [file for name, file in files.items() if name in _FETCHED or _SHARD.fullmatch(name)]
    if "model.safetensors" in files:
        wanted = [file for file in wanted if file.path in _FETCHED and not file.path.endswith(".index.json")]
    if not any(file.path.endswith(".safetensors") for file in wanted):
        raise HubError(
            "hub.no_base",
            f"{repo} holds no model.safetensors; other formats are not fetched.",
            "Ask for the weights as safetensors, or convert them yourself and import the folder.",
        )
    with locked():
        stage = _stage(repo, commit)
        hub.fetch_all(repo, commit, stage, wanted)
    base = import_folder(
        stage,
        model_id=model_id or repo.partition("/")[2].lower(),
        kind=kind,
        licence=licence or _licence(info),
        origin=f"{repo} at {commit[:12]}",
        head=head,
        template=template,
    )
    shutil.rmtree(stage, ignore_errors=True)
    return base


def _licence(info: Any) -> str | None:
    said = getattr(info, "card_data", None)
    found = said.get("license") if said is not None else None
    return found if isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9.+_-]{1,80}", found) else None


def push_base(
    hub: Hub, base: BaseModel, repo: str, *, licence: str | None = None, private: bool = False
) -> str:
    """Put *base* into *repo*, made if there is none, and return the commit id. Its revision becomes a tag.

    Raises
    ------
    HubError
        ``hub.no_licence``: neither the model nor the caller says one; ``hub.ref_exists``: the hub has that
        revision with other files; what the hub says.
    """
    from huggingface_hub import CommitOperationAdd

    record = read_record(base.path)
    assert record is not None
    known = licence or record.entry.licence
    if known == "not stated":
        raise HubError(
            "hub.no_licence",
            f"nobody says under which licence {base.id} may be used.",
            "Give --licence with the name of its authors' licence, as SPDX has it.",
        )
    entry = record.entry.model_copy(update={"licence": known})
    files: dict[str, Any] = {name: str(base.path / name) for name in record.files}
    files[RECORD] = canonical_json(record.model_copy(update={"entry": entry}).model_dump(mode="json"))
    files["README.md"] = base_card(entry, repo).encode()
    api = hub.api()
    with told():
        api.create_repo(check_repo(repo), private=private, exist_ok=True)
        tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo).tags}
    if base.revision in tags:
        return _same(hub, base, repo, tags[base.revision])
    with told():
        done = api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in sorted(files.items())],
            commit_message=f"{base.id} {base.revision}",
        )
        api.create_tag(repo, tag=base.revision, revision=done.oid, tag_message=f"digest {base.digest}")
    return str(done.oid)


def _same(hub: Hub, base: BaseModel, repo: str, commit: str) -> str:
    """Return *commit* if it holds the weights of *base*."""
    weights = hash_files(base.path)["model.safetensors"]
    held = next((file for file in hub.files(repo, commit) if file.path == "model.safetensors"), None)
    if held is None or held.sha256 not in (weights, None):
        raise HubError(
            "hub.ref_exists",
            f"{repo} has a revision {base.revision} already, with other weights.",
            "Push to another repository.",
        )
    return commit


_WHAT = {
    "none": ("the bare encoder, without any task head,", "AutoModel"),
    "causal": ("a causal language model", "AutoModelForCausalLM"),
    "masked": ("a language model with its head for masked tokens", "AutoModelForMaskedLM"),
}
"""What a base model is, and the class of transformers that loads it."""


def base_card(entry: Entry, repo: str) -> str:
    """Return ``README.md`` of a base model on a hub."""
    return _CARD.format(
        licence=entry.licence.lower(),
        architecture=entry.architecture,
        what=_WHAT[entry.own_head][0],
        made=_WHAT[entry.own_head][1],
        reads=entry.input,
        title=entry.title,
        id=entry.id,
        revision=entry.revision,
        kind={
            "protein": "amino-acid sequences",
            "nucleotide": "DNA sequences",
            "molecule": "SMILES",
            "text": "text",
        }[entry.input],
        digest=entry.digest,
        repo=repo,
    )


def base_repo(model_id: str, entry: Entry | None) -> str:
    """Return where the hub has the base model *model_id*: what its entry says, else ``plasmid/ID``."""
    return (
        entry.source.repo if entry is not None and isinstance(entry.source, HubSource) else hub_name(model_id)
    )
