"""A column of cells under its contract: values, and which rows have what wrong with them.

Rules
-----
1. Whole columns at a time, in Arrow's kernels; any Arrow type comes in, text (string) or numbers (float64)
   with nulls for what is missing come out.
2. A cell is compared after stripping blanks. Numbers that are not text already are taken as they are: a whole
   number becomes the text of an integer where the contract wants text.
3. Decimal numbers become the nearest double of their decimal text, so that the same number is the same value
   whichever connector brings it.
4. Pure: no file, no message, and no exception that could carry a cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from plasmid.recipes.columns import (
    NUCLEOTIDES,
    RESIDUES,
    SMILES_CHARACTERS,
    AnyColumn,
    CategoryColumn,
    IdentifierColumn,
    LabelColumn,
    MoleculeColumn,
    NucleotideColumn,
    NumberColumn,
    ProteinColumn,
    ResidueLabelsColumn,
    SequenceColumn,
    TextColumn,
)

_BLANKS = r"[\s\x0b\x1c-\x1f\x{85}\p{Z}]+"
_NUMBER = r"^[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_LONGEST_NUMBER = 400
_RESIDUES = f"^[{''.join(sorted(RESIDUES))}]*$"
_NUCLEOTIDES = f"^[{''.join(sorted(NUCLEOTIDES))}]*$"


def _one_of(letters: Iterable[str]) -> str:
    """Return the regular expression of texts of these ASCII *letters*."""
    return "^[" + "".join(one if one.isalnum() else f"\\{one}" for one in sorted(letters)) + "]*$"


_SMILES = _one_of(SMILES_CHARACTERS)

Mask = NDArray[np.bool_]


class Finding(StrEnum):
    """What is to be told about a cell; the first group are errors, the second notices."""

    missing_value = "data.missing_value"
    residue_invalid = "data.residue_invalid"
    nucleotide_invalid = "data.nucleotide_invalid"
    molecule_characters = "data.molecule_characters"
    too_long = "data.too_long"
    label_unknown = "data.label_unknown"
    residue_label_unknown = "data.residue_label_unknown"
    residue_labels_length = "data.residue_labels_length"
    not_a_number = "data.not_a_number"
    number_out_of_bounds = "data.number_out_of_bounds"

    cut = "notice.cut"
    unseen = "notice.unseen"

    @property
    def is_error(self) -> bool:
        """True when the table is refused for it."""
        return self.value.startswith("data.")


@dataclass(frozen=True)
class Checked:
    """A column under its contract.

    Attributes
    ----------
    values
        string or float64 [rows], null where missing; meaningless where a finding is an error.
    findings
        bool [rows] by finding, for those that some row has.
    """

    values: pa.Array
    findings: dict[Finding, Mask] = field(default_factory=dict)


def check_column(cells: pa.Array, column: AnyColumn, labels: tuple[str, ...] = ()) -> Checked:
    """Return *cells*, of any Arrow type, [rows], under *column*.

    Parameters
    ----------
    labels
        The values that a label column may hold, or the letters of a residue's.
    """
    cells = _decoded(cells)
    if isinstance(column, NumberColumn) and _is_number(cells.type):
        missing = np.asarray(cells.is_null())
        if column.missing_markers:
            marked = pc.is_in(_plain(cells), value_set=pa.array(column.missing_markers))
            missing = missing | np.asarray(pc.fill_null(marked, False))
        return _number(column, _numbers(cells), missing, _none(len(cells)), _missing(column, missing))
    stripped = _strip(_plain(cells) if _is_number(cells.type) else _text(cells))
    is_missing = pc.equal(stripped, "")
    if column.missing_markers:
        is_missing = pc.or_(is_missing, pc.is_in(stripped, value_set=pa.array(column.missing_markers)))
    missing = np.asarray(pc.fill_null(is_missing, True))
    stripped = pc.if_else(pa.array(~missing), stripped, pa.scalar(None, pa.string()))
    findings = _missing(column, missing)
    match column:
        case NumberColumn():
            parsed, malformed = _parsed(stripped)
            return _number(column, parsed, missing, malformed, findings)
        case ProteinColumn():
            upper = pc.ascii_upper(stripped)  # letters beyond ASCII stay as they are, and are refused
            return _lettered(upper, _RESIDUES, Finding.residue_invalid, column, missing, findings)
        case NucleotideColumn():
            upper = pc.replace_substring(pc.ascii_upper(stripped), "U", "T")
            return _lettered(upper, _NUCLEOTIDES, Finding.nucleotide_invalid, column, missing, findings)
        case MoleculeColumn():
            return _lettered(stripped, _SMILES, Finding.molecule_characters, column, missing, findings)
        case TextColumn():
            one_line = pc.replace_substring_regex(stripped, _BLANKS, " ")
            return _limited(one_line, column.max_characters, column.too_long, findings)
        case LabelColumn():
            known = pc.is_in(stripped, value_set=pa.array(labels, pa.string()))
            _note(findings, Finding.label_unknown, ~_true(known, missing))
        case ResidueLabelsColumn():
            known = pc.match_substring_regex(stripped, _one_of((*labels, column.unlabelled)))
            _note(findings, Finding.residue_label_unknown, ~_true(known, missing))
        case CategoryColumn():
            known = pc.is_in(stripped, value_set=pa.array(column.vocabulary, pa.string()))
            _note(findings, Finding.unseen, ~_true(known, missing))
        case IdentifierColumn():
            return _limited(stripped, column.max_characters, "refuse", findings)
    return Checked(stripped, findings)


def fit_residue_labels(labels: Checked, sequences: pa.Array, checked: Checked) -> Checked:
    """Return *labels* of residues beside their *sequences*: compared in length, and cut where those are.

    Parameters
    ----------
    sequences, checked
        The cells of the sequences before :func:`check_column`, and what it made of them.
    """
    findings = dict(labels.findings)
    whole = pc.utf8_length(to_text(sequences))
    differs = pc.not_equal(pc.utf8_length(labels.values), whole)
    _note(findings, Finding.residue_labels_length, np.asarray(pc.fill_null(differs, False)))
    if Finding.cut not in checked.findings:
        return Checked(labels.values, findings)
    kept = pc.utf8_length(checked.values)
    pairs = zip(labels.values.to_pylist(), kept.to_pylist(), strict=True)
    cut = [None if text is None else text[:length] for text, length in pairs]
    return Checked(pa.array(cut, pa.string()), findings)


def to_text(cells: pa.Array) -> pa.Array:
    """Return *cells* of any type as text without blanks around it, string [rows]; null stays null."""
    cells = _decoded(cells)
    return _strip(_plain(cells) if _is_number(cells.type) else _text(cells))


def to_numbers(cells: pa.Array) -> pa.Array:
    """Return *cells* of any type as float64 [rows]: null where there is no text, NaN where it is none."""
    cells = _decoded(cells)
    if _is_number(cells.type):
        return _numbers(cells)
    text = _strip(_text(cells))
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    parsed, malformed = _parsed(text)
    return pc.if_else(pa.array(malformed), pa.scalar(math.nan), parsed)


def _number(
    column: NumberColumn, values: pa.Array, missing: Mask, malformed: Mask, findings: dict[Finding, Mask]
) -> Checked:
    found = values.fill_null(0.0).to_numpy(zero_copy_only=False)
    malformed = malformed | (~missing & ~np.isfinite(found))
    if column.integer:
        malformed = malformed | (~missing & (np.floor(found) != found))
    if column.decimals is not None:
        with np.errstate(over="ignore"):  # what overflows is outside any bounds
            found = np.rint(found * 10.0**column.decimals) / 10.0**column.decimals
    low, high = column.bounds
    outside = ~missing & ~malformed & ~((found >= low) & (found <= high))
    _note(findings, Finding.not_a_number, malformed)
    _note(findings, Finding.number_out_of_bounds, outside)
    found = found + 0.0  # -0.0 is 0.0
    return Checked(pa.array(found, pa.float64(), mask=missing), findings)


def _lettered(
    text: pa.Array,
    letters: str,
    finding: Finding,
    column: SequenceColumn,
    missing: Mask,
    findings: dict[Finding, Mask],
) -> Checked:
    _note(findings, finding, ~_true(pc.match_substring_regex(text, letters), missing))
    return _limited(text, column.max_length, column.too_long, findings)


def _limited(values: pa.Array, limit: int, too_long: str, findings: dict[Finding, Mask]) -> Checked:
    longer = np.asarray(pc.fill_null(pc.greater(pc.utf8_length(values), limit), False))
    if longer.any():
        _note(findings, Finding.cut if too_long == "truncate" else Finding.too_long, longer)
        values = pc.utf8_slice_codeunits(values, 0, limit)
    return Checked(values, findings)


def _parsed(text: pa.Array) -> tuple[pa.Array, Mask]:
    """Return the numbers in *text*, float64, and which of them are none."""
    short = pc.less_equal(pc.utf8_length(text), _LONGEST_NUMBER)
    fits = pc.and_(short, pc.match_substring_regex(text, _NUMBER))
    malformed = np.asarray(pc.fill_null(pc.invert(fits), False))
    sound = pc.replace_substring_regex(pc.if_else(fits, text, pa.scalar(None, pa.string())), r"^\+", "")
    try:
        return sound.cast(pa.float64()), malformed
    except pa.ArrowInvalid:  # Arrow refuses some of what Python takes, and says which cell: not to be shown
        pass
    return pa.array(
        [None if one is None else float(one) for one in sound.to_pylist()], pa.float64()
    ), malformed


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _numbers(cells: pa.Array) -> pa.Array:
    if pa.types.is_decimal(cells.type):
        cells = cells.cast(pa.string())
    return cells.cast(pa.float64(), safe=False)


def _decoded(cells: pa.Array) -> pa.Array:
    return cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells


def _text(cells: pa.Array) -> pa.Array:
    if pa.types.is_string(cells.type):
        return cells
    if pa.types.is_null(cells.type):
        return pa.nulls(len(cells), pa.string())
    if pa.types.is_nested(cells.type) or pa.types.is_binary(cells.type):
        return pa.array([None if one is None else "" for one in cells.to_pylist()], pa.string())
    return cells.cast(pa.string())


def _plain(numbers: pa.Array) -> pa.Array:
    """Return numbers as text, whole ones without a point."""
    if pa.types.is_integer(numbers.type):
        return numbers.cast(pa.string())
    return pa.array([_shortest(one) for one in _numbers(numbers).to_pylist()], pa.string())


def _shortest(value: float | None) -> str | None:
    if value is None or math.isnan(value):
        return None
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _strip(text: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(text)


def _true(mask: Any, missing: Mask) -> Mask:
    return np.asarray(pc.fill_null(mask, True)) | missing


def _missing(column: AnyColumn, missing: Mask) -> dict[Finding, Mask]:
    findings: dict[Finding, Mask] = {}
    if column.missing == "refused":
        _note(findings, Finding.missing_value, missing)
    return findings


def _none(rows: int) -> Mask:
    return np.zeros(rows, bool)


def _note(findings: dict[Finding, Mask], finding: Finding, mask: Mask) -> None:
    if mask.any():
        findings[finding] = mask
