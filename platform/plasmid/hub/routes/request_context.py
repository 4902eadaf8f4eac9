"""What every route begins with: who asks, which repository, and whether they may.

Rules
-----
1. A wrong token is refused everywhere, also where none is needed; no token is nobody in particular.
2. A repository that one may not read is answered exactly as one that does not exist.
3. The files of a gated repository are for those who accepted its terms; that it exists is not a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl

from anyio import CapacityLimiter
from fastapi import Depends, Request

from plasmid.core.bounds import parse_json
from plasmid.core.errors import HubError
from plasmid.hub.accounts.limits import Buckets, Limits, address_of
from plasmid.hub.routes.links import Links
from plasmid.hub.routes.sessions import Session, Sessions
from plasmid.hub.settings import Hub
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import Account, Action, Commit, Repo

SLASH = "\x1f"
"""Stands for a slash inside one segment of an address (``%2F``): see :class:`plasmid.hub.app.KeepSlashes`."""

_VERBS: dict[Action, str] = {"read": "read", "write": "write to", "admin": "administer"}


@dataclass(frozen=True)
class Desk:
    """The hub's parts, as routes use them."""

    hub: Hub
    limits: Limits
    buckets: Buckets
    links: Links
    sessions: Sessions
    uploads: CapacityLimiter
    name: str

    @property
    def url(self) -> str:
        """The address that the hub is known by, without a slash at its end; never what a request says."""
        return self.hub.settings.known_as()

    def caller(self, request: Request) -> Account | None:
        """Return whose token a request shows, None if it shows none. Raises HubError (``hub.token``)."""
        shown = request.headers.get("authorization")
        if shown is None:
            return None
        kind, _, secret = shown.partition(" ")
        account = self.hub.accounts.who(secret.strip()) if kind.lower() == "bearer" else None
        if account is None:
            self.buckets.take("wrong tokens", address_of(request.scope))
            raise HubError(
                "hub.token", "the token is not one of this hub, was revoked or has expired.", "Log in again."
            )
        return account

    def session(self, request: Request) -> Session | None:
        """Return who has logged in on the pages, None: nobody."""
        return self.sessions.of(request, self.url)

    def viewer(self, request: Request) -> Account | None:
        """Return who looks at a page or a file: by a token, else by a session. Raises as :meth:`caller`."""
        account = self.caller(request)
        if account is None and (session := self.session(request)) is not None:
            return session.account
        return account

    def token_of_form(self, request: Request, secret: str) -> Account:
        """Return whose token a form holds.

        Raises HubError (``hub.token``, ``hub.too_many_requests``), after too many wrong ones for any.
        """
        address = address_of(request.scope)
        self.buckets.check("wrong tokens", address)
        account = self.hub.accounts.who(secret)
        if account is None:
            self.buckets.take("wrong tokens", address)
            raise HubError("hub.token", "that is not a token of this hub, or it was revoked or has expired.")
        return account

    def member(self, request: Request) -> Account:
        """Return whose token a request shows. Raises HubError (``hub.token``, ``hub.log_in``)."""
        account = self.caller(request)
        if account is None:
            raise _log_in()
        return account

    def repo(
        self, request: Request, owner: str, name: str, action: Action = "read"
    ) -> tuple[Repo, Account | None]:
        """Return the repository, and who asks.

        Raises
        ------
        HubError
            ``hub.token``; ``hub.repo_missing``: there is none that the caller may read; ``hub.log_in``,
            ``hub.forbidden``: reading is all that the caller may do.
        """
        account = self.caller(request)
        return self.repo_for(account, owner, name, action), account

    def repo_for(self, account: Account | None, owner: str, name: str, action: Action) -> Repo:
        """Return the repository, for *account*. Raises HubError as :meth:`repo`, but for the token."""
        try:
            repo: Repo | None = self.hub.registry.get(RepoId.parse(f"{owner}/{name}"))
        except HubError:
            repo = None
        may = self.hub.accounts.may
        if repo is None or not may(account, repo, "read"):
            raise HubError(
                "hub.repo_missing",
                f"there is no repository {owner}/{name} here that this caller may read.",
                "Check the name; a private one needs a token with the right to read it.",
            )
        if action != "read" and not may(account, repo, action):
            if account is None:
                raise _log_in()
            raise HubError(
                "hub.forbidden",
                f"{account.name} may not {_VERBS[action]} {repo.id} with this token, "
                f"which is for: {account.scope}.",
                "Ask an administrator of the owner for the role, or use a token with that scope.",
            )
        return repo

    def writable(self, request: Request, owner: str, name: str) -> tuple[Repo, Account]:
        """Return the repository and who asks, who may write there. Raises HubError as :meth:`repo`."""
        repo, account = self.repo(request, owner, name, "write")
        assert account is not None
        return repo, account

    def check_gate(self, repo: Repo, account: Account | None) -> None:
        """Raise HubError (``hub.gated``) unless the caller may read the files of *repo*."""
        writes = self.hub.accounts.may(account, repo, "write")
        access = self.hub.registry.gates.access(repo, account, writes=writes)
        if access in ("open", "accepted"):
            return
        page = f"{self.url}/{repo.id}"
        if access == "pending":
            raise HubError(
                "hub.gated",
                f"{repo.id} is gated ({page}), and its owners have not yet let this caller in.",
                "Its terms are accepted: wait for its owners.",
            )
        if access == "rejected":
            raise HubError(
                "hub.gated",
                f"{repo.id} is gated ({page}), and its owners did not let this caller in.",
                "Ask its owners.",
            )
        raise HubError("hub.gated", f"{repo.id} is gated: read and accept its terms at {page}")

    def revision(self, repo: Repo, revision: str) -> Commit:
        """Return what a revision in an address means. Raises HubError (``hub.revision_missing``)."""
        return self.hub.registry.resolve(repo, plain(revision))


def _log_in() -> HubError:
    return HubError("hub.log_in", "this needs a token of this hub.", "Run: hf auth login")


def plain(segment: str) -> str:
    """Return a segment of an address with its own slashes."""
    return segment.replace(SLASH, "/")


async def _json_body(request: Request) -> dict[str, Any]:
    """Return the body, a JSON object or a form. Raises HubError (``hub.malformed``)."""
    body = await request.body()
    try:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return _form(body.decode())
        value = parse_json(body or b"{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise HubError("hub.malformed", "the body is not a JSON object.")
    return value


def _form(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=50_000):
        found.setdefault(name, []).append(value)
    return {name: values if name == "paths" else values[-1] for name, values in found.items()}


Body = Annotated[dict[str, Any], Depends(_json_body)]


def text_of(body: dict[str, Any], name: str, *, most: int = 10_000, default: str | None = None) -> str:
    """Return a text of *body*. Raises HubError (``hub.malformed``) if it is none, or too long."""
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or len(value) > most:
        raise HubError("hub.malformed", f"{name} is not a text of at most {most} characters.")
    return value


def true_of(value: Any) -> bool:
    """Return whether a flag of a query, a form or a body is set."""
    return str(value).lower() in ("true", "1", "yes")
