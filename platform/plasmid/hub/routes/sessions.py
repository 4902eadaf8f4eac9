"""People who have logged in with a token: a cookie for the pages, and nothing else.

Rules
-----
1. The cookie names a token by its SHA-256 and an hour, under the hub's key: nothing is kept here, and every
   process of a hub knows it. It is void when the token is revoked or expires, at once.
2. Scripts cannot read it (``HttpOnly``), other sites cannot have it sent (``SameSite=Strict``), and where the
   hub has TLS it never leaves without (``Secure``, ``__Host-``).
3. It shows pages and files. No route of the API looks at it: what changes something there wants a token.
4. A form that does something for a session carries a proof that only pages of that session have; a log-in,
   for which there is none yet, is taken from pages of this hub alone.
5. An address that has shown too many wrong tokens may not try any, not even a right one, until it has waited.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request, Response

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import HubError
from plasmid.hub.accounts.accounts import Accounts
from plasmid.hub.accounts.keys import sign, signed
from plasmid.hub.store.records import Account

FORM_BYTES = 16 * 1024
_COOKIE = re.compile(r"([0-9a-f]{64})\.([0-9]{1,12})\.([0-9a-f]{64})")
_HERE = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@%?-][A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,1000})?")


@dataclass(frozen=True)
class Session:
    """Somebody who has logged in; *form* is what forms of this session carry."""

    account: Account
    form: str


@dataclass
class Sessions:
    """Begins sessions and knows them again. *clock* tells seconds since 1970."""

    key: bytes
    life_s: float
    accounts: Accounts
    clock: Callable[[], float] = time.time

    def of(self, request: Request, url: str) -> Session | None:
        """Return the session of a request to the hub at *url*, None where it has none that is good."""
        value = request.cookies.get(cookie_name(url), "")
        match = _COOKIE.fullmatch(value)
        if match is None or not signed(self.key, match[3], "session", match[1], match[2]):
            return None
        account = self.accounts.holder(match[1]) if int(match[2]) > self.clock() else None
        return None if account is None else Session(account, sign(self.key, "form", value))

    def begin(self, response: Response, url: str, secret: str) -> None:
        """Have *response* begin a session of whoever has the token *secret*, which is a good one."""
        digest, until = sha256_hex(secret.encode()), int(self.clock() + self.life_s)
        response.set_cookie(
            cookie_name(url),
            f"{digest}.{until}.{sign(self.key, 'session', digest, until)}",
            max_age=int(self.life_s),
            path="/",
            secure=_is_secure(url),
            httponly=True,
            samesite="strict",
        )

    @staticmethod
    def end(response: Response, url: str) -> None:
        """Have *response* end the session."""
        response.delete_cookie(
            cookie_name(url), path="/", secure=_is_secure(url), httponly=True, samesite="strict"
        )


def cookie_name(url: str) -> str:
    """Return what the cookie of the hub at *url* is called."""
    return "__Host-plasmid-hub" if _is_secure(url) else "plasmid-hub"


def _is_secure(url: str) -> bool:
    return url.startswith("https://")


def check_form(session: Session, proof: str) -> None:
    """Raise HubError (``hub.form``) unless a form with that *proof* comes from a page of *session*."""
    if not hmac.compare_digest(session.form.encode(), proof.encode("utf-8", "surrogatepass")):
        raise HubError("hub.form", "this form is not of your present session.", "Open the page again.")


def check_own_page(request: Request, url: str) -> None:
    """Raise HubError (``hub.form``) if a browser says that a form comes from a page of another site."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:  # a program, or a browser of before 2023, which names the origin of every form
        own = origin is None or urlsplit(origin)[:2] == urlsplit(url)[:2]
    if not own:
        raise HubError(
            "hub.form", "this form was sent from a page of another site.", f"Log in at {url}/login."
        )


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a small form."""
    body = await request.body()
    return dict(parse_qsl(body[:FORM_BYTES].decode("utf-8", "replace"), max_num_fields=8))


def here_of(request: Request) -> str:
    """Return the path and query of a request, to come back to."""
    path = request.scope["raw_path"].partition(b"?")[0].decode("ascii", "replace")
    query = request.url.query
    return local(f"{path}?{query}" if query else path)


def local(target: str) -> str:
    """Return *target* if it is a path of this hub, else the first page."""
    return target if _HERE.fullmatch(target) else "/"
