"""The pins of ``constraints/``: a version, the SHA-256 of each of its files, and its licence.

Rules
-----
1. A pin is ``name==version``, its hashes, and before it a comment with its licence, which pip passes over.
2. A licence is what the package's own metadata says, as an SPDX expression; ``LicenseRef-BSD`` where it says
   BSD and not which one, ``NOASSERTION`` where it says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
CONSTRAINTS = REPOSITORY / "constraints"
FILES = {"gateway": CONSTRAINTS / "gateway.txt", "node": CONSTRAINTS / "node.txt"}
LICENCE = "# licence: "
UNSAID = "NOASSERTION"
_PIN = re.compile(rf"^{LICENCE}(?P<licence>.+)\n(?P<name>[a-z0-9-]+)==(?P<version>\S+) \\\n", re.MULTILINE)
_HASH = re.compile(r"^    --hash=sha256:([0-9a-f]{64})(?: \\)?\n", re.MULTILINE)
_SAID = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "LicenseRef-BSD",
    "BSD License": "LicenseRef-BSD",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
}
"""What older metadata says, in words and classifiers -> SPDX."""


@dataclass(frozen=True)
class Pin:
    """One package: its normalised name, its version, the SHA-256 of its files in hexadecimal, its licence."""

    name: str
    version: str
    hashes: tuple[str, ...]
    licence: str


def read_pins(text: str) -> list[Pin]:
    """Return the pins of *text*, in its order. Raises ValueError where a line is no part of a pin."""
    starts = list(_PIN.finditer(text))
    ends = [*(start.start() for start in starts), len(text)][1:]
    pins = []
    for start, end in zip(starts, ends, strict=True):
        hashes = tuple(_HASH.findall(text, start.end(), end))
        pins.append(Pin(start["name"], start["version"], hashes, start["licence"]))
    if "".join(map(written, pins)) != text:
        raise ValueError("a line is no pin with its licence and hashes; run 'make constraints'")
    return pins


def written(pin: Pin) -> str:
    """Return the lines of *pin*."""
    hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in pin.hashes)
    return f"{LICENCE}{pin.licence}\n{pin.name}=={pin.version} \\\n{hashes}\n"


def licence(metadata: Mapping[str, Any]) -> str:
    """Return the SPDX expression for what *metadata* (core metadata as JSON) says."""
    said = metadata.get("license_expression") or metadata.get("license") or ""
    classified = [line.rpartition(" :: ")[2] for line in metadata.get("classifier", ()) if "License" in line]
    known = [_SAID[name] for name in classified if name in _SAID]
    for text in (said, _SAID.get(said, ""), " OR ".join(sorted(known))):
        if (expression := _spdx(text)) is not None:
            return expression
    return UNSAID


def _spdx(text: str) -> str | None:
    try:
        return str(canonicalize_license_expression(text)) if text else None
    except InvalidLicenseExpression:
        return None


def atoms(expression: str) -> Iterator[str]:
    """Yield the licences in an SPDX *expression*, each with its exception."""
    for part in re.split(r" (?:AND|OR) ", expression):
        yield part.strip("()")


def named(requirement: str) -> str:
    """Return the normalised name of the package in *requirement*."""
    return str(canonicalize_name(requirement))
