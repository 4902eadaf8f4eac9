"""The kinds of input column: what a recipe may say of them, and what follows for the model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from plasmid.recipes.columns import NUCLEOTIDES, SMILES_CHARACTERS, MoleculeColumn, NucleotideColumn
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Recipe, contradictions
from plasmid.tasks.covariates import MoleculeCovariate, SequenceCovariate


def with_input(column: dict[str, Any], covariates: tuple[str, ...] = ()) -> Recipe:
    """Return a shipped recipe that reads *column* instead of its own input, with those *covariates*."""
    document = load_recipe("tcr-covid").recipe.model_dump()
    document["data"]["columns"][document["data"]["input"]] = column
    kmers = 3 if covariates and column["type"] in ("protein", "nucleotide") else None
    document["adapter"] |= {"covariates": covariates, "kmers": kmers}
    return Recipe.model_validate(document)


@pytest.mark.parametrize(
    ("column", "kind", "tokens"),
    [
        ({"type": "nucleotide", "max_length": 1000, "too_long": "truncate"}, "nucleotide", 1002),
        ({"type": "molecule", "max_length": 120}, "molecule", 122),
        ({"type": "protein", "max_length": 30}, "protein", 32),
        ({"type": "text", "max_length": 30}, "text", 30),
    ],
)
def test_what_an_input_column_makes_of_a_recipe(column: dict[str, Any], kind: str, tokens: int) -> None:
    recipe = with_input(column)
    assert (recipe.input_kind, recipe.max_length) == (kind, tokens)
    assert recipe.data.columns[recipe.data.input].type == kind


@pytest.mark.parametrize(
    ("column", "letters", "places", "width"),
    [
        ({"type": "protein", "max_length": 30}, "ACDEFGHIKLMNPQRSTVWY", 0, 8420),
        ({"type": "nucleotide", "max_length": 256}, "ACGT", 256, 84 + 4 * 256),
        ({"type": "nucleotide", "max_length": 257}, "ACGT", 0, 84),
    ],
)
def test_a_sequence_among_the_covariates(
    column: dict[str, Any], letters: str, places: int, width: int
) -> None:
    (found,) = with_input(column, ("cdr3",)).head().covariates
    assert isinstance(found, SequenceCovariate)
    assert (found.name, found.letters, found.kmers, found.length) == (
        "cdr3",
        letters,
        3,
        column["max_length"],
    )
    assert (found.places, found.width) == (places, width)


def test_a_molecule_among_the_covariates() -> None:
    (found,) = with_input({"type": "molecule", "max_length": 30}, ("cdr3",)).head().covariates
    assert isinstance(found, MoleculeCovariate)
    assert (found.name, found.radius, found.bits, found.width) == ("cdr3", 2, 2048, 2048)


@pytest.mark.parametrize("column", [{"type": "text", "max_length": 9}])
def test_words_of_texts_are_not_offered(column: dict[str, Any]) -> None:
    recipe = with_input(column)
    sections = dict(recipe) | {"adapter": recipe.adapter.model_copy(update={"covariates": ("cdr3",)})}
    ((path, what),) = contradictions(sections)
    assert path == ("adapter", "covariates", 0)
    assert what.startswith(
        f"the column 'cdr3' is of type {column['type']}, a covariate is a category, a number"
    )


@pytest.mark.parametrize(
    ("kind", "settings", "where"),
    [
        (NucleotideColumn, {"type": "nucleotide", "max_length": 0}, "max_length"),
        (NucleotideColumn, {"type": "nucleotide", "max_length": 65_537}, "max_length"),
        (NucleotideColumn, {"type": "nucleotide"}, "max_length"),
        (MoleculeColumn, {"type": "molecule", "max_length": 8193}, "max_length"),
        (MoleculeColumn, {"type": "molecule", "max_length": 9, "too_long": "truncate"}, "too_long"),
    ],
)
def test_what_such_a_column_cannot_be(kind: Any, settings: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(settings)
    assert [error["loc"] for error in caught.value.errors()] == [(where,)]


def test_the_letters_of_each() -> None:
    assert "".join(sorted(NUCLEOTIDES)) == "ACGNT"
    for smiles in (r"C[C@H](N)C(=O)[O-].[Na+]", r"F/C=C\Cl", "[13CH4]", "C%10CC%10", "[U]#*$[se]1cccc1:c"):
        assert SMILES_CHARACTERS.issuperset(smiles)
    for other in "JQj ,;>|&~!?^\"'\n\0é":
        assert other not in SMILES_CHARACTERS
