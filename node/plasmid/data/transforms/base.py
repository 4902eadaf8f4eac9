"""What a transform of a view is, and how a view's list of them is loaded, prepared and run.

Rules
-----
1. A transform is a module of this package, found by its name; one whose name begins with an underscore, and
   this one, are none. It holds ``Settings``, a strict model, and ``Step``, a :class:`Transform`.
2. Transforms run in the order of the view's file, on batches of raw cells under the contract's column names,
   before any cell is checked under the contract.
3. What a transform cannot do, it refuses: it never hands on a row that its sentence says is changed.
4. Counts and sentences hold names and numbers, never a cell. Counts are true ones: they are for the owner and
   his log.
5. Problems of all transforms are told together; the error's code is that of the first.
6. **A transform states its stability**: how many units of its output change, at most, where one unit of its
   input is added or removed. One that states none is refused. Noise is for one unit: where a recipe protects
   records or patients, all but 1 is refused. Stability of 1 each makes 1 for all of them together.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow as pa
from pydantic import BaseModel, ValidationError

import plasmid.data.transforms as package
from plasmid.core.errors import DataError
from plasmid.recipes.columns import AnyColumn
from plasmid.recipes.protection import Unit

COUPLED: tuple[Unit, ...] = ("record", "patient")
"""The units of which a site holds many: what one of them changes in another's rows is nobody's noise."""


@dataclass(frozen=True)
class Place:
    """Where a transform works.

    Attributes
    ----------
    columns
        The columns that the batches may hold, by name.
    patient
        The column that says whose a row is; None where the document has none.
    folder
        The site's folder; files that settings name are in it.
    key
        The site's secret for keyed digests, 32 bytes.
    unit
        What the document protects. Under one, a row that a step cannot do is left out and counted: an error
        would tell that it is there.
    """

    columns: Mapping[str, AnyColumn]
    patient: str | None
    folder: Path
    key: bytes = field(repr=False)
    unit: Unit = "none"


class Transform(Protocol):
    """One step. It is used for one reading of one view, by one thread.

    Attributes
    ----------
    name
        What a view's file calls it.
    """

    name: str

    def describe(self) -> str:
        """Return one plain sentence about what it does, for those who approve the view."""

    def stability(self, place: Place) -> int | None:
        """Return how many units of *place* one added or removed unit changes, itself included; None: any.

        Only asked where ``place.unit`` is ``record`` or ``patient``.
        """

    def prepare(self, place: Place) -> None:
        """Get ready for batches of *place*. Raises DataError: the settings do not fit the place."""

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return *batch* as it is after this step. Raises DataError: the step cannot be done."""

    def counts(self) -> dict[str, int]:
        """Return what has been done up to now, in words and numbers."""


@dataclass(frozen=True)
class _Problem:
    code: str
    message: str
    hint: str


class Chain:
    """The transforms of a view, in order."""

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = tuple(steps)

    def describe(self) -> list[str]:
        """Return a sentence for each step."""
        return [step.describe() for step in self.steps]

    def prepare(self, place: Place) -> None:
        """Prepare every step.

        Raises
        ------
        DataError
            The problems of all of them; ``data.transform_unstable``: under the place's unit, a step couples
            units.
        """
        problems: list[_Problem] = []
        for number, step in enumerate(self.steps):
            if place.unit in COUPLED and (changed := step.stability(place)) != 1:
                problems.append(_unstable(f"transforms.{number}.{step.name}", changed, place.unit))
            try:
                step.prepare(place)
            except DataError as error:
                told = f"transforms.{number}.{step.name}: {error.message.removesuffix('.')}"
                problems.append(_Problem(error.code, told, error.hint))
        _raise(problems)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return *batch* after all steps."""
        for step in self.steps:
            batch = step.apply(batch)
        return batch

    def counts(self) -> list[tuple[str, dict[str, int]]]:
        """Return the name and the counts of each step."""
        return [(step.name, step.counts()) for step in self.steps]


def names() -> list[str]:
    """Return the names of all transforms."""
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if name != "base" and not name.startswith("_"))


def load(name: str, settings: Mapping[str, Any]) -> Transform:
    """Return the transform *name* with *settings*.

    Raises
    ------
    DataError
        ``data.transform_unknown``: there is none of that name; ``data.transform_settings``: a setting is
        unknown, missing or of another kind; ``data.transform_unstable``: it states no stability.
    """
    return load_all([{name: settings}]).steps[0]


def load_all(steps: Iterable[Mapping[str, Mapping[str, Any]]]) -> Chain:
    """Return the transforms that a view's file lists. Raises DataError as :func:`load`, for all of them."""
    problems: list[_Problem] = []
    loaded: list[Transform] = []
    for number, step in enumerate(steps):
        for name, settings in step.items():
            if name in names():
                module = importlib.import_module(f"{package.__name__}.{name}")
                if not hasattr(module.Step, "stability"):
                    problems.append(_unstated(f"transforms.{number}.{name}"))
                    continue
                try:
                    loaded.append(cast(Transform, module.Step(module.Settings(**settings))))
                except ValidationError as error:
                    problems += _settings_problems(f"transforms.{number}.{name}", module.Settings, error)
            else:
                problems.append(
                    _Problem(
                        "data.transform_unknown",
                        f"transforms.{number}: there is no transform {name!r}{suggestion(name, names())}",
                        f"The transforms are {', '.join(names())}.",
                    )
                )
    _raise(problems)
    return Chain(loaded)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)``, or nothing where no *known* name is near *name*."""
    close = difflib.get_close_matches(name, list(known), 1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _settings_problems(where: str, model: type[BaseModel], error: ValidationError) -> list[_Problem]:
    problems = []
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join([where, *(str(part) for part in found["loc"])])
        if found["type"] == "extra_forbidden":
            what = f"no such setting{suggestion(str(found['loc'][-1]), model.model_fields)}"
        else:
            what = found["msg"][0].lower() + found["msg"][1:]
        hint = "Correct those settings in the view's file."
        problems.append(_Problem("data.transform_settings", f"{place}: {what}", hint))
    return problems


def _unstable(where: str, changed: int | None, unit: Unit) -> _Problem:
    many = "any number" if changed is None else str(changed)
    return _Problem(
        "data.transform_unstable",
        f"{where}: one added {unit} changes {many} of the {unit}s that it hands on, and noise is for one",
        f"Take it out of the view: under unit: {unit}, what is done to a {unit}'s rows may follow from these "
        "rows alone.",
    )


def _unstated(where: str) -> _Problem:
    what = f"{where}: it does not say how many units of its output one unit of its input can change"
    return _Problem("data.transform_unstable", what, "Give its Step the method stability; see base.py.")


def _raise(problems: Sequence[_Problem]) -> None:
    if not problems:
        return
    some = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    told = [f"the view's transforms cannot be used ({some}):", *(problem.message for problem in problems)]
    hints = dict.fromkeys(problem.hint for problem in problems)
    raise DataError(problems[0].code, "\n  ".join(told), " ".join(hints))
