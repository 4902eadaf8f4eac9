"""Near-duplicates across a split: every one that is reported is one, and few are missed."""

from __future__ import annotations

import random

import pytest

from plasmid.data.readiness.near_duplicates import (
    PERMUTATIONS,
    NearReport,
    bands,
    jaccard,
    near_pairs_across,
    residues,
    words,
)

AA = "ACDEFGHIKLMNPQRSTVWY"


def test_shingles() -> None:
    assert residues(" cassl ") == {"CAS", "ASS", "SSL"}
    assert residues("AC") == {"AC"}
    assert residues("") == frozenset()
    assert words("The cat, the CAT sat") == {"the cat the", "cat the cat", "the cat sat"}
    assert words("Yes!") == {"yes"}
    assert words(" .") == frozenset()


def test_the_reports_counts_are_the_exact_ones() -> None:
    rng = random.Random(1)
    left = ["".join(rng.choices(AA, k=100)) for _ in range(200)]
    right = []
    for _ in range(60):
        sequence = list(rng.choice(left))
        for place in rng.sample(range(100), rng.randint(0, 8)):
            sequence[place] = rng.choice(AA)
        right.append("".join(sequence))
    exact = sum(max(jaccard(residues(one), other) for other in map(residues, left)) >= 0.8 for one in right)
    assert 12 < exact < 48
    found = near_pairs_across(left, right, kind="sequence", threshold=0.8)
    assert found.of == 60
    assert exact - 1 <= found.near <= exact


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_bands_find_99_of_100_at_the_threshold(threshold: float) -> None:
    count = bands(threshold)
    rows = PERMUTATIONS // count
    assert 1 - (1 - threshold**rows) ** count >= 0.99
    assert count * rows == PERMUTATIONS


def test_texts_are_near_by_their_words() -> None:
    left = ["The patient was seen today and has no complaints at all.", "", "x"]
    right = [
        "the patient was seen today, and has no complaints at all",
        "Another text about something",
        "",
        "X",
    ]
    assert near_pairs_across(left, right, kind="text", threshold=0.9) == NearReport((0, 3), 4)
    assert near_pairs_across([], right, kind="text", threshold=0.9) == NearReport((), 4)
    assert near_pairs_across(left, [], kind="text", threshold=0.9) == NearReport((), 0)
    with pytest.raises(ValueError, match="threshold"):
        near_pairs_across(left, right, kind="text", threshold=0.0)


def test_texts_that_are_alike_by_the_thousand_are_no_matter() -> None:
    form = "no fever no cough no pain no rash no weight loss no night sweats"
    left = [f"{form} number {number}" for number in range(3000)]
    assert near_pairs_across(left, left[:500], kind="text", threshold=0.8).near == 500
