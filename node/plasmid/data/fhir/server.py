"""A FHIR server, read by searches: ``[base]/Patient?_count=500`` and every page after it.

Rules
-----
1. HTTPS only, except to this machine itself. No redirect is followed, no proxy of the environment is used,
   and the link to the next page must have the origin of the base: a page cannot send the token, or this
   site's requests, elsewhere.
2. 429 and 503 are waited for as ``Retry-After`` says, :data:`TRIES` times a page; broken connections
   likewise. Nothing goes on after the deadline.
3. An answer has at most :data:`MAX_BYTES`. What a server says about an error (OperationOutcome) may hold
   rows: only its status is told.
4. The token is read from a file that nobody else may read, and is in no message.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self

import httpx

from plasmid.core.errors import DataError
from plasmid.data.fhir.loading import Deadline
from plasmid.data.fhir.reading import Found, read_document
from plasmid.data.fhir.tally import Tally

PAGE = 500
TRIES = 6
MAX_BYTES = 64 * 2**20
MAX_WAIT_S = 300.0
MAX_ANSWER_S = 60.0
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_MAX_TOKEN_BYTES = 16_384


def base_of(url: str) -> str:
    """Return the base URL without a slash at its end.

    Raises
    ------
    DataError
        ``data.source_down``: it is no URL, has credentials, a query, or no TLS.
    """
    try:
        given: httpx.URL | None = httpx.URL(url)
    except httpx.InvalidURL:
        given = None
    why = None
    if given is None or given.scheme not in ("http", "https") or not _HOST.fullmatch(given.host):
        why = "it is not an http(s) URL"
    elif given.userinfo or given.query or given.fragment:
        why = "it holds a user, a query or a fragment"
    elif given.scheme == "http" and not _loopback(given.host):
        why = "http sends rows in the clear"
    if why:
        raise DataError(
            "data.source_down", f"The connection's url is not used: {why}.", "Give the https base URL."
        )
    return str(given).rstrip("/")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """Return the first line of *path*. Raises DataError (``data.source_denied``) if it cannot be used."""
    why = ""
    try:
        others = path.stat().st_mode & 0o077
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii").partition("\n")[0].strip()
    except OSError as error:
        why = error.strerror or "it cannot be read"
    except UnicodeDecodeError:
        why = "it is not one line of ASCII"
    else:
        if others:
            why = "others may read it"
        elif not token or not token.isprintable() or " " in token:
            why = "its first line is no token"
        else:
            return token
    raise DataError(
        "data.source_denied", f"The token file {path.name} is not used: {why}.", "Correct it; chmod 600."
    )


class Server:
    """Reads one server; a context manager.

    Parameters
    ----------
    sleep
        Takes seconds; for tests.
    """

    def __init__(
        self, base: str, token: str | None, deadline: Deadline, *,
        transport: httpx.BaseTransport | None = None, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        headers = {"Accept": "application/fhir+json", "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._base = base
        self._deadline = deadline
        self._sleep = sleep
        self._client = httpx.Client(
            headers=headers, transport=transport, verify=_trust(base), trust_env=False, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def read(self, kinds: Iterable[str], tally: Tally) -> Iterator[Found]:
        """Yield every resource of *kinds*; count the kinds that the server does not have.

        Raises
        ------
        DataError
            ``data.source_down``, ``data.source_denied``, ``data.source_timeout``.
        """
        for kind in kinds:
            address: str | None = f"{self._base}/{kind}?_count={PAGE}"
            seen: set[str] = set()
            while address is not None:
                if address in seen:
                    raise _down(f"The pages of {kind} go round in a circle, at page {len(seen) + 1}.")
                seen.add(address)
                content = self._get(address, kind, optional=len(seen) == 1 and kind != "Patient")
                if content is None:
                    tally.add("notice.fhir_skipped", f"{kind}, which the server does not have")
                    break
                head = yield from read_document(content, f"{kind} page {len(seen)}", tally)
                address = self._next(head, address, kind)

    def _next(self, head: dict[str, Any], address: str, kind: str) -> str | None:
        links = head.get("link")
        for link in links if isinstance(links, list) else ():
            if isinstance(link, dict) and link.get("relation") == "next":
                try:
                    following = httpx.URL(address).join(str(link.get("url")))
                except httpx.InvalidURL:
                    following = httpx.URL("")
                if _origin(following) == _origin(httpx.URL(self._base)) and not following.userinfo:
                    return str(following)
                break
        else:
            return None
        raise _down(
            f"The link to the next page of {kind} leads to another origin, and was not followed.",
            "Have the server write its links under the connection's url.",
        )

    def _get(self, address: str, kind: str, *, optional: bool) -> bytes | None:
        status = 0
        for attempt in range(TRIES):
            try:
                status, waiting, content = self._answer(address, kind)
            except httpx.HTTPError as error:
                status, waiting, content = 0, None, b""
                problem = type(error).__name__
            if status == 200:
                return content
            if optional and status in (404, 410):
                return None
            if status not in (0, 429, 503):
                break
            if attempt + 1 < TRIES:
                self._wait(waiting if waiting is not None else min(2.0**attempt * 0.5, MAX_WAIT_S))
        if status in (401, 403):
            raise DataError(
                "data.source_denied",
                f"The server refused {kind} (status {status}).",
                "Check the token and its scopes.",
            )
        said = (
            f"answered {kind} with status {status}"
            if status
            else f"could not be asked for {kind} ({problem})"
        )
        raise _down(f"The server {said}.")

    def _answer(self, address: str, kind: str) -> tuple[int, float | None, bytes]:
        timeout = min(self._deadline.left_s(), MAX_ANSWER_S)
        with self._client.stream("GET", address, timeout=timeout) as answer:
            if answer.status_code != 200:
                return answer.status_code, _retry_after(answer.headers.get("Retry-After")), b""
            content = bytearray()
            for part in answer.iter_bytes():
                content += part
                self._deadline.left_s()
                if len(content) > MAX_BYTES:
                    raise _down(f"A page of {kind} has more than {MAX_BYTES >> 20} MiB.")
            return 200, None, bytes(content)

    def _wait(self, wished_s: float) -> None:
        self._sleep(min(wished_s, MAX_WAIT_S, self._deadline.left_s()))
        self._deadline.left_s()


def _trust(base: str) -> Any:
    if base.startswith("http:"):
        return False
    import ssl

    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _retry_after(text: str | None) -> float | None:
    """Return the seconds that *text* asks for: a number, or an HTTP date."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:6])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _down(message: str, hint: str = "Check the connection's url, and that the server is up.") -> DataError:
    return DataError("data.source_down", message, hint)
