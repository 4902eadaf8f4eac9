"""The cohort of a recipe: whose rows, from which dated events. A typed document, never SQL.

Rules
-----
1. A cohort speaks of the declared tables (:mod:`plasmid.recipes.declared`) and of named concept sets. What
   a site calls its tables and codes is the site's business; ``plasmid.data.cohort.compile`` brings both
   together.
2. ``index`` gives each person an index date, ``where`` says who stays, ``columns`` says how each column of
   the contract comes to be. A row of the contract is one person at one index date. The index date is found
   first: a person whose first index event fails ``where`` is out, whatever the second one is.
3. Days are whole. Events of one kind on one day are one occurrence, so that a source that writes everything
   twice counts like one that doesn't. Ties of ``first`` and ``last`` go to the smaller value.
4. A window is always given: a column that looks beyond the index date by oversight would tell the future.
5. ``sex`` is one of :data:`SEXES`; a column may spell it as its vocabulary does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag

from plasmid.recipes.columns import ColumnName, Strict, Word
from plasmid.recipes.declared import SYSTEMS

MAX_CRITERIA = 100
MAX_DEPTH = 4
SEXES = ("female", "male", "other", "unknown")
"""The values of the declared column ``sex``, as FHIR's administrative gender."""


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


def _system(name: str) -> str:
    if name not in SYSTEMS:
        raise ValueError(f"is none of {', '.join(SYSTEMS)}")
    return name


Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day)]
Code = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=100, pattern=r"^[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$"
    ),
]
System = Annotated[str, AfterValidator(_system)]
Unit = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,50}$")]
ConceptName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Sex = Literal["female", "male", "other", "unknown"]
Days = Annotated[int, Field(ge=-100_000, le=100_000)]
Codes = Annotated[tuple[Code, ...], Field(strict=False, min_length=1, max_length=10_000)]
Some = Annotated[int, Field(ge=1, le=10_000)]
EventTable = Literal["condition", "drug", "procedure", "measurement", "observation", "visit", "note", "death"]
"""The declared tables of dated events; ``death`` is ``death_date`` of ``person``."""


class ConceptSet(Strict):
    """Codes that mean one thing, in as many code systems as the author knows; a site uses its own.

    ``descendants`` counts the codes below those listed, too: by prefix in ``icd10``, ``icd9`` and ``atc``
    (E11 covers E11.9; dots and case are ignored there), by the site's table ``ancestor`` elsewhere.
    """

    codes: Annotated[dict[System, Codes], Field(min_length=1)]
    descendants: bool


class RelativeWindow(Strict):
    """From so many days before the index date to so many after it, both included; ``ever`` has no end.

    ``{days_before: 365}`` is the year up to the index date, ``{days_before: -1, days_after: 30}`` the 30 days
    that follow it.
    """

    days_before: Days | Literal["ever"] = 0
    days_after: Days | Literal["ever"] = 0


class DateWindow(Strict):
    """From one day to another, both included; None has no end."""

    since: Day | None = None
    until: Day | None = None


def _window_kind(given: Any) -> str:
    if isinstance(given, Mapping):
        return "dates" if {"since", "until"} & given.keys() else "days"
    return "dates" if isinstance(given, DateWindow) else "days"


Window = Annotated[
    Annotated[RelativeWindow, Tag("days")] | Annotated[DateWindow, Tag("dates")], Discriminator(_window_kind)
]


class ValueBounds(Strict):
    """Bounds of a measured value, both included, in ``unit`` (UCUM); without a unit as the site has it."""

    at_least: float | None = None
    at_most: float | None = None
    unit: Unit | None = None


class Events(Strict):
    """Events of a table: of a concept set (None is all), in a window, with a value within bounds."""

    table: EventTable
    concepts: ConceptName | None = None
    within: Window
    value: ValueBounds | None = None


class EventCriterion(Events):
    """``at_least`` such events, on different days."""

    at_least: Some = 1


class AgeBounds(Strict):
    """Whole years at the index date, both ends included."""

    at_least: Annotated[int, Field(ge=0, le=150)] | None = None
    at_most: Annotated[int, Field(ge=0, le=150)] | None = None


class HasEvents(Strict):
    """Events of one kind."""

    event: EventCriterion


class HasSex(Strict):
    """One of these."""

    sex: Annotated[tuple[Sex, ...], Field(strict=False, min_length=1, max_length=4)]


class HasAge(Strict):
    """Age at the index date. A person without a date of birth has none, and fails."""

    age: AgeBounds


class Observed(Strict):
    """Some event of any table at least so many days before the index date."""

    observed_days: Annotated[int, Field(ge=0, le=100_000)]


class AllOf(Strict):
    """Each of these."""

    all: Criteria


class AnyOf(Strict):
    """At least one of these."""

    any: Criteria


class NoneOf(Strict):
    """None of these."""

    none: Criteria


_CRITERIA: dict[type[Strict], str] = {
    HasEvents: "event",
    HasSex: "sex",
    HasAge: "age",
    Observed: "observed_days",
    AllOf: "all",
    AnyOf: "any",
    NoneOf: "none",
}


def _criterion_kind(given: Any) -> str | None:
    if isinstance(given, Mapping):
        return next((key for key in _CRITERIA.values() if key in given), None)
    return _CRITERIA.get(type(given))


Criterion = Annotated[
    Annotated[HasEvents, Tag("event")]
    | Annotated[HasSex, Tag("sex")]
    | Annotated[HasAge, Tag("age")]
    | Annotated[Observed, Tag("observed_days")]
    | Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[NoneOf, Tag("none")],
    Discriminator(
        _criterion_kind,
        custom_error_type="criterion",
        custom_error_message="is a map of one key: event, sex, age, observed_days, all, any or none",
    ),
]
Criteria = Annotated[tuple[Criterion, ...], Field(strict=False, min_length=1, max_length=MAX_CRITERIA)]


class EventIndex(Strict):
    """The index date is that of an event; ``every`` makes a row of each day on which there is one."""

    table: EventTable
    concepts: ConceptName | None = None
    pick: Literal["first", "last", "every"]
    between: DateWindow = Field(default_factory=DateWindow)


class DateIndex(Strict):
    """One index date for everybody in the table ``person``."""

    date: Day


def _index_kind(given: Any) -> str:
    if isinstance(given, Mapping):
        return "date" if "date" in given else "event"
    return "date" if isinstance(given, DateIndex) else "event"


Index = Annotated[
    Annotated[EventIndex, Tag("event")] | Annotated[DateIndex, Tag("date")], Discriminator(_index_kind)
]


class TakePerson(Strict):
    """The person's identifier."""

    take: Literal["person"]


class TakeSex(Strict):
    """The person's sex; ``values`` spells it as the column's vocabulary does."""

    take: Literal["sex"]
    values: dict[Sex, Word] = Field(default_factory=dict)


class TakeAge(Strict):
    """Whole years at the index date."""

    take: Literal["age"]


class TakeIndex(Strict):
    """Year or month (1 to 12) of the index date."""

    take: Literal["index"]
    part: Literal["year", "month"]


class TakeValue(Events):
    """A measured value, in the unit of the contract's column; missing where there is none."""

    take: Literal["value"]
    pick: Literal["first", "last", "min", "max"]


class TakeCount(Events):
    """On how many days there was such an event."""

    take: Literal["count"]


class TakeDays(Events):
    """Days from the index date to such an event, negative before it; missing where there is none."""

    take: Literal["days"]
    pick: Literal["first", "last"]


class TakePresent(Events):
    """``values[0]`` where there are ``at_least`` such events, ``values[1]`` where there aren't."""

    take: Literal["present"]
    values: Annotated[tuple[Word, Word], Field(strict=False)]
    at_least: Some = 1


class TakeCode(Events):
    """The code of an event, as the site's mapping gives it."""

    take: Literal["code"]
    pick: Literal["first", "last"]


class TakeText(Events):
    """The text of a note."""

    take: Literal["text"]
    table: Literal["note"] = "note"
    pick: Literal["first", "last"]


Definition = Annotated[
    TakePerson
    | TakeSex
    | TakeAge
    | TakeIndex
    | TakeValue
    | TakeCount
    | TakeDays
    | TakePresent
    | TakeCode
    | TakeText,
    Field(discriminator="take"),
]


class Cohort(Strict):
    """Who, when, and what of them."""

    concepts: Annotated[dict[ConceptName, ConceptSet], Field(max_length=64)] = Field(default_factory=dict)
    index: Index
    where: Annotated[tuple[Criterion, ...], Field(strict=False, max_length=MAX_CRITERIA)] = ()
    columns: Annotated[dict[ColumnName, Definition], Field(min_length=1, max_length=1000)]


AnyDefinition = (
    TakePerson
    | TakeSex
    | TakeAge
    | TakeIndex
    | TakeValue
    | TakeCount
    | TakeDays
    | TakePresent
    | TakeCode
    | TakeText
)
AnyCriterion = HasEvents | HasSex | HasAge | Observed | AllOf | AnyOf | NoneOf
for _nested in (AllOf, AnyOf, NoneOf):
    _nested.model_rebuild()
