"""Where an adapter is: a folder, a site, or a hub.

Rules
-----
1. A folder of that name comes first. What has the form ``owner/name`` or ``owner/name@revision`` is looked
   for on the hub of ``HF_ENDPOINT`` (:mod:`plasmid.hubclient.client`).
2. Of a repository the files of its top folder that an adapter has are fetched: safetensors, JSON and
   Markdown, each with a cap. Nothing of them is run.
3. What carries signatures is verified before it is kept, as ``plasmid hub verify`` does without pins: a hub
   that changes a byte is caught. Who pins keys fetches with ``plasmid hub pull --trust``.
4. They are kept in ``PLASMID_HOME/hub-adapters`` by their commit, whole or not at all; a commit that is
   there needs no hub.
5. That one was retired is told each time that the hub is asked.
6. ``personal:RUN`` is a site's own adapter of a run (:mod:`plasmid.gateway.personal`), in the site's folder.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from plasmid.adapters.artifact import MAX_JSON_BYTES, MAX_TENSORS_BYTES
from plasmid.core.errors import ModelError
from plasmid.core.files import home
from plasmid.gateway.home import SiteHome
from plasmid.gateway.personal import Personal
from plasmid.hubclient.client import RemoteFile, check_repo, find_hub, retirement_told
from plasmid.release.attestation import BUNDLE, MAX_BUNDLE_BYTES, MAX_ROUNDS_BYTES, ROUNDS
from plasmid.release.folder import verify_release

log = logging.getLogger(__name__)

PERSONAL = "personal"
CAPS_BYTES = {".safetensors": MAX_TENSORS_BYTES, ".json": MAX_JSON_BYTES, ".md": MAX_JSON_BYTES}
"""What is fetched, by its ending, and how long it may be."""
_OWN_CAPS_BYTES = {BUNDLE: MAX_BUNDLE_BYTES, ROUNDS: MAX_ROUNDS_BYTES}
"""What is fetched by its name."""
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([A-Za-z0-9][\w./-]{0,127}))?", re.ASCII)


def adapter_folder(given: str, site: SiteHome | None = None) -> Path:
    """Return the folder of the adapter *given*: a path, an id on the hub, or of *site*'s own.

    Raises
    ------
    ModelError
        ``model.no_personal``: the site has none of its own of that run; ``model.adapter_missing``: it is
        neither, or the repository holds none; ``model.adapter_invalid``: a file is too long; what
        :func:`plasmid.release.folder.verify_release` raises of one that carries signatures.
    HubError
        As :func:`plasmid.hubclient.client.find_hub`; what the hub says.
    StorageError
        The state folder cannot be written.
    """
    kind, colon, run = given.partition(":")
    if kind == PERSONAL and colon and site is not None:
        return Personal(site.personal).adapter(run)
    folder = Path(given)
    if folder.is_dir():
        return folder
    match = _ID.fullmatch(given)
    if match is None:
        raise ModelError(
            "model.adapter_missing",
            f"there is no folder {given}, and it is no name on a hub.",
            "Give an adapter's folder, or owner/name or owner/name@revision.",
        )
    return _fetched(check_repo(match[1]), match[2])


def _fetched(repo: str, revision: str | None) -> Path:
    kept = home() / "hub-adapters" / repo.replace("/", "--")
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) and (kept / revision).is_dir():
        return kept / revision
    hub = find_hub()
    with retirement_told():
        info = hub.info(repo, revision)
    commit = str(info.sha)
    retired = getattr(info, "retired", None)
    if isinstance(retired, str):
        reason = "".join(letter if letter.isprintable() else " " for letter in retired[:300])
        log.warning("%s was retired by its owner: %s", repo, reason)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ModelError("model.adapter_missing", f"the hub names no commit of {repo}.", "Tell its operator.")
    if not (kept / commit).is_dir():
        files = [file for file in hub.files(repo, commit) if _is_wanted(repo, file)]
        if "head.json" not in {file.path for file in files}:
            raise ModelError(
                "model.adapter_missing",
                f"{repo} holds no Plasmid adapter (no head.json).",
                "Find one with 'plasmid hub search'.",
            )
        partial = kept / f".{commit}.partial"  # a broken download goes on there
        hub.fetch_all(repo, commit, partial, files)
        if (partial / BUNDLE).exists():
            try:
                verify_release(partial)
            except ModelError:
                shutil.rmtree(partial)
                raise
        partial.replace(kept / commit)
    return kept / commit


def _is_wanted(repo: str, file: RemoteFile) -> bool:
    cap = _OWN_CAPS_BYTES.get(file.path) or CAPS_BYTES.get(Path(file.path).suffix)
    if cap is None or "/" in file.path:
        return False
    if file.size > cap:
        raise ModelError(
            "model.adapter_invalid",
            f"{file.path} of {repo} has {file.size} bytes, and may have {cap}.",
            "Use another adapter.",
        )
    return True
