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
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

import plasmid.data.transforms as package
from plasmid.core.errors import DataError
from plasmid.data.cells import to_text
from plasmid.recipes.columns import AnyColumn

MAX_LIST_BYTES = 256 * 2**20
"""The longest file of identifiers or names that is read."""


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
    """

    columns: Mapping[str, AnyColumn]
    patient: str | None
    folder: Path
    key: bytes = field(repr=False)


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
        """Prepare every step. Raises DataError with the problems of all of them."""
        problems: list[_Problem] = []
        for number, step in enumerate(self.steps):
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
        unknown, missing or of another kind.
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


def check_columns(columns: Iterable[str], place: Place) -> None:
    """Refuse columns that batches cannot hold. Raises DataError (``data.transform_column``)."""
    unknown = [name for name in columns if name not in place.columns]
    if unknown:
        told = ", ".join(f"{name!r}{suggestion(name, place.columns)}" for name in unknown)
        raise DataError(
            "data.transform_column",
            f"the contract has no column {told}.",
            "Name columns as the contract does, not as the local table does.",
        )


def person_column(named: str | None, place: Place, code: str, why: str) -> str:
    """Return the column that says whose a row is: *named*, or the document's patient column.

    Raises
    ------
    DataError
        *code*: there is none; *why* says what would happen.
    """
    column = named or place.patient
    if column is None:
        raise DataError(
            code,
            f"the document has no patient column, so {why}.",
            "Name the column in the transform's settings, or refuse documents without a patient column.",
        )
    if column not in place.columns:
        raise DataError(
            code,
            f"the contract has no column {column!r}{suggestion(column, place.columns)}, so {why}.",
            "Name the column that identifies people as the contract does.",
        )
    return column


def persons(batch: pa.RecordBatch, column: str, code: str) -> pa.StringArray:
    """Return the identifiers of *batch* as the contract compares them, null where there is none.

    Raises
    ------
    DataError
        *code*: the batch has no such column, or one that nothing was read into.
    """
    if column not in batch.schema.names or pa.types.is_null(batch.schema.field(column).type):
        raise DataError(
            code,
            f"the rows have no column {column!r}, which says whose they are.",
            "Map that column in the view, or take the transform out of it.",
        )
    text = to_text(batch.column(column))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def text_column(name: str, values: pa.Array, transform: str) -> pa.StringArray:
    """Return *values* as text; a column without any value is one of missing text.

    Raises
    ------
    DataError
        ``data.transform_type``: they are of another type.
    """
    if not is_text(values.type) and not pa.types.is_null(values.type):
        raise DataError(
            "data.transform_type",
            f"{transform} takes text, and column {name!r} holds {values.type}.",
            "Name columns of text, or have the source give that column as text.",
        )
    return values.cast(pa.string())


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of *kind* are text, in whichever of Arrow's layouts."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return inner in {pa.string(), pa.large_string(), pa.string_view()}


def replace_column(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    """Return *batch* with *values* in column *name*."""
    return batch.set_column(batch.schema.get_field_index(name), name, values)


def read_list(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Return the lines of the file *name* of the site's *folder*, blank ones left out, with their numbers.

    Raises
    ------
    DataError
        ``data.transform_file``: it is outside the folder, cannot be read, too long or not UTF-8.
    """
    path = (folder / name).resolve()
    why = ""
    content = ""
    if not path.is_relative_to(folder.resolve()):
        why = "it is outside the site's folder"
    else:
        try:
            if path.stat().st_size > MAX_LIST_BYTES:
                why = f"it is larger than {MAX_LIST_BYTES // 2**20} MiB"
            else:
                content = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            why = "it is not UTF-8"
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "its name is not a file's"
    if why:
        raise DataError(
            "data.transform_file", f"cannot read {name}: {why}.", "Put the list there, or correct its name."
        )
    lines = enumerate(content.splitlines(), start=1)
    return ((number, line.strip()) for number, line in lines if line.strip())


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


def _raise(problems: Sequence[_Problem]) -> None:
    if not problems:
        return
    some = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    told = [f"the view's transforms cannot be used ({some}):", *(problem.message for problem in problems)]
    hints = dict.fromkeys(problem.hint for problem in problems)
    raise DataError(problems[0].code, "\n  ".join(told), " ".join(hints))
