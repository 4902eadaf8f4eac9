"""SD files of small molecules (V2000 and V3000) as record batches, read by RDKit.

Rules
-----
1. A record is a molfile, then data items, then ``$$$$``: CTfile Formats, BIOVIA, 2020. Files are cut into
   records here, which gives every problem a record and a line; RDKit sees molfiles only. It takes those of a
   block together, which is faster; if it then refuses any, it is asked for each alone, and that counts.
2. ``smiles`` is RDKit's canonical isomeric SMILES of the sanitised molecule, hydrogens implicit. Salts and
   mixtures are kept as they are. A record without atoms has none: null.
3. ``inchikey`` costs as much as all the rest, so it is there only for who asks for it by name.
4. Every data item is a column of text, null where a record has none. An item whose name equals, letter case
   aside, that of a column above or of an earlier item is called ``field_`` and its name.
5. Molecules that RDKit refuses are counted to the end of the file and refused together: no row is dropped
   in silence. Whoever asks to be told instead gets all other rows.
6. RDKit's log, which quotes its input, is silent meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from plasmid.core.errors import DataError
from plasmid.data.source import BATCH_ROWS
from plasmid.data.sources.blocks import Block, Places, blocks, checked

MAX_RECORD_BYTES = 4 * 2**20
MAX_FIELDS = 1000
MAX_BATCH_BYTES = 32 * 2**20
"""A batch is handed on at this size, however few rows it has."""

_OWN = ("name", "smiles", "inchikey")
_END = "\n$$$$"
# Possessive, so that no line is gone through twice.
_LIKE_HEADER = re.compile(rb"\n(>[^\n]*+)")
_HEADER = re.compile(r"^>[^<\n]*+<([^\n]+)>[^<>\n]*+$", re.MULTILINE)
_ITEM = re.compile(_HEADER.pattern + r"\n((?:[^\S\n]*+\S[^\n]*+\n)*+)(?:[^\S\n]*+\n)*+", re.MULTILINE)
# With one line of text or none, then one blank line: as most are, and quickly checked.
_PLAIN_ITEM = re.compile(r">[^<\n]*+<([^<>\n]++)>[^<>\n]*+\n(?:[!-~][^\n]*+\n)?+\n")
_PLAIN_ITEMS = re.compile(rf"(?:{_PLAIN_ITEM.pattern})*+")
# An item, or a line that belongs to none.
_PART = re.compile(_ITEM.pattern + r"|^([^\n]*+)\n", re.MULTILINE)


def sd_columns(path: Path) -> dict[str, str]:
    """Return the columns that :func:`read_sd` yields of *path* -> their Arrow types.

    Reads the whole file, without RDKit.

    Raises
    ------
    DataError
        As :func:`plasmid.data.sources.blocks.blocks`; ``data.not_sd``.
    """
    return dict.fromkeys(_listed(_fields(path)), str(pa.string()))


def read_sd(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    left_out: Callable[[DataError], None] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the records of the SD file *path*.

    Parameters
    ----------
    columns
        Which, in this order: those of :func:`sd_columns`, and ``inchikey``. None is all but that. Without
        ``smiles`` and ``inchikey`` no molecule is looked at.
    left_out
        Is given ``data.molecule_invalid``, after the last record; the refused ones are left out. None raises
        it.

    Raises
    ------
    DataError
        As :func:`plasmid.data.sources.blocks.blocks`; ``data.not_sd``; ``data.molecule_invalid``, after the
        last record; ``data.source_table``: there is no such column; ``data.library_missing``: RDKit.
    """
    # The pass that finds their names is spared where none is asked for.
    fields = {} if columns is not None and set(columns) <= set(_OWN) else _fields(path)
    listed = _listed(fields)
    wanted = listed if columns is None else list(columns)
    strange = [name for name in wanted if name not in listed and name != "inchikey"]
    if strange:
        raise DataError(
            "data.source_table",
            f"{path} has no column {strange[0]!r}.",
            f"It has {', '.join(listed[:50])}{' ...' if len(listed) > 50 else ''}, and inchikey.",
        )
    parse = _Molecules(
        path, smiles="smiles" in wanted, inchikey="inchikey" in wanted, goes_on=left_out is not None
    )
    schema = pa.schema([(name, pa.string()) for name in wanted])
    rows: list[dict[str, str | None]] = []
    size = 0
    for records in _records(path, values=bool(fields)):
        for record, found in zip(records, parse(records), strict=False):  # may end before one that is refused
            if found is None:
                continue
            row = found | {fields[name]: text for name, text in record.fields.items()} if fields else found
            row["name"] = record.molfile.split("\n", 1)[0].strip()
            rows.append(row)
            size += record.size
            if len(rows) == BATCH_ROWS or size > MAX_BATCH_BYTES:
                yield _batch(rows, schema)
                rows, size = [], 0
    if (refused := parse.refusal()) is not None:
        if left_out is None:
            raise refused
        left_out(refused)
    if rows:
        yield _batch(rows, schema)


def _batch(rows: Sequence[Mapping[str, str | None]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {name: [row.get(name) for row in rows] for name in schema.names}, schema
    )


def _listed(fields: Mapping[str, str]) -> list[str]:
    return ["name", "smiles", *fields.values()]


def _fields(path: Path) -> dict[str, str]:
    """Return the names of all data items -> their columns, in the order in which they first appear.

    A line of text that looks like an item's header counts as one here: its column is null throughout.
    """
    found: dict[str, str] = {}
    taken = {name.casefold() for name in _OWN}
    for block in blocks(path, _whole, most=MAX_RECORD_BYTES):
        for header in dict.fromkeys(_LIKE_HEADER.findall(bytes(checked(path, block).letters))):
            match = _HEADER.match(header.decode("utf-8").rstrip())
            if match is None or (name := match[1].strip()) in found:
                continue  # reading the records tells what is wrong
            column = name
            while column.casefold() in taken:
                column = f"field_{column}"
            taken.add(column.casefold())
            found[name] = column
        if len(found) > MAX_FIELDS:
            raise DataError(
                "data.not_sd",
                f"{path}: more than {MAX_FIELDS} different data items up to line "
                f"{block.line + len(block.breaks)}.",
                "Leave out items that are not needed.",
            )
    return found


class _Record(NamedTuple):
    """One record: its number and first line, from 1, its molfile with ``M  END``, data items, characters."""

    number: int
    line: int
    molfile: str
    fields: dict[str, str]
    size: int


def _records(path: Path, *, values: bool) -> Iterator[list[_Record]]:
    """Yield the records of *path*, a block's together; without *values*, data items are only checked."""
    number = 0
    for block in blocks(path, _whole, most=MAX_RECORD_BYTES):
        text, line, place = _text(checked(path, block)), block.line, 0
        found: list[_Record] = []
        while (end := text.find(_END, place)) >= 0:
            number += 1
            found.append(_record(path, number, line, text, place, end + 1, values=values))
            after = text.index("\n", end + len(_END)) + 1
            line += text.count("\n", place, after)
            place = after
        if text[place:].strip():
            raise _error(path, number + 1, line, "no $$$$ ends this record; the file may be cut off")
        yield found


def _text(block: Block) -> str:
    text = bytes(block.letters).decode("utf-8")
    return text.replace("\r\n", "\n") if "\r" in text else text


def _whole(buffer: bytearray, filled: int, breaks: Places) -> int:
    place = buffer.rfind(_END.encode(), 0, filled)
    following = int(np.searchsorted(breaks, place, side="right"))
    if place < 0 or following == len(breaks):  # none, or its line goes on
        place = buffer.rfind(_END.encode(), 0, max(place, 0))
        following = int(np.searchsorted(breaks, place, side="right"))
    return int(breaks[following]) + 1 if place >= 0 else 0


def _record(path: Path, number: int, line: int, text: str, start: int, stop: int, *, values: bool) -> _Record:
    """Return the record at *start* of *text*, whose ``$$$$`` is at *stop*."""
    end = text.find("\nM  END", start, stop)
    if end < 0:
        raise _error(path, number, line, "a record without the line 'M  END'")
    end = text.index("\n", end + 1) + 1
    fields: dict[str, str] = {}
    if values or not _are_plain(text, end, stop):
        parts = _PART.findall(text, end, stop)
        fields = {name.strip(): value[:-1] for name, value, _ in parts if name}
        if len(fields) < len(parts):  # blank lines before the first item, or a problem
            _check_items(path, number, line, text[start:stop], end - start)
    return _Record(number, line, text[start:end], fields, stop - start)


def _are_plain(text: str, start: int, stop: int) -> bool:
    """Return whether what is there are data items of the usual form and of different names."""
    if not _PLAIN_ITEMS.fullmatch(text, start, stop):
        return False
    names = _PLAIN_ITEM.findall(text, start, stop)
    return len(set(map(str.strip, names))) == len(names)


def _check_items(path: Path, number: int, line: int, text: str, place: int) -> None:
    """Raise DataError if, from *place* on, *text* is not data items of different names, and blank lines."""
    names: set[str] = set()
    for part in _PART.finditer(text, place):
        name, _, stray = part.groups()
        where = line + text.count("\n", 0, part.start())
        if name is None:
            if not stray.strip():
                continue
            raise _error(
                path, number, where, "a line that belongs to no data item, or a data item without <name>"
            )
        if name.strip() in names:
            raise _error(path, number, where, "a data item that the record has already")
        names.add(name.strip())


def _error(path: Path, number: int, line: int, what: str) -> DataError:
    return DataError(
        "data.not_sd",
        f"{path}: record {number}, line {line}: {what}.",
        "A record is a molfile up to 'M  END', then items of '> <name>', lines of text and a blank line, "
        "then a line '$$$$'.",
    )


class _Molecules:
    """Molfiles to identifiers, and the count of those that RDKit refuses."""

    def __init__(self, path: Path, *, smiles: bool, inchikey: bool, goes_on: bool) -> None:
        self.refused = 0
        self._goes_on = goes_on
        self._path, self._smiles, self._inchikey = path, smiles, inchikey
        self._first: _Record | None = None
        self._chem: Any = None
        self._supplier: Any = None
        self._block_logs: Any = None
        if smiles or inchikey:
            self._load()

    def _load(self) -> None:
        try:
            from rdkit import Chem
            from rdkit.rdBase import BlockLogs
        except ImportError:
            raise DataError(
                "data.library_missing",
                f"{self._path} is an SD file, and RDKit is not installed.",
                "Install plasmid with its extra 'molecules'.",
            ) from None
        self._chem, self._block_logs, self._supplier = Chem, BlockLogs, Chem.SDMolSupplier()

    def __call__(self, records: Sequence[_Record]) -> list[dict[str, str | None] | None]:
        """Return what is wanted of ``smiles`` and ``inchikey`` of each: null without atoms.

        A refused molecule is None, if it *goes on*; else the list ends before it, and all later ones are
        empty.
        """
        if self._chem is None:
            return [{} for _ in records]
        with self._block_logs():
            found = None if self.refused and not self._goes_on else self._together(records)
            return self._alone(records) if found is None else found

    def _together(self, records: Sequence[_Record]) -> list[dict[str, str | None] | None] | None:
        """Return the same, or None where one by one is the only way to know which is refused."""
        # A damaged one could take its neighbour with it, and a name could end it: then the numbers differ.
        if any(record.molfile.startswith("$$$$") for record in records):
            return None
        self._supplier.SetData("$$$$\n".join([*(record.molfile for record in records), ""]))
        found: list[dict[str, str | None] | None] = []
        try:
            for molecule in self._supplier:
                if molecule is None:
                    return None
                found.append(self._of(molecule))
        except (RuntimeError, ValueError):
            return None
        return found if len(found) == len(records) else None

    def _alone(self, records: Sequence[_Record]) -> list[dict[str, str | None] | None]:
        found: list[dict[str, str | None] | None] = []
        for record in records:
            try:
                molecule = self._chem.MolFromMolBlock(record.molfile)
                known = None if molecule is None else self._of(molecule)
            except (RuntimeError, ValueError):
                known = None
            if known is None:
                self.refused += 1
                self._first = self._first or record
            if self._goes_on or not self.refused:
                found.append(known)
        return found

    def _of(self, molecule: Any) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        atoms = molecule.GetNumAtoms()
        if self._smiles:
            found["smiles"] = self._chem.MolToSmiles(molecule) if atoms else None
        if self._inchikey:
            found["inchikey"] = (self._chem.MolToInchiKey(molecule) or None) if atoms else None
        return found

    def refusal(self) -> DataError | None:
        """Return what is to be said of the refused molecules, None if there are none."""
        if self._first is None:
            return None
        return DataError(
            "data.molecule_invalid",
            f"{self._path}: RDKit cannot read {self.refused} "
            f"molecule{'s' if self.refused > 1 else ''}, first record {self._first.number}, "
            f"line {self._first.line}.",
            "Correct those records or leave them out; valences and aromatic bonds are usual causes.",
        )
