"""Adapters of many shapes on one tiny base, and what each gives alone: for tests of serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plasmid.adapters.adapter import Vector, adapter_schema, initial_state
from plasmid.adapters.artifact import write_adapter
from plasmid.adapters.card import CardFacts
from plasmid.adapters.files import adapter_files
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.tasks import Head
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import CategoryCovariate, MoleculeCovariate, NumberCovariate, SequenceCovariate
from plasmid.tasks.regression import RegressionHead
from plasmid.tasks.token_classification import TokenHead

GENE = CategoryCovariate(name="gene", vocabulary=["a", "b"])
AGE = NumberCovariate(name="age", bounds=(0.0, 100.0))
WORDS = SequenceCovariate(name="sequence", letters="ACDEFGHIKLMNPQRSTVWY", kmers=2, length=30)
DRUG = MoleculeCovariate(name="drug", bits=256)
SHAPES: dict[str, tuple[LoraSpec, Head]] = {
    "small": (
        LoraSpec(rank=2, alpha=4.0, targets=["query", "value"], layers=1),
        ClassificationHead(labels=["no", "yes"]),
    ),
    "large": (
        LoraSpec(rank=8, alpha=8.0, targets=["all-linear"]),
        ClassificationHead(labels=["x", "y", "z"], covariates=[GENE, WORDS]),
    ),
    "dense": (
        LoraSpec(rank=3, alpha=6.0, targets=["output.dense"], layers=2),
        ClassificationHead(labels=["no", "yes"], covariates=[GENE, AGE]),
    ),
    "number": (
        LoraSpec(rank=4, alpha=8.0, targets=["key"], layers=2),
        RegressionHead(unit="kg", bounds=(-5.0, 15.0), covariates=[AGE, WORDS]),
    ),
    "drug": (
        LoraSpec(rank=2, alpha=4.0, targets=["query"]),
        RegressionHead(unit="1", bounds=(0.0, 10.0), covariates=[DRUG]),
    ),
    "residues": (
        LoraSpec(rank=2, alpha=4.0, targets=["value"]),
        TokenHead(labels=["h", "e", "c"], unlabelled="-"),
    ),
}
COLUMNS: dict[str, dict[str, Any]] = {
    "sequence": {"type": "protein", "max_length": 30, "too_long": "refuse"},
    "gene": {"type": "category", "vocabulary": ["a", "b"], "missing": "allowed"},
    "age": {"type": "number", "bounds": [0.0, 100.0], "missing": "allowed"},
    "drug": {"type": "molecule", "max_length": 60, "missing": "allowed"},
    "label": {"type": "label"},
}
LABELS: dict[str, dict[str, Any]] = {
    "number": {"type": "number", "bounds": [-5.0, 15.0]},
    "drug": {"type": "number", "bounds": [0.0, 10.0]},
    "residues": {"type": "residue_labels", "of": "sequence", "unlabelled": "-"},
}
MAX_LENGTH = 32
FACTS = CardFacts(
    title="Made up",
    license="MIT",
    data="Made up.",
    intended_use="Tests.",
    limitations="Everything.",
    results={},
)
ROWS: dict[str, list[Any]] = {
    "sequence": ["CASSYGQGPYGYTF", "CAS", "CASSFMGQGYEQYFCASSFMGQGY", "WYV", "CAYF", "KLMNPQRST"],
    "gene": ["a", None, "b", "a", "zz", "b"],
    "age": [10.0, None, 99.0, 50.0, 0.0, 1.0],
    "drug": ["CCO", None, "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "CN", "no molecule"],
}


def write(folder: Path, base: BaseModel, shape: str, *, seed: int = 0) -> Path:
    """Write an adapter of *shape* with numbers of *seed*, large enough to matter, and return *folder*."""
    lora, head = SHAPES[shape]
    schema = adapter_schema(base, lora, head)
    noise = np.random.default_rng(seed).standard_normal(schema.size).astype(np.float32)
    state: Vector = initial_state(schema, seed) + np.float32(0.2) * noise
    own = ("sequence", *(one.name for one in head.covariates), "label")
    write_adapter(
        folder,
        adapter_files(
            schema=schema,
            state=state,
            base=base,
            lora=lora,
            head=head,
            input_column="sequence",
            label_column="label",
            metric="rmse" if shape in ("number", "drug") else "accuracy",
            max_length=MAX_LENGTH,
            columns={name: COLUMNS[name] for name in own}
            | ({"label": LABELS[shape]} if shape in LABELS else {}),
        ),
        parameters=schema.size,
        facts=FACTS,
        provenance={"made": "up"},
    )
    return folder
