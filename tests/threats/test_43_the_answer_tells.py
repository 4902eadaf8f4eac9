"""Row 43. Attack: the answer itself tells. One bad record turns yes into no, or ends the run, at no charge.

Somebody's record has an unknown label, a residue that is none, no number where one belongs. Who asks twice,
before and after it came, sees whether it is there. Must hold under a privacy unit: tables that differ by one
record get the same bytes to every question, write as many entries into a log whose length peers see, and the
run goes on over the other rows; what was left out is told to the owner.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.core.settings import dump_settings
from plasmid.recipes.protection import Protection
from plasmid.recipes.query import QueryDocument
from plasmid.recipes.schema import Recipe
from support.federation.attacks import BUDGET, FOUR, count_document, private
from support.federation.bundle_recipes import computed
from support.federation.in_memory import Federation, log_text
from support.hospital.data_site import RECEPTORS, DataSite, receptor_rows
from support.hospital.snapshots import rows_in
from support.tiny.tiny_task import tiny_csv, tiny_recipe

UNIT = {"unit": "record", "mechanism": "dp-sgd", "epsilon": 2.0, "delta": 1e-6, "record_clip": 1.0}
BAD_RECEPTORS = {
    "an unknown label": "CASSF,a,maybe",
    "a residue that is none": "C1SSF,a,yes",
    "no label": "CASSF,a,",
    "no sequence": ",a,yes",
    "a cell too few": "CASSF,a",
    "a cell too many": "CASSF,a,yes,CANARY",
}
AGES = "age\n" + "".join(f"{age}\n" for age in range(20, 60))
BAD_AGES = {
    "no number": "CANARY\n",
    "a number out of bounds": "999\n",
    "one row more than max_rows": "".join("30\n" for _ in range(1000)),
}


def put(federation: Federation, text: str) -> None:
    (federation.home("alpha").folder / "data" / "table.csv").write_text(text)


def asked(federation: Federation, text: str) -> tuple[bytes, bytes, list[str]]:
    """Return alpha's answers to ask and admit over the table *text*, and the actions that its log gained."""
    gateway = federation.gateways["alpha"]
    put(federation, text)
    before = len(federation.log("alpha"))
    question = gateway.answer(federation.asking()).model_dump_json().encode()
    answer = gateway.answer(federation.admitting()).model_dump_json().encode()
    return question, answer, [line["action"] for line in federation.log("alpha")[before:]]


def assert_alike(federation: Federation, texts: dict[str, str]) -> None:
    """Assert that all *texts* are answered with one yes; the first is asked first, for what it reserves."""
    asked(federation, next(iter(texts.values())))
    first, *others = (asked(federation, text) for text in texts.values())
    assert b'"accepted":true' in first[0]
    assert b'"accepted":true' in first[1]
    for what, other in zip(list(texts)[1:], others, strict=True):
        assert other == first, what
    assert "CANARY" not in log_text(federation.home("alpha"))


@pytest.fixture
def trained(
    tiny: dict[str, BaseModel], model_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[dict[str, Any]], Federation]:
    monkeypatch.setenv("PLASMID_HOME", str(model_home))

    def made(privacy: dict[str, Any]) -> Federation:
        values = tiny_recipe(tiny["esm"]).model_dump(mode="json")
        values["privacy"] |= privacy
        return private(
            tmp_path / (privacy.get("unit") or "none"),
            document=Recipe.model_validate(values),
            tables=dict.fromkeys(FOUR, tiny_csv(24)),
        )

    return made


# -- one bad record --------------------------------------------------------------------------------------


def test_control_without_a_unit_each_bad_record_turns_yes_into_no(
    trained: Callable[[dict[str, Any]], Federation],
) -> None:
    federation = trained({})
    assert b'"accepted":true' in asked(federation, tiny_csv(24))[0]
    for what, record in BAD_RECEPTORS.items():
        question, answer, _ = asked(federation, f"{tiny_csv(24)}{record}\n")
        assert b'"code":"data.invalid"' in question, what
        assert b'"code":"data.invalid"' in answer, what


def test_a_bad_record_changes_no_byte_of_an_answer(trained: Callable[[dict[str, Any]], Federation]) -> None:
    good = tiny_csv(24)
    tables = {what: f"{good}{record}\n" for what, record in BAD_RECEPTORS.items()}
    header = good.splitlines()[0]
    tables |= {"nobody at all": f"{header}\n", "nobody but a bad record": f"{header}\nC1SSF,a,maybe\n"}
    assert_alike(trained(UNIT), {"good": good} | tables)


def test_neither_does_one_of_a_query(tmp_path: Path) -> None:
    tables = {what: AGES + rows for what, rows in BAD_AGES.items()}
    assert_alike(private(tmp_path, require={"min_cohort": 500}), {"good": AGES} | tables)


def test_a_small_cohort_is_judged_by_the_public_size_and_not_by_who_is_there(tmp_path: Path) -> None:
    few = {str(number): "age\n" + "30\n" * number for number in (10, 11, 12)}
    assert_alike(private(tmp_path / "a", require={"min_cohort": 11}), few)
    federation = private(tmp_path / "b", require={"min_cohort": 1001})
    answers = {asked(federation, text)[:2] for text in (AGES, *few.values())}
    assert len(answers) == 1
    assert b'"code":"policy.cohort"' in next(iter(answers))[0]


def test_a_date_that_is_none_leaves_its_row_out(tmp_path: Path) -> None:
    """The shift of dates refuses what may be a real date in another form."""
    counts = {
        "computation": "counts",
        "name": "by-year",
        "axes": [{"type": "category", "column": "born", "vocabulary": ["1970-01-01"]}],
        "patient": "who",
    }
    from plasmid.recipes.counts import CountsDocument

    noised = Protection(unit="record", mechanism="dp-fedsgd", epsilon=1.0, delta=1e-6, record_clip=1.0)
    document = CountsDocument.model_validate(counts).model_copy(update={"privacy": noised})
    federation = private(tmp_path, document=document, tables=dict.fromkeys(FOUR, "who,born\na,1970-01-01\n"))
    home = federation.home("alpha")
    home.views.mkdir()
    shift = {"date_shift": {"columns": ["born"], "days": 10}}
    (home.views / "by-year.yaml").write_bytes(dump_settings({"transforms": [shift]}))
    good = "who,born\na,1970-01-01\nb,1980-02-03\n"
    assert_alike(federation, {"good": good, "bad": f"{good}CANARY,3.2.80\n"})
    (step, *_) = [line for line in reversed(federation.log("alpha")) if line["action"] == "view.step"]
    assert "rows left out, with no date: 1" in step["counts"]


# -- the run goes on -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows", [AGES + "CANARY\n", "age\n", "age\nCANARY\n"], ids=["one", "none", "no other"]
)
def test_the_run_goes_on_over_the_other_rows(tmp_path: Path, rows: str) -> None:
    federation = private(tmp_path, tables=dict.fromkeys(FOUR, AGES))
    put(federation, rows)
    federation.set_up()
    manifest = federation.manifest()
    vectors = {}
    for site in FOUR:
        opened = federation.gateways[site].run(federation.run).opened
        assert opened is not None
        table = rows_in(opened.descriptor)
        assert table.rows == (rows.count("\n") - 1 - rows.count("CANARY") if site == "alpha" else 40)
        vectors[site] = computed(federation.document, table)
    answers = federation.answers(manifest, vectors)
    total = federation.open_sum(list(answers.values()), manifest)
    assert total.any()
    assert not total[len(vectors["alpha"]) :].any(), "the sum is opened, not garbage"


def test_the_owner_is_told_what_was_left_out_and_where(tmp_path: Path) -> None:
    federation = private(tmp_path)
    asked(federation, AGES + "CANARY\n")
    told = [line["reason"] for line in federation.log("alpha") if line["action"] == "notice"]
    assert len(told) == 2  # ask, and admit
    assert "1 value not a number (first at line 42)" in told[0]
    assert "1 row left out for a problem" in told[0]


def test_plasmid_data_check_tells_the_owner_before_anybody_asks(tmp_path: Path) -> None:
    site = DataSite.made(tmp_path)
    bad = ["C1SSF", "F", "60", "maybe"]
    site.csv(["cdr3", "sex", "weight", "label"], [*receptor_rows(), bad], name="receptors.csv")
    site.refused("data.residue_invalid", "check", site.recipe(RECEPTORS))
    recipe = site.recipe({**RECEPTORS, "privacy": UNIT})
    answer = site.json("check", recipe)["data"]
    assert answer["verdict"] == "ready with notices"
    assert any("those rows are left out" in reason for reason in answer["reasons"])
    assert "1 row left out for a problem" in site.run("check", recipe).output


# -- data that are not ready ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("years\n30\n", {}),
        (AGES, {"transforms": [{"deduplicate": {}}]}),
        (AGES, {"source": "nowhere"}),
        (AGES, {"transforms": [{"opt_out": {"file": "none.txt"}}]}),
        ("", {}),
    ],
    ids=["no such column", "unstable", "no such connection", "no list", "an empty file"],
)
def test_whatever_is_wrong_with_a_view_there_is_one_answer(
    tmp_path: Path, text: str, view: dict[str, Any]
) -> None:
    federation = private(tmp_path)
    home = federation.home("alpha")
    home.views.mkdir()
    (home.views / "ages.yaml").write_bytes(dump_settings(view))
    put(federation, text)
    for request in (federation.asking(), federation.admitting()):
        answer = federation.gateways["alpha"].answer(request)
        assert not answer.accepted
        assert answer.code == "data.not_ready"
        assert answer.sentence == "The site's data are not ready for this recipe."


def test_control_without_a_unit_the_reason_has_its_own_code(tmp_path: Path) -> None:
    plain = QueryDocument(name="ages", column="age", bounds=(0.0, 120.0), max_rows=1000)
    federation = Federation(
        tmp_path, document=plain, sites=FOUR, tables=dict.fromkeys(FOUR, AGES), budgets={"default": BUDGET}
    )
    for text in (AGES + "CANARY\n", AGES + "".join("30\n" for _ in range(1000)), "age\n"):
        assert b'"code":"data.invalid"' in asked(federation, text)[1]
    assert count_document().contract == plain.contract
