"""A worker in a real child process: it computes, stops, and never outlives its gateway."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.computations import finetune, mean
from plasmid.core.errors import PlasmidError, RecipeError
from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Joined, Table
from plasmid.dp.canary_audit import planned_guesses
from plasmid.gateway.session import WorkerSession
from plasmid.isolation.launcher import PASSED_ON, LocalLauncher, available
from plasmid.isolation.tree import descendants
from plasmid.protocol.body import pack
from plasmid.recipes.columns import Contract, TextColumn
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from plasmid.worker import engine as engine_module
from plasmid.worker import worker as worker_module
from support.hospital.snapshots import snapshot_of
from support.tiny.tiny_task import tiny_recipe, tiny_table

PING = PingDocument(length=1000)
AGES = QueryDocument(name="ages", column="age", bounds=(0.0, 100.0), max_rows=1_000_000)
CANARY = "CANARY-4711"


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


@pytest.fixture(params=("best", "none"))
def worker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], WorkerSession]]:
    """Yield a function that starts workers, locked in and not; they end with the test."""
    sessions: list[WorkerSession] = []

    def start() -> WorkerSession:
        launcher = LocalLauncher(available(request.param))
        sessions.append(WorkerSession(launcher, tmp_path / "worker.log", notice=said.append))
        return sessions[-1]

    said: list[str] = []

    yield start
    for session in sessions:
        session.end()
        assert session._worker.process.returncode is not None
    assert said == [], "an honest worker asks for nothing that is refused"


Start = Callable[[], WorkerSession]


def innermost(session: WorkerSession) -> int:
    """Return the number of the worker itself, below whatever wraps it."""
    return descendants(session._worker.process.pid)[-1]


def compute(
    session: WorkerSession,
    state: np.ndarray,
    *,
    phase: str = "train",
    sampling: dict[str, Any] | None = None,
    length: int | None = None,
    dtype: Any = None,
) -> np.ndarray:
    return session.compute(
        state,
        order={"phase": phase, "round": 1, "seed": 0, "sampling": sampling},
        length=state.size if length is None else length,
        dtype=np.dtype(dtype or state.dtype),
        progress=lambda step, steps: None,
    )


def of_records(clip: float) -> dict[str, Any]:
    """Return what the gateway orders under unit record for a query."""
    return {
        "unit": "record",
        "clip": clip,
        "rate": 1.0,
        "expected": 1.0,
        "noise_multiplier": 0.0,
        "max_records": 16,
    }


def ages(*values: float | None) -> Table:
    return Table({"age": list(values)}, len(values))


def test_a_ping_is_ones_of_the_state_s_shape(worker: Start) -> None:
    session = worker()
    session.open(PING.model_dump(mode="json"), None, None)
    for _ in range(3):  # the worker stays warm
        vector = compute(session, np.ones(1000, np.float32))
        assert (vector.dtype, vector.tolist()) == (np.float32, [1.0] * 1000)


def test_the_mean_s_sums_are_those_of_the_records(worker: Start) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, snapshot_of(ages(0.0, 25.0, None, 100.0), AGES))
    vector = compute(session, np.zeros(4))
    assert vector.dtype == np.float64
    # z = (x - 50) / 50: -1, -1/2, 1
    assert vector.tolist() == [-0.5, 2.25, 3.0, 0.0]
    assert session.evidence is None


def test_what_the_rules_against_disclosure_need_comes_beside_the_sum(worker: Start) -> None:
    """Asked for by a key; persons are hashed under it, rows of equal content told apart."""
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, snapshot_of(ages(0.0, 25.0, None, 100.0, 25.0), AGES))
    found = []
    for key in ("ab" * 32, "ab" * 32, "cd" * 32):
        session.compute(
            np.zeros(4),
            order={"phase": "train", "round": 1, "seed": 0, "sampling": None, "cells": key},
            length=4,
            dtype=np.dtype("<f8"),
            progress=lambda step, steps: None,
            cells=(mean.table(AGES), 5),
        )
        assert session.evidence is not None
        found.append(session.evidence)
    first, again, other = found
    assert (first.cohort, first.people.tolist(), first.where.tolist()) == (4, [4], [0, 0, 0, 0])
    assert first.absolute[:, 0].tolist() == [150.0, 11250.0, 4.0]
    assert first.largest[:, :, 0].tolist() == [[100.0, 25.0], [10000.0, 625.0], [1.0, 1.0]]
    assert first.keys.tolist() == again.keys.tolist()
    assert not set(first.keys.tolist()) & set(other.keys.tolist())


def test_a_record_beyond_its_reach_is_clipped_by_the_node(worker: Start) -> None:
    """The table is the gateway's, checked; should it not be, one record still weighs at most one."""
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, snapshot_of(ages(1e9, float("-1e9"), 75.0), AGES))
    assert compute(session, np.zeros(4)).tolist() == [0.5, 2.25, 3.0, 0.0]


def test_under_a_unit_every_record_is_clipped_in_l2(worker: Start) -> None:
    """(1, 1, 1) has the norm sqrt(3), (0, 0, 1) the norm 1: a clip of 1 shortens the first alone."""
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, snapshot_of(ages(100.0, 50.0), AGES))
    for clip, weight in ((1.0, 3**-0.5), (3**0.5, 1.0), (100.0, 1.0), (0.5, 0.5 * 3**-0.5)):
        vector = compute(session, np.zeros(4), sampling=of_records(clip))[:3]
        assert vector == pytest.approx([weight, weight, weight + min(1.0, clip)])
        per_record = [np.linalg.norm(vector - [0, 0, min(1.0, clip)]), min(1.0, clip)]
        assert max(per_record) <= clip * (1 + 1e-12)


def test_stop_ends_the_computation(worker: Start) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, snapshot_of(ages(*[50.0] * 1000), AGES))
    session.stop()
    with refusal("run.stopped"):
        compute(session, np.zeros(4))


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
    texts = SimpleNamespace(contract=Contract({"age": TextColumn(type="text", max_length=64)}))
    session.open(AGES.model_dump(mode="json"), None, snapshot_of(Table({"age": [CANARY]}, 1), texts))
    with pytest.raises(PlasmidError) as caught:
        compute(session, np.zeros(4))
    assert (caught.value.code, str(caught.value)) == (
        "site.failed",
        "The worker failed; its log has the details.",
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_dies_is_noticed(worker: Start, number: int) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, snapshot_of(ages(50.0), AGES))
    assert compute(session, np.zeros(4))[2] == 1.0
    os.kill(innermost(session), number)
    with refusal("site.worker_died") as caught:
        compute(session, np.zeros(4))
    assert "ended unexpectedly" in caught.value.message


def test_a_worker_that_dies_while_it_computes_is_noticed(worker: Start) -> None:
    session = worker()
    session.open(AGES.model_dump(mode="json"), None, snapshot_of(ages(*[50.0] * 300_000), AGES))
    threading.Timer(0.3, os.kill, (innermost(session), signal.SIGKILL)).start()
    with refusal("site.worker_died"):
        while True:
            compute(session, np.zeros(4))


def test_the_child_ends_when_the_channel_closes(worker: Start) -> None:
    """Idle and busy alike, without a signal."""
    for rows in (1, 1_000_000):
        session = worker()
        session.open(AGES.model_dump(mode="json"), None, snapshot_of(ages(*[50.0] * rows), AGES))
        order = {"phase": "train", "round": 1, "seed": 0, "sampling": None}
        session.channel.send({"type": "compute", **order}, pack("state", np.zeros(4)))
        session.channel.close()
        assert session._worker.process.wait(30) == 0


@pytest.mark.parametrize("killed", ["gateway", "helper"])
@pytest.mark.parametrize("level", ["best", "landlock", "none"])
def test_the_child_ends_when_its_gateway_or_helper_is_killed(tmp_path: Path, level: str, killed: str) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from plasmid.isolation.launcher import LocalLauncher, available\n"
        "from plasmid.isolation.tree import descendants\n"
        f"launcher, log = LocalLauncher(available({level!r})), Path({str(tmp_path / 'worker.log')!r})\n"
        "worker = launcher.launch(log, read=[], notice=print)\n"
        "print(*descendants(worker.process.pid), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        helper, *below = (int(number) for number in gateway.stdout.readline().split())
        ends = [os.pidfd_open(number) for number in (helper, below[-1])]
        os.kill(gateway.pid if killed == "gateway" else helper, signal.SIGKILL)
        try:
            for end in ends:
                assert select.select([end], [], [], 30)[0] == [end]
        finally:
            gateway.kill()
            for end in ends:
                os.close(end)


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
        process = Path("/proc") / str(innermost(session))
        pairs = (process / "environ").read_bytes().rstrip(b"\0").split(b"\0")
        environment: dict[str, Any] = dict(pair.decode().split("=", 1) for pair in pairs)
        files = {str(entry.readlink()) for entry in (process / "fd").iterdir()}
        command = (process / "cmdline").read_text()
    ours = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    ours |= {"USE_HUB_KERNELS": "NO"}
    ours |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    ours["PLASMID_HOME"] = str(tmp_path)
    given_by_the_sandbox = {"USER", "LOGNAME", "PWD"}
    assert set(environment) <= set(PASSED_ON) | set(ours) | given_by_the_sandbox
    assert ours.items() <= environment.items()
    assert CANARY not in "".join(environment.values()) + command
    assert str(secret) not in files
    assert not [name for name in files if "audit" in name or name.endswith((".key", ".pem"))]


def test_the_child_finds_base_models_where_the_gateway_does(
    worker: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Inside a sandbox HOME is the private folder: the default state folder must be said."""
    monkeypatch.delenv("PLASMID_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    session = worker()
    session.open(PING.model_dump(mode="json"), None, None)
    compute(session, np.zeros(1000, np.float32))
    said = (Path("/proc") / str(innermost(session)) / "environ").read_bytes().split(b"\0")
    assert f"PLASMID_HOME={tmp_path / '.plasmid'}".encode() in said


# -- fine-tuning -----------------------------------------------------------------------------------


def recipe(base: BaseModel, **sections: dict[str, Any]) -> Recipe:
    values = tiny_recipe(base, steps=2).model_dump(mode="json")
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


@pytest.fixture(scope="module")
def warm(
    model_home: Path, tiny: dict[str, BaseModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Start]:
    """Yield a function that opens sessions in one worker, which has loaded torch already."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        process = LocalLauncher(available("best")).launch(
            tmp_path_factory.mktemp("warm") / "worker.log",
            read=[base.path for base in tiny.values()],
            notice=said.append,
        )
    again = SimpleNamespace(launch=lambda _, **given: process)
    yield lambda: WorkerSession(again, Path("unused"), notice=said.append)
    process.end()
    assert said == []


def at_work(warm: Start, document: Recipe, base: BaseModel, rows: int = 32) -> tuple[WorkerSession, Any]:
    session = warm()
    session.open(document.model_dump(mode="json"), base, snapshot_of(tiny_table(rows), document))
    shape = finetune.shape(document, base)
    return session, finetune.initial(document, shape)


UNIT = {"unit": "record", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.0}


def test_a_worker_trains_and_audits(warm: Start, tiny: dict[str, BaseModel]) -> None:
    audit = {"audit": {"canaries": 40, "max_audited_epsilon": 4.0}}
    session, state = at_work(warm, recipe(tiny["esm"], privacy=audit), tiny["esm"])
    update = compute(session, state)
    assert update.dtype == np.float32
    assert 0 < np.linalg.norm(update) < 10
    guesses, right = compute(session, state + update, phase="audit", length=2, dtype=np.float64)
    assert guesses == planned_guesses(40) == 10
    assert 0 <= right <= guesses
    assert float(right).is_integer()


def test_what_is_sampled_clipped_and_noised_is_the_order_s(warm: Start, tiny: dict[str, BaseModel]) -> None:
    """The document says dp-sgd; with no noise ordered, one step is bounded by rate times clip over B."""
    document = recipe(
        tiny["esm"],
        privacy=UNIT | {"mechanism": "dp-sgd"},
        training={"steps": 1, "optimizer": "sgd", "lora_lr": 1.0, "head_lr": 1.0, "covariate_lr": 1.0},
    )
    session, state = at_work(warm, document, tiny["esm"])
    order = of_records(1.0) | {"rate": 1.0, "expected": 32.0}
    quiet = compute(session, state, sampling=order)
    assert 0 < np.linalg.norm(quiet) <= 1.0 + 1e-5  # 32 gradients of norm 1 at most, over 32
    loud = compute(session, state, sampling=order | {"noise_multiplier": 4.0})
    std = 4.0 / 32
    assert 0.9 * std < (loud - quiet).std() < 1.1 * std


def test_shared_noise_takes_a_sum_of_clipped_gradients(warm: Start, tiny: dict[str, BaseModel]) -> None:
    document = recipe(
        tiny["esm"], privacy=UNIT | {"mechanism": "dp-fedsgd"}, training={"steps": 1, "batch": 16}
    )
    session, state = at_work(warm, document, tiny["esm"])
    order = of_records(0.25) | {"rate": 1.0, "expected": 16.0}
    first = compute(session, state, sampling=order)
    assert 0 < np.linalg.norm(first) <= 32 * 0.25 * (1 + 1e-5)
    assert np.allclose(first, compute(session, state, sampling=order), atol=1e-6)  # rate 1, and no noise
    assert not compute(session, state, sampling=order | {"rate": 1e-9}).any()  # an empty sample


# -- a table that is larger than memory ------------------------------------------------------------


def in_this_process(document: Any, table: Table, base: BaseModel | None = None) -> worker_module.Session:
    """Return what a worker makes of an ``open`` frame."""
    named = None if base is None else {"id": base.id, "revision": base.revision, "digest": base.digest}
    header = {"document": document.model_dump(mode="json"), "base": named}
    header["descriptor"] = snapshot_of(table, document)
    channel: Any = SimpleNamespace(send=lambda *_, **__: None)
    return worker_module.Session(channel, threading.Event(), (header, b""))


def test_a_large_table_stays_in_its_file_and_is_summed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    table, order = ages(*[float(row) for row in range(100)], None), {"phase": "train", "sampling": None}
    small = in_this_process(AGES, table)
    monkeypatch.setattr(worker_module, "IN_MEMORY_BYTES", 100)
    large = in_this_process(AGES, table)
    assert (type(small.table), type(large.table)) == (Table, Snapshot)
    found = [one.compute((order, pack("state", np.zeros(4)))) for one in (small, large)]
    assert found[0].tolist() == found[1].tolist()
    assert found[0][2] == 100.0


@pytest.mark.usefixtures("at_home")
def test_a_large_table_is_trained_on_from_its_file(
    tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    document, base = recipe(tiny["esm"]), tiny["esm"]
    monkeypatch.setattr(engine_module, "MAX_CACHE_BYTES", 0)
    state = finetune.initial(document, finetune.shape(document, base))
    found = []
    slots = 4 * 40 * document.head().covariate_width  # of 40 rows, encoded
    for limit, most, kind in ((2**30, slots, Table), (100, slots, Snapshot), (2**30, slots - 1, Snapshot)):
        monkeypatch.setattr(worker_module, "IN_MEMORY_BYTES", limit)
        monkeypatch.setattr(worker_module, "SLOT_BYTES", most)
        session = in_this_process(document, tiny_table(40), base)
        assert isinstance(session.table, kind)
        order = {"phase": "train", "round": 1, "seed": 1, "sampling": None}
        found.append(session.compute((order, pack("state", state))))
    assert np.abs(found[0]).max() > 0
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    monkeypatch.setattr(worker_module, "IN_MEMORY_BYTES", 100)
    audited = recipe(base, privacy={"audit": {"canaries": 40, "max_audited_epsilon": 4.0}})
    session = in_this_process(audited, tiny_table(40), base)
    assert isinstance(session._canaries.table, Joined)
    assert np.isfinite(session.compute((order, pack("state", state)))).all()


def test_a_document_that_is_none_leaves_no_open_file() -> None:
    def same_file(open_file: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):  # the descriptor that lists the folder
            return os.path.samestat(open_file.stat(), rows)
        return False

    held = snapshot_of(ages(1.0), AGES)
    rows = os.fstat(held)
    assert sum(map(same_file, Path("/proc/self/fd").iterdir())) == 1
    header = {"document": {"computation": "mean"}, "base": None, "descriptor": held}
    channel: Any = SimpleNamespace(send=lambda *_, **__: None)
    with refusal("recipe.malformed"):
        worker_module.Session(channel, threading.Event(), (header, b""))
    gc.collect()
    assert not any(map(same_file, Path("/proc/self/fd").iterdir()))
