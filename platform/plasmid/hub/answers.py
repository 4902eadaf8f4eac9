"""What the hub answers, in the words of the Hugging Face protocol (https://huggingface.co/docs/hub/api).

Rules
-----
1. An error carries ``X-Error-Code`` where clients have a class for it, and the whole sentence in
   ``X-Error-Message``: an answer to HEAD has no body. Both show it to the user verbatim. ``X-Error-Hint`` is
   the end of it, which our own client shows apart.
2. Times are UTC to the millisecond, with a Z: what all versions of the client parse.
3. Fields that this hub has nothing for are left out, or 0 where a client wants a number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi.responses import JSONResponse
from starlette.responses import Response

from plasmid.core.errors import PlasmidError
from plasmid.hub.accounts.limits import TooManyRequests
from plasmid.hub.store.finding import Found
from plasmid.hub.store.records import Account, Commit, FileEntry, Refs, Repo

WRONG_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105 - clients compare with this sentence
POINTER_BYTES = 134
STATUS = {
    "hub.token": 401,
    "hub.log_in": 401,
    "hub.forbidden": 403,
    "hub.gated": 403,
    "hub.form": 403,
    "hub.link": 403,
    "hub.ref_protected": 403,
    "hub.repo_missing": 404,
    "hub.revision_missing": 404,
    "hub.entry_missing": 404,
    "hub.account_missing": 404,
    "hub.request_missing": 404,
    "hub.route": 404,
    "hub.exists": 409,
    "hub.ref_exists": 409,
    "hub.blob_lost": 500,
    "hub.commit_conflict": 412,
    "hub.too_large": 413,
    "hub.too_many_files": 413,
    "hub.too_many_requests": 429,
}
"""By code; every other problem is the request's own: 400."""
_CODES = {
    "hub.repo_missing": "RepoNotFound",
    "hub.revision_missing": "RevisionNotFound",
    "hub.entry_missing": "EntryNotFound",
    "hub.gated": "GatedRepo",
}


def problem(
    error: PlasmidError, *, headers: Mapping[str, str] | None = None, plain: bool = False
) -> Response:
    """Return the answer that tells *error*; with *plain* as text."""
    status = STATUS.get(error.code, 400)
    said = WRONG_TOKEN if error.code == "hub.token" else str(error)
    told = {"X-Error-Message": header_text(said), "Cache-Control": "no-store", **(headers or {})}
    if error.hint:
        told["X-Error-Hint"] = header_text(error.hint)
    if error.code in _CODES:
        told["X-Error-Code"] = _CODES[error.code]
    if isinstance(error, TooManyRequests):
        told["Retry-After"] = str(error.wait_s)
    if status == 401:
        told["WWW-Authenticate"] = "Bearer"
    if plain:
        return Response(said, status, told, media_type="text/plain")
    # Clients print header and body, and leave one out if they are the same.
    body = {"error": told["X-Error-Message"], "code": error.code, "hint": error.hint}
    return JSONResponse(body, status, told)


def header_text(text: str) -> str:
    """Return *text* as a header can hold it: one line of printable ASCII."""
    flat = " ".join(text.split()).encode("ascii", "replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in flat)[:2000]


def time_text(moment: datetime) -> str:
    """Return ``2026-11-26T10:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def whoami(account: Account) -> dict[str, Any]:
    """Return what ``hf auth whoami`` shows."""
    return {
        "type": "user",
        "id": f"{account.key:024x}",
        "name": account.name,
        "fullname": account.name,
        "email": account.email,
        "emailVerified": account.email is not None,
        "isPro": False,
        "canPay": False,
        "periodEnd": None,
        "avatarUrl": "",
        "orgs": [
            {"type": "org", "id": name, "name": name, "fullname": name, "avatarUrl": "", "roleInOrg": role}
            for name, role in sorted(account.organisations.items())
        ],
        "auth": {
            "type": "access_token",
            "accessToken": {
                "displayName": account.scope,
                "role": "read" if account.scope == "read" else "write",
            },
        },
    }


def model(
    repo: Repo, tags: Sequence[str], card: Mapping[str, Any] | None, library: str | None
) -> dict[str, Any]:
    """Return what a list says of a model; *card* is its front matter, None leaves it out."""
    task = (card or {}).get("pipeline_tag") or next(
        (tag[5:] for tag in tags if tag.startswith("task:")), None
    )
    said: dict[str, Any] = {
        "_id": f"{repo.key:024x}",
        "id": str(repo.id),
        "modelId": str(repo.id),
        "author": repo.id.owner,
        "sha": repo.head,
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": False,
        "downloads": repo.downloads,
        "likes": 0,
        "createdAt": time_text(repo.created),
        "lastModified": time_text(repo.updated),
        "tags": list(tags),
    }
    if library:
        said["library_name"] = library
    if isinstance(task, str):
        said["pipeline_tag"] = task
    if card is not None:
        said["cardData"] = dict(card)
    if repo.retired is not None:
        said["retired"] = repo.retired
    return said


def library_of(tags: Iterable[str]) -> str | None:
    """Return the library that *tags* name."""
    known = ("peft", "transformers", "sentence-transformers")
    return next((tag for tag in tags if tag in known), None)


def of_found(found: Found, card: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a list says of *found*."""
    figures = {"metric": found.metric, "epsilon": found.epsilon}
    said = model(found.repo, found.tags, card, library_of(found.tags))
    return said | {name: value for name, value in figures.items() if value is not None}


def only(said: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """Return the fields *wanted* of *said*, and its id; all where nothing is wanted in particular."""
    if not wanted:
        return dict(said)
    return {name: said[name] for name in ("_id", "id", "modelId", *wanted) if name in said}


def sibling(entry: FileEntry, *, blobs: bool) -> dict[str, Any]:
    """Return what ``model_info`` says of a file; with *blobs* its size and digests, too."""
    said: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        said |= {"size": entry.size, "blobId": entry.oid}
        if entry.lfs:
            said["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": POINTER_BYTES}
    return said


def file_of_tree(entry: FileEntry, last: Commit | None = None) -> dict[str, Any]:
    """Return an item of a tree; *last* is the commit that the file's content came with."""
    said: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": entry.path}
    if entry.lfs:
        said["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": POINTER_BYTES}
    return said | _last(last)


def folder_of_tree(path: str, oids: Iterable[str], last: Commit | None = None) -> dict[str, Any]:
    """Return an item of a tree; *oids* are what its files are known by."""
    oid = hashlib.sha1("\n".join(oids).encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path} | _last(last)


def _last(commit: Commit | None) -> dict[str, Any]:
    if commit is None:
        return {}
    return {"lastCommit": {"id": commit.id, "title": commit.title, "date": time_text(commit.created)}}


def refs(found: Refs, *, with_requests: bool) -> dict[str, Any]:
    """Return the branches and tags."""
    said: dict[str, Any] = {
        "branches": [
            {"name": ref.name, "ref": f"refs/heads/{ref.name}", "targetCommit": ref.commit}
            for ref in found.branches
        ],
        "converts": [],
        "tags": [
            {
                "name": ref.name,
                "ref": f"refs/tags/{ref.name}",
                "targetCommit": ref.commit,
                "message": ref.message,
            }
            for ref in found.tags
        ],
    }
    return said | ({"pullRequests": []} if with_requests else {})


def commit(said: Commit) -> dict[str, Any]:
    """Return an item of a history."""
    return {
        "id": said.id,
        "title": said.title,
        "message": said.description,
        "authors": [{"user": said.author, "avatar": ""}],
        "date": time_text(said.created),
        "formatted": {"title": None, "message": None},
    }


def retired(repo: Repo) -> dict[str, str]:
    """Return the header that makes clients warn about a retired repository; none for others."""
    if repo.retired is None:
        return {}
    return {"X-HF-Warning": header_text(f"retired {repo.id}; {repo.id} was retired: {repo.retired}")}
