"""All targets: each module ``targets_*.py`` here adds its own."""

from __future__ import annotations

import asyncio
import atexit
import importlib
import json
import os
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.runner import Target
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import ProtocolError
from plasmid.protocol.identity import Identity

Make = Callable[[], Iterator[Target]]
ALPHA, COORDINATOR = Identity.generate("alpha"), Identity.generate("coordinator")
_MAKERS: list[Make] = []
_KEPT: list[Any] = []


def maker(make: Make) -> Make:
    """Register a function that yields targets."""
    _MAKERS.append(make)
    return make


@cache
def targets() -> tuple[Target, ...]:
    """Return all targets, by name; made once."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], "fuzz."):
        if module.name.startswith("fuzz.targets_"):
            importlib.import_module(module.name)
    found = [target for make in _MAKERS for target in make()]
    assert len({target.name for target in found}) == len(found)
    return tuple(sorted(found, key=lambda target: target.name))


@cache
def scratch() -> Path:
    """Return a folder that goes with the process: in memory where there is such a place."""
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.TemporaryDirectory(prefix="plasmid-fuzz-", dir=in_memory)
    _KEPT.append(folder)
    return Path(folder.name)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that goes with the process."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in *data*, or refuse as the outermost parser would."""
    return canonical_object(data)[0]


def canonical_object(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON object in *data* and its canonical text, or refuse as the outermost parser would."""
    try:
        value = json.loads(data)
        text = canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("protocol.malformed", "no JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError("protocol.malformed", "no object")
    return value, text


def signed_anew(value: Any, identities: dict[str, Identity]) -> Any:
    """Return *value* with every signed message in it signed by its signer, if that is one of ours."""
    if isinstance(value, list):
        return [signed_anew(inner, identities) for inner in value]
    if not isinstance(value, dict):
        return value
    inner = {name: signed_anew(part, identities) for name, part in value.items()}
    payload, signer = inner.get("payload"), inner.get("signer")
    if isinstance(payload, dict) and isinstance(signer, str) and signer in identities:
        data = b"plasmid-message/1\n" + canonical_json(payload)
        inner["signature"] = identities[signer].sign(data)
    return inner
