"""Who may see the page: a login link that opens once, then a session.

Rules
-----
1. A login secret has 256 random bits, opens one session and is then gone; unused it expires.
2. Only SHA-256 digests of secrets and cookies are kept, so that a look-up compares nothing secret in a way
   that time could tell.
3. A session ends after some minutes without a request, at the latest after some hours, and at log-out.
4. A clock that was set back ends links and sessions that it makes younger than nothing.
5. Every form carries the session's own token; a request that changes something without it is refused.

No I/O; the clock is injected.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import Clock, now

SECRET_BYTES = 32


@dataclass(frozen=True)
class Lifetimes:
    """How long a login link, an idle session and any session live."""

    link: timedelta = timedelta(minutes=10)
    idle: timedelta = timedelta(minutes=15)
    session: timedelta = timedelta(hours=8)


@dataclass
class Session:
    """One browser that has logged in. ``token`` is what its forms carry."""

    token: str
    began: datetime
    seen: datetime

    def owns(self, token: str) -> bool:
        """Return whether *token* is this session's."""
        return hmac.compare_digest(self.token.encode(), token.encode())


class Sessions:
    """All links and sessions of one page process. Safe to use from several threads."""

    def __init__(self, *, clock: Clock = now, lifetimes: Lifetimes | None = None) -> None:
        self._clock = clock
        self._lives = lifetimes or Lifetimes()
        self._links: dict[str, datetime] = {}
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def issue(self) -> str:
        """Return a new login secret, URL-safe text."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        with self._lock:
            self._links[_digest(secret)] = self._clock()
        return secret

    def open(self, secret: str) -> str | None:
        """Return the cookie of a new session for an unused *secret*, None if it opens nothing."""
        present = self._clock()
        with self._lock:
            issued = self._links.pop(_digest(secret), None)
            if issued is None or not timedelta(0) <= present - issued < self._lives.link:
                return None
            cookie = secrets.token_urlsafe(SECRET_BYTES)
            token = secrets.token_urlsafe(SECRET_BYTES)
            self._sessions[_digest(cookie)] = Session(token=token, began=present, seen=present)
            return cookie

    def find(self, cookie: str | None) -> Session | None:
        """Return the session of *cookie*, None if there is none any more."""
        if not cookie:
            return None
        present, name = self._clock(), _digest(cookie)
        with self._lock:
            session = self._sessions.get(name)
            if session is None:
                return None
            idle, age = present - session.seen, present - session.began
            if idle >= self._lives.idle or age >= self._lives.session or age < timedelta(0):
                del self._sessions[name]
                return None
            session.seen = present
            return session

    def end(self, cookie: str | None) -> None:
        """Forget the session of *cookie*."""
        with self._lock:
            self._sessions.pop(_digest(cookie or ""), None)


def _digest(secret: str) -> str:
    return sha256_hex(secret.encode())
