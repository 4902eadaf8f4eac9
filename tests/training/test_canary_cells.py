"""What a canary holds where the model reads nucleotides or molecules."""

from __future__ import annotations

from random import Random

import pytest

from plasmid.recipes.columns import NUCLEOTIDES, SMILES_CHARACTERS, MoleculeColumn, NucleotideColumn
from plasmid.worker.canaries import _cell


def test_a_canary_of_nucleotides_fits_its_column() -> None:
    column = NucleotideColumn(type="nucleotide", max_length=40)
    cells = [str(_cell(column, (), Random(seed))) for seed in range(200)]
    assert all(NUCLEOTIDES.issuperset(cell) and 20 <= len(cell) <= 40 for cell in cells)
    assert len(set(cells)) == 200


def test_a_canary_of_a_molecule_is_one() -> None:
    chem = pytest.importorskip("rdkit.Chem")
    column = MoleculeColumn(type="molecule", max_length=60)
    cells = [str(_cell(column, (), Random(seed))) for seed in range(200)]
    assert all(SMILES_CHARACTERS.issuperset(cell) and 30 <= len(cell) <= 60 for cell in cells)
    assert [chem.MolFromSmiles(cell).GetNumAtoms() for cell in cells] == [len(cell) for cell in cells]
    assert len(set(cells)) == 200
