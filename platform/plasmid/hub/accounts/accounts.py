"""Users, organisations, roles and tokens.

Rules
-----
1. A token is stored as its SHA-256 and shown once. It has 200 bits of chance, so that a plain hash is enough.
2. What somebody may do is the least of two: the role (own repositories: admin) and the token's scope.
3. A name belongs to one account for good, whatever its case.
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import Clock, now
from plasmid.core.errors import HubError
from plasmid.hub.store.database import micros, moment, writing
from plasmid.hub.store.names import check_owner
from plasmid.hub.store.records import ACTIONS, Account, Action, Repo
from plasmid.hub.store.tables import AccountRow, MembershipRow, TokenRow

TOKEN_PREFIX = "hf_"  # noqa: S105 - what clients take for a token begins so
TOKEN_LETTERS = 34
MAX_TOKEN_NAME = 96
SHOWN_DIGITS = 12
_ALPHABET = string.ascii_letters + string.digits
_USED_EVERY = timedelta(hours=1)
"""How exactly a token's last use is known: writing it at every request would cost more than the request."""


@dataclass(frozen=True)
class Token:
    """A token without its secret; *id* is the beginning of its SHA-256. Times are UTC."""

    id: str
    account: str
    name: str
    scope: Action
    created: datetime
    expires: datetime | None
    used: datetime | None


class Accounts:
    """The accounts of one hub."""

    def __init__(self, engine: Engine, *, clock: Clock = now) -> None:
        self._engine, self._clock = engine, clock

    # -- users and organisations -------------------------------------------------------------------

    def create_user(self, name: str, *, email: str | None = None) -> Account:
        """Make a user. Raises HubError: ``hub.name``, ``hub.account_exists``, ``hub.email``."""
        if email is not None and not (3 <= len(email) <= 254 and "@" in email and email.isprintable()):
            raise HubError(
                "hub.email", f"{email[:254]!r} is no address.", "Write NAME@HOST, or leave it out."
            )
        return self._create(name, "user", email)

    def create_organisation(self, name: str) -> Account:
        """Make an organisation. Raises HubError: ``hub.name``, ``hub.account_exists``."""
        return self._create(name, "organisation", None)

    def _create(self, name: str, kind: str, email: str | None) -> Account:
        values = {"name": check_owner(name), "folded": name.lower(), "kind": kind, "email": email}
        try:
            with writing(self._engine) as connection:
                connection.execute(insert(AccountRow).values(**values, created=micros(self._clock())))
        except IntegrityError:
            known = name.lower()
        else:
            return self.get(name)
        raise HubError("hub.account_exists", f"the name {known} is taken.", "Choose another one.")

    def get(self, name: str) -> Account:
        """Return the account called *name*. Raises HubError (``hub.account_missing``)."""
        with self._engine.connect() as connection:
            return _account(connection, account_row(connection, name), "admin")

    def all(self) -> list[Account]:
        """Return every account, by name."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(AccountRow).order_by(AccountRow.folded)).all()
            roles = _roles(connection, None)
            return [_known(row, "admin", roles.get(row.key, {})) for row in rows]

    # -- roles -------------------------------------------------------------------------------------

    def members(self, organisation: str) -> dict[str, Action]:
        """Return the roles in an organisation by name. Raises HubError (``hub.account_missing``)."""
        with self._engine.connect() as connection:
            key = _kind_of(account_row(connection, organisation), "organisation").key
            rows: Any = connection.execute(
                select(AccountRow.name, MembershipRow.role)
                .join(AccountRow, AccountRow.key == MembershipRow.user)
                .where(MembershipRow.organisation == key)
                .order_by(AccountRow.folded)
            )
            return {name: role for name, role in rows}  # noqa: C416 - typed as what it is

    def join(self, organisation: str, user: str, role: Action) -> None:
        """Give *user* a role in an organisation, instead of the present one.

        Raises
        ------
        HubError
            ``hub.account_missing``: no such organisation or user; ``hub.role``.
        """
        check_action(role)
        with writing(self._engine) as connection:
            keys = self._pair(connection, organisation, user)
            connection.execute(delete(MembershipRow).filter_by(**keys))
            connection.execute(insert(MembershipRow).values(**keys, role=role))

    def leave(self, organisation: str, user: str) -> None:
        """Take *user*'s role in an organisation away. Raises HubError (``hub.account_missing``)."""
        with writing(self._engine) as connection:
            keys = self._pair(connection, organisation, user)
            if not connection.execute(delete(MembershipRow).filter_by(**keys)).rowcount:
                raise HubError(
                    "hub.account_missing",
                    f"{user} has no role in {organisation}.",
                    "'plasmid hub member ls' lists who has.",
                )

    @staticmethod
    def _pair(connection: Connection, organisation: str, user: str) -> dict[str, int]:
        return {
            "organisation": _kind_of(account_row(connection, organisation), "organisation").key,
            "user": _kind_of(account_row(connection, user), "user").key,
        }

    # -- tokens ------------------------------------------------------------------------------------

    def create_token(
        self, user: str, name: str, *, scope: Action = "read", days: float | None = None
    ) -> tuple[Token, str]:
        """Return a new token of *user* and its secret, which is not shown again.

        Parameters
        ----------
        name
            What it is for, in the user's words: one line.
        days
            Until it expires; None is never.

        Raises
        ------
        HubError
            ``hub.account_missing``; ``hub.role``: no such scope; ``hub.token_name``.
        """
        check_action(scope)
        if not (0 < len(name) <= MAX_TOKEN_NAME and name.isprintable()):
            raise HubError(
                "hub.token_name",
                f"a token's name is one line of 1 to {MAX_TOKEN_NAME} characters.",
                "Say what it is for, 'laptop' for instance.",
            )
        secret = TOKEN_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_LETTERS))
        created = self._clock()
        expires = None if days is None else created + timedelta(days=days)
        digest = sha256_hex(secret.encode())
        with writing(self._engine) as connection:
            owner = _kind_of(account_row(connection, user), "user")
            connection.execute(
                insert(TokenRow).values(
                    digest=digest,
                    account=owner.key,
                    name=name,
                    scope=scope,
                    created=micros(created),
                    expires=None if expires is None else micros(expires),
                )
            )
        return Token(digest[:SHOWN_DIGITS], owner.name, name, scope, created, expires, None), secret

    def tokens(self, user: str | None = None) -> list[Token]:
        """Return the tokens that are not revoked, of *user* or of everybody, by account and age."""
        wanted = (
            select(TokenRow, AccountRow.name.label("account_name"))
            .join(AccountRow, AccountRow.key == TokenRow.account)
            .where(TokenRow.revoked.is_(None))
            .order_by(AccountRow.folded, TokenRow.created, TokenRow.digest)
        )
        with self._engine.connect() as connection:
            if user is not None:
                wanted = wanted.where(TokenRow.account == account_row(connection, user).key)
            return [_token(row) for row in connection.execute(wanted)]

    def revoke(self, token_id: str) -> Token:
        """Revoke the token whose id begins so, at once and for good.

        Raises HubError (``hub.token_missing``).
        """
        found = [token for token in self.tokens() if token_id and token.id.startswith(token_id)]
        if len(found) != 1:
            raise HubError(
                "hub.token_missing",
                f"{len(found)} tokens have an id that begins with {token_id[:64]!r}.",
                "'plasmid hub token ls' lists their ids.",
            )
        with writing(self._engine) as connection:
            connection.execute(
                update(TokenRow)
                .where(TokenRow.digest.startswith(found[0].id), TokenRow.revoked.is_(None))
                .values(revoked=micros(self._clock()))
            )
        return found[0]

    def who(self, secret: str) -> Account | None:
        """Return whose token *secret* is, None if nobody's, revoked or expired."""
        return self.holder(sha256_hex(secret.encode("utf-8", "surrogatepass")))

    def holder(self, digest: str) -> Account | None:
        """Return whose token has that SHA-256, as :meth:`who`. Who shows a digest has shown no token."""
        time = micros(self._clock())
        with self._engine.connect() as connection:
            row = connection.execute(
                select(AccountRow, TokenRow.scope, TokenRow.used)
                .join(TokenRow, AccountRow.key == TokenRow.account)
                .where(
                    TokenRow.digest == digest,
                    TokenRow.revoked.is_(None),
                    TokenRow.expires.is_(None) | (TokenRow.expires > time),
                )
            ).one_or_none()
            found = None if row is None else _account(connection, row, row.scope)
        if row is not None and (row.used is None or moment(row.used) + _USED_EVERY < moment(time)):
            with writing(self._engine) as connection:
                connection.execute(update(TokenRow).where(TokenRow.digest == digest).values(used=time))
        return found

    # -- what somebody may do ----------------------------------------------------------------------

    @staticmethod
    def may(account: Account | None, repo: Repo, action: Action) -> bool:
        """Whether *account* (None: nobody in particular) may do that to *repo*.

        Whoever may not read it is to be told that it does not exist.
        """
        if action == "read" and not repo.private:
            return True
        return account is not None and allows(account, repo.id.owner, action)

    @staticmethod
    def may_create(account: Account | None, owner: str) -> bool:
        """Whether *account* may make repositories of *owner*."""
        return account is not None and allows(account, owner, "write")


def allows(account: Account, owner: str, action: Action) -> bool:
    """Whether role and scope allow *action* on what belongs to *owner*."""
    folded = owner.lower()
    roles: dict[str, Action] = {name.lower(): role for name, role in account.organisations.items()}
    role: Action | None = "admin" if folded == account.name.lower() else roles.get(folded)
    least = ACTIONS.index(action)
    return role is not None and least <= ACTIONS.index(role) and least <= ACTIONS.index(account.scope)


def check_action(text: str) -> None:
    """Raise HubError (``hub.role``) if *text* is no role and no scope."""
    if text not in ACTIONS:
        raise HubError("hub.role", f"{text!r} is no role.", f"Take one of {', '.join(ACTIONS)}.")


def account_row(connection: Connection, name: str) -> Any:
    """Return the row of the account called *name*. Raises HubError (``hub.account_missing``)."""
    wanted = select(AccountRow).where(AccountRow.folded == name.lower())
    row = connection.execute(wanted).one_or_none() if name.isprintable() else None
    if row is None:
        raise _no_account(name, "account")
    return row


def _kind_of(row: Any, kind: str) -> Any:
    if row.kind != kind:
        raise _no_account(row.name, kind)
    return row


def _no_account(name: str, kind: str) -> HubError:
    return HubError(
        "hub.account_missing",
        f"there is no {kind} {name[:96]!r}.",
        "'plasmid hub user ls' lists users and organisations.",
    )


def _account(connection: Connection, row: Any, scope: Action) -> Account:
    return _known(row, scope, _roles(connection, row.key).get(row.key, {}))


def _known(row: Any, scope: Action, roles: dict[str, Action]) -> Account:
    return Account(row.key, row.name, row.kind, row.email, scope, roles)


def _roles(connection: Connection, user: int | None) -> dict[int, dict[str, Action]]:
    wanted = (
        select(MembershipRow.user, AccountRow.name, MembershipRow.role)
        .join(AccountRow, AccountRow.key == MembershipRow.organisation)
        .order_by(AccountRow.folded)
    )
    found: dict[int, dict[str, Action]] = {}
    rows: Any = connection.execute(wanted if user is None else wanted.where(MembershipRow.user == user))
    for key, name, role in rows:
        found.setdefault(key, {})[name] = role
    return found


def _token(row: Any) -> Token:
    return Token(
        id=row.digest[:SHOWN_DIGITS],
        account=row.account_name,
        name=row.name,
        scope=row.scope,
        created=moment(row.created),
        expires=None if row.expires is None else moment(row.expires),
        used=None if row.used is None else moment(row.used),
    )
