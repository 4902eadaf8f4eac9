"""``plasmid query`` embedded, on a host with a sandbox and on one without: answered, said, and logged."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from typing import Any

import pytest

from e2e.conftest import DONORS, Home
from plasmid.isolation.choice import choose
from plasmid.isolation.syscalls import NUMBERS, machine
from support.federation.in_memory import flat

QUERY = ("query", "mean", "--column", "age", "--bounds", "0,120")
WITHOUT = """
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
LOAD, EQUAL, RETURN, ALLOW = 0x20, 0x15, 0x06, 0x7FFF0000
steps = [(LOAD, 0, 0, 0)]
for number in (444, {mount}):
    steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, 0x50000 | errno.EPERM)]
code = b"".join(struct.pack("<HBBI", *step) for step in [*steps, (RETURN, 0, 0, ALLOW)])
buffer = ctypes.create_string_buffer(code, len(code))
program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0))) == 0
assert libc.prctl(22, ctypes.c_ulong(2), program, ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Refuses Landlock and mounts to a program and its children, as a container without either does."""


def released(home: Home) -> list[str]:
    """Return the level of each vector that the sites' logs say has left, oldest first."""
    found = []
    for donor in DONORS:
        log = home.folder / "sites" / donor / "audit" / "log.jsonl"
        entries = [flat(json.loads(line)) for line in log.read_text().splitlines()]
        found.append([entry["isolation"] for entry in entries if entry["action"] == "released"])
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.fixture(scope="module")
def own_home(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("sandbox") / "home", home.sites, home.test)


@pytest.fixture(scope="module")
def answered(own_home: Home) -> tuple[dict[str, Any], str]:
    """What a first question is answered, and what is said beside it."""
    status, answer, errors = own_home.run(*QUERY, "--sites", str(own_home.sites), "--yes")
    assert status == 0, (answer, errors)
    return dict(answer["data"]), errors


def test_the_strongest_level_is_taken_where_there_is_one(
    own_home: Home, answered: tuple[dict[str, Any], str]
) -> None:
    data, errors = answered
    best = choose("best").level
    assert data["isolation"] == best
    assert set(released(own_home)) == {best}
    assert "no sandbox" not in errors


def test_the_mean_of_a_column_is_exact_but_for_the_rounding_at_each_site(
    home: Home, answered: tuple[dict[str, Any], str]
) -> None:
    values = []
    for path in home.sites.glob("*.csv"):
        with path.open(newline="") as file:
            values += [float(row["age"]) for row in csv.DictReader(file) if row["age"]]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    result = answered[0]["result"]
    assert (result["sites"], result["suppressed_at"]) == (3, 0)
    off = 3 * 2.5  # in records: three sites, each sum to the nearest multiple of 5
    assert abs(result["count"] - len(values)) <= off
    assert result["count"] % 5 == 0
    assert result["mean"] == pytest.approx(mean, abs=2 * off / len(values) * 60)
    assert result["variance"] == pytest.approx(variance, abs=6 * off / len(values) * 60**2)


@pytest.mark.slow
@pytest.mark.usefixtures("answered")
def test_where_there_is_none_it_works_and_says_so(own_home: Home) -> None:
    earlier = len(released(own_home))
    wrapper = WITHOUT.format(mount=NUMBERS[machine()]["mount"])
    command = [sys.executable, "-c", wrapper, *own_home.command(*QUERY)]
    done = subprocess.run(
        [*command, "--sites", str(own_home.sites), "--yes", "--format", "json"],
        env=own_home.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, (answer, done.stderr)
    assert answer["data"]["isolation"] == "none"
    assert "no sandbox can be had here (bubblewrap: " in done.stderr
    assert set(released(own_home)[earlier:]) == {"none"}
