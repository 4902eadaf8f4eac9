"""Valid instances of our models, made from their annotations: seeds for parsers of messages and statements.

Rules
-----
1. A value is made from what the annotation demands: a pattern, a range, a length, one of some words. So a new
   model has seeds by being there.
2. What a model's own validator demands beyond that is in :data:`CONSISTENT`, and only that.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from random import Random
from re import _constants as regex  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from plasmid.core.clock import PATTERN, stamp
from plasmid.secagg.statements import Base64Bytes

Make = Callable[[Random], Any]
KEYS = [f"{number:064x}" for number in range(2, 40)]

CONSISTENT: dict[str, Callable[[dict[str, Any]], None]] = {}
"""By the model's name: changes its fields so that its own validator is content."""


def consistent(name: str) -> Callable[[Callable[[dict[str, Any]], None]], Callable[[dict[str, Any]], None]]:
    """Register what makes the fields of the model *name* consistent."""

    def keep(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        CONSISTENT[name] = change
        return change

    return keep


@consistent("Project")
def _project(values: dict[str, Any]) -> None:
    keys = iter(KEYS)
    for part in ("sites", "people"):
        values[part] = [
            member.model_copy(update={"name": f"{part}-{index}", "key": next(keys)})
            for index, member in enumerate(values[part])
        ]
    values["people"] = [
        person.model_copy(update={"roles": ["launch", "receive"]}) for person in values["people"]
    ]
    values |= {"first_day": "2026-01-01", "last_day": "2027-12-31"}


@consistent("Approval")
def _approval(values: dict[str, Any]) -> None:
    values |= {"signed_at": "2026-01-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z"}


@consistent("Attestation")
def _attestation(values: dict[str, Any]) -> None:
    kind = type(values["predicate"]).__name__.lower()
    values["predicateType"] = f"urn:plasmid:{kind}:1"
    subjects = {subject.name: subject for subject in values["subject"]}
    values["subject"] = [subjects[name] for name in sorted(subjects)]


def instance(model: type[BaseModel], random: Random) -> BaseModel:
    """Return a valid instance of *model*."""
    values = {name: _field(field, random) for name, field in model.model_fields.items()}
    CONSISTENT.get(model.__name__, lambda _: None)(values)
    return model.model_validate(values)


def _field(field: FieldInfo, random: Random) -> Any:
    return _value(
        Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation, random
    )


def _value(kind: Any, random: Random) -> Any:
    marks: list[Any] = []
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        marks = [*more, *marks]
    marks = [part for mark in marks for part in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
    origin = get_origin(kind)
    if origin is Literal:
        return random.choice(get_args(kind))
    if origin in (Union, types.UnionType):
        return _value(random.choice(get_args(kind)), random)
    low, high = _length(marks)
    if origin is list:
        return [
            _value(get_args(kind)[0], random) for _ in range(random.randint(max(low, 1), min(high, low + 3)))
        ]
    if origin is dict:
        of_key, of_value = get_args(kind)
        pairs = range(random.randint(low, min(high, low + 2)))
        return {str(_value(of_key, random)): _value(of_value, random) for _ in pairs}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return instance(kind, random)
    return _plain(kind, marks, random)


def _plain(kind: Any, marks: list[Any], random: Random) -> Any:
    if kind is str:
        pattern = next((mark.pattern for mark in marks if getattr(mark, "pattern", None)), None)
        if pattern is not None:
            return text_of(pattern.pattern if isinstance(pattern, re.Pattern) else pattern, random)
        low, high = _length(marks)
        return "".join(random.choice("abc xyz") for _ in range(random.randint(low, min(high, low + 12))))
    if kind is bytes:
        (form,) = (mark for mark in marks if isinstance(mark, Base64Bytes))
        return random.randbytes(form.low + form.step * random.randint(0, 2) if form.high else form.low)
    if kind is bool:
        return random.random() < 0.5
    if kind in (int, float):
        step = 1 if kind is int else 1e-6
        low, high = _range(marks, step)
        if kind is float:
            return random.uniform(low, high)
        low = max(low, min(0, high))  # far from zero only where it must be
        return random.randint(int(low), int(min(high, low + 50)))
    if kind is Any:
        return random.choice([None, 1, "text", [1, 2], {"a": 1}])
    assert kind is type(None), f"no instance of {kind}"
    return None


def _range(marks: Iterable[Any], step: float) -> tuple[float, float]:
    """Return the least and the greatest value, *step* within a bound that is none itself."""
    low, high = 0.0, 100.0
    for mark in marks:
        if isinstance(mark, annotated_types.Ge):
            low = mark.ge  # type: ignore[assignment]
        elif isinstance(mark, annotated_types.Gt):
            low = mark.gt + step  # type: ignore[operator]
        elif isinstance(mark, annotated_types.Le):
            high = mark.le  # type: ignore[assignment]
        elif isinstance(mark, annotated_types.Lt):
            high = mark.lt - step  # type: ignore[operator]
    return low, max(low, high)


def _length(marks: Iterable[Any]) -> tuple[int, int]:
    low, high = 0, 10**6
    for mark in marks:
        if isinstance(mark, annotated_types.Len | StringConstraints):
            low = mark.min_length or low
            high = high if mark.max_length is None else mark.max_length
        elif isinstance(mark, annotated_types.MinLen):
            low = mark.min_length
        elif isinstance(mark, annotated_types.MaxLen):
            high = mark.max_length
    return low, high


def text_of(pattern: str, random: Random) -> str:
    """Return a text that *pattern* matches; a time is one of the calendar."""
    if pattern == PATTERN:
        return stamp(datetime.fromtimestamp(random.randrange(10**9, 2 * 10**9), UTC))
    return _regex(_parser.parse(pattern), random)


def _regex(parsed: Any, random: Random) -> str:
    return "".join(_part(operation, argument, random) for operation, argument in parsed)


def _part(operation: Any, argument: Any, random: Random) -> str:
    if operation is regex.LITERAL:
        return chr(argument)
    if operation in (regex.NOT_LITERAL, regex.ANY):
        return "b"
    if operation is regex.IN:
        return _one_of(argument, random)
    if operation in (regex.MAX_REPEAT, regex.MIN_REPEAT):
        low, high, inner = argument
        times = random.randint(low, min(high, low + 6))
        return "".join(_regex(inner, random) for _ in range(times))
    if operation is regex.SUBPATTERN:
        return _regex(argument[3], random)
    if operation is regex.BRANCH:
        return _regex(random.choice(argument[1]), random)
    if operation is regex.AT:
        return ""
    raise AssertionError(f"no text for {operation}")


def _one_of(choices: Any, random: Random) -> str:
    if choices[0][0] is regex.NEGATE:
        return "b"
    operation, argument = random.choice(choices)
    if operation is regex.RANGE:
        return chr(random.randint(*argument))
    if operation is regex.CATEGORY:
        return {regex.CATEGORY_DIGIT: "7", regex.CATEGORY_WORD: "w", regex.CATEGORY_SPACE: " "}.get(
            argument, "S"
        )
    return chr(argument)
