"""What the verbs of ``hub_verbs.py`` share. It imports nothing of ours: any version of the client runs it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys

import huggingface_hub as hub

VERSION = tuple(int(part) for part in hub.__version__.split(".")[:2])
VERBS = {}
TOKEN, READER = os.environ["HUB_TOKEN"], os.environ["HUB_READER"]
STRICT_TOKEN = os.environ["HUB_STRICT_TOKEN"]
CARD = "---\nlicense: apache-2.0\ntags: [plasmid, antibody]\nlibrary_name: peft\n---\n# Binder\n"
MINE = f"ada/verbs-{VERSION[0]}-{VERSION[1]}"
api = hub.HfApi(token=TOKEN)


class Absent(Exception):
    """This version has no such verb."""


def verb(name):
    def add(function):
        VERBS[name] = function
        return function

    return add


def weights(values: int, seed: int = 0) -> bytes:
    """Return a safetensors file of so many bytes of one tensor, without numpy."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [values], "data_offsets": [0, values]}}).encode()
    header += b" " * (-len(header) % 8)
    block = hashlib.sha512(str(seed).encode()).digest()
    return len(header).to_bytes(8, "little") + header + (block * (values // 64 + 1))[:values]


def command(*arguments: str) -> str:
    """Run the client's own command in this process, and return what it printed."""
    if VERSION < (1, 0):
        from huggingface_hub.commands.huggingface_cli import main
    else:
        from huggingface_hub.cli.hf import main
    out, before = io.StringIO(), sys.argv
    sys.argv = ["hf", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                main()
            except SystemExit as end:
                if end.code:
                    raise AssertionError(out.getvalue()) from None
    finally:
        sys.argv = before
    return out.getvalue()


def refused(kind, work, *said: str):
    """Return the exception of *kind* that *work* ends in; its message has to hold *said*."""
    try:
        work()
    except kind as error:
        caught = error
    else:
        raise AssertionError(f"no {kind.__name__}")
    for one in said:
        assert one in str(caught), f"{one!r} is not in {caught}"
    return caught


def modern(version=(1, 0)):
    if version > VERSION:
        raise Absent
