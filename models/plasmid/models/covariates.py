"""What reaches the head beside the pooled encoding: columns of a table, as slots.

Rules
-----
1. A category becomes ``len(vocabulary) + 1`` slots, the last one "unseen"; missing is all zeros. The
   vocabulary is public (recipe or public list), never gathered from sites.
2. A number becomes 2 slots: the value clamped to its bounds and scaled to [0, 1] (0 when missing),
   and 1 when missing, else 0.
3. A sequence becomes its composition: for each size of word, 1 to ``kmers`` letters, which share of the words
   is which, so that they add up to 1 as a category's slots do and one learning rate serves both; and, where
   it has ``places``, a 1 for the letter at each of them. All words of an
   alphabet have a slot, so that nothing is gathered from sites here, either. What the classical model of
   sequences reads (Leslie, Eskin, Noble 2002, "The spectrum kernel", Pac. Symp. Biocomput. 7, 564) then
   stands beside an encoding (Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems", arXiv
   1606.07792).
4. Each kind has ``code``: Python, for an adapter's card, that defines a function of the kind's name from a
   value and the covariate (as JSON) to its slots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StringConstraints, model_validator

from plasmid.core.errors import DataError
from plasmid.models.specs import Cell, Strict, distinct

Slots = npt.NDArray[np.float32]
"""Of one covariate, float32 [rows, width]."""
MOST_PLACES = 256
DEFAULT_KMERS = 2
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class CategoryCovariate(Strict):
    """A column that holds one word of *vocabulary*; any other word is "unseen"."""

    code: ClassVar[tuple[str, ...]] = (
        (
            'category = lambda value, c: [float(value == one) for one in c["vocabulary"]] + '
            '[float(value not in (None, *c["vocabulary"]))]'
        ),
    )

    name: _Name
    type: Literal["category"] = "category"
    vocabulary: Annotated[list[str], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _check(self) -> CategoryCovariate:
        distinct(self.vocabulary, "words of a vocabulary")
        return self

    @property
    def width(self) -> int:
        """The number of slots."""
        return len(self.vocabulary) + 1

    @property
    def example(self) -> Cell:
        """A value, for an adapter's card."""
        return self.vocabulary[0]

    def fill(self, slots: Slots, values: Sequence[Cell]) -> None:
        """Write *values* into *slots*, which are zero."""
        unseen = len(self.vocabulary)
        place = {word: slot for slot, word in enumerate(self.vocabulary)}
        for row, value in enumerate(values):
            if value is not None:
                slots[row, place.get(value, unseen) if isinstance(value, str) else unseen] = 1.0


class NumberCovariate(Strict):
    """A column that holds a number, clamped to *bounds* (low, high)."""

    code: ClassVar[tuple[str, ...]] = (
        (
            "number = lambda value, c: [0.0, 1.0] if value is None else "
            '[(min(max(value, low), high) - low) / (high - low) for low, high in [c["bounds"]]] + [0.0]'
        ),
    )

    name: _Name
    type: Literal["number"] = "number"
    bounds: Annotated[tuple[float, float], Field(strict=False)]

    @model_validator(mode="after")
    def _check(self) -> NumberCovariate:
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError("bounds are (low, high) with low < high")
        return self

    @property
    def width(self) -> int:
        """The number of slots."""
        return 2

    @property
    def example(self) -> Cell:
        """A value, for an adapter's card."""
        return self.bounds[0]

    def fill(self, slots: Slots, values: Sequence[Cell]) -> None:
        """Write *values* into *slots*, which are zero.

        Raises
        ------
        DataError
            ``data.not_a_number``: a value is text.
        """
        low, high = self.bounds
        strange = [row for row, value in enumerate(values) if isinstance(value, str)]
        if strange:
            raise DataError(
                "data.not_a_number",
                f"column {self.name} holds text in {len(strange)} rows, first in row {strange[0] + 1}.",
                "A number column holds numbers or empty cells.",
            )
        for row, value in enumerate(values):
            if value is None or math.isnan(float(value)):
                slots[row, 1] = 1.0
            else:
                slots[row, 0] = (min(max(float(value), low), high) - low) / (high - low)


class SequenceCovariate(Strict):
    """A column that holds a sequence over *letters*, read up to *length* letters.

    A word with any other letter in it counts as none. The first *places* letters have slots of their own.
    """

    code: ClassVar[tuple[str, ...]] = (
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
    )

    name: _Name
    type: Literal["sequence"] = "sequence"
    letters: Annotated[str, StringConstraints(min_length=2, max_length=26, pattern=r"^[A-Z]+$")]
    kmers: Annotated[int, Field(ge=1, le=3)]
    length: Annotated[int, Field(ge=1, le=65_536)]
    places: Annotated[int, Field(ge=0, le=MOST_PLACES)] = 0

    @model_validator(mode="after")
    def _check(self) -> SequenceCovariate:
        distinct(list(self.letters), "letters of an alphabet")
        return self

    @property
    def width(self) -> int:
        """The number of slots."""
        base = len(self.letters)
        return sum(int(base**size) for size in range(1, self.kmers + 1)) + base * self.places

    @property
    def example(self) -> Cell:
        """A value, for an adapter's card."""
        return self.letters[: self.length]

    def fill(self, slots: Slots, values: Sequence[Cell]) -> None:
        """Write *values* into *slots*, which are zero."""
        base = len(self.letters)
        codes = np.full(256, -1, np.int64)
        codes[np.frombuffer(self.letters.encode(), np.uint8)] = np.arange(base)
        for row, value in enumerate(values):
            if not isinstance(value, str):
                continue
            read = codes[np.frombuffer(value[: self.length].encode("latin-1", "replace"), np.uint8)]
            words, known, start = np.zeros(len(read), np.int64), np.ones(len(read), bool), 0
            for size in range(1, self.kmers + 1):
                # A word of so many letters is the one without its last letter, and that letter.
                ends = read[size - 1 :]
                words, known = words[: len(ends)] * base + ends, known[: len(ends)] & (ends >= 0)
                counts = np.bincount(words[known], minlength=base**size)
                slots[row, start : start + base**size] = counts / max(1, counts.sum())
                start += base**size
            placed = np.flatnonzero(read[: self.places] >= 0)
            slots[row, start + placed * base + read[placed]] = 1.0


AnyCovariate = CategoryCovariate | NumberCovariate | SequenceCovariate
Covariate = Annotated[AnyCovariate, Field(discriminator="type")]


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
        covariate.fill(encoded[:, start : start + covariate.width], values)
        start += covariate.width
    return encoded
