"""What reaches the head beside the pooled encoding: columns of a table, as slots (:mod:`.slots` makes them).

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
4. A molecule becomes ln(1 + count) / 32 of its circular fragments, folded (Rogers, Hahn 2010, "Extended-
   connectivity fingerprints", J. Chem. Inf. Model. 50, 742; as RDKit has them): a drug's add up to about 1.
   Which fragments a weight stands for can be looked up, as in all folded fingerprints.
5. Each kind says what it ``needs``: modules of extras.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from plasmid.bases.specs import Cell, Strict, distinct

MOST_PLACES = 256
DEFAULT_KMERS = 2
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class CategoryCovariate(Strict):
    """A column that holds one word of *vocabulary*; any other word is "unseen"."""

    needs: ClassVar[tuple[str, ...]] = ()

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


class NumberCovariate(Strict):
    """A column that holds a number, clamped to *bounds* (low, high)."""

    needs: ClassVar[tuple[str, ...]] = ()

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


class SequenceCovariate(Strict):
    """A column that holds a sequence over *letters*, read up to *length* letters.

    A word with any other letter in it counts as none. The first *places* letters have slots of their own.
    """

    needs: ClassVar[tuple[str, ...]] = ()

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


class MoleculeCovariate(Strict):
    """A column that holds a molecule as SMILES, read by its fragments of up to *radius* bonds about an atom.

    They are folded to *bits* slots. What RDKit cannot read as a molecule has none.
    """

    needs: ClassVar[tuple[str, ...]] = ("rdkit",)

    name: _Name
    type: Literal["molecule"] = "molecule"
    radius: Annotated[int, Field(ge=1, le=4)] = 2
    bits: Annotated[int, Field(ge=64, le=16_384)] = 2048

    @property
    def width(self) -> int:
        """The number of slots."""
        return self.bits

    @property
    def example(self) -> Cell:
        """A value, for an adapter's card."""
        return "CCO"


AnyCovariate = CategoryCovariate | NumberCovariate | SequenceCovariate | MoleculeCovariate
Covariate = Annotated[AnyCovariate, Field(discriminator="type")]
