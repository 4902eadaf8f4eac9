"""Figures come from a process of their own, which holds nothing and can open nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import SiteFailed, UsageError
from plasmid.dp import accountant, accountant_child, accounting, skellam
from plasmid.dp.canary_bound import epsilon_bound
from plasmid.isolation.lockdown import lacking

SGD = {"rate": 0.5, "noise_multiplier": 5.0, "steps": 20, "delta": 1e-5}
SHARED: dict[str, Any] = {
    "length": 300, "bound": 8.0, "sites": 5, "honest": 3, "sensitivity": 1.0, "releases": 12, "rate": 0.5,
    "epsilon": 4.0, "delta": 1e-5,
}  # fmt: skip


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process of the test's own."""
    made = accountant._Child()
    monkeypatch.setattr(accountant, "_child", made)
    monkeypatch.setattr(accountant, "_known", {})
    yield made
    made.end()


@pytest.mark.usefixtures("child")
def test_the_figures_are_those_of_the_accountants_to_the_last_bit() -> None:
    assert accountant.dp_sgd_epsilon(**SGD) == accounting.dp_sgd_epsilon(**SGD)
    assert accountant.dp_sgd_bound(**SGD) == accounting.dp_sgd_bound(**SGD)
    noise = {"rate": 0.5, "steps": 20, "epsilon": 3.0, "delta": 1e-5}
    assert accountant.dp_sgd_noise(**noise) == accounting.dp_sgd_noise(**noise)
    assert accountant.plan_shared_noise(**SHARED) == skellam.plan_shared_noise(**SHARED)
    figures = {"sensitivity": 1.0, "length": 9, "scale_log2": 20, "std": 3.0, "releases": 4, "rate": 1.0}
    assert accountant.skellam_epsilon(**figures, delta=1e-5) == skellam.skellam_epsilon(**figures, delta=1e-5)
    guesses = {"canaries": 400, "guesses": 100, "right": 99, "delta": 1e-5, "confidence": 0.95}
    assert accountant.audit_bound(**guesses) == epsilon_bound(**guesses)


def test_a_figure_is_computed_once_and_the_process_ends(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "IDLE_S", 0.2)
    found = accountant.dp_sgd_epsilon(**SGD)
    process = child._process
    assert process.poll() is None
    for _ in range(100):
        if child._process is None:
            break
        time.sleep(0.05)
    assert process.poll() is not None
    monkeypatch.setattr(accountant, "_started", lambda: pytest.fail("it is known"))
    assert accountant.dp_sgd_epsilon(**SGD) == found


@pytest.mark.usefixtures("child")
def test_refusals_cross_as_they_are() -> None:
    with pytest.raises(UsageError, match="the noise multiplier must be above 0, not 0") as caught:
        accountant.dp_sgd_epsilon(**{**SGD, "noise_multiplier": 0.0})
    assert caught.value.code == "usage.privacy"
    with pytest.raises(ValueError, match="no accountant takes these figures: ValueError"):
        accountant.dp_sgd_bound(**{**SGD, "rate": 2.0})


def test_a_process_that_is_gone_is_an_error_and_the_next_question_starts_another(child: Any) -> None:
    accountant.dp_sgd_bound(**SGD)
    child._process.kill()
    child._process.wait()
    with pytest.raises(SiteFailed) as caught:
        accountant.dp_sgd_epsilon(**SGD)
    assert caught.value.code == "site.accountant"
    assert accountant.dp_sgd_epsilon(**SGD) > 0


def test_one_that_takes_too_long_is_ended(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "LIMIT_S", 0.01)
    with pytest.raises(SiteFailed, match="ended without an answer"):
        accountant.dp_sgd_epsilon(**SGD)
    assert child._process is None


def test_it_is_given_no_environment_and_no_open_file(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_PASSPHRASE", "canary")
    with Path(__file__).open() as kept:
        os.set_inheritable(kept.fileno(), True)
        accountant.dp_sgd_bound(**SGD)
        pid = child._process.pid
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        opened = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert b"canary" not in environment
    assert {name.split(b"=")[0] for name in environment.split(b"\0") if name} <= {
        b"OMP_NUM_THREADS",
        b"OPENBLAS_NUM_THREADS",
        b"LC_CTYPE",  # Python's own
    }
    assert {name.split(":")[0] for name in opened} == {"pipe", "/dev/null"}


@pytest.mark.skipif(lacking() is not None, reason="this host cannot lock a process")
@pytest.mark.parametrize("deed", ["open('/etc/hostname')", "__import__('socket').socket()", "os.fork()"])
def test_it_is_locked(deed: str) -> None:
    """The positive control is the same deed before the lock."""
    code = f"""
import os, sys
from plasmid.dp import accountant_child as child
if sys.argv[1] == "locked":
    child.lock()
try:
    pid = {deed}
    if pid == 0:
        os._exit(0)
    print("done")
except OSError:
    print("denied")
"""
    for state, wanted in (("locked", "denied"), ("free", "done")):
        said = subprocess.run([sys.executable, "-c", code, state], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == wanted


def test_every_function_works_behind_the_lock() -> None:
    """What it imports late would be found missing here: each function is asked anew."""
    lines = [
        json.dumps(["epsilon_bound", {"canaries": 40, "guesses": 10, "right": 10}]),
        json.dumps(["plan_shared_noise", SHARED]),
        json.dumps(["dp_sgd_bound", {**SGD, "rate": 1.0}]),
        json.dumps(["dp_sgd_noise", {"rate": 1.0, "steps": 3, "epsilon": 2.0, "delta": 1e-6}]),
        json.dumps(["dp_sgd_epsilon", {**SGD, "rate": 1.0}]),
    ]
    command = [sys.executable, "-I", "-m", "plasmid.dp.accountant_child"]
    said = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in said.stdout.splitlines()]
    assert [list(answer) for answer in answers] == [["value"]] * 5
    assert {json.loads(line)[0] for line in lines} | {"skellam_epsilon"} == set(accountant_child.FUNCTIONS)


def test_the_asking_process_imports_none_of_it() -> None:
    code = """
import sys
import plasmid.dp.claims, plasmid.dp.calibrate, plasmid.planning.privacy, plasmid.release.result
from plasmid.dp.accountant import dp_sgd_epsilon
dp_sgd_epsilon(rate=0.5, noise_multiplier=5.0, steps=20, delta=1e-5)
print(sorted({"scipy", "dp_accounting", "absl", "attr", "randomgen"} & set(sys.modules)))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
