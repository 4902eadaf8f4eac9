"""Run benchmarks: ``python -m bench [NAME ...]``, all of them when no name is given.

Rules
-----
1. A benchmark is a module ``bench_<name>.py`` in this folder with ``main() -> list[Result]``. It is
   discovered, and imported only when it runs.
2. SIGTERM ends a benchmark as Ctrl-C does, so that it ends the processes that it started.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import pkgutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bench.harness import report

_PREFIX = "bench_"


def names() -> list[str]:
    """Return the names of all benchmarks, sorted."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name.removeprefix(_PREFIX) for module in modules if module.name.startswith(_PREFIX))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that *arguments* name; return the exit status, 2 for an unknown name."""
    known = names()
    parser = argparse.ArgumentParser(prog="bench", description="Run benchmarks: both sides, and the ratio.")
    parser.add_argument("name", nargs="*", help=f"one of: {', '.join(known)} (default: all)")
    asked = parser.parse_args(arguments).name
    unknown = [name for name in asked if name not in known]
    for name in unknown:
        guess = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {guess[0]}?" if guess else f"There are: {', '.join(known)}."
        print(f"there is no benchmark {name!r}. {hint}", file=sys.stderr)
    if unknown:
        return 2
    for name in asked or known:
        report(name, importlib.import_module(f"bench.{_PREFIX}{name}").main())
    return 0


def _end_on_sigterm(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end_on_sigterm)
    sys.exit(main(sys.argv[1:]))
