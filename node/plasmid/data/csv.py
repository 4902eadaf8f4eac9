"""A site's CSV file becomes a table, or an error that lists every problem.

Rules
-----
1. Only the contract's columns are kept; the rest of the file is not looked at.
2. Problems are counted by column and kind, with the line of the first one, and told together; the error's
   code is that of the first problem listed. No problem, notice or cause ever holds a cell.
3. A header cell is repeated only where it is nearly the name of a column of the contract: a file without a
   header line must not have its first row shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plasmid.core.errors import DataError
from plasmid.data.cells import Finding, read_cell
from plasmid.data.table import Table
from plasmid.models.specs import Cell
from plasmid.recipes.columns import AnyColumn, Contract, IdentifierColumn, LabelColumn, ProteinColumn
from plasmid.recipes.rows import open_csv

_HINTS = {
    "data.column_missing": "Rename the columns to the contract's names.",
    "data.column_repeated": "Keep one column of each name.",
    "data.ragged_row": "Give every row as many cells as the header, and quote cells that hold commas.",
    "data.missing_value": "Fill the cells in or leave those rows out.",
    "data.residue_invalid": "Use the 20 one-letter codes; leave out rows with X, *, gaps or other letters.",
    "data.too_long": "Shorten or leave out those rows, or raise the limit in the recipe.",
    "data.label_unknown": "A label must equal one of the task's labels exactly: '1.0' is not '1'.",
    "data.not_a_number": "Write decimal numbers, with a point and without units.",
    "data.number_out_of_bounds": "Correct those cells, or the bounds in the recipe.",
}


def read_table(path: Path, contract: Contract, *, labels: bool = True) -> Table:
    """Return the contract's columns of the CSV file *path*, validated.

    Parameters
    ----------
    labels
        False leaves label and identifier columns out: for tables that are to be predicted.

    Returns
    -------
    Table
        Columns in the contract's order: text, numbers (float), or None where a cell is missing.

    Raises
    ------
    DataError
        As :func:`plasmid.recipes.rows.open_csv`; ``data.column_missing``, ``data.column_repeated``,
        ``data.ragged_row``, ``data.too_many_rows``, ``data.empty`` (no rows), ``data.missing_value``,
        ``data.residue_invalid``, ``data.too_long``, ``data.label_unknown``, ``data.not_a_number``,
        ``data.number_out_of_bounds``.
    """
    wanted = {
        name: column
        for name, column in contract.columns.items()
        if labels or not isinstance(column, LabelColumn | IdentifierColumn)
    }
    tally = _Tally()
    with open_csv(path) as file:
        places = _places(file.header, wanted, tally)
        values: dict[str, list[Cell]] = {name: [] for name in wanted}
        rows = _read(file.rows, len(file.header), wanted, places, values, contract, tally, path)
    tally.raise_if_errors(path, wanted)
    if rows == 0:
        raise DataError(
            "data.empty", f"{path} has a header and no rows.", "A site needs at least one row to take part."
        )
    return Table(values, rows, tally.notices(wanted))


def _places(header: list[str], wanted: Mapping[str, AnyColumn], tally: _Tally) -> dict[str, int | None]:
    places: dict[str, int | None] = {}
    for name, column in wanted.items():
        count = header.count(name)
        places[name] = header.index(name) if count else None
        if count > 1:
            tally.problem("data.column_repeated", f"column {name!r} is in the header {count} times")
        elif not count and column.required:
            free = {other.casefold(): other for other in header if other not in wanted}
            close = difflib.get_close_matches(name.casefold(), free, 1, cutoff=0.75)
            tally.problem(
                "data.column_missing",
                f"column {name!r} is missing" + (f" (is it the column {free[close[0]]!r}?)" if close else ""),
            )
    return places


def _read(
    lines: Iterable[tuple[int, list[str]]],
    width: int,
    wanted: Mapping[str, AnyColumn],
    places: Mapping[str, int | None],
    values: dict[str, list[Cell]],
    contract: Contract,
    tally: _Tally,
    path: Path,
) -> int:
    labels = frozenset(contract.labels)
    rows = 0
    for line, cells in lines:
        rows += 1
        if rows > contract.max_rows:
            raise DataError(
                "data.too_many_rows",
                f"{path} has more than {contract.max_rows} rows, the most that the contract takes.",
                "Leave rows out, or raise max_rows in the recipe.",
            )
        if len(cells) != width:
            tally.add("", "data.ragged_row", line)
            continue
        for name, column in wanted.items():
            place = places[name]
            value, finding = (None, None) if place is None else read_cell(cells[place], column, labels)
            values[name].append(value)
            if finding is not None:
                tally.add(name, finding.value, line)
    return rows


@dataclass
class _Tally:
    """Problems and notices: sentences, and counts with the first line by (column, code)."""

    sentences: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def problem(self, code: str, sentence: str) -> None:
        self.sentences.append((code, sentence))

    def add(self, column: str, code: str, line: int) -> None:
        self.counts.setdefault((column, code), [0, line])[0] += 1

    def raise_if_errors(self, path: Path, wanted: Mapping[str, AnyColumn]) -> None:
        found = list(self.sentences)
        for (name, code), (count, line) in self.counts.items():
            if code.startswith("data."):
                found.append((code, _sentence(name, code, count, line, wanted.get(name))))
        if not found:
            return
        codes = list(dict.fromkeys(code for code, _ in found))
        some = f"{len(found)} problems" if len(found) > 1 else "a problem"
        raise DataError(
            codes[0],
            "\n  ".join([f"{path} does not meet the data contract ({some}):", *(text for _, text in found)]),
            " ".join(_HINTS[code] for code in codes),
        )

    def notices(self, wanted: Mapping[str, AnyColumn]) -> tuple[str, ...]:
        return tuple(
            _sentence(name, code, count, line, wanted.get(name))
            for (name, code), (count, line) in self.counts.items()
            if code.startswith("notice.")
        )


def _sentence(name: str, code: str, count: int, line: int, column: AnyColumn | None) -> str:
    where = f"(first at line {line})"
    if code == "data.ragged_row":
        return f"{_count(count, 'row')} with another number of cells than the header {where}"
    limit = column.max_length if isinstance(column, ProteinColumn) else getattr(column, "max_characters", 0)
    unit = "residues" if isinstance(column, ProteinColumn) else "characters"
    bounds = getattr(column, "bounds", (0.0, 0.0))
    what = {
        Finding.missing_value: "missing",
        Finding.residue_invalid: "with a letter that is not one of the 20 amino acids",
        Finding.too_long: f"longer than {limit} {unit}",
        Finding.label_unknown: "not one of the task's labels",
        Finding.not_a_number: "not a whole number" if getattr(column, "integer", False) else "not a number",
        Finding.number_out_of_bounds: f"outside {bounds[0]:g} to {bounds[1]:g}",
        Finding.cut: f"cut to their first {limit} {unit}",
        Finding.unseen: "outside the vocabulary, so the model sees them as 'unseen'",
    }[Finding(code)]
    return f"column {name!r}: {_count(count, 'value')} {what} {where}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
