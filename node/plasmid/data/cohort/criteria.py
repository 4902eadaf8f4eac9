"""The criteria and columns of a cohort as joins to its index dates.

Rules
-----
1. ``index`` has a row for each person and index date. What is asked of events in a window is one expression
   with at most one row for each of these, joined from the left: no subquery runs once per row.
2. A criterion is true or false, never unknown: a person without a sex is none of those listed.
3. In the queries here ``i`` is the index, ``e`` an event, ``p`` the person.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from plasmid.data.cohort.days import day_number
from plasmid.data.cohort.declared_tables import DeclaredTables
from plasmid.data.cohort.dialects import (
    both,
    called,
    case,
    column,
    double,
    either,
    integer,
    is_there,
    join,
    ordered,
    query,
    sortable,
    table_as,
    text,
)
from plasmid.data.cohort.measured import measured
from plasmid.recipes.cohort import (
    AllOf,
    AnyCriterion,
    AnyOf,
    DateIndex,
    DateWindow,
    EventIndex,
    Events,
    HasAge,
    HasEvents,
    HasSex,
    NoneOf,
    Observed,
    RelativeWindow,
    TakeDays,
    TakeValue,
    ValueBounds,
)
from plasmid.recipes.declared import TABLES

Window = RelativeWindow | DateWindow


class Criteria:
    """What a query selects by.

    Attributes
    ----------
    index
        The expression of index dates: ``person, day, ymd``.
    joined
        Expressions to be joined by person and day.
    seen
        Expressions to be joined by person.
    """

    def __init__(self, base: DeclaredTables, index: EventIndex | DateIndex) -> None:
        self._base, self._dialect = base, base.dialect
        self.joined: dict[str, str] = {}
        self.seen: dict[str, str] = {}
        self.index = base.add("index", self._index(index))

    def _index(self, index: EventIndex | DateIndex) -> exp.Select:
        people = table_as(self._base.person(), "e")
        person, day, ymd = (column("e", key) for key in ("person", "day", "ymd"))
        if isinstance(index, DateIndex):
            fixed = called(integer(int(index.date.replace("-", ""))), "ymd")
            return query([person, called(integer(day_number(index.date)), "day"), fixed], people)
        source = table_as(self._base.source(index.table, index.concepts), "e")
        where = _between(index.between)
        if index.pick == "every":
            return query([person, day, ymd], source, where=where, distinct=True)
        kind = exp.Min if index.pick == "first" else exp.Max
        outputs = [person, called(kind(this=day), "day"), called(kind(this=ymd), "ymd")]
        return query(outputs, source, where=where, group=[person])

    def all_of(self, criteria: Sequence[AnyCriterion]) -> list[exp.Expression]:
        """Return one condition for each of *criteria*."""
        return [self._condition(criterion) for criterion in criteria]

    def _condition(self, criterion: AnyCriterion) -> exp.Expression:
        match criterion:
            case HasEvents():
                needed = integer(criterion.event.at_least)
                return exp.GTE(this=self.count(criterion.event), expression=needed)
            case HasSex():
                listed = [text(sex, self._dialect) for sex in criterion.sex]
                return _certain(exp.In(this=self.sex(), expressions=listed))
            case HasAge():
                return self._aged(criterion)
            case Observed():
                return self._observed(criterion.observed_days)
            case AllOf():
                return exp.paren(both(*self.all_of(criterion.all)), copy=False)
            case AnyOf():
                return exp.paren(either(*self.all_of(criterion.any)), copy=False)
            case NoneOf():
                return exp.Not(this=exp.paren(either(*self.all_of(criterion.none)), copy=False))

    def sex(self) -> exp.Expression:
        """Return the person's sex."""
        self._base.has("person", "sex")
        return column("p", "sex")

    def age_span(self) -> exp.Expression:
        """Return yyyymmdd of the index date less that of birth: 10,000 for each year of age."""
        self._base.has("person", "birth_date")
        return exp.paren(
            exp.Sub(this=column("i", "ymd"), expression=column("p", "birth_date_ymd")), copy=False
        )

    def _aged(self, criterion: HasAge) -> exp.Expression:
        span = self.age_span()
        low, high = criterion.age.at_least, criterion.age.at_most
        conditions: list[exp.Expression] = [exp.GTE(this=span, expression=integer(10_000 * (low or 0)))]
        if high is not None:
            conditions.append(exp.LT(this=span, expression=integer(10_000 * (high + 1))))
        return _certain(both(*conditions))

    def _observed(self, days: int) -> exp.Expression:
        latest = exp.Sub(this=column("i", "day"), expression=integer(days))
        tables = [table for table in TABLES if table != "person" and table in self._base.tables]
        if not tables:
            self._base.mapping("visit")  # raises: there is no table of events
        conditions = []
        for table in tables:
            source = self._base.source(table, None)
            if source not in self.seen:
                first = called(exp.Min(this=column("e", "day")), "day")
                who = column("e", "person")
                select = query([who, first], table_as(source, "e"), group=[who])
                self.seen[source] = self._base.new("o", select)
            conditions.append(exp.LTE(this=column(self.seen[source], "day"), expression=latest))
        return _certain(either(*conditions))

    def count(self, events: Events) -> exp.Expression:
        """Return on how many days there are such *events*; 0 where there are none."""
        days = exp.Count(this=exp.Distinct(expressions=[column("e", "day")]))
        return exp.Coalesce(this=self._grouped("n", events, days), expressions=[integer(0)])

    def days(self, events: TakeDays) -> exp.Expression:
        """Return the days from the index date to the first or last of *events*."""
        kind = exp.Min if events.pick == "first" else exp.Max
        found = self._grouped(f"day {events.pick}", events, kind(this=column("e", "day")))
        return exp.Sub(this=found, expression=column("i", "day"))

    def value(self, events: TakeValue, unit: str | None) -> exp.Expression:
        """Return the first, last, least or largest value of *events*, in *unit*."""
        source = self._base.source(events.table, events.concepts)
        value = measured(self._base, events.table, source, unit)
        if events.pick in ("min", "max"):
            kind = exp.Min if events.pick == "min" else exp.Max
            return self._grouped(f"{events.pick} {unit}", events, kind(this=value))
        return self._ranked(f"value {unit}", events, value, value, is_there(value))

    def code(self, events: Events) -> exp.Expression:
        """Return the code of the first or last of *events*."""
        self._base.has(events.table, "code")
        value = column("e", "code")
        return self._ranked("code", events, value, value, is_there(value))

    def text(self, events: Events) -> exp.Expression:
        """Return the text of the first or last note; one without text is none."""
        value = column("e", "text")
        key = sortable(value, self._dialect)
        return self._ranked("text", events, value, key, is_there(key))

    def _bounded(self, table: str, source: str, bounds: ValueBounds | None) -> list[exp.Expression]:
        if bounds is None:
            return []
        value = measured(self._base, table, source, bounds.unit)
        found: list[exp.Expression] = []
        if bounds.at_least is not None:
            found.append(exp.GTE(this=value, expression=double(bounds.at_least)))
        if bounds.at_most is not None:
            found.append(exp.LTE(this=value, expression=double(bounds.at_most)))
        return found

    def _in_window(
        self, outputs: list[exp.Expression], events: Events, more: list[exp.Expression], *, grouped: bool
    ) -> exp.Select:
        source = self._base.source(events.table, events.concepts)
        keys: list[exp.Expression] = [column("i", "person"), column("i", "day")]
        same = exp.EQ(this=column("e", "person"), expression=column("i", "person"))
        where = [*_between(events.within), *self._bounded(events.table, source, events.value), *more]
        return query(
            [*keys, *outputs],
            table_as(self.index, "i"),
            joins=[join(source, "e", same)],
            where=where,
            group=keys if grouped else (),
        )

    def _identity(self, kind: str, events: Events) -> str:
        return repr((kind, events.table, events.concepts, events.within, events.value))

    def _grouped(self, kind: str, events: Events, aggregate: exp.Expression) -> exp.Expression:
        """Return *aggregate* over the *events* in the window of an index date."""
        identity = self._identity(kind, events)
        if identity not in self.joined:
            select = self._in_window([called(aggregate, "x")], events, [], grouped=True)
            self.joined[identity] = self._base.new("u", select)
        return column(self.joined[identity], "x")

    def _ranked(
        self,
        kind: str,
        events: Events,
        value: exp.Expression,
        smaller: exp.Expression,
        present: exp.Expression,
    ) -> exp.Expression:
        """Return *value* of the first or last event that is *present*; on one day, of the *smaller* one."""
        pick = getattr(events, "pick", "first")
        identity = self._identity(f"{kind} {pick}", events)
        if identity not in self.joined:
            order = [
                ordered(column("e", "day"), self._dialect, descending=pick == "last"),
                ordered(smaller, self._dialect),
            ]
            rank = exp.Window(
                this=exp.RowNumber(),
                partition_by=[column("i", "person"), column("i", "day")],
                order=exp.Order(expressions=order),
            )
            outputs: list[exp.Expression] = [called(value, "x"), called(rank, "r")]
            ranked = self._base.new("r", self._in_window(outputs, events, [present], grouped=False))
            one = exp.EQ(this=column("e", "r"), expression=integer(1))
            chosen = [column("e", part) for part in ("person", "day", "x")]
            self.joined[identity] = self._base.new("u", query(chosen, table_as(ranked, "e"), where=[one]))
        return column(self.joined[identity], "x")


def _certain(condition: exp.Expression) -> exp.Expression:
    """Return *condition* with unknown as false."""
    return exp.EQ(this=case((condition, integer(1)), otherwise=integer(0)), expression=integer(1))


def _between(window: Window) -> list[exp.Expression]:
    day = column("e", "day")
    found: list[exp.Expression] = []
    if isinstance(window, DateWindow):
        if window.since is not None:
            found.append(exp.GTE(this=day, expression=integer(day_number(window.since))))
        if window.until is not None:
            found.append(exp.LTE(this=day, expression=integer(day_number(window.until))))
        return found
    passed = exp.Sub(this=day, expression=column("i", "day"))
    if window.days_before != "ever":
        found.append(exp.GTE(this=passed, expression=integer(-int(window.days_before))))
    if window.days_after != "ever":
        found.append(exp.LTE(this=passed, expression=integer(int(window.days_after))))
    return found
