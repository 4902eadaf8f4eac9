"""What huggingface_hub raises, told as a HubError: in the hub's own words, and with its code if it says one.

Rules
-----
1. Our hub's answers carry a code and a hint; any other's are known by the error's class, then by its status.
2. A connection that fails or breaks is one error, whichever library and version of it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plasmid.core.bounds import parse_json
from plasmid.core.errors import HubError

_BY_STATUS = {
    401: ("hub.log_in", "Run 'hf auth login', or set HF_TOKEN; see that it is a token of this hub."),
    403: ("hub.forbidden", "Ask an administrator of the owner for the role, or use a token with that scope."),
    409: ("hub.exists", "Choose another name."),
    412: ("hub.commit_conflict", "Somebody else was faster: look at the new revision, and try again."),
}
_BY_CLASS = {
    "GatedRepoError": ("hub.gated", "See its page: accept its terms, or wait for its owners."),
    "RepositoryNotFoundError": (
        "hub.repo_missing",
        "Check the name; a private one needs a token.",
    ),
    "RevisionNotFoundError": ("hub.revision_missing", "See 'plasmid hub history'."),
    "RemoteEntryNotFoundError": ("hub.entry_missing", "See 'plasmid hub show'."),
}


@contextmanager
def told() -> Iterator[None]:
    """Raise what huggingface_hub raises inside as a HubError."""
    problem: HubError | None = None
    try:
        yield
    except (OSError, ValueError, ArithmeticError) as error:
        problem = _problem(error)
        if problem is None:
            raise
    except Exception as error:
        # httpx's errors, under whichever name a version of huggingface_hub has that library
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "huggingface_hub")):
            raise
        problem = _problem(error) or _unreachable(error)
    if problem is not None:
        raise problem


def _problem(error: Exception) -> HubError | None:
    kind = type(error).__name__
    response = getattr(error, "response", None)
    if response is not None:
        return _refused(kind, response)
    if kind == "HFValidationError":
        return HubError("hub.name", "that is no name of a repository or revision.", "Write OWNER/NAME.")
    if kind in ("LocalEntryNotFoundError", "FileMetadataError", "OfflineModeIsEnabled", "ConnectionError"):
        return _unreachable(error)
    return None


def _unreachable(error: Exception) -> HubError:
    return HubError(
        "hub.unreachable",
        f"the hub cannot be reached, or broke off ({type(error).__name__}).",
        "Check HF_ENDPOINT or --endpoint and the network, and try again: what has arrived is kept.",
    )


def _refused(kind: str, response: Any) -> HubError:
    try:
        said = parse_json(response.content or b"{}")
    except Exception:  # noqa: BLE001 - a streamed answer has no body to read, or one that is not JSON
        said = {}
    status = int(response.status_code)
    code, hint = _BY_CLASS.get(kind) or _BY_STATUS.get(status) or ("hub.refused", "")
    hint = _printable(response.headers.get("X-Error-Hint")) or hint
    message = str(response.headers.get("X-Error-Message") or "").strip()
    if isinstance(said, dict):
        own = said.get("code")
        if isinstance(own, str) and re.fullmatch(r"hub\.[a-z_]{1,60}", own):
            code = own
        hint = said["hint"] if isinstance(said.get("hint"), str) and said["hint"] else hint
        message = message or (said["error"] if isinstance(said.get("error"), str) else "")
    message = _printable(message)
    return HubError(code, message.removesuffix(hint).strip() or f"the hub answered {status}.", hint)


def _printable(text: Any) -> str:
    """Return a header's text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text or "")[:2000]).strip()
