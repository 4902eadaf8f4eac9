"""A real server that speaks S3, for tests: moto's, in a process of its own, with one bucket."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

START_S = 60.0


@dataclass(frozen=True)
class S3:
    """The running server; *environment* is what a client of it is told, as botocore reads it."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """Return the address, and keys that this server does not look at."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self) -> str:
        """Make an empty bucket, and return its name."""
        name = f"hub-{secrets.token_hex(6)}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=20).read()
        return name


@contextmanager
def running() -> Iterator[S3]:
    """Yield the server; skipped where moto or s3fs is not installed."""
    for package in ("moto", "s3fs", "flask_cors"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    child = subprocess.Popen(command, env=kept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}", child)
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        child.terminate()
        child.wait(20)


def _wait(url: str, child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).read()
        except OSError:
            if child.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return
