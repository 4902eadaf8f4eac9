"""Makes this recipe's table: one protein of each cluster of relatives, as many of either label.

    pip install --no-deps aaanalysis==1.1.0
    python clusters.py              # writes data/proteins.csv beside this file, the same bytes each time
    python clusters.py --check      # writes nothing; exit status 1 if the file would change

Rules
-----
1. Two proteins are related if they share at least :data:`SHARED` of the shorter one's different
   :data:`WORD`-mers. It is counted exactly, for every pair: at this size nothing needs to be sketched.
2. Clusters are single linkage: a relative of a relative is in, so that no two clusters hold related proteins.
3. Of each cluster whose members have one label, the member with the smallest SHA-256 stands for it; clusters
   of both labels are left out, and proteins with other letters than the 20. Of either label,
   :data:`OF_EACH` are taken in the order of that digest.
So no protein of the test has a relative, in this sense, at any site. Remoter homologs are not found by words.
"""

# ruff: noqa: INP001 - a script beside the data that it makes, no module of the package
from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

WORD = 5
SHARED = 0.1
OF_EACH = 1200
RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWY")
FILE = "_data/benchmarks/SEQ_CAPSID.tsv"

Labelled = tuple[str, str]


def clusters(sequences: Sequence[str]) -> list[int]:
    """Return the number of each sequence's cluster."""
    places: dict[str, int] = {}
    words: list[int] = []
    ends = [0]
    for sequence in sequences:
        found = {sequence[at : at + WORD] for at in range(len(sequence) - WORD + 1)}
        words += [places.setdefault(word, len(places)) for word in sorted(found)]
        ends.append(len(words))
    held = csr_matrix((np.ones(len(words), np.int32), words, ends), shape=(len(sequences), len(places)))
    common = (held @ held.T).tocoo()
    sizes = np.diff(ends)
    shorter = np.minimum(sizes[common.row], sizes[common.col])
    related = common.data >= SHARED * shorter
    graph = csr_matrix((common.data[related], (common.row[related], common.col[related])), shape=common.shape)
    return [int(one) for one in connected_components(graph, directed=False)[1]]


def chosen(proteins: Sequence[Labelled]) -> list[Labelled]:
    """Return the proteins that stand for their clusters, :data:`OF_EACH` of either label, by sequence."""
    members: dict[int, list[Labelled]] = {}
    for number, protein in zip(clusters([one for one, _ in proteins]), proteins, strict=True):
        members.setdefault(number, []).append(protein)
    alike = [found for found in members.values() if len({label for _, label in found}) == 1]
    standing = sorted((min(found, key=_digest) for found in alike), key=_digest)
    return sorted(
        protein for label in "01" for protein in [one for one in standing if one[1] == label][:OF_EACH]
    )


def _digest(protein: Labelled) -> str:
    return hashlib.sha256(protein[0].encode()).hexdigest()


def table() -> bytes:
    """Return ``data/proteins.csv``."""
    spec = importlib.util.find_spec("aaanalysis")  # found, not imported: it brings much else
    if spec is None or spec.origin is None:
        raise SystemExit("aaanalysis is not installed: pip install --no-deps aaanalysis==1.1.0")
    with (Path(spec.origin).parent / FILE).open(encoding="utf-8", newline="") as source:
        every = [(row["sequence"], row["label"]) for row in csv.DictReader(source, delimiter="\t")]
    rows = [protein for protein in every if RESIDUES.issuperset(protein[0])]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("sequence", "label"))
    writer.writerows(chosen(rows))
    return text.getvalue().encode()


def main() -> int:
    """Write or check the file; the exit status is 1 where it differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    path, content = Path(__file__).with_name("data") / "proteins.csv", table()
    if check:
        same = path.is_file() and path.read_bytes() == content
        sys.stdout.write(f"{path.name}: {'the same' if same else 'differs'}\n")
        return int(not same)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    sys.stdout.write(f"{path.name}: {len(content)} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
