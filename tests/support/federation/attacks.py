"""What tests of threats share: refusals, a test of uniformity, what colluders know, documents with a unit."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plasmid.core.errors import PlasmidError
from plasmid.data.table import Table
from plasmid.gateway.gateway import Gateway
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Manifest, Signed, sign
from plasmid.recipes.protection import Limits
from plasmid.recipes.query import QueryDocument, noised
from plasmid.secagg.keystream import Keystreams, Pad, pair_key, self_key
from support.federation.in_memory import Federation

FOUR = ("alpha", "beta", "delta", "gamma")
FIVE = ("alpha", "beta", "delta", "epsilon", "gamma")
D = "d" * 64
BUDGET = {"unit": "record", "epsilon": 8.0, "delta": 1e-5}

SIGMAS = 8.0
"""How far a statistic of random bytes may be from its mean: a false alarm has a chance of about 1e-14."""


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    """Expect an error with this code."""
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


def never(manifest: Manifest) -> NDArray[Any]:
    """Stand for a computation that must not start."""
    raise AssertionError("the computation was started")


def unevenness(data: bytes | NDArray[Any]) -> float:
    """Return how far the bytes of *data* are from uniform: chi-square, in standard deviations."""
    found = np.bincount(np.frombuffer(bytes(data), np.uint8), minlength=256)
    expected = found.sum() / 256
    assert expected > 5, "too few bytes for this test"
    return float((((found - expected) ** 2 / expected).sum() - 255) / np.sqrt(2 * 255))


def looks_uniform(data: bytes | NDArray[Any]) -> bool:
    """Whether *data* passes for random bytes."""
    return abs(unevenness(data)) < SIGMAS


def looks_unrelated(words: NDArray[Any], vector: NDArray[Any]) -> bool:
    """Whether words, read as two's complement, do not correlate with the values of *vector* [n]."""
    signed = words.view(words.dtype.str.replace("u", "i"))[: vector.size].astype(np.float64)
    return bool(abs(np.corrcoef(signed, vector)[0, 1]) < SIGMAS / np.sqrt(vector.size))


@dataclass
class Insider:
    """What a site that colludes knows of one slot before it masks: its copy is made by :func:`insider`."""

    site: str
    seeds: dict[str, bytes]
    own: bytes
    shares: dict[str, tuple[bytes, bytes]]

    def pair_pad(self, other: str, manifest: str) -> Pad:
        """Return the pad that takes the mask which *other* shares with this site out of *other*'s vector."""
        return Pad(pair_key(self.seeds[other], manifest), subtract=self.site > other)

    def self_pad(self, manifest: str) -> Pad:
        """Return the pad that takes this site's self-mask out of its vector."""
        return Pad(self_key(self.own, manifest), subtract=True)


def insider(gateway: Gateway, run: str, slot: int) -> Insider:
    """Return what *gateway* holds of *slot*: its owner can always read it."""
    epoch = gateway.run(run).epoch
    assert epoch is not None
    held = {site: epoch._held[index, :, slot].copy() for index, site in enumerate(epoch.roster)}
    return Insider(
        site=epoch.site,
        seeds={site: kept[2].tobytes() for site, kept in held.items() if site != epoch.site},
        own=held[epoch.site][2].tobytes(),
        shares={site: (kept[0].tobytes(), kept[1].tobytes()) for site, kept in held.items()},
    )


def take_out(words: NDArray[Any], pads: Iterable[Pad]) -> NDArray[Any]:
    """Return *words* with *pads* applied."""
    bare = words.copy()
    Keystreams(list(pads), bare.dtype).add(bare)
    return bare


def forged(signed: Signed, identity: Identity, **payload: Any) -> Signed:
    """Return a statement under the same name, changed and signed by *identity*."""
    values = {**signed.payload, **payload}

    class _Payload:
        def model_dump(self, mode: str) -> dict[str, Any]:
            return values

    return sign(identity, _Payload()).model_copy(update={"signer": signed.signer})  # type: ignore[arg-type]


def count_document(
    *, epsilon: float = 1.0, delta: float = 1e-6, name: str = "ages", spare: int = 2, **limits: Any
) -> QueryDocument:
    """Return a query for the mean age with differential privacy for one record."""
    return QueryDocument(
        name=name,
        column="age",
        bounds=(0.0, 120.0),
        max_rows=1000,
        federation=Limits(spare_attempts=spare, **limits),
        privacy=noised(epsilon, delta),  # type: ignore[arg-type]
    )


def private(root: Any, **settings: Any) -> Federation:
    """Return sites with a row each, a public size and a budget, over :func:`count_document`."""
    values: dict[str, Any] = {
        "document": count_document(),
        "tables": dict.fromkeys(settings.get("sites", FOUR), "age\n30\n"),
        "sites": FOUR,
        "public_size": 1000,
        "budgets": {"default": BUDGET},
    }
    return Federation(root, **copy.copy(values) | settings)


def as_csv(table: Table) -> str:
    """Return *table* as the text of a file."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.columns)
    for row in zip(*table.columns.values(), strict=True):
        writer.writerow("NA" if cell is None else cell for cell in row)
    return text.getvalue()
