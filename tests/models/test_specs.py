"""Covariates as slots."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from plasmid.core.errors import DataError
from plasmid.models.specs import CategoryCovariate, LoraSpec, NumberCovariate, encode_covariates
from plasmid.models.tasks.classification import ClassificationHead

GENE = CategoryCovariate(name="gene", vocabulary=["a", "b"])
AGE = NumberCovariate(name="age", bounds=(0, 80))


def test_slots() -> None:
    columns = {"gene": ["b", "zz", None, 3.0], "age": [20.0, None, 100.0, float("nan")], "other": ["x"]}
    encoded = encode_covariates([GENE, AGE], columns, 4)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[0, 1, 0, 0.25, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 1, 0, 1]]
    assert ClassificationHead(labels=["0", "1"], covariates=[GENE, AGE]).covariate_width == 5
    assert encode_covariates([], {}, 3).shape == (3, 0)


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"gene": ["a"]}, "data.column_missing"),
        ({"gene": ["a"], "age": [1.0, 2.0]}, "data.rows_differ"),
        ({"gene": ["a"], "age": ["secret"]}, "data.not_a_number"),
    ],
)
def test_bad_columns(columns: dict[str, list[str | float | None]], code: str) -> None:
    with pytest.raises(DataError) as caught:
        encode_covariates([GENE, AGE], columns, 1)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


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
        lambda: ClassificationHead(labels=["only"]),
        lambda: ClassificationHead(labels=["0", "1"], covariates=[AGE, AGE]),
    ],
)
def test_refused(make: object) -> None:
    with pytest.raises(ValidationError):
        make()  # type: ignore[operator]
