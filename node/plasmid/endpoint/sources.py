"""Where adapters come from: folders that the operator names, and a hub, by id, at first use.

Rules
-----
1. A name is looked up, never made into a path. A hub's is ``owner/name`` or ``owner/name@revision``.
2. A revision is resolved with the caller's token, at most once a minute, and an adapter is known by its
   commit: who may not read it is told what the hub says, whether or not it is in memory for others.
3. Of a repository the adapter's own files are fetched and no other: safetensors and JSON, each with a cap
   that is compared with what the hub says before, and with what came after. They are deleted when the
   adapter is loaded.
4. What was fetched of a hub is verified as ``plasmid hub verify`` does, offline, against the operator's
   pins. One that is not as it was signed, or that others signed than are pinned, is refused; one that nobody
   signed, too, unless the operator takes those. A folder that an operator names is his own affair.
5. That one was retired, and whose signatures it has, its callers are told. The log names a commit and no
   adapter; what huggingface_hub would log does, so it logs nothing.
"""

from __future__ import annotations

import logging
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from plasmid.adapters.calibration import CALIBRATION
from plasmid.adapters.calibration import MAX_BYTES as MAX_CALIBRATION_BYTES
from plasmid.adapters.pool import Fetch, at
from plasmid.core.errors import ModelError, sentence
from plasmid.endpoint.access import Caller, Remembered, server_token
from plasmid.endpoint.problems import Problem, adapter_not_found
from plasmid.hubclient.client import find_hub
from plasmid.release.attestation import BUNDLE, MAX_BUNDLE_BYTES, MAX_ROUNDS_BYTES, ROUNDS
from plasmid.release.folder import MAX_TEXT_BYTES, PROJECT, Trust, verify_release

log = logging.getLogger(__name__)

RESOLVED_S = 60.0
TIMEOUT_S = 30.0
MAX_FILE_BYTES = {
    "adapter_model.safetensors": 2 * 2**30,
    "head.safetensors": 256 * 2**20,
    "adapter_config.json": 2**20,
    "head.json": 16 * 2**20,
    "provenance.json": MAX_TEXT_BYTES,
    CALIBRATION: MAX_CALIBRATION_BYTES,
    "README.md": MAX_TEXT_BYTES,
    PROJECT: MAX_TEXT_BYTES,
    ROUNDS: MAX_ROUNDS_BYTES,
    BUNDLE: MAX_BUNDLE_BYTES,
}
"""The files of an adapter and of its history, and how long each may be."""
_REPO = re.compile(
    r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,127}))?", re.ASCII
)


@dataclass(frozen=True)
class Found:
    """An adapter that the caller may use.

    Attributes
    ----------
    key
        The same files for ever: an id and a commit, or an operator's own name.
    """

    key: str
    fetch: Fetch


class Sources:
    """Adapters by name.

    Parameters
    ----------
    folders
        The operator's own, by name.
    hub
        The hub's URL, None for none.
    api
        ``huggingface_hub.HfApi`` for it, if not that.
    personal
        Whose token callers without one fetch with; see :func:`plasmid.endpoint.access.server_token`.
    trust
        Keys that may have signed what comes from the hub; None: those that each release itself names.
    unsigned
        Whether what nobody signed is served, too.
    needs
        The file without which a repository is no adapter for this server.

    Raises
    ------
    HubError
        ``hub.url``: *hub* is no address.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        hub: str | None,
        *,
        api: Any = None,
        personal: bool = False,
        trust: Trust | None = None,
        unsigned: bool = False,
        needs: str = "head.json",
    ) -> None:
        self.folders, self.hub, self._needs = dict(folders), hub, needs
        self._personal, self._trust, self._unsigned = personal, trust, unsigned
        self._remembered, self._retired, self._signatures = Remembered(), Remembered(), Remembered()
        self._api = api
        if hub is not None:
            find_hub(hub)
        if hub is not None and api is None:
            from huggingface_hub import HfApi

            self._api = HfApi(endpoint=hub.rstrip("/"), library_name="plasmid-serve")
            logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL + 1)

    def find(self, name: str, caller: Caller) -> Found:
        """Return the adapter called *name* as *caller* may have it. Waits for the hub.

        Raises
        ------
        Problem
            404 ``adapter_not_found``; 401 or 403, in the hub's words; 502: the hub does not answer.
        """
        if name in self.folders:
            return Found(name, at(self.folders[name]))
        match = _REPO.fullmatch(name)
        if match is None or ".." in name:
            raise adapter_not_found(name)
        if self.hub is None:
            raise adapter_not_found(name, "This server has no hub to fetch it from.")
        repo, revision = match[1], match[2]
        token = caller.hub_token or server_token(self.hub, personal=self._personal)
        known = self._remembered.get((repo, revision, caller.key))
        if known is None:
            commit = self._resolve(repo, revision, name, token)
            self._remembered.put((repo, revision, caller.key), commit, RESOLVED_S)
            known = (commit,)
        return Found(f"{repo}@{known[0]}", partial(self._download, repo, known[0], name, token))

    def may(self, key: str, caller: Caller) -> bool:
        """Return whether *caller* may know of the adapter *key*, which is in memory."""
        if key in self.folders:
            return True
        try:
            self.find(key, caller)
        except Problem:
            return False
        return True

    def warning(self, key: str) -> dict[str, str]:
        """Return what callers of the adapter *key* are to know.

        ``retired``: the reason, where it was found to be. ``signatures``, of one from the hub: ``pinned``, by
        keys that the operator has pinned; ``unpinned``, by those that it names itself; ``none``.
        """
        told = {"retired": self._retired.get(key), "signatures": self._signatures.get(key)}
        return {name: found[0] for name, found in told.items() if found is not None}

    def _resolve(self, repo: str, revision: str | None, name: str, token: str | None) -> str:
        info = _asking(
            name,
            partial(
                self._api.model_info,
                repo,
                revision=revision,
                timeout=TIMEOUT_S,
                files_metadata=True,
                token=token or False,
            ),
        )
        sizes = {one.rfilename: one.size for one in info.siblings or ()}
        if self._needs not in sizes or "adapter_model.safetensors" not in sizes:
            raise adapter_not_found(name, f"The repository is no adapter for it: it has no {self._needs}.")
        for file, most in MAX_FILE_BYTES.items():
            size = sizes.get(file, 0)
            if size is None or size > most:
                raise Problem(
                    422,
                    "adapter_too_large",
                    f"{file} of {name!r} has {size} bytes, and may have {most}.",
                    param="model",
                )
        if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
            raise Problem(502, "hub_unreachable", "The hub names no commit.", kind="server_error")
        retired = getattr(info, "retired", None)
        key = f"{repo}@{info.sha}"
        if isinstance(retired, str):
            if self._retired.get(key) is None:
                log.warning("an adapter that is served was retired: commit %s", info.sha[:12])
            self._retired.put(key, retired, math.inf)
        return str(info.sha)

    @contextmanager
    def _download(self, repo: str, commit: str, name: str, token: str | None) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="plasmid-serve-") as folder:
            _asking(
                name,
                partial(
                    self._api.snapshot_download,
                    repo,
                    revision=commit,
                    local_dir=folder,
                    allow_patterns=list(MAX_FILE_BYTES),
                    token=token or False,
                    etag_timeout=TIMEOUT_S,
                ),
            )
            self._signatures.put(f"{repo}@{commit}", self._verified(Path(folder), name, commit), math.inf)
            yield Path(folder)

    def _verified(self, folder: Path, name: str, commit: str) -> str:
        """Return whose signatures the adapter in *folder* has; see :meth:`warning`.

        Raises
        ------
        Problem
            422, with the error's own code: it is not served.
        """
        refused: ModelError | None = None
        try:
            return "pinned" if verify_release(folder, self._trust).pinned else "unpinned"
        except ModelError as error:
            if error.code == "model.release_unsigned" and self._unsigned:
                return "none"
            refused = error
        log.warning("an adapter is not served, %s: commit %s", refused.code, commit[:12])
        said = "Nobody has signed it." if refused.code == "model.release_unsigned" else refused.message
        raise Problem(
            422, refused.code, f"The adapter {name!r} is not served here. {sentence(said)}", param="model"
        )


def _asking(name: str, call: Any) -> Any:
    """Return what *call* to the hub gives; what the hub refuses becomes a :class:`Problem`."""
    import httpx
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return call()
    except GatedRepoError as error:
        said = error.server_message or "Its owner lets in only who has accepted its terms."
        problem = Problem(403, "adapter_gated", f"The adapter {name!r} is gated. {said}", param="model")
    except HfHubHTTPError as error:
        problem = _refused(name, error.response.status_code, error.server_message or "")
    except (httpx.HTTPError, LocalEntryNotFoundError, OSError):
        problem = Problem(
            502, "hub_unreachable", f"The hub does not give the adapter {name!r}.", kind="server_error"
        )
    raise problem


def _refused(name: str, status: int, said: str) -> Problem:
    if status in (401, 404):  # a stock hub says 401 for what is not there or not the caller's
        return adapter_not_found(name, f"The hub says: {said or status}")
    if status == 403:
        return Problem(403, "adapter_forbidden", f"The hub refuses {name!r}: {said or status}", param="model")
    return Problem(502, "hub_unreachable", f"The hub answers {status} for {name!r}.", kind="server_error")
