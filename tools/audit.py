"""``make audit``: the pins of ``constraints/node.txt`` against the known vulnerabilities, by pip-audit.

Rules
-----
1. A known vulnerability fails it (exit status 1).
2. What no index knew is no success: it is counted and named as not audited. Where none answers at all, that
   is what is said, and the exit status is 0: a change does not wait for a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from pins import FILES, read_pins

TIMEOUT_S = 120
_SHOWN = 10


def main() -> int:
    """Ask, say what was found, and return the exit status."""
    pinned = len(read_pins(FILES["node"].read_text(encoding="utf-8")))
    command = ["pip-audit", "--requirement", str(FILES["node"]), "--require-hashes", "--disable-pip"]
    quiet = ["--format=json", "--progress-spinner=off", "--timeout=10"]
    try:
        done = subprocess.run(
            [*command, *quiet], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return say(None, pinned, f"no answer within {TIMEOUT_S} s")
    return say(_found(done.stdout), pinned, (done.stderr.strip().splitlines() or ["it said nothing"])[-1])


def _found(output: str) -> list[dict[str, Any]] | None:
    """Return what pip-audit says of each package, None where it broke off."""
    try:
        return list(json.loads(output)["dependencies"])
    except (ValueError, KeyError):
        return None


def say(found: list[dict[str, Any]] | None, pinned: int, why: str) -> int:
    """Print what was *found* of so many *pinned* packages, and return the exit status."""
    told = [one for one in found or () if "vulns" in one]
    bad = [(one, flaw) for one in told for flaw in one["vulns"]]
    for one, flaw in bad:
        fixed = ", ".join(flaw.get("fix_versions", ())) or "no release yet"
        print(f"VULNERABLE {one['name']} {one['version']}: {flaw['id']}, fixed in {fixed}")
    if not told:
        reason = "no index with advisories answers here" if found is not None else f"pip-audit: {why}"
        print(f"NOT AUDITED: none of {pinned} packages of constraints/node.txt ({reason})")
    else:
        print(f"{len(told)} of {pinned} packages of constraints/node.txt audited, {len(bad)} vulnerabilities")
        missed = sorted(one["name"] for one in found or () if "vulns" not in one)
        if missed:
            more = f" and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
            print(f"NOT AUDITED: {', '.join(missed[:_SHOWN])}{more}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
