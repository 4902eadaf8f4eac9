"""Who may call: bearer tokens, checked against a hub, or against a file of hashes.

Rules
-----
1. A token is kept nowhere; answers about it are cached by its SHA-256, a minute if it is good, some seconds
   if not.
2. With a hub its answer to ``/api/whoami-v2`` decides, and the caller's own token is what adapters are
   fetched with: who may not read an adapter there may not use it here.
3. A file of tokens holds ``NAME SHA-256`` a line. Its callers fetch with the server's own token:
   ``HF_TOKEN``.
4. Without either anybody may call; then the server listens on loopback alone, and its own token is that of
   whoever has started it, ``hf auth login`` included.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import string
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from plasmid.core.errors import UsageError
from plasmid.core.files import write_atomic
from plasmid.endpoint.problems import Problem
from plasmid.hubclient.client import find_hub

GOOD_S, BAD_S = 60.0, 10.0
_MOST_REMEMBERED = 4096
_LINE = re.compile(r"(\S{1,100}) ([0-9a-f]{64})")
_TOKEN = re.compile(r"[\x21-\x7e]{8,512}")


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes
    ----------
    name
        An account's, or ``anonymous``.
    hub_token
        What adapters are fetched with for this caller; None is the server's own.
    key
        Tells callers' tokens apart without being one.
    """

    name: str
    hub_token: str | None = None
    key: str = ""


class Access(Protocol):
    """Decides who calls."""

    async def who(self, token: str | None) -> Caller | None:
        """Return the caller with the bearer *token*, None if it is nobody's."""

    async def close(self) -> None:
        """Let go of connections."""


class Remembered:
    """Answers by key, each for a time; the oldest make room."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[Any, tuple[float, Any]] = OrderedDict()

    def get(self, key: Any) -> Any | None:
        """Return the value of *key* in a tuple, None where there is none, or none any more."""
        until, value = self._found.get(key, (0.0, None))
        return (value,) if self._clock() < until else None

    def put(self, key: Any, value: Any, seconds: float) -> None:
        """Keep *value* for *seconds*."""
        self._found[key] = (self._clock() + seconds, value)
        self._found.move_to_end(key)
        while len(self._found) > _MOST_REMEMBERED:
            self._found.popitem(last=False)


class Anybody:
    """No tokens: for loopback."""

    async def who(self, token: str | None) -> Caller | None:  # noqa: ARG002 - see Access
        """Return the one caller."""
        return Caller("anonymous")

    async def close(self) -> None:
        """Do nothing."""


class TokenFile:
    """Tokens whose hashes are in a file, which is read anew when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, dict[str, str]] = (0, {})
        self._names()

    def _names(self) -> dict[str, str]:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._read[0]:
                self._read = (changed, _parse(self._path))
        except OSError as error:
            raise UsageError(
                "usage.tokens",
                f"the file of tokens {self._path} cannot be read ({error.strerror}).",
                "Make one with 'plasmid serve --tokens FILE --new-token NAME'.",
            ) from error
        return self._read[1]

    async def who(self, token: str | None) -> Caller | None:
        """Return the caller with *token*."""
        digest = _digest(token or "")
        names = [name for known, name in self._names().items() if hmac.compare_digest(known, digest)]
        return Caller(names[0], key=digest) if token and names else None

    async def close(self) -> None:
        """Do nothing."""


def _parse(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        match = _LINE.fullmatch(line.strip())
        if match:
            found[match[2]] = match[1]
        elif line.strip() and not line.startswith("#"):
            raise UsageError(
                "usage.tokens",
                f"{path}, line {number}, is not NAME and the SHA-256 of a token.",
                "Correct it, or make a new one with --new-token NAME.",
            )
    return found


def new_token(path: Path, name: str) -> str:
    """Add a token for *name* to the file *path*, which need not be there, and return it.

    Raises
    ------
    UsageError
        ``usage.tokens``: *name* is no single word.
    """
    if not re.fullmatch(r"\S{1,100}", name) or name.startswith("#"):
        raise UsageError("usage.tokens", "the name of a token is one word.", "Give --new-token a word.")
    token = "pt_" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(40))
    before = path.read_text("utf-8") if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    write_atomic(path, f"{before}{name} {_digest(token)}\n".encode(), mode=0o600)
    return token


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class HubAccess:
    """Accounts of the hub at *url*."""

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = url.rstrip("/")
        self._remembered = Remembered()
        self._client = httpx.AsyncClient(transport=transport, timeout=10.0, follow_redirects=False)

    async def who(self, token: str | None) -> Caller | None:
        """Return the account with *token*.

        Raises
        ------
        Problem
            The hub does not answer.
        """
        if token is None or not _TOKEN.fullmatch(token):
            return None
        key = _digest(token)
        known = self._remembered.get(key)
        if known is None:
            name = await self._ask(token)
            known = (name,)
            self._remembered.put(key, name, GOOD_S if name else BAD_S)
        return Caller(known[0], hub_token=token, key=key) if known[0] else None

    async def close(self) -> None:
        """Close the connections to the hub."""
        await self._client.aclose()

    async def _ask(self, token: str) -> str | None:
        try:
            answer = await self._client.get(
                f"{self._url}/api/whoami-v2", headers={"Authorization": f"Bearer {token}"}
            )
            if answer.status_code in (401, 403):
                return None
            if answer.status_code == 200:
                return str(answer.json()["name"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            pass
        raise Problem(
            502, "hub_unreachable", "The hub that knows the tokens does not answer.", kind="server_error"
        )


def server_token(hub: str, *, personal: bool) -> str | None:
    """Return the server's own token for *hub*.

    Parameters
    ----------
    personal
        Who runs the server is who calls it: the token is that of every verb
        (:func:`plasmid.hubclient.client.find_hub`). Else it is ``HF_TOKEN``: a log-in of a person's is not
        for others.
    """
    if not personal:
        return os.environ.get("HF_TOKEN") or None
    from huggingface_hub import get_token

    return None if find_hub(hub).token is False else get_token()
