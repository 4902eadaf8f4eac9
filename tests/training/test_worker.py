"""A worker in a real child process: it computes, stops, and never outlives its gateway."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import PlasmidError, RecipeError
from plasmid.data.table import Table
from plasmid.protocol.body import pack
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.training.launcher import _PASSED_ON, LocalLauncher
from plasmid.training.session import WorkerSession

PING = PingDocument(length=1000)
AGES = QueryDocument(name="ages", column="age", bounds=(0.0, 100.0), max_rows=1_000_000)
CANARY = "CANARY-4711"


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[], WorkerSession]]:
    """Yield a function that starts workers; they end with the test."""
    sessions: list[WorkerSession] = []

    def start() -> WorkerSession:
        sessions.append(WorkerSession(LocalLauncher(), tmp_path / "worker.log"))
        return sessions[-1]

    yield start
    for session in sessions:
        session.end()
        assert session._worker.process.returncode is not None


Start = Callable[[], WorkerSession]


def compute(session: WorkerSession, state: np.ndarray) -> np.ndarray:
    return session.compute(state, round_=1, seed=0, progress=lambda step, steps: None)


def ages(*values: float | None) -> Table:
    return Table({"age": list(values)}, len(values))


def test_a_ping_is_zeros_of_the_state_s_shape(worker: Start) -> None:
    session = worker()
    session.open(PING.model_dump(mode="json"), None, None)
    for _ in range(3):  # the worker stays warm
        vector = compute(session, np.ones(1000, np.float32))
        assert (vector.dtype, vector.shape, float(np.abs(vector).max())) == (np.float32, (1000,), 0.0)


def test_the_mean_s_sums_are_those_of_the_records(worker: Start) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, ages(0.0, 25.0, None, 100.0))
    vector = compute(session, np.zeros(3))
    assert vector.dtype == np.float64
    # z = (x - 50) / 50: -1, -1/2, 1
    assert vector.tolist() == [-0.5, 2.25, 3.0]


def test_a_record_beyond_its_reach_is_clipped_by_the_node(worker: Start) -> None:
    """The table is the gateway's, checked; should it not be, one record still weighs at most one."""
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, ages(1e9, float("-1e9"), 75.0))
    assert compute(session, np.zeros(3)).tolist() == [0.5, 2.25, 3.0]


def test_stop_ends_the_computation(worker: Start) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, ages(*[50.0] * 1000))
    session.stop()
    with refusal("run.stopped"):
        compute(session, np.zeros(3))


def test_an_error_of_the_worker_arrives_as_itself(worker: Start) -> None:
    session = worker()
    session.open({**PING.model_dump(mode="json"), "length": -1}, None, None)
    with pytest.raises(RecipeError) as caught:
        compute(session, np.zeros(1000, np.float32))
    assert caught.value.code == "recipe.malformed"


def test_a_state_of_another_size_is_refused(worker: Start) -> None:
    session = worker()
    session.open(PING.model_dump(mode="json"), None, None)
    with refusal("protocol.body"):
        compute(session, np.zeros(999, np.float32))
    assert compute(session, np.zeros(1000, np.float32)).size == 1000  # and it goes on


def test_a_defect_in_the_worker_says_nothing_of_the_rows(worker: Start) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, Table({"age": [CANARY]}, 1))
    with pytest.raises(PlasmidError) as caught:
        compute(session, np.zeros(3))
    assert (caught.value.code, str(caught.value)) == (
        "site.failed",
        "The worker failed; its log has the details.",
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_dies_is_noticed(worker: Start, number: int) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, ages(50.0))
    assert compute(session, np.zeros(3))[2] == 1.0
    session._worker.process.send_signal(number)
    with refusal("site.worker_died") as caught:
        compute(session, np.zeros(3))
    assert "ended unexpectedly" in caught.value.message


def test_a_worker_that_dies_while_it_computes_is_noticed(worker: Start) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, ages(*[50.0] * 300_000))
    threading.Timer(0.3, session._worker.process.kill).start()
    with refusal("site.worker_died"):
        while True:
            compute(session, np.zeros(3))


def test_the_child_ends_when_the_channel_closes(worker: Start) -> None:
    """Idle and busy alike, without a signal."""
    for rows in (1, 1_000_000):
        session = worker()
        session.open(AGES.model_dump(mode="json"), None, ages(*[50.0] * rows))
        session.channel.send({"type": "compute", "round": 1, "seed": 0}, pack("state", np.zeros(3)))
        session.channel.close()
        assert session._worker.process.wait(30) == 0


def test_the_child_ends_when_its_gateway_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from plasmid.training.launcher import LocalLauncher\n"
        f"worker = LocalLauncher().launch(Path({str(tmp_path / 'worker.log')!r}))\n"
        "print(worker.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        child = os.pidfd_open(int(gateway.stdout.readline()))
        gateway.kill()
    try:
        assert select.select([child], [], [], 30)[0] == [child]
    finally:
        os.close(child)


def test_ending_a_worker_twice_does_nothing(worker: Start) -> None:
    session = worker()
    session.end()
    session.end()
    with refusal("site.worker_died"):
        session.stop()


def test_the_child_gets_the_listed_environment_and_no_file(
    worker: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLASMID_DATABASE_URL", CANARY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("HTTPS_PROXY", CANARY)
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    secret = tmp_path / "identity.key"
    secret.write_text(CANARY)
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        session = worker()
        session.open(PING.model_dump(mode="json"), None, None)
        compute(session, np.zeros(1000, np.float32))
        process = Path("/proc") / str(session._worker.process.pid)
        pairs = (process / "environ").read_bytes().rstrip(b"\0").split(b"\0")
        environment: dict[str, Any] = dict(pair.decode().split("=", 1) for pair in pairs)
        files = {str(entry.readlink()) for entry in (process / "fd").iterdir()}
        command = (process / "cmdline").read_text()
    ours = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    assert set(environment) <= set(_PASSED_ON) | set(ours)
    assert ours.items() <= environment.items()
    assert environment["PLASMID_HOME"] == str(tmp_path)
    assert CANARY not in "".join(environment.values()) + command
    assert str(secret) not in files
    assert not [name for name in files if "journal" in name or name.endswith((".key", ".pem"))]
