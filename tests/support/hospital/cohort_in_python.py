"""A cohort over the invented hospital in plain Python, one person at a time: what every engine must give."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, ClassVar

from plasmid.recipes.cohort import (
    AllOf,
    AnyOf,
    Cohort,
    DateIndex,
    DateWindow,
    Events,
    HasAge,
    HasEvents,
    HasSex,
    NoneOf,
    Observed,
    TakePresent,
)
from support.hospital.cohort_hospital import ANCESTORS, EPOCH, UNITS, Event, Hospital


class Evaluated:
    """A cohort over a hospital, one person at a time."""

    FACTORS: ClassVar = {("%", "%"): 1.0, ("mmol/mol", "%"): 0.1, ("[ppth]", "%"): 0.1}

    def __init__(self, cohort: Cohort, given: Hospital, units: dict[str, str | None]) -> None:
        self.cohort, self.given, self.units = cohort, given, units

    def rows(self, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        found = []
        for person in sorted(self.given.people, key=lambda name: name.encode()):
            found += [
                tuple(self.column(name, person, day) for name in columns)
                for day in self.index(person)
                if all(self.holds(criterion, person, day) for criterion in self.cohort.where)
            ]
        return found

    def index(self, person: str) -> list[int]:
        how = self.cohort.index
        if isinstance(how, DateIndex):
            return [(date.fromisoformat(how.date) - EPOCH).days]
        days = sorted(
            {e.day for e in self.of(how.table, how.concepts, person) if self.dated(how.between, e.day)}
        )
        return {"first": days[:1], "last": days[-1:], "every": days}[how.pick]

    def dated(self, window: DateWindow, day: int) -> bool:
        iso = (EPOCH + timedelta(days=day)).isoformat()
        return (window.since or "") <= iso <= (window.until or "9")

    def of(self, table: str, concepts: str | None, person: str) -> list[Event]:
        if table == "death":
            death = self.given.people[person].death
            return [Event(person, (death - EPOCH).days)] if death else []
        wanted = self.cohort.concepts[concepts] if concepts else None
        mine = [event for event in self.given.events[table] if event.person == person]
        return [event for event in mine if wanted is None or self.coded(table, wanted, event.code)]

    def coded(self, table: str, wanted: Any, code: str | None) -> bool:
        system = {"condition": "icd10", "drug": "omop", "measurement": "loinc"}.get(table, "local")
        for listed in wanted.codes.get(system, ()):
            if system == "icd10":
                own, other = ((code or "").replace(".", "").upper(), listed.replace(".", "").upper())
                if own == other or (wanted.descendants and own.startswith(other)):
                    return True
            elif code == listed or (wanted.descendants and (listed, code) in ANCESTORS):
                return True
        return False

    def events(self, how: Events, person: str, day: int) -> list[Event]:
        found = []
        for event in self.of(how.table, how.concepts, person):
            if isinstance(how.within, DateWindow):
                inside = self.dated(how.within, event.day)
            else:
                before, after = how.within.days_before, how.within.days_after
                inside = (before == "ever" or event.day >= day - int(before)) and (
                    after == "ever" or event.day <= day + int(after)
                )
            if inside and (how.value is None or self.bounded(how.value, event)):
                found.append(event)
        return found

    def bounded(self, bounds: Any, event: Event) -> bool:
        value = self.value(event, bounds.unit)
        low, high = bounds.at_least, bounds.at_most
        return value is not None and (low is None or value >= low) and (high is None or value <= high)

    def value(self, event: Event, unit: str | None) -> float | None:
        if event.value is None or unit is None:
            return event.value
        assert event.unit is not None
        factor = self.FACTORS[UNITS[event.unit], unit]
        return event.value if factor == 1.0 else event.value * factor

    def age(self, person: str, day: int) -> int | None:
        birth, at = self.given.people[person].birth, EPOCH + timedelta(days=day)
        if birth is None or birth > at:
            return None
        return at.year - birth.year - ((at.month, at.day) < (birth.month, birth.day))

    def holds(self, criterion: Any, person: str, day: int) -> bool:
        match criterion:
            case HasEvents(event=event):
                return len({found.day for found in self.events(event, person, day)}) >= event.at_least
            case HasSex(sex=sexes):
                return self.given.people[person].sex in sexes
            case HasAge(age=bounds):
                age = self.age(person, day)
                low, high = bounds.at_least or 0, 999 if bounds.at_most is None else bounds.at_most
                return age is not None and low <= age <= high
            case Observed(observed_days=days):
                return any(
                    event.person == person and event.day <= day - days
                    for events in self.given.events.values()
                    for event in events
                )
            case AllOf(all=inner):
                return all(self.holds(each, person, day) for each in inner)
            case AnyOf(any=inner):
                return any(self.holds(each, person, day) for each in inner)
            case NoneOf(none=inner):
                return not any(self.holds(each, person, day) for each in inner)
        raise AssertionError(criterion)

    def column(self, name: str, person: str, day: int) -> Any:
        how = self.cohort.columns[name]
        found = self.events(how, person, day) if isinstance(how, Events) else []
        at = EPOCH + timedelta(days=day)
        match how.take:
            case "person":
                return person
            case "sex":
                sex = self.given.people[person].sex
                return how.values.get(sex, sex)  # type: ignore[union-attr]
            case "age":
                return self.age(person, day)
            case "index":
                return at.year if how.part == "year" else at.month  # type: ignore[union-attr]
            case "count":
                return len({event.day for event in found})
            case "present":
                assert isinstance(how, TakePresent)
                return how.values[0 if len({event.day for event in found}) >= how.at_least else 1]
            case "days":
                days = [event.day - day for event in found]
                return (min(days) if how.pick == "first" else max(days)) if days else None  # type: ignore[union-attr]
        wanted = {
            "value": lambda e: self.value(e, self.units.get(name)),
            "code": lambda e: e.code,
            "text": lambda e: e.text,
        }
        pick, value = how.pick, wanted[how.take]  # type: ignore[union-attr]
        there = [(event.day, value(event)) for event in found if value(event) is not None]
        if not there:
            return None
        if pick in ("min", "max"):
            return (min if pick == "min" else max)(each for _, each in there)
        chosen = (min if pick == "first" else max)(on for on, _ in there)
        return min(
            (each for on, each in there if on == chosen),
            key=lambda x: x.encode() if isinstance(x, str) else x,
        )
