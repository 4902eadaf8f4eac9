"""A short run of the fuzzer over every parser that faces another party; ``make fuzz`` is the long one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from subprocess import CompletedProcess, TimeoutExpired

import pytest

import fuzz.__main__ as long_run
from fuzz import runner
from fuzz.__main__ import main
from fuzz.instances import instance
from fuzz.mutate import MAX_BYTES, Mutator
from fuzz.registry import targets
from fuzz.runner import MAX_GROWTH_MIB, Target, attack
from fuzz.targets_messages import message_types, statement_types
from plasmid.core.errors import ProtocolError

INPUTS = 2000
TARGETS = targets()
by_name = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@by_name
def test_a_seed_is_a_valid_input(target: Target) -> None:
    for seed in target.seeds:
        target.run(seed)


@by_name
def test_nothing_but_known_errors_comes_of_any_input(target: Target) -> None:
    outcome = attack(target, inputs=max(50, INPUTS // target.cost), seconds=60)
    assert outcome.crashes == []
    assert outcome.hangs == []
    assert outcome.taken < outcome.inputs or not outcome.refused
    assert outcome.growth_mib < MAX_GROWTH_MIB


def test_messages_and_statements_are_discovered() -> None:
    names = {target.name for target in TARGETS}
    for kind in message_types():
        assert f"message {kind.model_fields['type'].default}" in names
    kinds = statement_types()
    assert {"Project", "Approval", "Revocation"} <= {kind.__name__ for kind in kinds}
    assert {f"statement {kind.__name__.lower()}" for kind in kinds} <= names


def test_an_instance_is_what_its_model_takes() -> None:
    for kind in message_types():
        for number in range(20):
            made = instance(kind, Random(number))
            assert kind.model_validate_json(made.model_dump_json()) == made


# -- controls: the fuzzer finds what is there ------------------------------------------------------

SEED = b'{"name":"alpha","numbers":[1,2,3],"data":"AAECAw==","inner":{"deep":{"down":true}}}'


def found_by(run: object, **options: float) -> object:
    target = Target("control", [SEED], run)  # type: ignore[arg-type]
    return attack(target, inputs=4000, seconds=20, **options)  # type: ignore[arg-type]


def test_a_crash_far_inside_is_found() -> None:
    def parse(data: bytes) -> None:
        try:
            value = json.loads(data)
            down = value["inner"]["deep"]["down"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ProtocolError("protocol.malformed", "no") from error
        if down is None:
            raise ZeroDivisionError

    outcome: object = found_by(parse)
    assert "ZeroDivisionError" in outcome.crashes[0]  # type: ignore[attr-defined]
    assert outcome.refused["protocol.malformed"] > 0  # type: ignore[attr-defined]


def test_a_crash_in_bytes_is_found() -> None:
    def parse(data: bytes) -> None:
        if data[:1] != SEED[:1]:
            raise IndexError

    assert found_by(parse).crashes  # type: ignore[attr-defined]


@pytest.mark.parametrize("busy", [True, False])
def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    def parse(data: bytes) -> None:
        deadline = time.monotonic() + 60
        while b"9" in data and time.monotonic() < deadline:
            if not busy:
                time.sleep(1)

    monkeypatch.setattr(runner, "HANG_S" if busy else "BLOCKED_S", 0.5)
    monkeypatch.setattr(runner, "BLOCKED_S" if busy else "HANG_S", 1000)
    begun = time.monotonic()
    assert found_by(parse, keep=1).hangs  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 50


def test_growth_is_found() -> None:
    kept: list[bytearray] = []

    def parse(data: bytes) -> None:
        kept.append(bytearray(b"x" * 2**18))
        del kept[1200:]

    assert found_by(parse).growth_mib > 100  # type: ignore[attr-defined]


def test_inputs_are_the_same_everywhere_and_bounded() -> None:
    first, second = (Mutator([SEED], Random("same"), structured=True) for _ in range(2))
    inputs = [first.next() for _ in range(2000)]
    assert inputs == [second.next() for _ in range(2000)]
    assert len(set(inputs)) > 1500
    assert max(map(len, inputs)) <= MAX_BYTES
    parsed = 0
    for data in inputs:
        try:
            parsed += isinstance(json.loads(data), dict)
        except (ValueError, RecursionError):
            continue
    assert parsed > 800  # most are JSON still, so that they get past the first line


# -- the long run ----------------------------------------------------------------------------------


def test_a_parser_has_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    assert main(["--inputs", "60", "--results", str(results), "certificate shown"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert json.loads(said[-1]) == {"parsers": 1, "inputs": 60, "failed": 0}
    outcome = json.loads(results.read_text("utf-8"))
    assert (outcome["name"], outcome["inputs"], outcome["crashes"]) == ("certificate shown", 60, [])
    assert 20 < outcome["peak_mib"] < 1000
    assert main(["--table", str(results)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[2].startswith("| certificate shown | 60 | ")
    assert table[-1] == "1 parsers, 60 inputs."


def test_a_process_that_ends_early_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where native code breaks, or where there is more memory to be had than a parser may have."""
    monkeypatch.setattr(
        long_run.subprocess, "run", lambda *_, **__: CompletedProcess([], -11, "", "Segmentation")
    )
    assert main(["roster"]) == 1
    monkeypatch.setattr(long_run.subprocess, "run", never_ends)
    assert main(["roster"]) == 1


def never_ends(*_: object, **__: object) -> None:
    raise TimeoutExpired([], 1)


def test_a_parser_is_chosen_by_its_name_or_how_it_begins() -> None:
    names = ["message bundle", "message bundles", "policy"]
    assert long_run._chosen(names, []) == names
    assert long_run._chosen(names, ["message bundle"]) == ["message bundle"]
    assert long_run._chosen(names, ["message", "policy"]) == names
    assert main(["no such parser"]) == 1
