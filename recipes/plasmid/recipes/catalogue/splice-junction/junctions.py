"""Makes this recipe's table: one window of DNA of each cluster of relatives, with the junction in its middle.

    apt-get download r-cran-mlbench          # Debian; any release of mlbench 2
    dpkg-deb -x r-cran-mlbench_*.deb mlbench
    pip install rdata
    python junctions.py mlbench/usr/lib/R/site-library/mlbench/data/DNA.rda     # writes data/junctions.csv

Rules
-----
1. mlbench keeps each nucleotide as three binary columns, which are decoded: 100 is A, 010 is C, 001 is G, 000
   is T.
2. ``ei`` (exon, then intron) is a donor, ``ie`` an acceptor, ``n`` neither.
3. Two windows are related if they share :data:`WORD` nucleotides in a row; clusters are single linkage. Of
   each cluster whose windows have one label, the window with the smallest SHA-256 stands for it; clusters of
   several labels are left out. So no window of the test has a relative, in this sense, at any site.
"""

# ruff: noqa: INP001 - a script beside the data that it makes, no module of the package
from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.recipes.made import csv_bytes

WORD = 16
LETTERS: dict[tuple[int, ...], str] = {(1, 0, 0): "A", (0, 1, 0): "C", (0, 0, 1): "G", (0, 0, 0): "T"}
LABELS = {"ei": "donor", "ie": "acceptor", "n": "neither"}

Labelled = tuple[str, str]


def decoded(indicators: npt.NDArray[np.int64]) -> list[str]:
    """Return the sequences of *indicators*, 0 or 1, [rows, 3 · length]."""
    triples = indicators.reshape(len(indicators), -1, 3).tolist()
    return ["".join(LETTERS[tuple(one)] for one in row) for row in triples]


def clusters(sequences: Sequence[str]) -> list[int]:
    """Return the number of each sequence's cluster: that of its first member."""
    root = list(range(len(sequences)))

    def find(one: int) -> int:
        while root[one] != one:
            root[one] = one = root[root[one]]
        return one

    seen: dict[str, int] = {}
    for number, sequence in enumerate(sequences):
        for at in range(len(sequence) - WORD + 1):
            other = seen.setdefault(sequence[at : at + WORD], number)
            low, high = sorted((find(number), find(other)))
            root[high] = low
    return [find(number) for number in range(len(sequences))]


def chosen(windows: Iterable[Labelled]) -> list[Labelled]:
    """Return the windows that stand for their clusters, by sequence."""
    every = list(windows)
    members: dict[int, list[Labelled]] = {}
    for number, window in zip(clusters([sequence for sequence, _ in every]), every, strict=True):
        members.setdefault(number, []).append(window)
    alike = [found for found in members.values() if len({label for _, label in found}) == 1]
    return sorted(min(found, key=lambda one: hashlib.sha256(one[0].encode()).hexdigest()) for found in alike)


def read(path: Path) -> list[Labelled]:
    """Return every window of mlbench's ``DNA.rda``."""
    rdata: Any = importlib.import_module("rdata")

    table: Any = rdata.read_rda(path)["DNA"]
    indicators = table.drop(columns="Class").astype(str).astype(np.int64).to_numpy()
    return list(zip(decoded(indicators), [LABELS[str(one)] for one in table["Class"]], strict=True))


def table_of(windows: Iterable[Labelled]) -> bytes:
    """Return ``data/junctions.csv``."""
    return csv_bytes(("sequence", "junction"), windows)


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    found = table_of(chosen(read(parser.parse_args().file)))
    (Path(__file__).parent / "data" / "junctions.csv").write_bytes(found)
    sys.stdout.write(f"{found.count(10) - 1} windows, SHA-256 {hashlib.sha256(found).hexdigest()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
