"""The names that a hub takes: of owners, repositories, revisions and files. No name ever becomes a path here.

Rules
-----
1. Owners and repositories: ASCII letters, digits, ``.``, ``_``, ``-``, at most 96; no ``--`` and no ``..`` (a
   client's cache joins names with ``--``), no end in ``.git``. Two names that differ in case are one name.
2. Some owners and repositories would hide a page of the hub: those are reserved.
3. Branches and tags keep to Git's rules, and cannot look like a commit id.
4. A file's path is relative, with ``/``, in Unicode's form NFC, at most 255 characters, and means one file on
   every system that a client runs on.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from plasmid.core.errors import HubError

MAX_NAME = 96
MAX_PATH = 255
MAX_REVISION = 200
MIN_PREFIX = 7
"""Digits of a commit id that may stand for it."""
COMMIT = re.compile(r"[0-9a-f]{40}")
PREFIX = re.compile(r"[0-9a-f]{7,40}")

RESERVED_OWNERS = frozenset(
    (
        "admin", "api", "assets", "blog", "collections", "datasets", "docs", "enterprise",
        "favicon.ico", "health", "healthz", "hub", "join", "kernels", "login", "logout",
        "metrics", "models", "new", "notifications", "oauth", "organizations", "organisations",
        "papers", "posts", "pricing", "readyz", "repos", "resolve-cache", "robots.txt",
        "search", "settings", "spaces", "static", "tags", "tasks", "terms", "tokens", "whoami"
    )
)  # fmt: skip
RESERVED_REPOS = frozenset(
    (
        "blob", "branch", "commit", "commits", "compare", "discussions", "edit", "info.lfs",
        "raw", "refs", "resolve", "settings", "tag", "tree", "upload"
    )
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]*")
_NOT_IN_PATH = re.compile(r'[\x00-\x1f\x7f\\<>:"|?*]')
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class RepoId:
    """The name of a repository; make it with :meth:`parse`, which checks it."""

    owner: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the repository that ``owner/name`` names. Raises HubError (``hub.name``)."""
        owner, slash, name = text.partition("/")
        if not slash:
            raise _bad_name(text, "it is not of the form owner/name")
        check_owner(owner)
        _check_name(name, text)
        if name.lower() in RESERVED_REPOS:
            raise _bad_name(text, f"{name} is a reserved name")
        return cls(owner, name)

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def folded(self) -> str:
        """The form in which two names are compared."""
        return str(self).lower()


def check_owner(name: str) -> str:
    """Return *name* if a user or an organisation can have it. Raises HubError (``hub.name``)."""
    _check_name(name, name)
    if name.lower() in RESERVED_OWNERS:
        raise _bad_name(name, "it is a reserved name")
    return name


def _check_name(part: str, whole: str) -> None:
    if len(part) > MAX_NAME:
        raise _bad_name(whole, f"a part is longer than {MAX_NAME} characters")
    if not _NAME.fullmatch(part) or "--" in part or ".." in part or part.lower().endswith(".git"):
        raise _bad_name(whole, f"{part!r} cannot be an owner or a repository")


def _bad_name(text: str, why: str) -> HubError:
    shown = text if len(text) <= 2 * MAX_NAME else f"{text[:MAX_NAME]}..."
    return HubError(
        "hub.name",
        f"{shown!r} is no name here: {why}.",
        f"Write owner/name: ASCII letters, digits, '.', '_' and '-', at most {MAX_NAME} each, without '--', "
        "'..' and '.git'.",
    )


def check_revision(name: str) -> str:
    """Return *name* if a new branch or tag can have it. Raises HubError (``hub.revision``)."""
    parts = name.split("/")
    if (
        len(name) > MAX_REVISION
        or not _REVISION.fullmatch(name)
        or any(not part or part.startswith(".") or part.endswith((".", ".lock")) for part in parts)
        or ".." in name
        or parts[0] == "refs"
        or name.upper() == "HEAD"
        or COMMIT.fullmatch(name.lower())
    ):
        raise HubError(
            "hub.revision",
            f"{name[:MAX_REVISION]!r} cannot be a branch or a tag.",
            f"Letters, digits, '.', '_', '-', '+', '@' and '/', at most {MAX_REVISION}; not the form of a "
            "commit id, and not below 'refs/'.",
        )
    return name


def check_path(path: str) -> str:
    """Return *path* if a file in a repository can have it. Raises HubError (``hub.path``)."""
    parts = path.split("/")
    if (
        len(path) > MAX_PATH
        or len(path.encode("utf-8", "surrogatepass")) > 4 * MAX_PATH
        or _NOT_IN_PATH.search(path)
        or not path.isprintable()
        or not unicodedata.is_normalized("NFC", path)
        or any(_bad_part(part) for part in parts)
    ):
        raise HubError(
            "hub.path",
            f"{path[:MAX_PATH]!r} cannot be a file's path in a repository.",
            f"Relative, with '/', at most {MAX_PATH} characters in Unicode NFC; no '..', no '.git', no "
            'control characters, none of \\ < > : " | ? *, and no part that ends in a dot or a blank.',
        )
    return path


def _bad_part(part: str) -> bool:
    return (
        part in ("", ".", "..")
        or part.lower() == ".git"
        or part.endswith((".", " "))
        or part.startswith(" ")
        or bool(_DEVICE.fullmatch(part))
        or len(part.encode("utf-8", "surrogatepass")) > MAX_PATH
    )


def check_together(paths: Iterable[str]) -> None:
    """Raise HubError (``hub.path_conflict``) if two of *paths* cannot lie in one folder on every system.

    Two that differ in case alone, or a file where another needs a folder.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        folded = path.casefold()
        if folded in seen:
            raise _conflict(seen[folded], path)
        seen[folded] = path
        cut = folded.rfind("/")
        while cut > 0 and folded[:cut] not in folders:
            folders[folded[:cut]] = path
            cut = folded.rfind("/", 0, cut)
    for folder, path in folders.items():
        if folder in seen:
            raise _conflict(seen[folder], path)


def _conflict(one: str, other: str) -> HubError:
    return HubError(
        "hub.path_conflict",
        f"{one!r} and {other!r} cannot lie in one folder on every system.",
        "Rename or delete one of them in the same commit.",
    )
