"""From columns to the slots that reach the head, for each kind of :mod:`plasmid.tasks.covariates`.

Each kind has a function that writes values into slots, and :data:`CODE`: Python for an adapter's card, which
defines a function of the kind's name from a value and the covariate (as JSON) to its slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.bases.specs import Cell
from plasmid.core import extras
from plasmid.core.errors import DataError
from plasmid.tasks.covariates import (
    AnyCovariate,
    CategoryCovariate,
    MoleculeCovariate,
    NumberCovariate,
    SequenceCovariate,
)

Slots = npt.NDArray[np.float32]
"""Of one covariate, float32 [rows, width]."""
_FRAGMENTS = 32.0
"""The logarithms of the counts of a drug's fragments add up to about so much."""


def encode_covariates(
    covariates: Sequence[AnyCovariate], columns: Mapping[str, Sequence[Cell]], rows: int
) -> Slots:
    """Return the head's covariate slots.

    Parameters
    ----------
    covariates
        In the order of their slots.
    columns
        Values by column name, each of length *rows*; None (or NaN) is missing.

    Returns
    -------
    float32 [rows, sum of the covariates' widths]

    Raises
    ------
    DataError
        ``data.column_missing``: *columns* lacks a covariate; ``data.rows_differ``: a column's length
        is not *rows*; ``data.not_a_number``: a number column holds something else.
    """
    absent = [covariate.name for covariate in covariates if covariate.name not in columns]
    if absent:
        raise DataError(
            "data.column_missing",
            f"no column {', '.join(absent)}: the head needs it as a covariate.",
            "Add the column; its cells may be empty.",
        )
    encoded = np.zeros((rows, sum(covariate.width for covariate in covariates)), np.float32)
    start = 0
    for covariate in covariates:
        values = columns[covariate.name]
        if len(values) != rows:
            raise DataError(
                "data.rows_differ",
                f"column {covariate.name} holds {len(values)} values, the table {rows} rows.",
                "Give every column one value per row, None where it is missing.",
            )
        _FILL[covariate.type](covariate, encoded[:, start : start + covariate.width], values)
        start += covariate.width
    return encoded


def _category(of: CategoryCovariate, slots: Slots, values: Sequence[Cell]) -> None:
    """Write *values* into *slots*, which are zero."""
    unseen = len(of.vocabulary)
    place = {word: slot for slot, word in enumerate(of.vocabulary)}
    for row, value in enumerate(values):
        if value is not None:
            slots[row, place.get(value, unseen) if isinstance(value, str) else unseen] = 1.0


def _number(of: NumberCovariate, slots: Slots, values: Sequence[Cell]) -> None:
    """Write *values* into *slots*, which are zero.

    Raises
    ------
    DataError
        ``data.not_a_number``: a value is text.
    """
    low, high = of.bounds
    strange = [row for row, value in enumerate(values) if isinstance(value, str)]
    if strange:
        raise DataError(
            "data.not_a_number",
            f"column {of.name} holds text in {len(strange)} rows, first in row {strange[0] + 1}.",
            "A number column holds numbers or empty cells.",
        )
    for row, value in enumerate(values):
        if value is None or math.isnan(float(value)):
            slots[row, 1] = 1.0
        else:
            slots[row, 0] = (min(max(float(value), low), high) - low) / (high - low)


def _sequence(of: SequenceCovariate, slots: Slots, values: Sequence[Cell]) -> None:
    """Write *values* into *slots*, which are zero."""
    base = len(of.letters)
    codes = np.full(256, -1, np.int64)
    codes[np.frombuffer(of.letters.encode(), np.uint8)] = np.arange(base)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            continue
        read = codes[np.frombuffer(value[: of.length].encode("latin-1", "replace"), np.uint8)]
        words, known, start = np.zeros(len(read), np.int64), np.ones(len(read), bool), 0
        for size in range(1, of.kmers + 1):
            # A word of so many letters is the one without its last letter, and that letter.
            ends = read[size - 1 :]
            words, known = words[: len(ends)] * base + ends, known[: len(ends)] & (ends >= 0)
            counts = np.bincount(words[known], minlength=base**size)
            slots[row, start : start + base**size] = counts / max(1, counts.sum())
            start += base**size
        placed = np.flatnonzero(read[: of.places] >= 0)
        slots[row, start + placed * base + read[placed]] = 1.0


def _molecule(of: MoleculeCovariate, slots: Slots, values: Sequence[Cell]) -> None:
    """Write *values* into *slots*, which are zero. Raises DataError (``data.library_missing``)."""
    with extras.told():
        from rdkit.Chem import MolFromSmiles
        from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
        from rdkit.rdBase import BlockLogs

    generator = GetMorganGenerator(radius=of.radius, fpSize=of.bits)
    with BlockLogs():
        for row, value in enumerate(values):
            molecule = MolFromSmiles(value) if isinstance(value, str) else None
            if molecule is not None:
                slots[row] = np.log1p(generator.GetCountFingerprintAsNumPy(molecule)) / _FRAGMENTS


_FILL: Mapping[str, Callable[[Any, Slots, Sequence[Cell]], None]] = {
    "category": _category,
    "number": _number,
    "sequence": _sequence,
    "molecule": _molecule,
}
"""By the kind: write values into slots, which are zero."""

CODE: Mapping[str, tuple[str, ...]] = {
    "category": (
        (
            'category = lambda value, c: [float(value == one) for one in c["vocabulary"]] + '
            '[float(value not in (None, *c["vocabulary"]))]'
        ),
    ),
    "number": (
        (
            "number = lambda value, c: [0.0, 1.0] if value is None else "
            '[(min(max(value, low), high) - low) / (high - low) for low, high in [c["bounds"]]] + [0.0]'
        ),
    ),
    "sequence": (
        "import collections, itertools",
        (
            "counts = lambda text, c, k: collections.Counter(text[at : at + k] for at in "
            'range(len(text) - k + 1) if set(text[at : at + k]) <= set(c["letters"]))'
        ),
        (
            'words = lambda text, c: [found["".join(word)] / max(1, found.total()) '
            'for k in range(1, c["kmers"] + 1) for found in [counts(text, c, k)] '
            'for word in itertools.product(c["letters"], repeat=k)]'
        ),
        (
            'sequence = lambda value, c: words((value or "")[: c["length"]], c) + '
            '[float((value or "")[at : at + 1] == one) for at in range(c["places"]) for one in c["letters"]]'
        ),
    ),
    "molecule": (
        "import math, rdkit.Chem, rdkit.Chem.rdFingerprintGenerator as generators",
        (
            'fragments = lambda found, c: [0] * c["bits"] if found is None else '
            'generators.GetMorganGenerator(radius=c["radius"], fpSize=c["bits"])'
            ".GetCountFingerprint(found).ToList()"
        ),
        (
            "molecule = lambda value, c: [math.log1p(count) / 32 for count in "
            'fragments(rdkit.Chem.MolFromSmiles(value or ""), c)]'
        ),
    ),
}
