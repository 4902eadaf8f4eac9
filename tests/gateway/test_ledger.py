"""The ledger: nobody overspends, nothing is forgotten, damage is found, a rollback is told."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import PlasmidError, PolicyRefused, StorageError
from plasmid.gateway import ledger_chain as chain
from plasmid.gateway.ledger import Budget, Ledger
from plasmid.gateway.ledger_chain import GENESIS

BUDGET = Budget(unit="record", epsilon=8.0, delta=1e-5)
DIGEST = "d" * 64
PROJECT = "7" * 64


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def reserve(ledger: Ledger, run: str = "run-1", **changed: Any) -> None:
    figures: dict[str, Any] = {
        "digest": DIGEST,
        "project": PROJECT,
        "population": "default",
        "unit": "record",
        "epsilon": 3.0,
        "delta": 1e-6,
        "attempts": 4,
        "budget": BUDGET,
    }
    ledger.reserve(run=run, **{**figures, **changed})


def sums(ledger: Ledger, population: str = "default") -> tuple[float, float]:
    """Return the epsilon spent and reserved."""
    found = ledger.summary()[population]
    return float(found.spent_epsilon), float(found.reserved_epsilon)


def test_an_empty_ledger_has_a_head(path: Path) -> None:
    assert Ledger(path).head() == (0, GENESIS)
    assert Ledger(path).summary() == {}
    assert not path.exists()


def test_a_reservation_is_spent_at_first_compute_and_survives_a_restart(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger)
    assert sums(ledger) == (0.0, 3.0)
    ledger.spend("run-1")
    assert sums(ledger) == (3.0, 0.0)
    assert sums(Ledger(path)) == (3.0, 0.0)
    assert [entry["event"] for entry in Ledger(path).entries()] == ["reserve", "spend"]
    assert Ledger(path).head()[0] == 2


def test_every_change_is_idempotent(path: Path) -> None:
    ledger = Ledger(path)
    for _ in range(2):
        reserve(ledger)
    for _ in range(2):
        ledger.spend("run-1")
    ledger.release("run-1")
    ledger.release("unknown")
    reserve(ledger)  # admitted again after a restart
    assert len(ledger.entries()) == 2
    assert sums(ledger) == (3.0, 0.0)


def test_only_what_was_never_spent_is_given_back(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger)
    ledger.release("run-1")
    assert sums(ledger) == (0.0, 0.0)
    with refusal("policy.budget"):
        ledger.spend("run-1")
    reserve(ledger)  # may be asked for again
    ledger.charge_attempt("run-1", (1, 0))
    ledger.release("run-1")
    assert sums(ledger) == (3.0, 0.0)


@pytest.mark.promise("budget-holds")
def test_the_sum_over_runs_stays_within_the_budget(path: Path) -> None:
    ledger = Ledger(path)
    for run in ("a", "b"):
        reserve(ledger, run)
    ledger.spend("a")
    with pytest.raises(PolicyRefused) as caught:
        reserve(ledger, "c")
    assert caught.value.code == "policy.budget"
    assert caught.value.message == (
        "the run needs epsilon 3 and delta 1e-06; population 'default' has left epsilon 2 of 8, "
        "delta 8e-06 of 1e-05."
    )
    reserve(ledger, "c", epsilon=2.0)
    with refusal("policy.budget"):
        reserve(ledger, "d", epsilon=1e-9)


def test_deltas_add_too(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger, "a", epsilon=0.1, delta=6e-6)
    with refusal("policy.budget"):
        reserve(ledger, "b", epsilon=0.1, delta=5e-6)
    reserve(ledger, "b", epsilon=0.1, delta=4e-6)


def test_sums_are_decimal(path: Path) -> None:
    """Ten runs of 0.1 fit a budget of 1, of 0.3 three and no more: as floats 0.1 + 0.2 > 0.3."""
    ledger = Ledger(path)
    budget = Budget(unit="record", epsilon=0.3, delta=0.1)
    assert 0.1 + 0.2 > 0.3
    reserve(ledger, "a", epsilon=0.1, budget=budget)
    reserve(ledger, "b", epsilon=0.2, budget=budget)
    with refusal("policy.budget"):
        reserve(ledger, "c", epsilon=1e-15, budget=budget)


def test_check_says_what_reserve_would_and_writes_nothing(path: Path) -> None:
    ledger = Ledger(path)
    figures = {"population": "default", "unit": "record", "delta": 1e-6, "budget": BUDGET}
    ledger.check(run="new", epsilon=8.0, **figures)
    with refusal("policy.budget"):
        ledger.check(run="new", epsilon=8.1, **figures)
    assert not path.exists()


def test_a_run_has_one_set_of_figures(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger)
    for changed in (
        {"epsilon": 2.0},
        {"digest": "e" * 64},
        {"project": "e" * 64},
        {"attempts": 5},
        {"population": "other"},
    ):
        with refusal("policy.budget"):
            reserve(ledger, **changed)


def test_a_population_has_one_unit(path: Path) -> None:
    ledger = Ledger(path)
    with refusal("policy.budget_unit"):
        reserve(ledger, unit="patient")
    reserve(ledger)
    patients = Budget(unit="patient", epsilon=8.0, delta=1e-5)
    with pytest.raises(
        PolicyRefused, match="what was spent of population 'default' is unit: record"
    ) as caught:
        reserve(ledger, "run-2", unit="patient", budget=patients)
    assert caught.value.code == "policy.budget_unit"
    reserve(ledger, "run-2", unit="patient", budget=patients, population="ward")
    ledger.release("run-1")  # nothing was spent, so the unit is open again
    reserve(ledger, "run-3", unit="patient", budget=patients)


def test_views_and_connectors_do_not_matter(path: Path) -> None:
    """A renamed view or another connector is another digest; the population is the same, so is the budget."""
    ledger = Ledger(path)
    reserve(ledger, "through-csv", digest="a" * 64, epsilon=5.0)
    with refusal("policy.budget"):
        reserve(ledger, "through-fhir", digest="b" * 64, epsilon=5.0)


def test_attempts_are_counted_up_to_those_reserved(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger, attempts=3)
    for slot in range(2):
        ledger.charge_attempt("run-1", (1, slot))
    Ledger(path).charge_attempt("run-1", (1, 1))  # a repeat counts, it never counts as none
    with pytest.raises(PolicyRefused, match="all 3 attempts that run run-1 reserved are charged") as caught:
        ledger.charge_attempt("run-1", (2, 0))
    assert caught.value.code == "policy.attempts"
    with refusal("policy.budget"):
        ledger.charge_attempt("unknown", (1, 0))
    assert sums(ledger) == (3.0, 0.0)


# -- crashes ---------------------------------------------------------------------------------------


def three_entries(path: Path) -> bytes:
    ledger = Ledger(path)
    reserve(ledger)
    ledger.spend("run-1")
    ledger.charge_attempt("run-1", (1, 0))
    return path.read_bytes()


def test_a_torn_last_line_was_never_acknowledged_and_is_cut_off(path: Path) -> None:
    content = three_entries(path)
    start = content[:-1].rindex(b"\n") + 1
    for end in range(start + 2, len(content) - 1):
        path.write_bytes(content[:end])
        assert [entry["event"] for entry in Ledger(path).entries()] == ["reserve", "spend"]
        assert path.read_bytes() == content[:start]
    Ledger(path).charge_attempt("run-1", (1, 0))  # and the chain goes on
    assert Ledger(path).head()[0] == 3


def test_a_whole_last_line_without_its_newline_is_kept(path: Path) -> None:
    content = three_entries(path)
    path.write_bytes(content[:-1])
    assert len(Ledger(path).entries()) == 3
    assert path.read_bytes() == content


def test_a_failed_write_acknowledges_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    reserve(ledger)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with refusal("storage.full"):
            ledger.spend("run-1")
    # whatever reached the disk counts: too much, never too little
    assert sums(ledger) in ((0.0, 3.0), (3.0, 0.0))
    ledger.spend("run-1")
    assert sums(Ledger(path)) == (3.0, 0.0)


def test_the_line_is_durable_before_the_call_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(path.read_bytes())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    reserve(Ledger(path))
    assert synced[0] == path.read_bytes()
    assert len(synced) == 2  # the line, and the new file's name


# -- damage ----------------------------------------------------------------------------------------


def test_any_changed_byte_of_any_line_is_found(path: Path) -> None:
    content = three_entries(path)
    assert len(Ledger(path).entries()) == 3  # the control
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with refusal("storage.ledger_damaged"):
            Ledger(path).head()


def test_a_line_that_is_missing_swapped_repeated_or_blank_is_found(path: Path) -> None:
    one, two, three = three_entries(path).splitlines(keepends=True)
    for lines in (
        (two, three),
        (one, three),
        (two, one, three),
        (one, one, two),
        (one, b"\n", two),
        (b"\n",),
    ):
        path.write_bytes(b"".join(lines))
        with refusal("storage.ledger_damaged"):
            Ledger(path).head()


@pytest.mark.parametrize("end", [b"\0" * 40, b"{}", b"x", b'{"counter":\xff', b"[1", b'{"a":1}{"b'])
def test_an_end_that_is_no_beginning_of_an_entry_is_damage(path: Path, end: bytes) -> None:
    content = three_entries(path)
    path.write_bytes(content + end)
    with refusal("storage.ledger_damaged"):
        Ledger(path).head()
    assert path.read_bytes() == content + end  # nothing is touched


def test_damage_refuses_every_use_and_says_how_to_recover(path: Path) -> None:
    content = three_entries(path)
    path.write_bytes(content.replace(b'"epsilon":3', b'"epsilon":1'))
    ledger = Ledger(path)
    uses = (
        lambda: reserve(ledger, "run-2"),
        lambda: ledger.check(run=None, population="p", unit="record", epsilon=1.0, delta=1e-6, budget=BUDGET),
        lambda: ledger.spend("run-1"),
        lambda: ledger.release("run-1"),
        lambda: ledger.charge_attempt("run-1", (1, 1)),
        lambda: ledger.check_seen("b", 0, GENESIS),
        ledger.head,
        ledger.summary,
        ledger.entries,
    )
    for use in uses:
        with pytest.raises(StorageError) as caught:
            use()
        assert caught.value.code == "storage.ledger_damaged"
        assert "Restore the newest copy" in caught.value.hint
        assert "plasmid privacy ledger --carry-forward" in caught.value.hint


def test_damage_while_the_process_runs_is_found(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger)
    path.write_bytes(path.read_bytes().replace(b'"epsilon":3', b'"epsilon":1'))
    with refusal("storage.ledger_damaged"):
        ledger.spend("run-1")


# -- recovery without forgetting -------------------------------------------------------------------


def test_carrying_a_damaged_ledger_forward_keeps_it_and_forgets_nothing(path: Path) -> None:
    damaged = three_entries(path)[5:]
    path.write_bytes(damaged)
    ledger = Ledger(path)
    kept = ledger.carry_forward({"default": BUDGET})
    assert kept is not None
    assert kept.read_bytes() == damaged
    assert sums(ledger) == (8.0, 0.0)
    with refusal("policy.budget"):
        reserve(ledger, "run-2", epsilon=0.001)
    larger = Budget(unit="record", epsilon=12.0, delta=3e-5)
    reserve(ledger, "run-2", budget=larger)
    with refusal("policy.budget"):
        reserve(ledger, "run-3", budget=larger)
    # a population that was not named may have been spent, too
    with pytest.raises(PolicyRefused, match="carried forward without population 'other'"):
        reserve(ledger, "run-4", population="other")
    ledger.carry_forward({"other": BUDGET})
    with refusal("policy.budget"):
        reserve(ledger, "run-4", population="other", epsilon=0.001)
    reserve(ledger, "run-4", population="other", budget=larger)
    assert sums(Ledger(path)) == (11.0, 0.0)  # the second one closed run-2, too


def test_carrying_a_rolled_back_ledger_forward_closes_its_runs(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger)
    assert ledger.carry_forward({"default": BUDGET}) is None
    assert sums(ledger) == (8.0, 0.0)
    ledger.release("run-1")  # the lost lines may have spent it
    assert sums(ledger) == (8.0, 0.0)
    with refusal("policy.attempts"):
        ledger.charge_attempt("run-1", (1, 0))
    ledger.check_seen("peer", 1_000_000, "e" * 64)  # its counter is above what anybody saw


def test_a_population_that_is_overspent_stays_so(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger, epsilon=8.0)
    ledger.carry_forward({"default": Budget(unit="record", epsilon=2.0, delta=1e-6)})
    assert sums(ledger)[0] >= 8.0


# -- rollback --------------------------------------------------------------------------------------


def test_a_rolled_back_ledger_is_told_from_what_peers_saw(path: Path) -> None:
    ledger = Ledger(path)
    reserve(ledger)
    old = path.read_bytes()
    ledger.spend("run-1")
    seen = ("b", *ledger.head())
    ledger.check_seen(*seen)
    ledger.check_seen("c", 0, GENESIS)
    path.write_bytes(old)
    restored = Ledger(path)
    assert restored.head()[0] == 1  # sound in itself
    with pytest.raises(
        StorageError, match=r"ends with entry 1 .* entry 2 that this site signed and b has kept"
    ) as caught:
        restored.check_seen(*seen)
    assert caught.value.code == "storage.ledger_rolled_back"
    path.unlink()
    with refusal("storage.ledger_rolled_back"):
        Ledger(path).check_seen(*seen)


def test_a_rolled_back_ledger_does_not_catch_up_by_what_it_refuses(path: Path) -> None:
    """Runs that are admitted and end before they compute leave lines, and charge nothing."""
    ledger = Ledger(path)
    assert ledger.charged() == (0, GENESIS)
    reserve(ledger)
    assert ledger.charged() == (0, GENESIS)
    old = path.read_bytes()
    ledger.spend("run-1")
    ledger.charge_attempt("run-1", (1, 0))
    assert ledger.charged() == ledger.head()
    seen = ("b", *ledger.charged())
    path.write_bytes(old)
    for number in range(2, 8):
        reserve(ledger, f"run-{number}", epsilon=0.1, delta=1e-9)
        ledger.release(f"run-{number}")
    assert ledger.head()[0] == 13 > seen[1] == 3
    with refusal("storage.ledger_rolled_back"):
        ledger.check_seen(*seen)


def test_a_rolled_back_ledger_that_has_regrown_is_told_by_the_digest(path: Path) -> None:
    seen = ("b", len(three_entries(path).splitlines()), Ledger(path).charged()[1])
    path.unlink()
    ledger = Ledger(path)
    reserve(ledger, "run-2")
    for slot in range(4):
        ledger.charge_attempt("run-2", (1, slot))
    with refusal("storage.ledger_rolled_back"):
        ledger.check_seen(*seen)
    ledger.carry_forward({"default": BUDGET})
    ledger.check_seen(*seen)  # what was lost is charged, and more
    after = ("b", ledger.head()[0] + 1, "e" * 64)
    with refusal("storage.ledger_rolled_back"):  # to what was charged since, that is no answer
        ledger.check_seen(*after)


# -- several writers -------------------------------------------------------------------------------


def _race(path: Path, name: str, start: Any, won: Any) -> None:
    ledger = Ledger(path)
    start.wait()
    for number in range(12):
        run = f"{name}-{number}"
        try:
            reserve(ledger, run, epsilon=0.5, delta=1e-7)
            ledger.spend(run)
        except PolicyRefused:
            continue
        won.put(run)


def test_two_processes_never_overspend_one_budget(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, won = context.Event(), context.SimpleQueue()
    racers = [context.Process(target=_race, args=(path, name, start, won)) for name in ("a", "b")]
    for racer in racers:
        racer.start()
    start.set()
    for racer in racers:
        racer.join(30)
        assert racer.exitcode == 0
    runs = []
    while not won.empty():
        runs.append(won.get())
    # 8 / 0.5 = 16 of the 24 that were asked for
    assert len(runs) == len(set(runs)) == 16
    assert sums(Ledger(path)) == (8.0, 0.0)
    assert [entry["counter"] for entry in Ledger(path).entries()] == list(range(1, 33))


def test_threads_of_one_ledger_never_overspend_either(path: Path) -> None:
    ledger, refused = Ledger(path), []

    def ask(run: str) -> None:
        try:
            reserve(ledger, run, epsilon=1.0, delta=1e-7)
        except PolicyRefused:
            refused.append(run)

    threads = [threading.Thread(target=ask, args=(f"run-{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    assert sums(ledger) == (0.0, 8.0)


def test_another_process_is_seen_at_once(path: Path) -> None:
    mine, theirs = Ledger(path), Ledger(path)
    reserve(mine, "a")
    reserve(theirs, "b")
    reserve(mine, "c", epsilon=2.0)
    assert mine.head() == theirs.head() == Ledger(path).head()


def test_a_line_holds_names_digests_and_figures(path: Path) -> None:
    reserve(Ledger(path))
    entry = json.loads(path.read_bytes())
    assert entry.pop("time").endswith("+00:00")
    assert len(entry.pop("digest")) == 64
    assert entry == {
        "run": "run-1",
        "document": DIGEST,
        "project": PROJECT,
        "counter": 1,
        "previous": GENESIS,
        "event": "reserve",
        "population": "default",
        "unit": "record",
        "epsilon": 3,
        "delta": 1e-6,
        "attempts": 4,
    }


def test_every_entry_of_a_run_names_its_project(path: Path) -> None:
    reserve(ledger := Ledger(path), "run-1")
    ledger.release("run-1")
    reserve(ledger, "run-1")
    ledger.charge_attempt("run-1", (1, 0))
    reserve(ledger, "run-2")
    ledger.spend("run-2")
    entries = Ledger(path).entries()
    assert {entry["event"] for entry in entries} == {"reserve", "release", "attempt", "spend"}
    assert {entry["project"] for entry in entries} == {PROJECT}


def test_entries_of_before_there_were_projects_are_read(path: Path) -> None:
    """They count as before; the run that they are of belongs to no project, so none can take it up."""
    written = Ledger(path)
    reserve(written, "old")
    entry = {name: value for name, value in written.entries()[0].items() if name not in ("project", "digest")}
    path.unlink()
    fields = {name: entry[name] for name in entry if name not in ("counter", "previous", "time")}
    path.write_bytes(chain.line(chain.follow((0, GENESIS), fields, time=entry["time"], least=1)))
    assert sums(Ledger(path)) == (0.0, 3.0)
    with refusal("policy.budget"):
        reserve(Ledger(path), "old")
