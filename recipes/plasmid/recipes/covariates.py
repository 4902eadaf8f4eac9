"""From a column of the data contract to what reaches the head (:mod:`plasmid.tasks.covariates`)."""

from __future__ import annotations

from plasmid.recipes.columns import (
    RESIDUES,
    AnyColumn,
    CategoryColumn,
    MoleculeColumn,
    NucleotideColumn,
    NumberColumn,
    ProteinColumn,
)
from plasmid.tasks.covariates import (
    MOST_PLACES,
    AnyCovariate,
    CategoryCovariate,
    MoleculeCovariate,
    NumberCovariate,
    SequenceCovariate,
)

CAN_BE = (CategoryColumn, NumberColumn, ProteinColumn, NucleotideColumn, MoleculeColumn)
"""The columns that can be covariates."""
SEQUENCES = (ProteinColumn, NucleotideColumn)
"""Those that are counted by their words."""


def covariate_of(name: str, column: AnyColumn, kmers: int) -> AnyCovariate:
    """Return the covariate of *column*; a sequence is counted by words of up to *kmers* letters."""
    if isinstance(column, CategoryColumn):
        return CategoryCovariate(name=name, vocabulary=list(column.vocabulary))
    if isinstance(column, NumberColumn):
        return NumberCovariate(name=name, bounds=column.bounds)
    if isinstance(column, MoleculeColumn):
        return MoleculeCovariate(name=name)
    assert isinstance(column, ProteinColumn | NucleotideColumn), "the recipe was checked"
    window = column.type == "nucleotide" and column.max_length <= MOST_PLACES
    return SequenceCovariate(
        name=name,
        letters="ACGT" if column.type == "nucleotide" else "".join(sorted(RESIDUES)),
        kmers=kmers,
        length=column.max_length,
        places=column.max_length if window else 0,
    )
