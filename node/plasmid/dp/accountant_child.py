"""The accountants' process; started by :mod:`plasmid.dp.accountant`.

Rules
-----
1. Everything is imported, and each function called once, before the process is locked: it opens no file
   afterwards, and no socket, and starts nothing.
2. A question is ``[name, {figure: number}]``, an answer ``{"value"}``, ``{"error"}`` (a domain error) or
   ``{"refused"}`` (figures that the arithmetic does not take).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from plasmid.core.errors import PlasmidError
from plasmid.dp import accounting, skellam
from plasmid.dp.canary_bound import epsilon_bound
from plasmid.isolation.lockdown import lacking, lock


def plan_shared_noise(**figures: Any) -> tuple[dict[str, Any], float]:
    """Return :func:`plasmid.dp.skellam.plan_shared_noise` as JSON values."""
    encoding, std = skellam.plan_shared_noise(**figures)
    return asdict(encoding), std


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "dp_sgd_epsilon": accounting.dp_sgd_epsilon,
    "dp_sgd_noise": accounting.dp_sgd_noise,
    "dp_sgd_bound": accounting.dp_sgd_bound,
    "skellam_epsilon": skellam.skellam_epsilon,
    "plan_shared_noise": plan_shared_noise,
    "epsilon_bound": epsilon_bound,
}

_FIRST: tuple[tuple[str, dict[str, float]], ...] = (
    ("dp_sgd_epsilon", {"rate": 0.5, "noise_multiplier": 20.0, "steps": 1, "delta": 1e-5}),
    ("dp_sgd_bound", {"rate": 0.5, "noise_multiplier": 20.0, "steps": 1, "delta": 1e-5}),
    ("skellam_epsilon", {"sensitivity": 1.0, "length": 1, "scale_log2": 20, "std": 9.0, "releases": 1,
                         "rate": 0.5, "delta": 1e-5}),
    ("epsilon_bound", {"canaries": 40, "guesses": 10, "right": 10, "delta": 1e-5}),
)  # fmt: skip


def answer(line: str) -> dict[str, Any]:
    """Return the answer to the question in *line*."""
    name, figures = json.loads(line)
    try:
        return {"value": FUNCTIONS[name](**figures)}
    except PlasmidError as error:
        return {"error": error.as_dict()}
    except (ValueError, ArithmeticError, TypeError, LookupError, AttributeError) as error:
        return {"refused": type(error).__name__}


def main() -> None:
    """Answer questions until there are none."""
    for name, figures in _FIRST:
        FUNCTIONS[name](**figures)
    if lacking() is None:
        lock()
    while line := sys.stdin.readline():
        sys.stdout.write(json.dumps(answer(line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
