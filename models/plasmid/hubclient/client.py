"""A hub, reached with huggingface_hub: which one, with whose token, its answers, and files that arrive whole.

Rules
-----
1. The hub is what the caller names, else ``HF_ENDPOINT``. The public one is used only if the caller names it.
2. A token of ``hf auth login`` or ``HF_TOKEN`` belongs to the hub of ``HF_ENDPOINT``: with another one named
   beside it, it stays here, unless the caller hands one over.
3. What goes wrong is a HubError, in the hub's own words and with its own code where it says one.
4. A file comes in pieces to ``NAME.partial``, which is kept when the connection breaks: the next call goes on
   there (huggingface_hub itself begins again). It gets its name when size and digest are what the hub said.
5. What a hub warns of (``X-HF-Warning``) huggingface_hub tells, once; that something was retired it leaves to
   the caller who says so himself (:func:`retirement_told`).
6. Names from a hub become paths only if every part of them is plain.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from plasmid.core.errors import HubError
from plasmid.hubclient.errors import told

# Our hub takes large files by HTTP; a client with hf_xet would not try. huggingface_hub reads it at import.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

_retirement_told: ContextVar[bool] = ContextVar("retirement_told", default=False)
# huggingface_hub prints its warnings itself: handed on, they would be told once more, by the root's handler.
logging.getLogger("huggingface_hub").propagate = False
logging.getLogger("huggingface_hub.utils._http").addFilter(
    lambda record: not (_retirement_told.get() and " was retired: " in record.getMessage())
)

PUBLIC = ("huggingface.co", "www.huggingface.co", "hf.co")
MAX_FILES = 2000
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit. *sha256* is None for a small one, which is known by *oid*: Git's SHA-1."""

    path: str
    size: int
    oid: str
    sha256: str | None


@dataclass(frozen=True)
class Hub:
    """One hub. *token*: None is the saved one, False none."""

    endpoint: str
    token: str | bool | None = None

    def api(self) -> Any:
        """Return the ``huggingface_hub.HfApi`` of this hub."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token, library_name="plasmid")

    def info(self, repo: str, revision: str | None = None) -> Any:
        """Return ``huggingface_hub.ModelInfo`` of *repo*, its ``sha`` being the commit of *revision*."""
        with told():
            return self.api().model_info(repo, revision=revision)

    def ours(self, repo: str, what: str = "", body: Any = None) -> dict[str, Any]:
        """Return what a Plasmid hub says of *repo* beyond the protocol, {} where the hub is none of ours.

        Parameters
        ----------
        what, body
            What is asked of it, and with what: ``retire`` and its reason. Without, it is only read.
        """
        path = f"/api/plasmid/models/{check_repo(repo)}" + (f"/{what}" if what else "")
        found = self._asked(path, body=body)
        return found if isinstance(found, dict) else {}

    def models(self, **asked: Any) -> list[dict[str, Any]]:
        """Return what the hub lists: JSON objects. *asked* are its parameters; None leaves one out."""
        found = self._asked(
            "/api/models", params={name: value for name, value in asked.items() if value is not None}
        )
        return (
            [one for one in found if isinstance(one, dict) and isinstance(one.get("id"), str)]
            if isinstance(found, list)
            else []
        )

    def _asked(self, path: str, *, body: Any = None, params: Any = None) -> Any:
        """Return the JSON that the hub answers, None where it does not know the path."""
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        tools = _tools()
        headers = tools.build_hf_headers(token=self.token, library_name="plasmid")
        with told():
            try:
                if body is None:
                    answer = tools.get_session().get(self.endpoint + path, headers=headers, params=params)
                else:
                    answer = tools.get_session().post(self.endpoint + path, headers=headers, json=body)
                tools.hf_raise_for_status(answer)
                return answer.json()
            except HfHubHTTPError as error:
                if error.response.status_code != 404 or isinstance(error, RepositoryNotFoundError):
                    raise
                return None

    def files(self, repo: str, commit: str) -> list[RemoteFile]:
        """Return the files of a commit, by path.

        Raises
        ------
        HubError
            ``hub.strange_answer``: too many, or a path that is not plain.
        """
        with told():
            found = [
                RemoteFile(item.path, item.size, item.blob_id, item.lfs.sha256 if item.lfs else None)
                for item in self.api().list_repo_tree(repo, revision=commit, recursive=True)
                if hasattr(item, "blob_id")
            ]
        kept = [file for file in found if file.path != ".gitattributes"]
        strange = [file.path for file in kept if not plain_path(file.path)]
        if strange or len(kept) > MAX_FILES:
            raise HubError(
                "hub.strange_answer",
                f"{repo} holds {len(kept)} files, {len(strange)} of them with names that are not taken here.",
                f"At most {MAX_FILES} files are fetched, named with letters, digits, '.', '_' and '-'.",
            )
        return sorted(kept, key=lambda file: file.path)

    def fetch(self, repo: str, commit: str, file: RemoteFile, folder: Path) -> Path:
        """Return the *file* in *folder*, fetched, or found there with the right digest.

        Raises
        ------
        HubError
            As the hub says; ``hub.broken_file``: it is not what the hub said that it is.
        """
        target = folder / file.path
        if target.is_file() and _is(target, file):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        with told():
            self._download(repo, commit, file, partial)
        if not _is(partial, file):
            partial.unlink()
            raise HubError(
                "hub.broken_file",
                f"{file.path} of {repo} at {commit[:12]} is not what the hub says that it is.",
                "Try again; if it stays so, tell the hub's operator.",
            )
        partial.replace(target)
        return target

    def _download(self, repo: str, commit: str, file: RemoteFile, partial: Path) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get

        url = hf_hub_url(repo, file.path, revision=commit, endpoint=self.endpoint)
        where = get_hf_file_metadata(url, token=self.token).location
        headers = _tools().build_hf_headers(token=self.token, library_name="plasmid")
        if urlparse(where).netloc != urlparse(url).netloc:
            headers.pop("authorization", None)  # the token is this hub's, not its storage's
        with partial.open("ab") as stream:
            if stream.tell() > file.size:
                stream.truncate(0)
            size = file.size
            http_get(where, stream, resume_size=stream.tell(), headers=headers, expected_size=size)

    def fetch_all(
        self, repo: str, commit: str, folder: Path, files: Sequence[RemoteFile] | None = None
    ) -> list[RemoteFile]:
        """Fetch *files*, or all files, of a commit into *folder*, and return which."""
        wanted = self.files(repo, commit) if files is None else list(files)
        folder.mkdir(parents=True, exist_ok=True)
        for file in wanted:
            self.fetch(repo, commit, file, folder)
        return wanted


def find_hub(endpoint: str | None = None, *, token: str | None = None) -> Hub:
    """Return the hub that *endpoint* names, None being that of ``HF_ENDPOINT``.

    Parameters
    ----------
    token
        None is the saved one, where it is this hub's.

    Raises
    ------
    HubError
        ``hub.no_endpoint``: neither names one, or ``HF_ENDPOINT`` names the public one.
    """
    given = (os.environ.get("HF_ENDPOINT") or "").rstrip("/")
    if endpoint is None:
        if not given or _host(given) in PUBLIC:
            raise HubError(
                "hub.no_endpoint",
                "no hub is named" + (f": HF_ENDPOINT is {given}, which is public." if given else "."),
                "Set HF_ENDPOINT, or give --endpoint https://HUB; the public hub only by --endpoint.",
            )
        return Hub(given, token)
    named = endpoint.rstrip("/")
    if urlparse(named).scheme not in ("http", "https") or not _host(named):
        raise HubError(
            "hub.url", f"{endpoint!r} is no address of a hub.", "Write https://HOST or http://HOST:PORT."
        )
    elsewhere = bool(given) and urlparse(given).netloc != urlparse(named).netloc
    return Hub(named, token or (False if elsewhere else None))


@contextlib.contextmanager
def retirement_told() -> Iterator[None]:
    """Keep huggingface_hub from telling that something was retired: the caller does."""
    before = _retirement_told.set(True)
    try:
        yield
    finally:
        _retirement_told.reset(before)


def configured_hub() -> Hub | None:
    """Return the hub of ``HF_ENDPOINT``, None where it names none or the public one."""
    with contextlib.suppress(HubError):
        return find_hub()
    return None


def _tools() -> Any:
    from huggingface_hub import utils

    return utils


def _host(url: str) -> str:
    return (urlparse(url).hostname or "").lower()


def check_repo(name: str) -> str:
    """Return *name* if it is ``owner/name``. Raises HubError (``hub.name``)."""
    if not _REPO.fullmatch(name) or "--" in name or ".." in name:
        raise HubError("hub.name", f"{name!r} is no name of a repository.", "Write OWNER/NAME.")
    return name


def plain_path(path: str) -> bool:
    """Return whether a path from elsewhere can be one below a folder: plain parts, no dots in front."""
    return len(path) <= 255 and all(_PART.fullmatch(part) for part in path.split("/"))


def _is(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False

    def git() -> Any:  # how Git names a file
        return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)

    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, hashlib.sha256 if file.sha256 else git)
    return digest.hexdigest() == (file.sha256 or file.oid)
