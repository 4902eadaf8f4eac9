"""Finding repositories: by words, tags, base, licence, metric and epsilon, in an order, page by page.

Rules
-----
1. Nobody is shown, and nobody can count, what they may not read. A repository that nothing was ever committed
   to is in no list: clients make one before the commit that is then refused.
2. A question is first asked of a few repositories, the next ones in the order: that answers most. The others
   look once at every small row that has the tags; both databases are kept from walking an order's index over
   everything instead, which is far slower where little matches.
3. That one look is asked for differently: PostgreSQL is fast at joining sets, and slow to intersect them or
   to take one of two conditions for each row; SQLite is the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Connection, Integer, any_, func, intersect, or_, select
from sqlalchemy.orm import aliased

from plasmid.hub.store.card_facts import WORD
from plasmid.hub.store.changes import plain_text
from plasmid.hub.store.lineage import Lineage
from plasmid.hub.store.ordering import Order, Place, Sort
from plasmid.hub.store.reading import BATCH, repos
from plasmid.hub.store.records import Account, Repo
from plasmid.hub.store.tables import AccountRow, RepoRow, TagRow, TextsRow

NEAR = (500, 4_000)
FEW = 2_000
MAX_LIMIT = 1_000
MAX_WORDS = 8
MAX_TAGS = 16
MAX_SEARCH = 200


@dataclass(frozen=True)
class Query:
    """What is looked for; everything that is given must hold.

    Attributes
    ----------
    search
        Words, each a part of the name, a word of the title or a whole tag; eight at most, the others are not
        looked at.
    author
        The owner.
    tags
        Whole ones: ``peft``, ``license:mit``, ``unit:patient``; 16 at most.
    base, licence
        ``plasmid/antiberty``, ``mit``: short for their tags.
    min_metric, max_epsilon
        Repositories without one are left out.
    retired
        False leaves out those that are.
    sort
        The newest, most downloaded, best or, for ``epsilon``, smallest first; ``name`` from A to Z. Sorting
        by metric or epsilon leaves out repositories without one.
    """

    search: str = ""
    author: str | None = None
    tags: tuple[str, ...] = ()
    base: str | None = None
    licence: str | None = None
    min_metric: float | None = None
    max_epsilon: float | None = None
    retired: bool = True
    sort: Sort = "updated"

    def all_tags(self) -> tuple[str, ...]:
        """Return the tags to look for, in lower case."""
        given = list(self.tags)
        given += [f"base_model:{self.base}"] if self.base else []
        given += [f"license:{self.licence}"] if self.licence else []
        return tuple(dict.fromkeys(plain_text(tag, MAX_SEARCH).lower() for tag in given))[:MAX_TAGS]


@dataclass(frozen=True)
class Found:
    """A repository as a list shows it; *tags* as :mod:`plasmid.hub.store.card_facts` makes them."""

    repo: Repo
    title: str
    tags: tuple[str, ...]
    metric: float | None
    epsilon: float | None


@dataclass(frozen=True)
class Page:
    """Some of what was found; *cursor* asks for what comes next, None: nothing does."""

    found: tuple[Found, ...]
    cursor: str | None


class Finding(Lineage):
    """Searches in one hub's database, and lineage. Methods may be called from several threads."""

    def search(
        self, query: Query, *, viewer: Account | None, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """Return what *viewer* (None: nobody in particular) may see of what *query* asks for.

        Parameters
        ----------
        limit
            From 1 to 1,000.
        cursor
            Of the page before, with the same *query*.

        Raises
        ------
        HubError
            ``hub.cursor``: it is none of ours for this order; ``hub.sort``: there is no such order.
        """
        order = Order.of(query.sort)
        limit = max(1, min(limit, MAX_LIMIT))
        place = None if cursor is None else order.read(cursor)
        with self._engine.connect() as connection:
            asked = _Asked.of(query, viewer, connection)
            rows = _rows(connection, order, asked, place, limit + 1) if asked else []
            shown = rows[:limit]
            found = about(connection, [row.key for row in shown])
        return Page(tuple(found), order.write(shown[-1]) if len(rows) > limit else None)

    def about(self, repo: Repo) -> Found:
        """Return what a list would say of *repo*, which must be there."""
        with self._engine.connect() as connection:
            return about(connection, [repo.key])[0]


@dataclass(frozen=True)
class _Asked:
    """A question of somebody, its names looked up."""

    query: Query
    owners: tuple[int, ...]
    author: int | None
    words: tuple[tuple[str, bool], ...]
    """Each with whether so many have it that it is looked up for each row that is left, not once for all."""
    tags: tuple[str, ...]
    few: bool
    """Whether one of the tags is so rare that those with it are looked at first."""

    @classmethod
    def of(cls, query: Query, viewer: Account | None, connection: Connection) -> _Asked | None:
        """Return the question, None where nothing can answer it."""
        mine = [] if viewer is None else [viewer.name, *viewer.organisations]
        owners = _accounts(connection, mine)
        author = None
        if query.author is not None:
            known = _accounts(connection, [plain_text(query.author, MAX_SEARCH)])
            if not known:
                return None
            author = known[0]
        words = plain_text(query.search, MAX_SEARCH).lower().split()[:MAX_WORDS]
        counts = [_few(connection, _tagged(tag)) for tag in query.all_tags()]
        least = min(counts, default=FEW)
        if not least:
            return None
        frequent = [(word, _few(connection, _said(word)) == FEW) for word in words]
        return cls(query, owners, author, tuple(frequent), query.all_tags(), least < FEW)

    def nears(self) -> tuple[int, ...]:
        """Return how many of the next ones to look at first: where there are tags, few or none of them."""
        return () if self.few else NEAR[:1] if self.tags else NEAR

    def of_rows(
        self, connection: Connection, rows: Any, *, everywhere: bool = False
    ) -> list[ColumnElement[bool]]:
        """Return the conditions on *rows*, but for those on tags; *everywhere*: on all that there are."""
        query = self.query
        wanted = [rows.filled.is_not(None), or_(rows.private.is_(False), rows.owner.in_(self.owners))]
        if self.author is not None:
            wanted.append(rows.owner == self.author)
        if query.min_metric is not None:
            wanted.append(rows.metric >= query.min_metric)
        if query.max_epsilon is not None:
            wanted.append(rows.epsilon <= query.max_epsilon)
        if not query.retired:
            wanted.append(rows.retired.is_(None))
        sqlite = connection.dialect.name == "sqlite"
        part_of = func.instr if sqlite else func.strpos
        for word, frequent in self.words:
            those = _said(word)
            if everywhere and not sqlite and not frequent:
                named = aliased(RepoRow)
                by_name = select(named.key).where(part_of(named.folded, word) > 0)
                wanted.append(rows.key.in_(by_name.union_all(those)))
                continue
            # Counted, for PostgreSQL may gather all that an EXISTS is about.
            each = those.with_only_columns(func.count()).where(TagRow.repo == rows.key).scalar_subquery()
            wanted.append(or_(part_of(rows.folded, word) > 0, each > 0 if frequent else rows.key.in_(those)))
        return wanted


def _accounts(connection: Connection, names: Sequence[str]) -> tuple[int, ...]:
    folded = [name.lower() for name in names]
    return (
        tuple(connection.scalars(select(AccountRow.key).where(AccountRow.folded.in_(folded))))
        if folded
        else ()
    )


def _tagged(tag: str) -> Any:
    return select(TagRow.repo).where(TagRow.tag == tag)


def _said(word: str) -> Any:
    return select(TagRow.repo).where(TagRow.tag.in_((word, WORD + word)))


def _has_all(connection: Connection, tags: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that a repository has all *tags*, at least one."""
    if len(tags) == 1 or connection.dialect.name == "sqlite":
        return RepoRow.key.in_(intersect(*(_tagged(tag) for tag in tags)))
    first, *others = (aliased(TagRow) for _ in tags)
    those = select(first.repo).where(first.tag == tags[0])
    for other, tag in zip(others, tags[1:], strict=True):
        those = those.join(other, (other.repo == first.repo) & (other.tag == tag))
    # An array: else the planner would join each of the sets with everything.
    return RepoRow.key == any_(func.array(those.scalar_subquery(), type_=ARRAY(Integer)))


def _few(connection: Connection, those: Any) -> int:
    """Return how many *those* are, at most FEW."""
    counted: int = connection.execute(
        select(func.count()).select_from(those.limit(FEW).subquery())
    ).scalar_one()
    return counted


_COLUMNS = (
    "key",
    "owner",
    "folded",
    "private",
    "retired",
    "filled",
    "updated",
    "created",
    "downloads",
    "metric",
    "epsilon",
)
_SMALL = [getattr(RepoRow, name) for name in _COLUMNS]


def _rows(
    connection: Connection, order: Order, asked: _Asked, place: Place | None, limit: int
) -> Sequence[Any]:
    for near in asked.nears():
        if near > limit:
            rows, enough = _near(connection, order, asked, place, limit, near)
            if enough:
                return rows
            if len(rows) * NEAR[-1] < limit * near:
                break  # as rare as that, it is not found often enough among more of them, either
    return _everywhere(connection, order, asked, place, limit)


def _near(
    connection: Connection, order: Order, asked: _Asked, place: Place | None, limit: int, near: int
) -> tuple[Sequence[Any], bool]:
    """Return the first *limit* rows of the *near* ones after *place*, and whether those are all wanted.

    They are, where they are as many as that, or where nothing comes after the near ones.
    """
    next_ones = select(*_SMALL).where(*order.after(RepoRow, place)).order_by(*order.by(RepoRow)).limit(near)
    if asked.author is not None:
        next_ones = next_ones.where(RepoRow.owner == asked.author)
    rows = next_ones.subquery().c
    count = select(func.count()).select_from(next_ones.subquery()).scalar_subquery()
    wanted = select(*rows, count.label("looked_at")).where(*asked.of_rows(connection, rows))
    for tag in asked.tags:
        wanted = wanted.where(_tagged(tag).where(TagRow.repo == rows.key).exists())
    found = connection.execute(wanted.order_by(*order.by(rows)).limit(limit)).all()
    return found, len(found) == limit or bool(found and found[0].looked_at < near)


def _everywhere(
    connection: Connection, order: Order, asked: _Asked, place: Place | None, limit: int
) -> Sequence[Any]:
    """Return the first *limit* rows after *place*, from one look at each that has the tags."""
    conditions = asked.of_rows(connection, RepoRow, everywhere=True)
    conditions += order.after(RepoRow, place, flat=True)
    if asked.tags:
        conditions.append(_has_all(connection, asked.tags))
    wanted = select(*_SMALL).where(*conditions)
    return connection.execute(wanted.order_by(*order.by(RepoRow, flat=True)).limit(limit)).all()


def about(connection: Connection, keys: Sequence[int]) -> list[Found]:
    """Return what a list says of the repositories *keys*, in that order."""
    found: dict[int, Found] = {}
    for first in range(0, len(keys), BATCH):
        part = keys[first : first + BATCH]
        tags: dict[int, list[str]] = {}
        for key, tag in connection.execute(select(TagRow.repo, TagRow.tag).where(TagRow.repo.in_(part))):
            if not tag.startswith(WORD):
                tags.setdefault(key, []).append(tag)
        said = {
            row.key: row
            for row in connection.execute(
                select(RepoRow.key, TextsRow.title, RepoRow.metric, RepoRow.epsilon)
                .join(TextsRow, TextsRow.repo == RepoRow.key)
                .where(RepoRow.key.in_(part))
            )
        }
        for repo in repos(connection, RepoRow.key.in_(part)):
            row = said[repo.key]
            known = tuple(sorted(tags.get(repo.key, [])))
            found[repo.key] = Found(repo, row.title, known, row.metric, row.epsilon)
    return [found[key] for key in keys if key in found]
