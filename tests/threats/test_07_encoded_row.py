"""Row 7. Attack: a computation encodes one row in its output (one-hot times x).

Must hold: under a unit, what can be read back is as wrong as the noise for the whole bound. Without one, a
typed statistic that one or two people dominate is suppressed. *Claim*: an opaque vector without a unit holds
whatever its author wants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.data.table import Table
from plasmid.recipes.query import QueryDocument
from plasmid.secagg.ring import decode_sum
from plasmid.worker.bundle import forget
from support.federation.attacks import BUDGET, FOUR, as_csv, count_document
from support.federation.bundle_recipes import OUTPUT, RECORD, ages, bundle_recipe, computed
from support.federation.in_memory import Federation
from support.federation.questions import OFF, Questions, rows_in_hand

SIZE = 400
ENCODES = f"""
    import numpy as np

    def vector(state, view, settings):
        mine = max(view["age"]) / 120.0
        return np.full({SIZE}, mine / {SIZE}**0.5)     # once in every coordinate: as loud as the norm allows

    def per_record(state, row, settings):
        return vector(state, {{"age": (row["age"],)}}, settings) if row["age"] == settings["target"] else None
"""
X = 77.0


@pytest.fixture(autouse=True)
def _no_bundle_stays() -> Iterator[None]:
    yield
    forget()


def sums(root: Path, document: Any, vector: np.ndarray, runs: int = 1) -> Iterator[tuple[np.ndarray, float]]:
    """Yield decoded sums of one site's *vector* and three of zeros, with the planned noise of each."""
    for number in range(runs):
        federation = Federation(
            root / str(number),
            document=document,
            sites=FOUR,
            tables=dict.fromkeys(FOUR, as_csv(ages(X))),
            public_size=1000,
            budgets={"default": BUDGET},
            require={"disclosure": OFF},
        )
        with rows_in_hand(dict.fromkeys(FOUR, 1)):
            federation.set_up()
        manifest = federation.manifest()
        vectors = {site: vector if site == "alpha" else 0.0 * vector for site in FOUR}
        answers = federation.answers(manifest, vectors)
        total = decode_sum(
            federation.open_sum(list(answers.values()), manifest), manifest.encoding(), len(FOUR)
        )
        yield total[:SIZE], math.sqrt(4 * manifest.noise_variance) * manifest.encoding().step


def read_back(total: np.ndarray) -> float:
    """Return the best guess of x from what the sum holds in every coordinate."""
    return float(total.mean()) * SIZE**0.5 * 120.0


def encoded(half: str, privacy: dict[str, Any], table: Table) -> tuple[Any, np.ndarray]:
    """Return the document and what a worker makes of *table*."""
    document = bundle_recipe(
        ENCODES, half=half, size=SIZE, privacy=privacy, settings={"target": X}, max_rows=3, bound=1.0
    )
    return document, computed(document, table)


@pytest.mark.limit("without a unit a vector of a recipe's own Python holds what its author wants")
@pytest.mark.parametrize("half", ["vector", "per_record"])
def test_control_without_a_unit_the_row_is_read_exactly(tmp_path: Path, half: str) -> None:
    """The claim: masks hide it among the sites, and here the other sites are known to send zeros."""
    document, vector = encoded(half, {}, ages(X, 5.0, 6.0))
    ((total, noise),) = sums(tmp_path, document, vector)
    assert noise == 0.0
    assert read_back(total) == pytest.approx(X, abs=1e-3)


@pytest.mark.promise("unit-is-private")
@pytest.mark.parametrize(
    ("half", "privacy", "sensitivity"),
    [("vector", OUTPUT, 2.0), ("per_record", OUTPUT, 2.0), ("per_record", RECORD, 1.0)],
)
def test_under_a_unit_what_is_read_is_as_wrong_as_the_noise(
    tmp_path: Path, half: str, privacy: dict[str, Any], sensitivity: float
) -> None:
    """The noise is per coordinate for all of the bound; averaging over all that hold x leaves it in full."""
    document, vector = encoded(half, privacy, ages(X, 5.0, 6.0))
    assert np.linalg.norm(vector) == pytest.approx(X / 120.0, rel=1e-6)
    found = list(sums(tmp_path, document, vector, runs=8))
    noise = found[0][1]
    errors = np.concatenate([total - vector for total, _ in found])
    assert errors.std() == pytest.approx(noise, rel=0.06)  # 3,200 draws
    # x itself: a vector of norm x / 120 seen through noise of that size in its own direction
    wrong = np.array([read_back(total) - X for total, _ in found])
    assert np.sqrt((wrong**2).mean()) > 0.2 * noise * 120.0
    assert noise * 120.0 > sensitivity * 60.0  # years


def test_a_vector_that_shouts_is_no_louder_than_the_bound(tmp_path: Path) -> None:
    document, vector = encoded("vector", OUTPUT, ages(X))
    ((total, noise),) = sums(tmp_path, document, 1e6 * vector)
    assert float(total.mean()) * SIZE**0.5 == pytest.approx(1.0, abs=4 * noise)
    assert noise > 0.5


# -- typed statistics ------------------------------------------------------------------------------

MEAN = QueryDocument(name="ages", column="age", bounds=(0.0, 120.0), max_rows=1000)
ZEROS = (0.0,) * 20
DOMINATED = {"one row": (X,), "one beside zeros": (*ZEROS, X), "one beside small ones": (*(0.1,) * 20, X)}


def test_control_the_sum_that_one_row_dominates_gives_it_away(tmp_path: Path) -> None:
    """Four sites have the row and little else; so has their sum."""
    for what, values in DOMINATED.items():
        told = Questions(tmp_path / what, disclosure=OFF).ask(MEAN, ages(*values))
        assert told["mean"] * told["count"] / 4 == pytest.approx(X, abs=2.1)


@pytest.mark.parametrize("what", DOMINATED)
def test_a_typed_statistic_that_one_row_dominates_is_suppressed(tmp_path: Path, what: str) -> None:
    told = Questions(tmp_path).ask(MEAN, ages(*DOMINATED[what]))
    assert told == {"mean": None, "variance": None, "count": 0, "sites": 4, "suppressed_at": 4}


def test_where_no_row_dominates_it_is_answered(tmp_path: Path) -> None:
    even = Questions(tmp_path / "even").ask(MEAN, ages(*(60.0 + index for index in range(40))))
    assert even["mean"] == pytest.approx(79.5, abs=4 * 2.5 / 160 * 60)
    assert even["suppressed_at"] == 0
    assert Questions(tmp_path / "zeros").ask(MEAN, ages(*ZEROS))["mean"] == pytest.approx(0.0)
    private = Questions(tmp_path / "unit").ask(count_document(), ages(X))  # noise hides it
    assert "suppressed_at" not in private
