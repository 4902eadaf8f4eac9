"""What contradicts itself in a cohort, and between a cohort and its contract: all of it at once.

Rules
-----
1. Problems are yielded as ``(path, what)``, like those of :func:`plasmid.recipes.schema.contradictions`.
2. Every column of the contract has exactly one definition, and one that gives its type.
3. The bounds on size are here: the query that is compiled from a cohort grows with its criteria.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plasmid.recipes.cohort import (
    MAX_CRITERIA,
    MAX_DEPTH,
    SEXES,
    AllOf,
    AnyCriterion,
    AnyOf,
    Cohort,
    DateWindow,
    EventIndex,
    Events,
    HasAge,
    HasEvents,
    NoneOf,
    RelativeWindow,
    TakeCode,
    TakePresent,
    TakeSex,
    TakeValue,
)
from plasmid.recipes.columns import AnyColumn, CategoryColumn
from plasmid.recipes.declared import TABLES
from plasmid.recipes.protection import Location

GIVES: dict[str, tuple[str, ...]] = {
    "person": ("identifier",),
    "sex": ("category", "label"),
    "age": ("number",),
    "index": ("number",),
    "value": ("number",),
    "count": ("number",),
    "days": ("number",),
    "present": ("category", "label"),
    "code": ("category", "label", "identifier"),
    "text": ("text",),
}
"""Which types of column a definition may give."""


def cohort_problems(cohort: Cohort, columns: Mapping[str, AnyColumn]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` for each contradiction in *cohort*, and with a contract's *columns*."""
    at: Location = ("data", "cohort")
    yield from _index(cohort, (*at, "index"))
    counted = sum(_size(criterion) for criterion in cohort.where)
    if counted > MAX_CRITERIA:
        yield (*at, "where"), f"holds {counted} criteria, at most {MAX_CRITERIA} are allowed"
    for place, criterion in enumerate(cohort.where):
        yield from _criterion(cohort, criterion, (*at, "where", place), 1)
    yield from _definitions(cohort, columns, (*at, "columns"))
    used = _used(cohort)
    for name in cohort.concepts:
        if name not in used:
            yield (*at, "concepts", name), "is used nowhere"


def _nested(criterion: AnyCriterion) -> tuple[AnyCriterion, ...]:
    match criterion:
        case AllOf():
            return criterion.all
        case AnyOf():
            return criterion.any
        case NoneOf():
            return criterion.none
    return ()


def _size(criterion: AnyCriterion) -> int:
    return 1 + sum(_size(inner) for inner in _nested(criterion))


def _used(cohort: Cohort) -> set[str | None]:
    found = {definition.concepts for definition in cohort.columns.values() if isinstance(definition, Events)}
    waiting = list(cohort.where)
    while waiting:
        criterion = waiting.pop()
        waiting += _nested(criterion)
        if isinstance(criterion, HasEvents):
            found.add(criterion.event.concepts)
    return found | ({cohort.index.concepts} if isinstance(cohort.index, EventIndex) else set())


def _index(cohort: Cohort, at: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(cohort.index, EventIndex):
        yield from _concepts(cohort, cohort.index.table, cohort.index.concepts, at)
        yield from _window(cohort.index.between, (*at, "between"))


def _criterion(
    cohort: Cohort, criterion: AnyCriterion, at: Location, depth: int
) -> Iterator[tuple[Location, str]]:
    if depth > MAX_DEPTH:
        yield at, f"is nested deeper than {MAX_DEPTH}"
        return
    if isinstance(criterion, HasEvents):
        yield from _events(cohort, criterion.event, (*at, "event"))
    if isinstance(criterion, HasAge):
        yield from _bounds(criterion.age.at_least, criterion.age.at_most, (*at, "age"))
    for place, inner in enumerate(_nested(criterion)):
        key = next(iter(type(criterion).model_fields))
        yield from _criterion(cohort, inner, (*at, key, place), depth + 1)


def _events(cohort: Cohort, events: Events, at: Location) -> Iterator[tuple[Location, str]]:
    yield from _concepts(cohort, events.table, events.concepts, at)
    yield from _window(events.within, (*at, "within"))
    if events.value is not None:
        yield from _bounds(events.value.at_least, events.value.at_most, (*at, "value"))
    valued = events.value is not None or isinstance(events, TakeValue)
    if valued and "value" not in TABLES.get(events.table, ()):
        yield (*at, "table"), f"the table {events.table} has no value"
    if isinstance(events, TakeCode) and events.table == "death":
        yield (*at, "table"), "the table death has no code"


def _concepts(cohort: Cohort, table: str, name: str | None, at: Location) -> Iterator[tuple[Location, str]]:
    if name is not None and table == "death":
        yield (*at, "concepts"), "the table death has no code"
    elif name is not None and name not in cohort.concepts:
        yield (*at, "concepts"), f"names the concept set {name!r}, which cohort.concepts does not hold"


def _window(window: RelativeWindow | DateWindow, at: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(window, DateWindow):
        if window.since and window.until and window.since > window.until:
            yield at, f"ends ({window.until}) before it begins ({window.since})"
    elif "ever" not in (window.days_before, window.days_after):
        before, after = int(window.days_before), int(window.days_after)
        if -before > after:
            yield at, f"ends (day {after}) before it begins (day {-before})"


def _bounds(low: float | None, high: float | None, at: Location) -> Iterator[tuple[Location, str]]:
    if low is None and high is None:
        yield at, "needs at_least or at_most"
    elif low is not None and high is not None and low > high:
        yield at, f"at_least ({low}) is above at_most ({high})"


def _definitions(
    cohort: Cohort, columns: Mapping[str, AnyColumn], at: Location
) -> Iterator[tuple[Location, str]]:
    for name in columns:
        if name not in cohort.columns:
            yield (*at, name), "is missing: each column of the contract needs a definition"
    for name, definition in cohort.columns.items():
        here: Location = (*at, name)
        column = columns.get(name)
        if isinstance(definition, Events):
            yield from _events(cohort, definition, here)
        if column is None:
            yield here, "is no column of the contract"
        elif column.type not in GIVES[definition.take]:
            gives = " or ".join(GIVES[definition.take])
            yield here, f"take: {definition.take} gives a column of type {gives}, not {column.type}"
        elif isinstance(column, CategoryColumn):
            for value in _values(definition):
                if value not in column.vocabulary_set:
                    yield (*here, "values"), f"{value!r} is not in the column's vocabulary"


def _values(definition: object) -> tuple[str, ...]:
    if isinstance(definition, TakePresent):
        return definition.values
    if isinstance(definition, TakeSex) and definition.values:
        return tuple(definition.values.get(sex, sex) for sex in SEXES if sex in definition.values)
    return ()
