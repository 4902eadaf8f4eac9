"""The way of rows from a source to the contract: query, mapping, transforms, checks, all of it counted.

    source -> one SELECT -> mapping (codes, units, dates) -> transforms -> checks -> batches

Rules
-----
1. Everything is a stream of batches; what is kept are counts.
2. All problems are told together, when the last row has been read; until then nothing counts as read. Under
   a privacy unit rows with a problem are left out instead, and neither their number nor that of all rows
   refuses anything.
3. A column of the contract that is found nowhere is told with the local name that is nearly its own.
4. Rows that a recipe holds out follow from its seed and the person (or the row's content) alone: the same
   person is held out at every site, through every connector.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import pyarrow as pa
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.compile import compile_rows
from plasmid.data.findings import HINTS, Tally, counted
from plasmid.data.parsing import Finding, Mask, check_column, fit_residue_labels
from plasmid.data.settings import ColumnMap, TableMap
from plasmid.data.source import Source
from plasmid.data.transforms.base import Chain
from plasmid.data.views.mapping import convert
from plasmid.recipes.columns import AnyColumn, Contract, ResidueLabelsColumn
from plasmid.recipes.schema import Holdout

Watch = Callable[[pa.RecordBatch, pa.RecordBatch, dict[str, dict[Finding, Mask]]], None]
_ROW = "\x00row"
SLICE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Query:
    """What is asked of a source.

    Attributes
    ----------
    select
        Its columns are called as the contract's.
    conversions
        What is still to be done to values, by contract column.
    table
        The local table whose rows those of the answer are; empty where they are made of several.
    """

    select: exp.Select
    conversions: Mapping[str, ColumnMap] = field(default_factory=dict)
    table: str = ""


class Rows:
    """The rows of one query under a contract. Iterate once, to the end; then ask for what was found.

    Parameters
    ----------
    what
        What messages call the rows: a file, or a view.
    wanted
        The columns of the contract that are read.
    transforms
        Ready to be applied; None for none.
    watch
        Called with each batch as it is handed to the checks, its checked columns, and the findings of each
        column.

    Attributes
    ----------
    notices
        Sentences for the owner, once all is read.
    read
        Rows that came from the source so far.
    kept
        Rows that transforms, and where rows are left out the contract, have let through so far.
    """

    def __init__(
        self,
        source: Source,
        query: Query,
        what: str,
        wanted: Mapping[str, AnyColumn],
        contract: Contract,
        *,
        transforms: Chain | None = None,
        tally: Tally | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._source, self._query, self._what = source, query, what
        self._wanted, self._contract = wanted, contract
        self._transforms, self._tally = transforms, tally or Tally()
        self._watch = watch
        self.notices: tuple[str, ...] = ()
        self.read = 0
        self.kept = 0
        self._left_out = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield batches of the wanted columns: string or float64, checked.

        Raises
        ------
        DataError
            As the source's ``select``; every problem of the rows, told at the end; ``data.too_many_rows``;
            ``data.empty``; ``data.source_value``: a column of lists or bytes.
        """
        for batch in self._source.select(self._query.select):
            for part in _parts(batch):
                checked = self._checked(part)
                if self.kept > self._contract.max_rows and not self._tally.leaves_out:
                    raise DataError(
                        "data.too_many_rows",
                        f"{self._what} has more than {self._contract.max_rows} rows, the most that the "
                        "contract takes.",
                        "Leave rows out, or raise max_rows in the recipe.",
                    )
                if checked.num_rows and not self._tally.refuses:
                    yield checked
        troubles = self._source.troubles()
        self._tally.raise_if_errors(self._what, self._wanted, self._locate, troubles)
        if not self.kept and not self._tally.leaves_out:
            raise DataError(
                "data.empty",
                f"{self._what} has no rows."
                if not self.read
                else f"{self._what} has no rows that may be used.",
                "A site needs at least one row to take part.",
            )
        told = [one.sentence for one in troubles if self._tally.leaves_out or one.code.startswith("notice.")]
        if self._left_out:
            told.append(f"{counted(self._left_out, 'row')} left out for a problem: there is a privacy unit")
        self.notices = (*self._tally.notices(self._wanted, self._locate), *told)

    def _checked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = np.arange(self.read, self.read + batch.num_rows)
        self.read += batch.num_rows
        columns = {name: batch.column(name) for name in batch.schema.names}
        for name, cells in columns.items():
            if pa.types.is_nested(cells.type) or _is_bytes(cells.type):
                raise DataError(
                    "data.source_value",
                    f"{self._what}: column {name!r} holds values of the type {cells.type}, and a cell is "
                    "text, a number or a date.",
                    "Have the source give that column as text.",
                )
        told: dict[str, Mask] = {
            name: np.ones(len(numbers), bool) for name in self._wanted if name not in columns
        }
        unmapped: list[tuple[str, str, Mask]] = []
        for name, how in self._query.conversions.items():
            columns[name], unread = convert(columns[name], how, self._wanted[name])
            for code, mask in unread.items():
                unmapped.append((name, code, mask))
                told[name] = np.logical_or(told.get(name, False), mask)
        for name in self._wanted:
            columns.setdefault(name, pa.nulls(batch.num_rows))
        numbers_before = numbers
        changed = pa.RecordBatch.from_pydict({**columns, _ROW: pa.array(numbers)})
        if self._transforms is not None:
            changed = self._transforms.apply(changed)
        numbers = changed.column(_ROW).to_numpy()
        bad = np.zeros(len(numbers), bool)
        for name, code, mask in unmapped:  # of rows that a transform took out nothing is to be told
            self._tally.add(name, code, mask & np.isin(numbers_before, numbers), numbers_before)
            bad |= np.isin(numbers, numbers_before[mask])
        values, findings = {}, {}
        found = {
            name: check_column(changed.column(name), column, self._contract.labels)
            for name, column in self._wanted.items()
        }
        for name, column in self._wanted.items():
            checked = found[name]
            if isinstance(column, ResidueLabelsColumn) and column.of in found:
                checked = fit_residue_labels(checked, changed.column(column.of), found[column.of])
            values[name] = checked.values
            findings[name] = checked.findings
            for finding, mask in checked.findings.items():
                if finding is Finding.missing_value and name in told:
                    mask = mask & ~np.isin(numbers, numbers_before[told[name]])
                self._tally.add(name, finding.value, mask, numbers)
                bad |= mask & finding.is_error
        valid = pa.RecordBatch.from_pydict(values)
        if self._watch is not None:
            self._watch(changed, valid, findings)
        if self._tally.leaves_out and bad.any():
            self._left_out += int(bad.sum())
            valid = valid.filter(pa.array(~bad))
        self.kept += valid.num_rows
        return valid

    def _locate(self, row: int) -> str:
        if self._query.table:
            return self._source.locate(self._query.table, row)
        return f"row {row + 1} of the cohort"


def flat_query(source: Source, mapped: TableMap, wanted: Mapping[str, AnyColumn], tally: Tally) -> Query:
    """Return the projection of one local table to the *wanted* columns.

    Parameters
    ----------
    mapped
        The table, and how its columns become the contract's; one that it does not name has the same name.
    tally
        Is told of columns that are missing or repeated.

    Raises
    ------
    DataError
        ``data.source_table``: there is no such table; what *tally* holds, where no column is there.
    """
    tables, table = source.tables(), mapped.table
    if table not in tables:
        close = difflib.get_close_matches(table, tables, 1)
        raise DataError(
            "data.source_table",
            f"there is no table {table!r}" + (f" (is it {close[0]!r}?)." if close else "."),
            "'plasmid data connect' lists the tables of a connection.",
        )
    local, found = tables[table], dict(wanted)
    for name, column in wanted.items():
        how = mapped.column(name) or ColumnMap(column=name)
        if local.repeated.get(how.column):
            times = local.repeated[how.column]
            tally.problem("data.column_repeated", f"column {how.column!r} is in the header {times} times")
        elif how.column in local.columns:
            continue
        elif column.required or mapped.column(name):
            free = {other.casefold(): other for other in local.columns if other not in wanted}
            close = difflib.get_close_matches(how.column.casefold(), free, 1, cutoff=0.75)
            near = f" (is it the column {free[close[0]]!r}?)" if close else ""
            tally.problem("data.column_missing", f"column {how.column!r} is missing{near}")
        del found[name]
    if not found:
        tally.raise_if_errors(f"table {table!r}", wanted, lambda row: f"row {row + 1}", [])
        raise DataError(
            "data.column_missing",
            f"table {table!r} has no column of the contract.",
            HINTS["data.column_missing"],
        )
    own = {name: how for name, how in mapped.columns.items() if name in found}
    compiled = compile_rows(found, mapped.model_copy(update={"columns": own}), source.dialect, local.columns)
    return Query(compiled.select, compiled.conversions, table)


def wanted_columns(contract: Contract, *, labels: bool) -> dict[str, AnyColumn]:
    """Return the columns to read; without *labels* no label and no identifier, as in prediction."""
    return {name: column for name, column in contract.columns.items() if labels or contract.is_given(name)}


def held_out(batch: pa.RecordBatch, keys: list[bytes], holdout: Holdout, patient: str | None) -> pa.Array:
    """Return which rows of *batch* are held out, bool [rows]; *keys* are those of
    :func:`plasmid.data.snapshot.row_keys`."""
    if holdout.by == "patient":
        assert patient is not None, "the schema asks for it"
        names = batch.column(patient).to_pylist()
        keys = [row if name is None else str(name).encode() for name, row in zip(names, keys, strict=True)]
    salt = f"{holdout.seed}|".encode()
    limit = int(holdout.share * 2**64)
    return pa.array(
        [int.from_bytes(sha256(salt + key).digest()[:8], "big") < limit for key in keys], pa.bool_()
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield *batch* in slices of bounded size."""
    rows = max(1, int(batch.num_rows * SLICE_BYTES // max(1, batch.nbytes)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
