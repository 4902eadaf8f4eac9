"""Row 35, extended to bundles. Attack: code of a recipe that patches whatever could clip, noise or count it.

Must hold: it gains nothing, whatever it patches: neither clip nor noise nor ledger is in its process. The
worker is a real one, in the strongest sandbox that there is here and in none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.dp.noise import skellam
from plasmid.gateway.session import WorkerSession
from plasmid.isolation.launcher import LocalLauncher, available
from plasmid.secagg.ring import decode_sum
from support.federation.attacks import BUDGET, FOUR, as_csv
from support.federation.bundle_recipes import OUTPUT, RECORD, ages, bundle_recipe, by_worker
from support.federation.in_memory import Federation

PATCHES = """
    import numpy as np

    def patch():
        import math, sys
        import plasmid.dp.noise as noise
        import plasmid.secagg.ring as ring
        import plasmid.gateway.output as output
        import plasmid.gateway.ledger as ledger
        from plasmid.worker.worker import Session
        import __main__

        for session in (Session, getattr(__main__, "Session", Session)):
            session._sum_of_records = lambda self, state, sampling: np.full(3, 1e30)
        noise.skellam = ring.skellam = lambda length, variance: np.zeros(length, np.int64)
        output.bounded = lambda vector, shape, noised: (vector, 0.0)
        ledger.Ledger.spend = ledger.Ledger.charge_attempt = lambda *arguments: None
        np.clip = lambda values, *bounds: values
        np.linalg.norm = lambda values: 0.0
        math.sqrt = lambda value: 1e30
"""
PER_RECORD = (
    PATCHES
    + """
    try:
        patch()
    except Exception:
        pass

    def per_record(state, row, settings):
        try:
            patch()
        except Exception:
            pass
        return [1e30, 0.0, 0.0] if row["age"] == 60.0 else [0.0, 0.5, 0.0]
"""
)
VECTOR = (
    PATCHES
    + """
    def vector(state, view, settings):
        patch()
        return [1e30, -1e30, 0.0]
"""
)
Start = Callable[[], WorkerSession]


@pytest.fixture(params=["best", "none"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Yield a function that starts workers; they end with the test."""
    sessions: list[WorkerSession] = []

    def begin() -> WorkerSession:
        launcher = LocalLauncher(available(request.param))
        home = tmp_path / "worker"
        home.mkdir(exist_ok=True)
        sessions.append(WorkerSession(launcher, home / "worker.log", notice=lambda _: None))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.end()


class Draws:
    """Stands before the gateways' sampler and keeps what it draws."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.all: list[np.ndarray] = []
        patch.setattr("plasmid.gateway.output.skellam", self._draw)

    def _draw(self, length: int, variance: float) -> np.ndarray:
        self.all.append(skellam(length, variance))
        return self.all[-1]


def test_control_without_a_unit_the_patch_takes_the_worker(start: Start) -> None:
    """So the attack is one: without a unit nothing is promised but the bound, which is the gateway's."""
    document = bundle_recipe(PER_RECORD)
    assert by_worker(start(), document, ages(1.0, 60.0)).tolist() == [1e30] * 3


def test_a_record_that_patches_everything_is_clipped_and_no_other_is_changed(start: Start) -> None:
    document = bundle_recipe(PER_RECORD, privacy=RECORD, bound=1e9)
    assert by_worker(start(), document, ages(1.0, 60.0, 2.0)) == pytest.approx([1.0, 1.0, 0.0])
    # the record that shouts moves one vector, by its clip
    assert by_worker(start(), document, ages(1.0, 2.0)) == pytest.approx([0.0, 1.0, 0.0])


@pytest.mark.parametrize(("half", "code"), [("vector", VECTOR), ("per_record", PER_RECORD)])
def test_a_vector_that_patches_everything_is_bounded_noised_and_charged(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str, code: str
) -> None:
    document = bundle_recipe(code, half=half, privacy=OUTPUT, bound=1e9)
    federation = Federation(
        tmp_path / "sites",
        document=document,
        sites=FOUR,
        tables=dict.fromkeys(FOUR, as_csv(ages(1.0, 60.0))),
        public_size=1000,
        budgets={"default": BUDGET},
    )
    federation.set_up()
    manifest, draws = federation.manifest(), Draws(monkeypatch)
    hostile = by_worker(start(), document, ages(1.0, 60.0))
    assert np.abs(hostile).max() == 1e30
    zeros = np.zeros(3)
    answers = federation.answers(manifest, {site: hostile if site == "alpha" else zeros for site in FOUR})
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 4)
    assert len(draws.all) == len(FOUR)
    left = total[:3] - sum(draws.all)[:3] * manifest.encoding().step
    assert np.linalg.norm(left) == pytest.approx(OUTPUT["update_clip"], rel=1e-3)
    entries = federation.gateways["alpha"].ledger.entries()
    assert [entry["event"] for entry in entries] == ["reserve", "spend", "attempt"]


def test_a_bundle_has_no_way_to_say_what_is_noised(start: Start) -> None:
    """A document that asks for less than its half can keep is none: the schema refuses it at both ends."""
    refused: list[dict[str, Any]] = [
        {"half": "vector", "privacy": RECORD},
        {"privacy": RECORD | {"mechanism": "dp-sgd"}},
        {"half": "vector", "privacy": OUTPUT | {"update_clip": None}},
    ]
    for changes in refused:
        with pytest.raises(ValueError, match="sections contradict"):
            bundle_recipe(PER_RECORD, **changes)
