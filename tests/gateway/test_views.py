"""A view's digest: what it covers, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasmid.gateway.views import view_digest, view_of
from plasmid.recipes.query import PingDocument
from support.federation.attacks import count_document, private
from support.federation.in_memory import Federation

DOCUMENT = count_document()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return private(tmp_path, document=DOCUMENT)


def test_a_view_says_whose_data_which_file_and_which_columns(federation: Federation) -> None:
    view = view_of(federation.home("alpha"), DOCUMENT)
    assert view.model_dump() == {
        "version": 2,
        "population": "default",
        "source": "table.csv",
        "connection": None,
        "mapping": {},
        "transforms": [],
        "columns": {"age": DOCUMENT.contract.columns["age"].model_dump(mode="json")},
        "patient": None,
        "public_size": 1000,
    }
    assert view.digest() == view_digest(federation.home("alpha"), DOCUMENT)


def changed(federation: Federation, **changes: Any) -> str:
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update=changes))
    return view_digest(home, DOCUMENT)


def test_every_part_of_it_changes_the_digest(federation: Federation) -> None:
    home = federation.home("alpha")
    seen = {view_digest(home, DOCUMENT)}
    seen.add(changed(federation, population="volunteers"))
    seen.add(changed(federation, public_size=2000))
    (home.folder / "data" / f"{DOCUMENT.name}.csv").write_text("age\n1\n")
    seen.add(view_digest(home, DOCUMENT))
    wider = DOCUMENT.model_copy(update={"bounds": (0.0, 121.0)})
    seen.add(view_digest(home, wider))
    seen.add(view_digest(home, DOCUMENT.model_copy(update={"missing_markers": ("?",)})))
    assert len(seen) == 6


def test_new_rows_are_the_same_view(federation: Federation) -> None:
    home = federation.home("alpha")
    before = view_digest(home, DOCUMENT)
    with (home.folder / "data" / "table.csv").open("a") as file:
        file.write("41\n")
    assert view_digest(home, DOCUMENT) == before


def test_without_a_file_or_a_contract_there_is_no_source(federation: Federation) -> None:
    home = federation.home("alpha")
    assert view_of(home, PingDocument(length=4)).source is None
    (home.folder / "data" / "table.csv").unlink()
    assert view_of(home, DOCUMENT).source is None
