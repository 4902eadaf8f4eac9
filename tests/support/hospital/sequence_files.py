"""Made-up files of sequences and molecules, for the tests of their readers and for benchmarks of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from plasmid.bases.residues import AMINO_ACIDS

WIDTH = 60
"""Letters on a line of a FASTA file."""


def write_fasta(path: Path, records: int, *, shortest: int = 100, longest: int = 600, seed: int = 0) -> Path:
    """Write *records* proteins with headers in UniProt's manner, wrapped to :data:`WIDTH` letters a line."""
    source = random.Random(seed)
    pool = "".join(source.choices(AMINO_ACIDS, k=100_000))
    with path.open("w", encoding="ascii", newline="") as file:
        for number in range(records):
            start = source.randrange(len(pool) - longest)
            sequence = pool[start : start + source.randint(shortest, longest)]
            lines = (sequence[place : place + WIDTH] for place in range(0, len(sequence), WIDTH))
            file.write(
                f">sp|Q{number:06d}|P{number}_HUMAN Made-up protein {number} OS=Homo sapiens OX=9606 "
                f"GN=G{number % 997} label={number % 2}\n" + "\n".join(lines) + "\n"
            )
    return path


def write_fastq(path: Path, records: int, *, length: int = 150, vary: int = 0, seed: int = 0) -> Path:
    """Write *records* reads of *length* letters, up to *vary* fewer each."""
    source = random.Random(seed)
    bases = "".join(source.choices("ACGT", k=100_000))
    marks = "".join(chr(33 + source.randint(2, 40)) for _ in range(100_000))
    with path.open("w", encoding="ascii", newline="") as file:
        for number in range(records):
            size = length - source.randint(0, vary)
            start = source.randrange(len(bases) - size)
            file.write(
                f"@read{number} lane={number % 8}\n{bases[start : start + size]}\n+\n"
                f"{marks[start : start + size]}\n"
            )
    return path


def write_sd(path: Path, sources: Iterable[Path], records: int) -> Path:
    """Write *records* records by repeating those of the SD files *sources*, and number them."""
    known: list[str] = []
    for source in sources:
        text = source.read_text("latin-1").replace("\r\n", "\n")
        known.extend(record for record in text.split("$$$$\n") if record.strip())
    with path.open("w", encoding="utf-8", newline="") as file:
        for number in range(records):
            record = known[number % len(known)].rstrip("\n")
            file.write(f"{record}\n\n> <number>\n{number}\n\n$$$$\n")
    return path


def sd_record(block: str, fields: Sequence[tuple[str, str]] = ()) -> str:
    """Return one record of an SD file: a MOL block, then its fields."""
    return block.rstrip("\n") + "\n" + "".join(f"> <{name}>\n{text}\n\n" for name, text in fields) + "$$$$\n"
