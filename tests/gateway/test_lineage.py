"""Who was in which run: keyed hashes, found by the identifier, and never under two populations."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.clock import parse
from plasmid.core.errors import DataError, StorageError
from plasmid.data.people import person_key
from plasmid.gateway.home import SiteHome
from plasmid.gateway.participation import MOST_SHARED, Derived, Lineage
from support.federation.attacks import refusal

KEY = bytes(range(32))


def people(*names: str, key: bytes = KEY) -> bytes:
    return np.sort(np.array([person_key(one.encode(), key) for one in names], np.uint64)).tobytes()


def named(count: int, begin: int = 0) -> list[str]:
    return [f"Ms-Confidential-{one}" for one in range(begin, begin + count)]


def derived(run: str = "run-1", **changes: Any) -> Derived:
    values: dict[str, Any] = {
        "run": run,
        "document": "stays",
        "digest": "a" * 64,
        "project": "trial",
        "requester": "ada",
        "view": "b" * 64,
        "population": "default",
        "snapshot": "c" * 64,
        "by_patient": True,
        "admitted": "2026-01-01T00:00:00Z",
    }
    return Derived.model_validate(values | changes)


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path / "lineage" / "runs")


def test_a_person_is_found_in_every_run_whose_rows_were_theirs(lineage: Lineage) -> None:
    lineage.record(derived("run-2", admitted="2026-02-01T00:00:00Z"), people("ann", "bob"))
    lineage.record(derived("run-1"), people("ann"))
    lineage.record(derived("run-3", by_patient=False), people("ann"))
    assert [one.run for one in lineage.all()] == ["run-1", "run-3", "run-2"], "the oldest first"
    assert [one.run for one in lineage.of("ann", KEY)] == ["run-1", "run-2"]
    assert [one.run for one in lineage.of(" bob\n", KEY)] == ["run-2"]
    assert lineage.of("Ann", KEY) == lineage.of("", KEY) == []
    assert lineage.of("ann", bytes(32)) == []


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_the_first_and_the_last_of_a_list_are_found(lineage: Lineage, count: int) -> None:
    names = named(count)
    lineage.record(derived(), people(*names))
    in_order = sorted(names, key=lambda one: person_key(one.encode(), KEY))
    for one in in_order[:1] + in_order[-1:]:
        assert [found.run for found in lineage.of(one, KEY)] == ["run-1"]
    assert lineage.of("somebody else", KEY) == []


def test_nothing_in_the_folder_is_an_identifier(lineage: Lineage) -> None:
    names = named(50)
    lineage.record(derived(), people(*names))
    (path,) = lineage.folder.iterdir()
    content = path.read_bytes()
    assert path.name == "run-1.lineage"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"Confidential" not in content
    header, _, hashes = content.partition(b"\n")
    assert Derived.model_validate_json(header) == derived()
    assert len(hashes) == 8 * 50
    plain = {person_key(one.encode(), b"").to_bytes(8, order) for one in names for order in ("big", "little")}
    assert not any(hashes[place : place + 8] in plain for place in range(0, len(hashes), 8)), (
        "a hash without a key"
    )


def test_a_record_that_was_purged_is_gone(lineage: Lineage) -> None:
    lineage.record(derived(), people("ann"))
    assert lineage.knows("run-1")
    assert lineage.purge("run-1")
    assert not lineage.purge("run-1")
    assert not lineage.knows("run-1")
    assert list(lineage.all()) == lineage.of("ann", KEY) == []


def test_what_is_older_than_the_owner_says_has_expired(lineage: Lineage) -> None:
    lineage.record(derived("old"), people("ann"))
    lineage.record(derived("new", admitted="2026-01-11T00:00:01Z"), people("ann"))
    now = parse("2026-01-31T00:00:00Z")
    assert lineage.expired(30, now) == []
    assert lineage.expired(30, now + timedelta(seconds=1)) == ["old"]
    assert lineage.expired(19, now) == ["old", "new"]


@pytest.mark.parametrize("run", ["", "../ledger", "a/b", "a.b", "a b", "\0", "*"])
def test_what_is_no_run_s_id_is_no_path(lineage: Lineage, run: str) -> None:
    for work in (lineage.knows, lineage.purge):
        with refusal("usage.run"):
            work(run)


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"no json\n", b"x" * 100_000, derived().model_dump_json().encode(), b"\xff\n"]
)
def test_a_damaged_record_refuses_and_can_be_purged(lineage: Lineage, content: bytes) -> None:
    lineage.record(derived("sound"), people("ann"))
    (lineage.folder / "run-1.lineage").write_bytes(content)
    for work in (
        lambda: list(lineage.all()),
        lambda: lineage.of("ann", KEY),
        lambda: lineage.expired(1, parse("2030-01-01T00:00:00Z")),
        lambda: lineage.check_population("default", people("ann")),
    ):
        with pytest.raises(StorageError) as caught:
            work()
        assert caught.value.code == "storage.lineage_damaged"
        assert "run-1.lineage" in caught.value.message
    assert lineage.purge("run-1")
    assert [one.run for one in lineage.of("ann", KEY)] == ["sound"]


def test_a_list_that_was_cut_is_damaged(lineage: Lineage) -> None:
    lineage.record(derived(), people("ann", "bob"))
    path = lineage.folder / "run-1.lineage"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StorageError):
        list(lineage.all())


# -- one person, one population --------------------------------------------------------------------------


def test_people_who_were_shown_as_one_population_are_not_shown_as_another(lineage: Lineage) -> None:
    lineage.record(derived(), people(*named(100)))
    lineage.check_population("default", people(*named(100)))
    lineage.check_population("others", people(*named(500, begin=100 - MOST_SHARED + 1)))
    with pytest.raises(DataError) as caught:
        lineage.check_population("others", people(*named(500, begin=100 - MOST_SHARED)))
    assert caught.value.code == "data.population_overlap"
    assert caught.value.message == (
        "11 people of this view, which is said to show the population 'others', were in a view of 'default'"
        " (run run-1)."
    )
    assert "one population" in caught.value.hint


def test_the_newest_run_of_every_view_is_compared(lineage: Lineage) -> None:
    """A view that shows other people now is looked at as it is; another one is not passed over."""
    lineage.record(derived("run-1"), people(*named(100)))
    lineage.record(derived("run-2", admitted="2026-02-01T00:00:00Z"), people(*named(100, begin=900)))
    lineage.check_population("others", people(*named(100)))
    lineage.record(derived("run-3", view="d" * 64), people(*named(100)))
    with refusal("data.population_overlap"):
        lineage.check_population("others", people(*named(100)))


def test_rows_without_a_patient_column_are_nobody_s(lineage: Lineage) -> None:
    lineage.record(derived(by_patient=False), people(*named(100)))
    lineage.check_population("others", people(*named(100)))


# -- the key of the hashes -------------------------------------------------------------------------------


def test_the_data_key_is_drawn_once_also_by_many_at_once(tmp_path: Path) -> None:
    home, found = SiteHome(tmp_path), []
    threads = [threading.Thread(target=lambda: found.append(home.data_key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {home.data_key()}
    assert len(home.data_key()) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["data.key"]
    assert (tmp_path / "data.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"00\n", b"x" * 64, b"\xff" * 64])
def test_a_damaged_data_key_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.key").write_bytes(content)
    with refusal("storage.data_key"):
        SiteHome(tmp_path).data_key()


def test_a_lost_data_key_is_not_drawn_anew_while_hashes_under_it_are_kept(tmp_path: Path) -> None:
    """With another key nobody would be found, and everybody would have a second budget."""
    home = SiteHome(tmp_path)
    records = Lineage(home.lineage / "runs")
    records.record(derived(), people("ann", key=home.data_key()))
    (tmp_path / "data.key").unlink()
    with pytest.raises(StorageError, match="gone") as caught:
        home.data_key()
    assert caught.value.code == "storage.data_key"
    records.purge("run-1")
    assert len(home.data_key()) == 32
