"""A view through the reader's own process: figures come back, rows do not, and nothing stays behind."""

from __future__ import annotations

import gc
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import DataError, PlasmidError, SiteFailed, StorageError
from plasmid.core.settings import dump_settings
from plasmid.data.people import person_key
from plasmid.gateway import admission
from plasmid.gateway import open_view as opening
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.open_view import Opened, open_view
from plasmid.gateway.views import slice_of
from plasmid.recipes.counts import CountsDocument
from plasmid.recipes.query import QueryDocument
from support.federation.attacks import count_document, private, refusal
from support.federation.in_memory import log_text
from support.hospital.snapshots import rows_in

CANARY = "Ms-Confidential"
AGE: dict[str, Any] = {"column": "age", "bounds": (0.0, 120.0), "max_rows": 1000}
DOCUMENT = CountsDocument.model_validate(
    {
        "computation": "counts",
        "name": "by-sex",
        "axes": [{"type": "category", "column": "sex", "vocabulary": ["female", "male"]}],
        "sum_of": {"column": "age", "bounds": [0, 120]},
        "patient": "who",
    }
)
CSV = "who,sex,age\np1,female,40\np2,male,\np1,female,41\np3,other,7\n"


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    made = SiteHome(tmp_path / "site")
    (made.folder / "data").mkdir(parents=True)
    made.write_config(SiteConfig(name="alpha", organisation="Alpha"))
    (made.folder / "data" / "people.csv").write_text(CSV)
    return made


def links(process: int) -> list[str]:
    """Return what a process holds open."""
    found = []
    with suppress(OSError):  # it ends
        for path in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # closed by now, as the descriptor that lists the folder
                found.append(str(path.readlink()))
    return found


def open_files(home: SiteHome) -> list[str]:
    """Return the files of *home* that this process holds open, those without a name among them."""
    gc.collect()
    return [link for link in links(os.getpid()) if link.startswith(f"{home.folder}/")]


@pytest.fixture(autouse=True)
def cold_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each reader started as sites start it."""
    monkeypatch.setattr(opening, "subprocess", subprocess)


@pytest.fixture(autouse=True)
def nothing_stays(home: SiteHome) -> Iterator[None]:
    """No open file and no file of a reader is left, however a test ended."""
    yield
    assert open_files(home) == []
    assert not home.scratch.exists() or list(home.scratch.iterdir()) == []


def view(home: SiteHome, **settings: Any) -> None:
    (home.folder / "views").mkdir(exist_ok=True)
    (home.views / f"{DOCUMENT.name}.yaml").write_bytes(dump_settings(settings))


def opened(home: SiteHome, document: Any = DOCUMENT, **how: Any) -> Opened:
    return open_view(home, slice_of(home, document), document, **how)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The readers that were started."""
    found: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **how: Any) -> subprocess.Popen[bytes]:
        found.append(subprocess.Popen(*arguments, **how))
        return found[-1]

    monkeypatch.setattr(opening, "subprocess", type("_", (), {"Popen": start, "DEVNULL": subprocess.DEVNULL}))
    return found


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# -- what comes back -----------------------------------------------------------------------------------


def test_figures_people_notices_and_a_file_of_rows_come_back(home: SiteHome) -> None:
    found = opened(home)
    try:
        assert (found.rows, found.people, found.held_out, found.by_patient) == (4, 3, 0, True)
        assert found.notices == (
            (
                "column 'sex': 1 value outside the vocabulary, so the model sees them as 'unseen'"
                " (first at line 5)"
            ),
        )
        assert found.steps == ()
        key = home.data_key()
        people = np.frombuffer(found.keys, np.uint64).tolist()
        assert people == sorted(person_key(who, key) for who in (b"p1", b"p2", b"p3"))
        table = rows_in(found.descriptor)
        rows = [tuple(row.values()) for row in table.records()]
        assert sorted(rows, key=str) == [
            ("female", 40.0, "p1"),
            ("female", 41.0, "p1"),
            ("male", None, "p2"),
            ("other", 7.0, "p3"),
        ]
        assert found.descriptor is not None
        assert not os.get_inheritable(found.descriptor)
        assert str(Path(f"/proc/self/fd/{found.descriptor}").readlink()).endswith(" (deleted)")
        assert "p1" not in repr(found)
    finally:
        found.close()
        found.close()


def test_transforms_are_told_and_figures_alone_have_no_file(home: SiteHome) -> None:
    (home.folder / "optout.txt").write_text("p1\n")
    view(home, transforms=[{"opt_out": {"file": "optout.txt"}}])
    seen: list[int] = []
    found = opened(home, keep=False, progress=seen.append)
    assert (found.descriptor, found.digest, found.rows, found.people) == (None, None, 2, 2)
    (step,) = found.steps
    assert step["name"] == "opt_out"
    assert 2 in step["counts"].values()
    assert CANARY not in json.dumps(step)


def test_an_error_of_the_reader_comes_through_as_it_is(home: SiteHome) -> None:
    (home.folder / "data" / "people.csv").write_text(f"who,sex,age\np1,female,40\np2,male,{CANARY}\n")
    with pytest.raises(DataError) as caught:
        opened(home)
    assert caught.value.code == "data.not_a_number"
    assert "column 'age': 1 value not a number (first at line 3)" in caught.value.message
    assert "Write decimal numbers" in caught.value.hint
    assert CANARY not in str(caught.value)
    assert CANARY not in (home.folder / "reader.log").read_text()


def test_where_there_is_no_table_no_reader_is_started(home: SiteHome, started: list[Any]) -> None:
    (home.folder / "data" / "people.csv").unlink()
    with refusal("data.absent"):
        opened(home)
    assert started == []


# -- a reader that is late, or dies ----------------------------------------------------------------------


def test_a_reader_that_takes_too_long_is_ended(home: SiteHome, started: list[Any]) -> None:
    """It is stopped as if its source did not answer."""
    view(home, limit_s=1.0)
    thread = in_thread(lambda: (until(lambda: started), started[0].send_signal(signal.SIGSTOP)))
    begin = time.monotonic()
    with pytest.raises(DataError, match="was not read within 1 s") as caught:
        opened(home)
    assert caught.value.code == "data.source_timeout"
    assert 0.9 < time.monotonic() - begin < 10
    thread.join()
    assert started[0].returncode == -signal.SIGKILL


def test_a_packed_file_that_never_seems_to_end_is_ended_while_it_is_read(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over when the first rows have been read."""
    over: list[Callable[[], None]] = []

    def timer(_: float, then: Callable[[], None]) -> Any:
        over.append(then)
        return SimpleNamespace(start=lambda: None, cancel=lambda: None)

    record = b">s1\n" + b"ACDEFGHIKL" * 6 + b"\n"
    with gzip.open(home.folder / "data" / "people.fasta.gz", "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(record * 100_000)  # 260 MB in all, from a megabyte
    (home.folder / "data" / "people.csv").unlink()
    document = CountsDocument.model_validate(
        {"computation": "counts", "name": "by-sex", "max_rows": 10**8,
         "axes": [{"type": "category", "column": "sequence", "vocabulary": ["a"]}]}
    )  # fmt: skip
    monkeypatch.setattr(opening.threading, "Timer", timer)
    seen: list[int] = []
    with refusal("data.source_timeout"):
        opened(home, document, progress=lambda rows: (seen.append(rows), over[0]()))  # type: ignore[func-returns-value]
    assert len(seen) == 1
    assert 0 < seen[0] < 4_000_000


def test_a_reader_that_is_killed_is_told_and_leaves_nothing(home: SiteHome, started: list[Any]) -> None:

    def kill() -> None:
        until(lambda: started)
        time.sleep(0.2)  # it takes more to import what it reads with
        started[0].kill()

    thread = in_thread(kill)
    with pytest.raises(SiteFailed) as caught:
        opened(home)
    thread.join()
    assert caught.value.code == "site.failed"


def test_a_reader_that_cannot_be_started_is_told(home: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.folder / "reader.log").mkdir()
    with pytest.raises(StorageError):
        opened(home)
    (home.folder / "reader.log").rmdir()
    monkeypatch.setattr(sys, "executable", str(home.folder / "no-python"))
    with pytest.raises(PlasmidError):
        opened(home)


@pytest.mark.promise("reader-without-keys")
def test_no_secret_of_the_environment_is_passed_on(
    home: SiteHome, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_PASSPHRASE", CANARY)
    monkeypatch.setenv("PLASMID_PASSPHRASE_FILE", CANARY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("SSL_CERT_DIR", "/etc/ssl/passed-on")
    found: list[bytes] = []

    def look() -> None:
        until(lambda: started)
        environment = Path(f"/proc/{started[0].pid}/environ")
        until(environment.read_bytes)  # there is none while it begins to execute
        found.append(environment.read_bytes())
        found.append(Path(f"/proc/{started[0].pid}/cmdline").read_bytes())

    thread = in_thread(look)
    opened(home, keep=False)
    thread.join()
    assert b"SSL_CERT_DIR=/etc/ssl/passed-on" in found[0]
    assert CANARY.encode() not in b"".join(found)
    assert home.data_key().hex().encode() not in b"".join(found)


# -- the gateway has no row ------------------------------------------------------------------------------

_LOOK = """
import re, sys
from pathlib import Path
sys.path[:0] = {path!r}
from plasmid.gateway.home import SiteHome
from plasmid.gateway.open_view import open_view
from plasmid.gateway.views import slice_of
from plasmid.recipes.counts import CountsDocument

canary = re.compile(b"[M]s-[C]onfidential")  # the pattern itself is not what it finds

def seen():
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            area, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            begin, end = (int(one, 16) for one in area.split("-"))
            memory.seek(begin)
            if canary.search(memory.read(end - begin)):
                return True
    return False

document = CountsDocument.model_validate_json({document!r})
home = SiteHome(Path({folder!r}))
opened = open_view(home, slice_of(home, document), document)
assert opened.rows == 4, opened
print(sorted({{"pyarrow", "duckdb", "pandas", "sqlglot", "sqlalchemy"}} & sys.modules.keys()), seen())
rows = Path(f"/proc/self/fd/{{opened.descriptor}}").read_bytes()
print(seen())
"""


@pytest.mark.promise("gateway-without-rows")
def test_the_gateway_process_holds_no_row_and_loads_nothing_that_reads_one(home: SiteHome) -> None:
    (home.folder / "data" / "people.csv").write_text(CSV.replace("p3", CANARY))
    code = _LOOK.format(path=sys.path, document=DOCUMENT.model_dump_json(), folder=str(home.folder))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.splitlines() == ["[] False", "True"], done.stderr


# -- admission -------------------------------------------------------------------------------------------


def test_a_view_that_changes_between_approval_and_opening_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = private(tmp_path)
    site = federation.home("alpha")
    site.views.mkdir()
    original = admission.check_begin

    def and_then(*arguments: Any, **how: Any) -> Any:
        answered = original(*arguments, **how)
        (site.views / "ages.yaml").write_text("population: others\n")
        return answered

    with monkeypatch.context() as patch:
        patch.setattr(admission, "check_begin", and_then)
        answer = federation.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "policy.view")
    assert "view.opened" not in log_text(site), "no row was read"
    assert list((site.lineage / "runs").glob("*")) == []


def test_a_view_whose_every_row_is_wrong_leaves_as_a_constant_sentence(tmp_path: Path) -> None:
    tables = dict.fromkeys(("alpha", "beta", "delta", "gamma"), f"age\n{CANARY}\n")
    federation = private(tmp_path, tables=tables, document=QueryDocument(name="ages", **AGE))
    answer = federation.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "data.invalid")
    assert answer.sentence == "The site's data does not meet the recipe's contract."
    (line,) = [line for line in federation.log("alpha") if line["action"] == "refused"]
    assert "1 value not a number (first at line 2)" in line["reason"]
    assert CANARY not in log_text(federation.home("alpha"))
    assert count_document().contract.columns["age"].type == "number"
