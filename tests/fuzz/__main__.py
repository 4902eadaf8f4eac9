"""Fuzz every parser that faces another party, play every machine: ``python -m fuzz [--inputs N] [NAME ...]``.

Rules
-----
1. Each parser gets N inputs or S seconds, whichever is over first, in a process of its own: its peak memory
   is its own, and a parser that takes the process down is a crash like another.
2. A process may have ``MAX_MEMORY_MIB`` of address space; a parser that wants more crashes.
3. The exit status is 1 if one crashed, hung or grew; the last line on stdout is JSON. ``--results FILE`` adds
   an outcome as soon as it is there, one JSON object a line; ``--table FILE`` prints such a file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from fuzz.machines import MACHINES
from fuzz.registry import targets
from fuzz.runner import Outcome, attack
from fuzz.table import markdown

MAX_MEMORY_MIB = 4096
PATIENCE_S = 300.0
"""For a process to start and make its seeds, beyond the time of its parser."""


def main(arguments: Sequence[str]) -> int:
    """Fuzz the parsers that *arguments* name, or all."""
    asked = _parser().parse_args(arguments)
    if asked.table:
        print(markdown(asked.table.read_text("utf-8").splitlines()))
        return 0
    if asked.child:
        return _child(asked)
    chosen = _chosen([*(one.name for one in targets()), *MACHINES], asked.name)
    with ThreadPoolExecutor(asked.jobs) as pool:
        outcomes = list(pool.map(lambda name: _apart(name, asked), chosen))
    failed = sum(map(Outcome.failed, outcomes))
    inputs = sum(one.inputs for one in outcomes)
    print(json.dumps({"parsers": len(chosen), "inputs": inputs, "failed": failed}))
    return 1 if failed or not chosen else 0


def _chosen(known: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Return those of *known* that are *asked* for, whole or by how they begin; all if nothing is."""
    whole = [name for name in asked if name in known]
    begins = tuple(name for name in asked if name not in known)
    return [name for name in known if not asked or name in whole or name.startswith(begins)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("name", nargs="*", help="parsers, or how their names begin; default: all")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="how many parsers at once")
    parser.add_argument("--results", type=Path, help="a file to which each outcome is added")
    parser.add_argument("--table", type=Path, help="print the outcomes in this file as a table, and end")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def _child(asked: argparse.Namespace) -> int:
    """Fuzz the one parser, or play the one machine, of this name and print its outcome as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_MIB * 2**20,) * 2)
    name, limits = asked.name[0], {"inputs": asked.inputs, "seconds": asked.seconds, "seed": asked.seed}
    if name in MACHINES:
        outcome = MACHINES[name](**limits)
    else:
        (target,) = (one for one in targets() if one.name == name)
        outcome = attack(target, **limits)
    print(json.dumps(asdict(outcome)))
    return 0


def _apart(name: str, asked: argparse.Namespace) -> Outcome:
    limits = ["--inputs", str(asked.inputs), "--seconds", str(asked.seconds), "--seed", str(asked.seed)]
    command = [sys.executable, "-m", "fuzz", "--child", *limits, name]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    limit_s = asked.seconds + PATIENCE_S
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, env=environment, check=False
        )
        said, why = done.stdout, f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
    except subprocess.TimeoutExpired:
        said, why = "", "the process did not end"
    try:
        outcome = Outcome(**json.loads(said.splitlines()[-1]))
    except (IndexError, ValueError):
        outcome = Outcome(name, crashes=[why])
    print(outcome.line(), flush=True)
    for problem in [*outcome.crashes, *outcome.hangs]:
        print(problem, file=sys.stderr, flush=True)
    if asked.results:
        with asked.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
