"""What a worker tells its own gateway about the records behind a sum in cells; nothing of it leaves the site.

Rules
-----
1. A person is the keyed hash of the patient column's cell where the document names one. Without one a row is
   a person, known by its content and by how many equal rows come before it: the same row in another order of
   the file is the same person. With other columns it is another one, which no key can help.
2. The key is made for this by the gateway from the site's data key; a recipe's own Python never runs here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from plasmid.computations.api import Cellular, Layout
from plasmid.disclosure.contributors import Evidence
from plasmid.recipes.documents import patient_of


def evidence_of(
    computation: Cellular, document: Any, layout: Layout, rows: Iterable[Mapping[str, Any]], *, key: bytes
) -> Evidence:
    """Return the evidence of all *rows*."""
    patient = patient_of(document)
    where: list[int] = []
    keys = bytearray()
    amounts: list[tuple[float, ...]] = []
    before: Counter[bytes] = Counter()
    for row in rows:
        cell = computation.cell(document, row)
        if cell is None:
            continue
        if patient is not None and row[patient] is not None:
            whose = b"p" + str(row[patient]).encode()
        else:
            content = blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=16).digest()
            whose = b"r" + content + before[content].to_bytes(8, "big")
            before[content] += 1
        keys += blake2b(whose, digest_size=8, key=key).digest()
        where.append(cell)
        amounts.append(computation.amounts(document, row))
    return Evidence.of(
        np.array(where, np.int64),
        np.frombuffer(bytes(keys), ">u8").astype(np.uint64),
        np.array(amounts, np.float64).reshape(-1, layout.numbers).T,
        layout.cells,
    )
