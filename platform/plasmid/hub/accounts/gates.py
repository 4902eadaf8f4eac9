"""Gated repositories: terms, who accepted them, who was let in.

Rules
-----
1. Whoever accepts, accepts a text: other terms have to be accepted anew.
2. Behind a gate ``auto``, accepting is enough; behind ``manual``, somebody who may write there lets people
   in.
3. Whoever may write there needs to accept nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, update

from plasmid.core.canonical import sha256_hex
from plasmid.core.clock import Clock
from plasmid.core.errors import HubError
from plasmid.hub.accounts.accounts import account_row
from plasmid.hub.store.database import micros, moment, writing
from plasmid.hub.store.reading import hold
from plasmid.hub.store.records import Access, AccessRequest, Account, Repo
from plasmid.hub.store.tables import AcceptanceRow, AccountRow


class Gates:
    """The gates of one hub's repositories."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock

    def access(self, repo: Repo, account: Account | None, *, writes: bool) -> Access:
        """Return what stands between *account* and the files: they may be had if ``open`` or ``accepted``.

        Parameters
        ----------
        account
            None: nobody in particular, who cannot accept terms.
        writes
            Whether *account* may write here.
        """
        if not repo.gated or writes:
            return "open"
        if account is None:
            return "terms"
        with self._engine.connect() as connection:
            row = _acceptance(connection, repo, account)
        if row is not None and row.state == "rejected":
            return "rejected"
        return "terms" if row is None or row.terms != _digest(repo) else row.state

    def accept(self, repo: Repo, account: Account) -> Access:
        """Accept the present terms, and return what that leads to. A rejection stays one."""
        if not repo.gated:
            return "open"
        state: Access = "accepted" if repo.gated == "auto" else "pending"
        values = {"terms": _digest(repo), "asked": micros(self._clock()), "decided": None}
        with writing(self._engine) as connection:
            hold(connection, repo.key)
            row = _acceptance(connection, repo, account)
            if row is not None and (row.state == "rejected" or row.terms == values["terms"]):
                known: Access = row.state
                if (known, state) != ("pending", "accepted"):  # manual has become auto meanwhile
                    return known
            place = {"repo": repo.key, "account": account.key}
            connection.execute(delete(AcceptanceRow).filter_by(**place))
            connection.execute(insert(AcceptanceRow).values(**place, **values, state=state))
        return state

    def requests(self, repo: Repo) -> list[AccessRequest]:
        """Return who accepted the present terms, those that wait first, then by time."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(AccountRow.name, AccountRow.email, AcceptanceRow.state, AcceptanceRow.asked)
                .join(AccountRow, AccountRow.key == AcceptanceRow.account)
                .where(AcceptanceRow.repo == repo.key, AcceptanceRow.terms == _digest(repo))
                .order_by(AcceptanceRow.asked, AccountRow.folded)
            ).all()
        found = [AccessRequest(row.name, row.email, row.state, moment(row.asked)) for row in rows]
        return sorted(found, key=lambda request: request.state != "pending")

    def decide(self, repo: Repo, name: str, *, grant: bool) -> None:
        """Let the account called *name* in, or keep it out. Raises HubError (``hub.request_missing``)."""
        with writing(self._engine) as connection:
            decided = connection.execute(
                update(AcceptanceRow)
                .where(
                    AcceptanceRow.repo == repo.key,
                    AcceptanceRow.account == account_row(connection, name).key,
                )
                .values(state="accepted" if grant else "rejected", decided=micros(self._clock()))
            )
            if not decided.rowcount:
                raise HubError(
                    "hub.request_missing",
                    f"{name} has not accepted the terms of {repo.id}.",
                    "Whoever wants the files accepts the terms first.",
                )


def _digest(repo: Repo) -> str:
    return sha256_hex(repo.terms.encode())


def _acceptance(connection: Connection, repo: Repo, account: Account) -> Any:
    wanted = select(AcceptanceRow).where(AcceptanceRow.repo == repo.key, AcceptanceRow.account == account.key)
    return connection.execute(wanted).one_or_none()
