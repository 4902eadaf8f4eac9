"""A record's vector follows from the record alone, whatever the code would like to know or to tell.

What an attempt does where it is allowed is shown with the same code in the worker itself, without a unit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import RunFailed
from plasmid.protocol.body import pack
from plasmid.worker.bundle import forget
from plasmid.worker.per_record import Apart
from support.federation.attacks import refusal
from support.federation.bundle_recipes import RECORD, ages, bundle_recipe, computed, session

CANARY = 111.0

HONEST = """
    import numpy as np

    def per_record(state, row, settings):
        return None if row["age"] is None else np.array([row["age"] / 120.0, 0.0, state[0]])
"""


def apart(code: str, *values: float | None, **changes: Any) -> np.ndarray:
    """Return the sum of the records' vectors of *code* under a unit."""
    return computed(bundle_recipe(code, privacy=RECORD, **changes), ages(*values))


def together(code: str, *values: float | None, **changes: Any) -> np.ndarray:
    """Return the same without a unit: all in one process, which is the worker's."""
    return computed(bundle_recipe(code, **changes), ages(*values))


@pytest.fixture(autouse=True)
def _no_bundle_stays() -> Iterator[None]:
    yield
    forget()


def test_the_vectors_are_those_of_the_records() -> None:
    at = session(bundle_recipe(HONEST, privacy=RECORD), ages(12.0, None, 120.0))
    order = {"phase": "train", "round": 1, "seed": 0, "sampling": {"clip": 2.0}}
    assert at.compute((order, pack("state", np.zeros(3)))) == pytest.approx([1.1, 0.0, 0.0])
    # a further round, with another state
    assert at.compute((order, pack("state", np.array([0.25, 0.0, 0.0])))) == pytest.approx([1.1, 0.0, 0.5])
    at.close()


def test_every_record_is_clipped_in_l2_and_per_coordinate() -> None:
    code = "def per_record(state, row, settings): return [9e9, -9e9, 0.0]"
    assert apart(code, 1.0, bound=0.5) == pytest.approx([0.5, -0.5, 0.0])
    assert apart(code, 1.0, 2.0, bound=5.0) == pytest.approx([2**0.5, -(2**0.5), 0.0])


FAILURES = (
    "1 / 0",
    "raise_(SystemExit(0))",
    "raise_(KeyboardInterrupt())",
    "[float('nan'), 0.0, 0.0]",
    "[float('inf'), 0.0, 0.0]",
    "[1.0, 1.0]",
    "[[1.0, 1.0, 1.0]]",
    "['1', '1', '1']",
    "object()",
    "os._exit(0)",
    "os.abort()",
    "os.write(3, b'x' * 100)",
    "bytearray(2**40)",
    "forever()",
    "open('/etc/hostname').read()",
)


def test_a_record_that_fails_counts_as_zero_and_no_other_does(capfd: pytest.CaptureFixture[str]) -> None:
    """Each of the first records fails in its own way, the last two do not."""
    code = f"""
        import os

        def raise_(error):
            raise error

        def forever():
            while True:
                pass

        def per_record(state, row, settings):
            return eval({FAILURES!r}[int(row["age"])]) if row["age"] < {len(FAILURES)} else [0.5, 0.0, 0.0]
    """
    total = apart(code, *range(len(FAILURES) + 2), max_rows=len(FAILURES) + 2)
    assert total.tolist() == [1.0, 0.0, 0.0]
    count = f"{len(FAILURES)} of {len(FAILURES) + 2} records failed, or took longer than their turn"
    assert count in capfd.readouterr().err


def test_code_that_cannot_be_run_at_all_ends_the_run_and_says_nothing_of_a_row() -> None:
    for code in ("import nothing_of_this_name", "def per_record(:", "raise SystemExit", "x = 1"):
        with refusal("run.bundle"):
            session(bundle_recipe(code, privacy=RECORD), ages(1.0))


# -- one record cannot tell another one anything -------------------------------------------------------

REMEMBERS = """
    seen = []

    def per_record(state, row, settings):
        seen.append(row["age"])
        return [float(len(seen) > 1), 0.0, 0.0]
"""
IN_BUILTINS = """
    import builtins

    def per_record(state, row, settings):
        told = getattr(builtins, "told", 0)
        builtins.told = told + 1
        return [float(told > 0), 0.0, 0.0]
"""
IN_NUMPY = """
    import numpy as np

    def per_record(state, row, settings):
        told = getattr(np.random, "told", 0)
        np.random.told = told + 1
        return [float(told > 0), 0.0, 0.0]
"""
IN_A_FILE = """
    import os, tempfile

    def per_record(state, row, settings):
        path = os.path.join(tempfile.gettempdir(), "plasmid-apart-%d" % os.getppid())
        told = os.path.exists(path)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        if told:
            os.unlink(path)
        return [float(told), 0.0, 0.0]
"""


@pytest.mark.parametrize("code", [REMEMBERS, IN_BUILTINS, IN_NUMPY, IN_A_FILE])
def test_nothing_of_one_record_reaches_the_next(code: str) -> None:
    assert together(code, CANARY, 2.0, 3.0)[0] >= 1.0, "the control: in one process it does"
    assert apart(code, CANARY, 2.0, 3.0).tolist() == [0.0, 0.0, 0.0]


def test_no_other_record_is_in_its_memory() -> None:
    """It looks through all that Python holds; the worker, which has the table, holds them all."""
    code = """
        import gc

        def per_record(state, row, settings):
            mine = row["age"]
            held = [value for value in gc.get_objects() if type(value) is list]
            others = any(type(value) is float and 110.0 <= value <= 113.0 and value != mine
                         for one in held if len(one) < 9 for value in one)
            return [float(others), 0.0, 0.0]
    """
    assert together(code, 111.0, 112.0, 113.0)[0] == 3.0
    assert apart(code, 111.0, 112.0, 113.0).tolist() == [0.0, 0.0, 0.0]


def test_turns_are_dealt_at_random_and_take_the_same_time_whoever_has_one() -> None:
    """The time of a round and when each turn begins follow from the document alone."""
    code = "def per_record(state, row, settings):\n    while row['age'] == 99.0: pass\n    return [1.0] * 3"
    document = bundle_recipe(code, privacy=RECORD, record_ms=150, max_rows=6)
    for table in (ages(1.0), ages(99.0, 99.0, 99.0)):
        at = Apart(document.bundle, turns=6)
        began = time.monotonic()
        list(at.vectors(np.zeros(3), table, stop=lambda: None))
        took = time.monotonic() - began
        at.close()
        assert 5 * 0.150 <= took < 6 * 0.150 + 0.3


def test_a_round_can_be_stopped_between_turns() -> None:
    at = Apart(bundle_recipe(HONEST, privacy=RECORD).bundle, turns=1000)

    def stop() -> None:
        raise RunFailed("run.stopped", "stopped")

    with refusal("run.stopped"):
        list(at.vectors(np.zeros(3), ages(1.0), stop=stop))
    at.close()


def test_a_keeper_that_is_gone_ends_the_run() -> None:
    at = Apart(bundle_recipe(HONEST, privacy=RECORD).bundle, turns=5)
    at._keeper.kill()
    at._keeper.wait()
    with refusal("run.bundle"):
        list(at.vectors(np.zeros(3), ages(1.0), stop=lambda: None))
    at.close()
    at.close()


def test_modules_of_a_bundle_and_installed_ones_are_there(capfd: pytest.CaptureFixture[str]) -> None:
    code = """
        import json
        from math import floor
        from numpy import linalg
        from .other import third

        print("a line of its own")

        def per_record(state, row, settings):
            print(row)
            return [linalg.norm([3.0, 4.0]) / 10.0, third(row["age"]), settings["share"]]
    """
    files = {"other.py": "import numpy\n\ndef third(age):\n    return numpy.float32(age > 1.0) / 4"}
    total = apart(code, 1.0, 2.0, files=files, settings={"share": 0.125})
    assert total.tolist() == [1.0, 0.25, 0.25]
    said = capfd.readouterr()
    assert said.out + said.err == ""
