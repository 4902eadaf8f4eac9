"""A frozen encoder of molecules against counts of fragments: ``python -m benchmarks.molecules``.

Ridge regression on the mean over an encoder's tokens, and on counts of circular fragments, for targets of
ChEMBL that no recipe uses; Spearman over molecules whose scaffolds it did not see, in three folds.

    pip install 'plasmid[molecules]'
    pip install --no-deps MoleculeACE==3.0.0                # the measured values (CC BY-SA 3.0, ChEMBL)
    python -m benchmarks.molecules plasmid-smiles [FOLDER ...]   # bases of the catalogue, folders of weights
"""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.bases.tokenizing import Tokenizer
from plasmid.encoders.batches import Rows
from plasmid.encoders.encoder import CACHE_BATCH, mean_of_own
from plasmid.encoders.loading import load_encoder

TARGETS = ("CHEMBL2971_Ki", "CHEMBL4005_Ki", "CHEMBL4203_Ki", "CHEMBL1862_Ki")
MOST, FOLDS, BITS = 500, 3, 2048
"""Molecules of a target; folds by scaffold; bits that fragments are folded to."""
PENALTIES = np.logspace(-2, 5, 15)


def measured(target: str) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """Return SMILES, values and the number of each molecule's scaffold; drawn with seed 0."""
    from rdkit.Chem.Scaffolds import MurckoScaffold

    found = importlib.util.find_spec("MoleculeACE")
    if found is None or not found.submodule_search_locations:
        sys.exit("MoleculeACE is not installed: pip install --no-deps MoleculeACE==3.0.0")
    folder = Path(found.submodule_search_locations[0]) / "Data" / "benchmark_data"
    with (folder / f"{target}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = np.random.default_rng(0).permutation(len(rows))[:MOST]
    smiles = [rows[row]["smiles"] for row in chosen]
    told: Any = MurckoScaffold.MurckoScaffoldSmiles
    scaffolds = [told(one) for one in smiles]
    _, numbers = np.unique(scaffolds, return_inverse=True)
    return smiles, np.array([float(rows[row]["y"]) for row in chosen]), numbers


def fragments(smiles: Sequence[str]) -> NDArray[np.float64]:
    """Return counts of circular fragments of radius 2, [n, 2048]."""
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    made = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
    return np.stack([made.GetCountFingerprintAsNumPy(Chem.MolFromSmiles(one)) for one in smiles]).astype(
        float
    )


@torch.no_grad()
def pooled(base: BaseModel, smiles: Sequence[str]) -> NDArray[np.float64]:
    """Return the mean of *base*'s output over each molecule's own tokens, [n, hidden]."""
    encoder, tokens = load_encoder(base, attention="eager"), Tokenizer(base).encode(list(smiles), 512)
    ids = [torch.tensor(one.ids) for one in tokens]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64)
    special = torch.cat([torch.tensor(one.special, dtype=torch.bool) for one in tokens])
    rows = Rows(torch.cat(ids), special, starts, torch.empty(len(ids), 0), None, 0)
    found = np.empty((len(ids), encoder.config.hidden_size))
    for group in rows.by_length(CACHE_BATCH):
        batch = rows.batch(group)
        output = encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        found[group] = mean_of_own(output, batch.own).numpy()
    return found


def ranked(values: NDArray[np.float64], truth: NDArray[np.float64], scaffolds: NDArray[np.int64]) -> float:
    """Return the mean over folds of Spearman's correlation of what a ridge on *values* predicts."""
    from scipy.stats import spearmanr
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = []
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=0).split(values, truth, scaffolds):
        model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
        model.fit(values[train], truth[train])
        folds.append(float(spearmanr(model.predict(values[test]), truth[test]).statistic))
    return float(np.mean(folds))


def main(names: Sequence[str]) -> None:
    """Print a row for the fragments, and one for each of *names*."""
    kinds: dict[str, Callable[[Sequence[str]], Any]] = {"fragments": fragments}
    for name in names:
        folder = Path(name)
        base = (
            import_folder(folder, model_id=folder.name, kind="molecule")
            if folder.is_dir()
            else ensure_model(name)
        )
        kinds[name] = partial(pooled, base)
    data = {target: measured(target) for target in TARGETS}
    for name, values in kinds.items():
        by = {target: round(ranked(values(one[0]), *one[1:]), 3) for target, one in data.items()}
        print(json.dumps({"what": name, **by, "mean": round(float(np.mean(list(by.values()))), 3)}))


if __name__ == "__main__":
    main(sys.argv[1:] or ["plasmid-smiles"])
