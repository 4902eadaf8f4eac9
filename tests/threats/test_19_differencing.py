"""Row 19. Attack: small-cohort differencing, one-hot sweeps, a saturated model, averaging of repeats.

Must hold: the second query is refused or epsilon charged; a repeat is told the same total.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.data.table import Table
from plasmid.recipes.counts import CountsDocument
from plasmid.recipes.query import QueryDocument
from support.federation.attacks import FOUR, count_document, refusal
from support.federation.bundle_recipes import bundle_recipe
from support.federation.questions import OFF, Questions, rows_in_hand

VICTIM = 77.0
MEAN = QueryDocument(name="ages", column="age", bounds=(0.0, 120.0), max_rows=1000)


def cut(*edges: float) -> CountsDocument:
    """Return the question how many are in each age group."""
    axis = {"type": "number", "column": "age", "edges": list(edges)}
    return CountsDocument.model_validate(
        {"computation": "counts", "name": "ages", "axes": [axis], "missing": "skip", "max_rows": 1000}
    )


def ages(*extra: float, number: int = 100) -> Table:
    values = [20.0 + index * 0.5 for index in range(number)] + list(extra)
    return Table({"age": values}, len(values))


def without_the_victim() -> dict[str, Table]:
    """Return every site's table; alpha's lacks one row that it had before."""
    return {site: ages() if site == "alpha" else ages(VICTIM) for site in FOUR}


# -- small-cohort differencing -----------------------------------------------------------------------


def test_control_two_sums_that_differ_by_one_person_are_his_value(tmp_path: Path) -> None:
    questions = Questions(tmp_path, disclosure=OFF)
    first = questions.ask(MEAN, ages(VICTIM))
    second = questions.ask(MEAN, without_the_victim())
    told = first["mean"] * first["count"] - second["mean"] * second["count"]
    assert first["count"] - second["count"] == 1
    assert told == pytest.approx(VICTIM, abs=1e-4)


def test_the_second_is_refused_and_says_nothing_of_the_difference(tmp_path: Path) -> None:
    questions = Questions(tmp_path)
    questions.ask(MEAN, ages(VICTIM))
    with refusal("policy.overlap") as caught:
        questions.ask(MEAN, without_the_victim())
    assert str(VICTIM) not in str(caught.value)


def test_one_that_is_about_clearly_other_people_is_answered(tmp_path: Path) -> None:
    questions = Questions(tmp_path)
    assert questions.ask(MEAN, ages(number=100))["suppressed_at"] == 0
    assert questions.ask(MEAN, ages(number=150))["suppressed_at"] == 0


def test_a_small_cohort_is_told_nothing_about(tmp_path: Path) -> None:
    small = {site: ages(number=9 if site == "alpha" else 200) for site in FOUR}
    told = Questions(tmp_path).ask(MEAN, small)
    assert (told["count"], told["suppressed_at"]) == (600, 1)


# -- one-hot sweeps --------------------------------------------------------------------------------


def test_control_a_moving_edge_counts_those_between_two_positions(tmp_path: Path) -> None:
    questions = Questions(tmp_path, disclosure=OFF)
    below = [questions.ask(cut(0, edge, 120), ages(VICTIM))["counts"][0] for edge in (77.0, 77.5)]
    assert below == [400, 404]  # the four sites' victims, and nobody else


def test_a_moving_edge_is_refused(tmp_path: Path) -> None:
    questions = Questions(tmp_path)
    questions.ask(cut(0, 60, 120), ages(VICTIM))
    for edge in (60.5, 61.0, 65.0):
        with refusal("policy.overlap"):
            questions.ask(cut(0, edge, 120), ages(VICTIM))
    questions.ask(cut(0, 40, 120), ages(VICTIM))  # forty people away


def test_a_cell_for_one_person_is_suppressed_and_cannot_be_subtracted(tmp_path: Path) -> None:
    told = Questions(tmp_path).ask(cut(0, 45, 76.9, 77.1, 120), ages(VICTIM))
    assert told["counts"] == [0, 200, 0, 0]
    assert told["suppressed_at"] == [4, 0, 4, 0]
    control = Questions(tmp_path / "control", disclosure=OFF).ask(cut(0, 45, 76.9, 77.1, 120), ages(VICTIM))
    assert control["counts"] == [200, 200, 4, 0]


# -- a saturated model -----------------------------------------------------------------------------

MOMENTS = """
def vector(state, view, settings):
    return [sum(age**power for age in view["age"]) / 120.0**power for power in range(1, 21)]
"""


def test_control_as_many_moments_as_people_are_their_values() -> None:
    """Newton's identities on three power sums of three people."""
    x = np.array([20.0, 50.0, VICTIM])
    power = [float((x**k).sum()) for k in (1, 2, 3)]
    e1, e2 = power[0], (power[0] ** 2 - power[1]) / 2
    e3 = (power[2] - power[0] ** 3 + 3 * e2 * power[0]) / 3
    assert sorted(np.roots([1.0, -e1, e2, -e3]).real) == pytest.approx([20.0, 50.0, VICTIM])


def test_a_vector_of_too_many_numbers_is_refused_and_a_table_of_too_many_suppressed(tmp_path: Path) -> None:
    moments = bundle_recipe(MOMENTS, half="vector", size=20, max_rows=1000, bound=1000.0)
    with pytest.raises(AssertionError, match=r"policy\.parameters"):
        Questions(tmp_path / "few", disclosure={}).ask(moments, ages(number=60))
    fine = cut(*np.linspace(0, 120, 41).tolist())
    told = Questions(tmp_path / "table").ask(fine, ages(number=100))
    assert set(told["suppressed_at"]) == {4}
    assert set(told["counts"]) == {0}
    off = Questions(tmp_path / "off", disclosure=OFF).ask(fine, ages(number=100))
    assert sum(off["counts"]) == 400


# -- averaging of repeats --------------------------------------------------------------------------


def test_a_repeat_is_told_the_same_numbers(tmp_path: Path) -> None:
    questions = Questions(tmp_path)
    told = [questions.ask(cut(0, 30, 45, 120), ages(VICTIM)) for _ in range(4)]
    assert all(one == told[0] for one in told)
    assert told[0]["counts"] == [80, 120, 200]  # 20, 30 and 51 at each site
    federation: Any = questions.federation
    assert len(list((federation.home("alpha").lineage / "statistics" / "default").glob("*.people"))) == 1


def test_under_a_unit_a_repeat_is_charged(tmp_path: Path) -> None:
    questions = Questions(tmp_path)
    told = [questions.ask(count_document(spare=0), ages(VICTIM)) for _ in range(2)]
    assert told[0]["mean"] != told[1]["mean"]
    federation: Any = questions.federation
    for site in FOUR:
        assert float(federation.gateways[site].ledger.summary()["default"].spent_epsilon) == 2.0


# -- what the log says -----------------------------------------------------------------------------


def test_the_log_says_how_many_cells_were_suppressed_and_never_which(tmp_path: Path) -> None:
    questions = Questions(tmp_path)
    questions.ask(cut(0, 45, 76.9, 77.1, 120), ages(VICTIM))
    federation: Any = questions.federation
    (released,) = [entry for entry in federation.log("alpha") if entry["action"] == "released"]
    assert (released["cells"], released["cells_suppressed"]) == (4, 2)
    assert released["cells_why"] == ["complementary: 1", "min_cell: 1"]


def test_without_evidence_nothing_in_cells_leaves(tmp_path: Path) -> None:
    questions = Questions(tmp_path)
    questions.ask(MEAN, ages())
    federation: Any = questions.federation
    federation.new_run("a worker that says nothing of people")
    with rows_in_hand(dict.fromkeys(FOUR, ages().rows)):
        federation.set_up()
    manifest = federation.manifest()
    with refusal("protocol.evidence"):
        federation.gateways["alpha"].contribute(manifest, lambda _: np.zeros(4))
    assert federation.log("alpha")[-1]["action"] != "released"
