"""Makes this recipe's tables: six sites, each with measurements at a target of its own.

    pip install 'plasmid[molecules]'
    pip install --no-deps MoleculeACE==3.0.0
    python assays.py              # writes data/*.csv beside this file, the same bytes each time
    python assays.py --check      # writes nothing; exit status 1 if a file would change

Rules
-----
1. A row is a molecule, the number of its scaffold, and its pKi, as ChEMBL has them after MoleculeACE's
   curation. SMILES are RDKit's canonical ones; those of more than :data:`MAX_SMILES` characters are left out.
2. The scaffold is Bemis and Murcko's (1996, J. Med. Chem. 39: 2887), without configurations; molecules
   without rings are left out. Its number is a digest of it.
3. A scaffold belongs to one site: that with most of its measurements. The others' rows of it are dropped, so
   that no two sites have a molecule or a scaffold in common.
4. Of each site whole scaffolds are taken in the order of their numbers, to :data:`ROWS` rows.
"""

# ruff: noqa: INP001 - a script beside the data that it makes, no module of the package
from __future__ import annotations

import csv
import hashlib
import importlib.util
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plasmid.recipes.made import csv_bytes, written

MAX_SMILES = 100
ROWS = 800
TARGETS = {
    "dopamine-d3": "CHEMBL234",
    "dopamine-d4": "CHEMBL219",
    "histamine-h3": "CHEMBL264",
    "serotonin-5ht1a": "CHEMBL214",
    "serotonin-transporter": "CHEMBL228",
    "sigma-1": "CHEMBL287",
}
FOLDER = "Data/benchmark_data"
COLUMNS = ("smiles", "scaffold", "affinity")

Measured = tuple[str, str, float]
"""A molecule, its scaffold's number, its pKi."""


def numbered(smiles: str) -> tuple[str, str] | None:
    """Return the canonical SMILES and its scaffold's number; None without rings, or if it is too long."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    scaffold_of: Any = MurckoScaffold.MurckoScaffoldSmiles
    molecule = Chem.MolFromSmiles(smiles)
    canonical = Chem.MolToSmiles(molecule)
    scaffold = scaffold_of(mol=molecule, includeChirality=False)
    if not scaffold or len(canonical) > MAX_SMILES:
        return None
    return canonical, hashlib.sha256(scaffold.encode()).hexdigest()[:12]


def divided(sites: Mapping[str, Sequence[Measured]]) -> dict[str, list[Measured]]:
    """Return each site's rows with every scaffold at one site, as rules 3 and 4 say."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for site, rows in sites.items():
        for _, scaffold, _ in rows:
            found[scaffold][site] += 1
    owner = {
        scaffold: min(counts, key=lambda site: (-counts[site], site)) for scaffold, counts in found.items()
    }
    kept: dict[str, list[Measured]] = {}
    for site, rows in sites.items():
        own = sorted(row for row in rows if owner[row[1]] == site)
        taken: set[str] = set()
        size = 0
        for scaffold in sorted({row[1] for row in own}):
            size += found[scaffold][site]
            if size > ROWS:
                break
            taken.add(scaffold)
        kept[site] = [row for row in own if row[1] in taken]
    return kept


def _measured(path: Path) -> list[Measured]:
    with path.open(encoding="utf-8", newline="") as source:
        rows = [(numbered(row["smiles"]), 9 + float(row["y"])) for row in csv.DictReader(source)]
    return [(*known, value) for known, value in rows if known is not None]


def files() -> dict[str, bytes]:
    """Return the tables by the names of their files."""
    spec = importlib.util.find_spec("MoleculeACE")  # found, not imported: it brings much else
    if spec is None or spec.origin is None:
        raise SystemExit("MoleculeACE is not installed: pip install --no-deps MoleculeACE==3.0.0")
    folder = Path(spec.origin).parent / FOLDER
    sites = divided({site: _measured(folder / f"{target}_Ki.csv") for site, target in TARGETS.items()})
    return {f"{site}.csv": csv_bytes(COLUMNS, map(_told, rows)) for site, rows in sites.items()}


def _told(row: Measured) -> tuple[str, str, str]:
    smiles, scaffold, value = row
    return smiles, scaffold, f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(written(__file__, __doc__, files))
