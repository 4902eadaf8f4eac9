"""Epsilons and noise from the accountants, which run in a process of their own: figures in, figures out.

Rules
-----
1. Whoever needs a figure asks here. What computes it (dp-accounting, scipy) is imported by the child alone
   (:mod:`plasmid.dp.accountant_child`), so that it is no part of a process that holds keys or sends.
2. The child gets a line of JSON and answers one. It has no environment, no open file but its two pipes, and
   where the host can lock a process (:mod:`plasmid.isolation.lockdown`) it can open none.
3. It ends when nothing was asked for :data:`IDLE_S`. An answer is kept by the process that asked.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from typing import Any

from plasmid.core.errors import SiteFailed, UsageError, from_dict
from plasmid.secagg.ring import Encoding

IDLE_S = 2.0
LIMIT_S = 1800.0
"""The longest that one figure may take: small multipliers over many steps take minutes."""

DP_SGD = "dp-accounting PLD"
SKELLAM = "Skellam RDP (Agarwal, Kairouz, Liu 2021), converted by dp-accounting"

_MOST_KEPT = 4096


def dp_sgd_epsilon(*, rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """See :func:`plasmid.dp.accounting.dp_sgd_epsilon`."""
    return float(
        _ask("dp_sgd_epsilon", rate=rate, noise_multiplier=noise_multiplier, steps=steps, delta=delta)
    )


def dp_sgd_noise(*, rate: float, steps: int, epsilon: float, delta: float) -> float:
    """See :func:`plasmid.dp.accounting.dp_sgd_noise`."""
    return float(_ask("dp_sgd_noise", rate=rate, steps=steps, epsilon=epsilon, delta=delta))


def dp_sgd_bound(*, rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """See :func:`plasmid.dp.accounting.dp_sgd_bound`."""
    return float(_ask("dp_sgd_bound", rate=rate, noise_multiplier=noise_multiplier, steps=steps, delta=delta))


def skellam_epsilon(**figures: float) -> float:
    """See :func:`plasmid.dp.skellam.skellam_epsilon`."""
    return float(_ask("skellam_epsilon", **figures))


def plan_shared_noise(**figures: float) -> tuple[Encoding, float]:
    """See :func:`plasmid.dp.skellam.plan_shared_noise`."""
    encoding, std = _ask("plan_shared_noise", **figures)
    return Encoding(**encoding), float(std)


def audit_bound(**figures: float) -> float:
    """See :func:`plasmid.dp.canary_bound.epsilon_bound`."""
    return float(_ask("epsilon_bound", **figures))


def check_plan(
    *,
    rate: float = 1.0,
    releases: int = 1,
    epsilon: float = 1.0,
    delta: float = 1e-6,
    size: int | None = None,
) -> list[str]:
    """Return what is wrong with the figures of a plan, one sentence each; *size* is the number of units N."""
    found = []
    if not 0 < rate <= 1:
        found.append(f"the sampling rate must lie in (0, 1], not {rate:g}")
    if releases < 1:
        found.append(f"the number of releases must be at least 1, not {releases}")
    if not 0 < epsilon < math.inf:
        found.append(f"epsilon must be a number above 0, not {epsilon:g}")
    if size is not None and size < 1:
        found.append(f"the number of units must be at least 1, not {size}")
    if not 0 < delta < 1:
        found.append(f"delta must lie in (0, 1), not {delta:g}")
    elif size is not None and size >= 1 and delta >= 1 / size:
        found.append(f"delta must be below 1/{size} = {1 / size:g} (one unit of {size}), not {delta:g}")
    return found


def refuse(problems: list[str]) -> None:
    """Raise UsageError (``usage.privacy``) with all *problems*; return if there are none."""
    if problems:
        raise UsageError(
            "usage.privacy",
            "the privacy figures cannot be used: " + "; ".join(problems) + ".",
            "Correct them; 'plasmid privacy calibrate --help' says what each one means.",
        )


class _Child:
    """The process, started when it is asked something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._idle: threading.Timer | None = None

    def ask(self, question: str) -> str:
        """Return the line that answers *question*; empty if the process ended, or took too long."""
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            process = self._process = self._process or _started()
            assert process.stdin is not None, "a pipe"
            assert process.stdout is not None, "a pipe"
            late = threading.Timer(LIMIT_S, process.kill)
            late.daemon = True
            late.start()
            try:
                process.stdin.write(question.encode() + b"\n")
                process.stdin.flush()
                answer = process.stdout.readline().decode()
            except OSError:
                answer = ""
            late.cancel()
            if not answer:
                self._end()
                return ""
            self._idle = threading.Timer(IDLE_S, self.end)
            self._idle.daemon = True
            self._idle.start()
            return answer

    def end(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "plasmid.dp.accountant_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


_child = _Child()
_known: dict[str, Any] = {}


def _fresh() -> None:
    global _child
    _child = _Child()


os.register_at_fork(after_in_child=_fresh)


def _ask(name: str, **figures: float) -> Any:
    """Return what the function *name* of the child makes of *figures*.

    Raises
    ------
    PlasmidError
        What that function refuses.
    ValueError
        No accountant takes these figures.
    SiteFailed
        ``site.accountant``: the process ended without an answer.
    """
    question = json.dumps([name, figures], sort_keys=True)
    if question not in _known:
        answer = _child.ask(question)
        if not answer:
            raise SiteFailed(
                "site.accountant",
                f"the process that computes privacy figures ended without an answer ({name}).",
                "Is memory short? Try again; nothing was charged and nothing has left.",
            )
        found = json.loads(answer)
        if "error" in found:
            raise from_dict(found["error"])
        if "refused" in found:
            raise ValueError(f"no accountant takes these figures: {found['refused']}")
        if len(_known) >= _MOST_KEPT:
            _known.clear()
        _known[question] = found["value"]
    return _known[question]
