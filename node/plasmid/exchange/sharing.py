"""Adapters to and from a hub: checked before they leave, verified after they arrive, never half there.

Rules
-----
1. What is pushed is an adapter that can be read; one that carries attestations must verify first.
2. What is pulled is fetched beside its folder, checked, and only then gets the folder's name. A broken
   download goes on where it broke.
3. Who pulls something that was retired is told so, and what was built on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasmid.adapters.artifact import read_adapter
from plasmid.bases.catalogue import RECORD, read_record
from plasmid.bases.sources import refuse_code
from plasmid.bases.store import hash_files
from plasmid.bases.tensors import read_header
from plasmid.core.bounds import parse_json
from plasmid.core.errors import HubError, ModelError, UsageError
from plasmid.core.files import storage_error
from plasmid.core.yaml12 import Yaml12Error, parse_yaml
from plasmid.dp.plausible import check_plausible
from plasmid.dp.privacy_statement import PrivacyFacts
from plasmid.gateway.personal import SCHEMA as PERSONAL_SCHEMA
from plasmid.hubclient.client import Hub, RemoteFile, check_repo
from plasmid.hubclient.errors import told
from plasmid.release.attestation import BUNDLE
from plasmid.release.folder import Trust, Verified, verify_release
from plasmid.release.result import sound_facts

MAX_CARD_BYTES = 2**20
MAX_JSON_BYTES = 16 * 2**20
UNSIGNED = (
    "Publish the folder as 'plasmid run' wrote it, or take "
    f"{BUNDLE} out of it to publish it without signatures."
)
_OF_SIGNED = "model.release_"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([A-Za-z0-9][\w./-]{0,127}))?", re.ASCII)


@dataclass(frozen=True)
class Pulled:
    """What has arrived.

    Attributes
    ----------
    verified
        None where it carries no attestations.
    retired
        Why it should not be used any more; None if it should.
    built_on_it
        What else the hub has that was made from it.
    """

    repo: str
    commit: str
    folder: Path
    files: int
    verified: Verified | None
    retired: str | None
    built_on_it: tuple[str, ...]


def split_name(given: str) -> tuple[str, str | None]:
    """Return repository and revision of ``owner/name[@revision]``. Raises HubError (``hub.name``)."""
    match = _ID.fullmatch(given)
    if match is None:
        raise HubError(
            "hub.name", f"{given!r} is no name of a repository.", "Write OWNER/NAME or OWNER/NAME@REVISION."
        )
    return check_repo(match[1]), match[2]


def commit_of(hub: Hub, repo: str, revision: str | None) -> str:
    """Return the commit id that *revision* (None: ``main``) means. Raises HubError."""
    commit = str(hub.info(repo, revision).sha)
    if not _COMMIT.fullmatch(commit):
        raise HubError("hub.strange_answer", f"the hub names no commit of {repo}.", "Tell its operator.")
    return commit


def pull(
    hub: Hub, repo: str, folder: Path, *, revision: str | None = None, trust: Trust | None = None
) -> Pulled:
    """Fetch a revision of *repo* into *folder*, which must be absent or empty.

    Raises
    ------
    UsageError
        ``usage.folder_exists``: *folder* holds something.
    ModelError
        What arrived cannot be read, or its attestations do not hold; it is left out.
    HubError, StorageError
        What the hub says; *folder* cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            "usage.folder_exists", f"{folder} holds something already.", "Give another --to DIR."
        )
    commit = commit_of(hub, repo, revision)
    stage = folder.with_name(f".{folder.name}.{commit}.partial")
    try:
        files = hub.fetch_all(repo, commit, stage)
        verified = check_folder(stage, trust)
        if folder.exists():
            folder.rmdir()
        stage.rename(folder)
    except OSError as error:
        raise storage_error(error, folder) from error
    said = hub.ours(repo)
    return Pulled(repo, commit, folder, len(files), verified, retired_of(said), built_on(said))


def check_folder(folder: Path, trust: Trust | None = None) -> Verified | None:
    """Check a folder that came from, or goes to, a hub: an adapter, a base with its record, or any model.

    Returns
    -------
    Verified or None
        None where there are no attestations.

    Raises
    ------
    ModelError
        ``model.adapter_missing``, ``model.adapter_invalid``, ``model.digest_differs``; as
        :func:`plasmid.release.folder.verify_release`.
    """
    record = read_record(folder) if (folder / RECORD).is_file() else None
    if record is not None:
        found = hash_files(folder)
        changed = sorted(name for name in record.files if found.get(name) != record.files[name])
        if changed:
            raise ModelError(
                "model.digest_differs",
                f"in {folder.name} these files are not as the record says: {', '.join(changed)}.",
                "Fetch it again from its source.",
            )
        return None
    if not (folder / "adapter_config.json").is_file() and (folder / "config.json").is_file():
        refuse_code(folder)
        for path in folder.rglob("*.safetensors"):
            read_header(path)
        return None
    read_adapter(folder)
    return verify_release(folder, trust) if (folder / BUNDLE).is_file() or trust is not None else None


def _check_shareable(folder: Path) -> None:
    """Refuse a site's own adapter: it holds what only that site's rows have taught it."""
    path = folder / "provenance.json"
    try:
        found = (
            json.loads(path.read_bytes()) if path.is_file() and path.stat().st_size <= MAX_JSON_BYTES else {}
        )
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict) and found.get("schema") == PERSONAL_SCHEMA:
        raise HubError(
            "hub.personal",
            f"{folder.name} is what a site keeps for itself of a run, and no promise of the run covers it.",
            "Publish the run's adapter, which 'plasmid run' or 'plasmid runs fetch' has written.",
        )


def _check_own(folder: Path) -> Verified | None:
    """Check a folder that is to be published: whoever made it cannot fetch it again."""
    try:
        return check_folder(folder)
    except ModelError as error:
        if not error.code.startswith(_OF_SIGNED):
            raise
        problem = ModelError(error.code, error.message, UNSIGNED)
    raise problem


def push(
    hub: Hub,
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    message: str | None = None,
    tag: str | None = None,
) -> tuple[str, Verified | None]:
    """Make *folder* what *repo* holds, made if there is none; return commit id and what was verified.

    Parameters
    ----------
    message
        The commit's title; None is a plain one.

    Raises
    ------
    ModelError
        As :func:`check_folder`.
    HubError
        ``hub.personal``: it is a site's own; ``hub.no_licence``: its card says none; what the hub says.
        Nothing is half-published.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    _check_shareable(folder)
    verified = _check_own(folder)
    card = folder / "README.md"
    if not (card.is_file() and front_matter(card.read_bytes()).get("license")):
        raise HubError(
            "hub.no_licence",
            "README.md does not say under which licence the files may be used.",
            "Add a line such as 'license: apache-2.0' between the --- lines at its start.",
        )
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    api = hub.api()
    with told():
        api.create_repo(check_repo(repo), private=private, exist_ok=True)
        head = api.model_info(repo).sha
        new = {name.as_posix(): str(folder / name) for name in names}
        # A signed release lists every file: one that an earlier commit left would be one too many.
        held = set(api.list_repo_files(repo, revision=head)) - new.keys() - {".gitattributes"}
        done = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, path) for name, path in new.items()),
                *map(CommitOperationDelete, sorted(held)),
            ],
            commit_message=message or f"Upload {folder.resolve().name}",
            parent_commit=head,
        )
        if tag is not None:
            api.create_tag(repo, tag=tag, revision=done.oid)
    return str(done.oid), verified


def fetched_json(
    hub: Hub, repo: str, commit: str, files: Mapping[str, RemoteFile], name: str, into: Path
) -> Any:
    """Return the JSON object in the file *name* of a commit, {} where there is none that can be read."""
    file = files.get(name)
    if file is None or file.size > MAX_JSON_BYTES:
        return {}
    data = hub.fetch(repo, commit, file, into).read_bytes()
    try:
        value = parse_json(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def front_matter(card: bytes) -> dict[str, Any]:
    """Return the front matter of a card, {} where there is none that can be read."""
    text = card[:MAX_CARD_BYTES].decode("utf-8", "replace").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    matter, ends, _ = text[4:].partition("\n---")
    try:
        value, _ = parse_yaml(matter) if ends else ({}, None)
    except (Yaml12Error, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def facts_of(provenance: Mapping[str, Any]) -> PrivacyFacts | None:
    """Return the privacy facts of a run in its *provenance*, None where there are none.

    Raises
    ------
    ProtocolError
        ``protocol.claims``: they contradict themselves, or promise nothing at great length.
    """
    privacy = provenance.get("privacy")
    if not isinstance(privacy, dict) or "participants" not in privacy:
        return None
    check_plausible(privacy)
    return sound_facts(privacy)


def retired_of(said: Mapping[str, Any]) -> str | None:
    """Return why a repository was retired, from what its hub says."""
    reason = said.get("retired")
    return reason if isinstance(reason, str) else None


def built_on(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of what was built on a repository, from what its hub says."""
    lineage = said.get("lineage", said)
    edges = lineage.get("descendants") if isinstance(lineage, dict) else None
    return tuple(str(edge["name"]) for edge in edges or () if isinstance(edge, dict) and "name" in edge)
