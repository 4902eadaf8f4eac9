"""The data contract: what a column of a site's table may hold.

Rules
-----
1. Only the contract's columns are read; a file may hold others, in any order.
2. A cell is compared after stripping blanks. It is *missing* when it is empty or equals one of the
   column's ``missing_markers``; nothing else is ("NA" is a value unless the contract says otherwise).
3. A label is a string and must equal one of the task's labels exactly: "1.0" is not "1".
4. Labels of residues are a text as long as their sequence: of each residue a letter, a label of the task, or
   the sign for none. Where the sequence is cut they are.
5. A category outside its vocabulary is not an error: it takes the model's "unseen" slot. A number
   outside its bounds is one, because the bounds are what a secure sum's range is computed from.
6. A column that is not ``required`` may be absent from a file; all its values are then missing.
7. An identifier only says which rows are one person's. It reaches no model, no sum and no message: it is
   neither an input nor a covariate, and tables that are to be predicted are read without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from plasmid.bases.specs import Strict as Strict
from plasmid.bases.specs import Word as Word

RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWY")
"""The 20 amino acids. B, J, O, U, X, Z, ``*`` and gaps are not among them: base models map them to [UNK]."""

NUCLEOTIDES = frozenset("ACGTN")
"""The four bases, and N for one that is not known. U is read as T; other IUPAC codes are not among them."""

SMILES_CHARACTERS = frozenset("ABCDEFGHIKLMNOPRSTUVWXYZabcdefghiklmnoprstuvwxyz0123456789#$%()*+-./:=@[\\]")
"""What OpenSMILES is written with: no blank, so no extension behind one; no reaction (``>``)."""

DEFAULT_MAX_ROWS = 1_000_000


ColumnName = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^\S(?:[^\x00-\x1f]*\S)?$")
]
Words = Annotated[tuple[Word, ...], Field(strict=False)]
Missing = Literal["allowed", "refused"]


class _Column(Strict):
    required: bool = True
    missing: Missing = "refused"
    missing_markers: Words = ()


class ProteinColumn(_Column):
    """An amino-acid sequence in one-letter code; lower case is read as upper case.

    ``max_length`` is in residues; a longer sequence is cut at its end, with a notice, or refused.
    """

    type: Literal["protein"]
    max_length: Annotated[int, Field(ge=1, le=8192)]
    too_long: Literal["truncate", "refuse"] = "refuse"


class NucleotideColumn(_Column):
    """A DNA or RNA sequence; lower case is read as upper case, U as T.

    Models of DNA know A, C, G, T and N in upper case; those of RNA that are told apart by U take T for it.
    ``max_length`` is in nucleotides; a longer sequence is cut at its end, with a notice, or refused.
    """

    type: Literal["nucleotide"]
    max_length: Annotated[int, Field(ge=1, le=65_536)]
    too_long: Literal["truncate", "refuse"] = "refuse"


class MoleculeColumn(_Column):
    """A small molecule as SMILES.

    Only its characters are checked: whether it is a molecule, and its canonical form, are the business of
    where it comes from. ``max_length`` is in characters; a longer one is refused, for a part of a SMILES is
    another molecule, or none.
    """

    type: Literal["molecule"]
    max_length: Annotated[int, Field(ge=1, le=8192)]
    too_long: Literal["refuse"] = "refuse"


class TextColumn(_Column):
    """Free text.

    ``max_length`` is in tokens, the two special ones included: the model reads no more of a text
    than that. ``max_characters`` bounds the text itself; ``too_long`` says what happens beyond it.
    """

    type: Literal["text"]
    max_length: Annotated[int, Field(ge=3, le=8192)]
    max_characters: Annotated[int, Field(ge=1, le=100_000)] = 20_000
    too_long: Literal["truncate", "refuse"] = "truncate"


class LabelColumn(_Column):
    """The class to be predicted: one of the task's labels."""

    type: Literal["label"]


class ResidueLabelsColumn(_Column):
    """The label of each residue of the sequence in the column ``of``: a text of one-character codes.

    ``unlabelled`` stands where a residue has no label. A text that is longer or shorter than its sequence, or
    holds another character, is refused; case counts.
    """

    type: Literal["residue_labels"]
    of: ColumnName
    unlabelled: Annotated[str, StringConstraints(pattern=r"^[!-~]$")] = "-"


class CategoryColumn(_Column):
    """One of a public list of values; the list is never gathered from the sites."""

    type: Literal["category"]
    vocabulary: Annotated[tuple[Word, ...], Field(strict=False, min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _distinct(self) -> CategoryColumn:
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("the vocabulary lists a value twice")
        return self

    @cached_property
    def vocabulary_set(self) -> frozenset[str]:
        """The vocabulary, for look-ups."""
        return frozenset(self.vocabulary)


Bounds = Annotated[tuple[float, float], Field(strict=False)]


class NumberColumn(_Column):
    """A decimal number within ``bounds`` (both ends included), a whole one if ``integer``.

    ``unit`` is the UCUM code of what it is measured in; a site whose column is in another unit says so in its
    mapping, and values are converted. ``decimals`` rounds to so many places, so that a value that was
    converted equals one that was not.
    """

    type: Literal["number"]
    bounds: Bounds
    integer: bool = False
    unit: Word | None = None
    decimals: Annotated[int, Field(ge=0, le=12)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> NumberColumn:
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError("bounds are [low, high] with low < high")
        return self


class IdentifierColumn(_Column):
    """Which person a row belongs to: rows with equal cells are one person's.

    Compared exactly, blanks around it left out: "007" is not "7". A longer one is refused.
    """

    max_characters: ClassVar[int] = 200

    type: Literal["identifier"]


SequenceColumn = ProteinColumn | NucleotideColumn | MoleculeColumn
"""What is read letter by letter: no tokenizer makes more tokens of one than it has letters, and two."""

AnyColumn = (
    SequenceColumn
    | TextColumn
    | LabelColumn
    | ResidueLabelsColumn
    | CategoryColumn
    | NumberColumn
    | IdentifierColumn
)
Column = Annotated[AnyColumn, Field(discriminator="type")]


@dataclass(frozen=True)
class Contract:
    """What :func:`plasmid.data.views.reading.read_table` needs to know.

    Attributes
    ----------
    columns
        The columns to read, by name, in the order of the contract.
    labels
        The values that a label column may hold, or the letters of a residue's; empty where there is none.
    max_rows
        A file with more rows is refused.
    label
        The column that is predicted; None where none is. Tables that are to be predicted are read without it.
    """

    columns: Mapping[str, AnyColumn]
    labels: tuple[str, ...] = ()
    max_rows: int = DEFAULT_MAX_ROWS
    label: str | None = None

    def is_given(self, name: str) -> bool:
        """Return whether rows that are to be predicted have the column *name*: no label, no identifier."""
        given = not isinstance(self.columns[name], LabelColumn | ResidueLabelsColumn | IdentifierColumn)
        return given and name != self.label
