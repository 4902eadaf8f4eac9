"""Transforms are found by name, and all that is wrong with them is told at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from plasmid.core.errors import DataError
from plasmid.data.transforms import deduplicate
from plasmid.data.transforms.base import Place, load, load_all, names
from plasmid.recipes.columns import IdentifierColumn, TextColumn
from plasmid.recipes.protection import Unit

COLUMNS = {
    "who": IdentifierColumn(type="identifier"),
    "note": TextColumn(type="text", max_length=100),
}


def place(folder: Path, patient: str | None = "who") -> Place:
    return Place(COLUMNS, patient, folder, b"k" * 32)


def test_every_module_is_a_transform_that_says_what_it_does() -> None:
    assert names() == ["date_shift", "deduplicate", "deidentify", "normalise", "opt_out"]
    settings = {
        "date_shift": {"columns": ["note"], "days": 30},
        "deduplicate": {},
        "deidentify": {"columns": ["note"]},
        "normalise": {"columns": {"note": ["trim"]}},
        "opt_out": {"file": "no.txt"},
    }
    for name in names():
        step = load(name, settings[name])
        assert step.name == name
        assert step.describe().endswith(".")
        assert all(count == 0 for count in step.counts().values())


def test_a_transform_that_states_no_stability_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(deduplicate.Step, "stability")
    with pytest.raises(DataError) as caught:
        load_all([{"normalise": {"columns": {"note": ["trim"]}}}, {"deduplicate": {}}])
    assert caught.value.code == "data.transform_unstable"
    assert "transforms.1.deduplicate: it does not say how many units" in caught.value.message


@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("changed", [None, 0, 2])
def test_under_a_unit_all_but_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: Unit, changed: int | None
) -> None:
    chain = load_all([{"normalise": {"columns": {"note": ["trim"]}}}])
    monkeypatch.setattr(chain.steps[0], "stability", lambda _: changed)
    for free in ("none", "site"):  # a site is one unit, whatever its rows do to one another
        chain.prepare(replace(place(tmp_path), unit=free))
    with pytest.raises(DataError) as caught:
        chain.prepare(replace(place(tmp_path), unit=unit))
    assert caught.value.code == "data.transform_unstable"
    assert f"one added {unit} changes {'any number' if changed is None else changed}" in caught.value.message


def test_problems_of_all_transforms_are_told_together() -> None:
    with pytest.raises(DataError) as caught:
        load_all([{"opt_in": {}}, {"opt_out": {"fil": "x"}}, {"date_shift": {"columns": ["d"], "days": 0}}])
    assert caught.value.code == "data.transform_unknown"
    assert caught.value.message == (
        "the view's transforms cannot be used (4 problems):\n"
        "  transforms.0: there is no transform 'opt_in' (did you mean 'opt_out'?)\n"
        "  transforms.1.opt_out.file: field required\n"
        "  transforms.1.opt_out.fil: no such setting (did you mean 'file'?)\n"
        "  transforms.2.date_shift.days: input should be greater than or equal to 1"
    )
    with pytest.raises(DataError) as caught:
        load("normalise", {"columns": {"note": ["sub('a','b')"]}})
    assert caught.value.code == "data.transform_settings"


def test_a_place_that_does_not_fit_is_told_for_all_steps(tmp_path: Path) -> None:
    chain = load_all(
        [{"opt_out": {"file": "no.txt"}}, {"normalise": {"columns": {"nota": ["trim"]}}}, {"deduplicate": {}}]
    )
    with pytest.raises(DataError) as caught:
        chain.prepare(place(tmp_path, patient=None))
    assert caught.value.code == "data.opt_out_column"
    assert "the opt-out list would silently not apply" in caught.value.message
    assert "the contract has no column 'nota' (did you mean 'note'?)" in caught.value.message


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../outside.txt", "outside the site's folder"),
        ("none.txt", "No such file"),
        ("latin.txt", "not UTF-8"),
        (".", "Is a directory"),
    ],
)
def test_a_list_that_cannot_be_read(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "outside.txt").write_text("x")
    site = tmp_path / "site"
    site.mkdir()
    (site / "latin.txt").write_bytes(b"M\xfcller\n")
    with pytest.raises(DataError, match=why) as caught:
        load("opt_out", {"file": name}).prepare(place(site))
    assert caught.value.code == "data.transform_file"
    assert caught.value.__cause__ is None
    assert "ller" not in str(caught.value)


def test_steps_run_in_order_and_the_key_is_not_shown(tmp_path: Path) -> None:
    chain = load_all([{"normalise": {"columns": {"note": ["trim", "lower"]}}}, {"deduplicate": {}}])
    chain.prepare(place(tmp_path))
    batch = pa.record_batch({"who": ["1", "1", "2"], "note": ["A ", "a", "a"]})
    assert chain.apply(batch).to_pydict() == {"who": ["1", "2"], "note": ["a", "a"]}
    assert chain.counts() == [
        ("normalise", {"values changed in note": 1}),
        ("deduplicate", {"rows kept": 2, "repeated rows left out": 1}),
    ]
    assert "kkk" not in repr(place(tmp_path))
