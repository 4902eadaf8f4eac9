"""What an adapter is made of refuses what it cannot be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from plasmid.bases.specs import LoraSpec
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import CategoryCovariate, MoleculeCovariate, NumberCovariate, SequenceCovariate

AGE = NumberCovariate(name="age", bounds=(0, 80))


@pytest.mark.parametrize(
    "make",
    [
        lambda: LoraSpec(rank=0, alpha=1.0, targets=["query"]),
        lambda: LoraSpec(rank=1, alpha=float("inf"), targets=["query"]),
        lambda: LoraSpec(rank=1, alpha=1.0, targets=[]),
        lambda: LoraSpec(rank=1, alpha=1.0, targets=["query", "query"]),
        lambda: LoraSpec.model_validate({"rank": "8", "alpha": 1.0, "targets": ["query"]}),
        lambda: LoraSpec.model_validate({"rank": 8, "alpha": 1.0, "targets": ["query"], "dropout": 0.1}),
        lambda: NumberCovariate(name="x", bounds=(1.0, 1.0)),
        lambda: CategoryCovariate(name="x", vocabulary=["a", "a"]),
        lambda: SequenceCovariate(name="x", letters="ACGA", kmers=2, length=9),
        lambda: SequenceCovariate(name="x", letters="acgt", kmers=2, length=9),
        lambda: SequenceCovariate(name="x", letters="ACGT", kmers=4, length=9),
        lambda: SequenceCovariate(name="x", letters="ACGT", kmers=2, length=9, places=257),
        lambda: MoleculeCovariate(name="x", radius=5),
        lambda: MoleculeCovariate(name="x", bits=32),
        lambda: ClassificationHead(labels=["only"]),
        lambda: ClassificationHead(labels=["0", "1"], covariates=[AGE, AGE]),
    ],
)
def test_refused(make: object) -> None:
    with pytest.raises(ValidationError):
        make()  # type: ignore[operator]
