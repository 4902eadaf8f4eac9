"""The peer of the benchmark ``link``: Flower's SuperLink and three SuperNodes, as real processes.

Rules
-----
1. Flower is used as it ships, unpatched, set as fast as its own options allow: state in memory (its
   default), no runtime dependency installation, no node authentication, three SuperNodes with a
   no-op ClientApp that imports neither torch nor anything else heavy, upstream FedAvg without
   evaluation, and :data:`TASK_POLL_S` instead of the one second at which its SuperExec looks for work.
2. Isolation is ``subprocess``, its default: SuperLink and SuperNodes start their own ServerApp and
   ClientApp processes.
3. TLS is on between SuperNodes, ServerApp and SuperLink, with a certificate made for the run;
   ``tls=False`` measures it without. Messages are neither signed nor masked: Flower has no such layer
   here, which favours it.
4. The run is submitted *before* the SuperNodes start, so that its ServerApp is already waiting for
   them: neither ``flwr run`` nor the start of the ServerApp is in any figure, which favours Flower.
5. Loopback and ephemeral ports only; no telemetry, no update check. Every file lies in one temporary
   folder, which is also ``FLWR_HOME``; every process carries it in its environment, and by that mark
   each is found and ended by its own process id, whether the measurement succeeds or raises.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from bench.peers.certificate import write_loopback_certificate

SITES = 3
PARAMETERS = 1_000_000
"""float32 values in each direction: 4 MB."""
TASK_POLL_S = 0.1
"""Seconds between two looks of Flower's SuperExec for a task; 1.0 if left alone."""

_APP = Path(__file__).parent / "flower_app"
_HOST = "127.0.0.1"
_START_S = 60.0
_ROUND_S = 60.0


@dataclass(frozen=True)
class FlowerLink:
    """What Flower took.

    Parameters
    ----------
    steady_round_s
        Median seconds of a round, over the rounds after the first.
    start_to_three_rounds_s
        Seconds from starting the first SuperNode, with the SuperLink up and the run submitted, to the
        end of the third round.
    round_s
        Seconds of every round in order; the first holds the waiting for the SuperNodes.
    tls
        Whether the connections to the SuperLink were HTTPS.

    SuperNodes and ServerApp each look for news every 3 s, so a round lasts about 3 s or about 6 s, and
    the median of few rounds jumps between the two: ``fastest_round_s`` is the figure that does not.
    """

    steady_round_s: float
    start_to_three_rounds_s: float
    round_s: tuple[float, ...]
    tls: bool

    @property
    def fastest_round_s(self) -> float:
        """Seconds of the fastest round after the first."""
        return min(self.round_s[1:])


def measure(rounds: int = 6, *, tls: bool = True) -> FlowerLink:
    """Run *rounds* no-op rounds (at least 3) over a real SuperLink and three real SuperNodes.

    Raises
    ------
    ValueError
        *rounds* is below 3.
    RuntimeError
        A Flower process ended early or a deadline passed; the message ends with its last log lines.
    """
    if rounds < 3:
        raise ValueError(f"rounds is {rounds}; at least 3 are needed for the figure of the start.")
    with tempfile.TemporaryDirectory(prefix="plasmid-bench-flower-") as name:
        federation = FlowerFederation(Path(name), tls=tls)
        try:
            return _measure(federation, rounds)
        finally:
            federation.end()


def _measure(federation: FlowerFederation, rounds: int) -> FlowerLink:
    federation.start_superlink()
    settings = f'rounds={rounds} sites={SITES} parameters={PARAMETERS} times-file="{federation.times_file}"'
    federation.submit(_APP, settings)
    federation.wait_for_round(0, _START_S)
    started_s = time.monotonic()
    federation.start_supernodes()
    for number in range(1, rounds + 1):
        federation.wait_for_round(number, _ROUND_S)
    ends_s = federation.round_ends_s()
    round_s = tuple(ends_s[number] - ends_s[number - 1] for number in range(1, rounds + 1))
    return FlowerLink(
        steady_round_s=statistics.median(round_s[1:]),
        start_to_three_rounds_s=ends_s[3] - started_s,
        round_s=round_s,
        tls=federation.tls,
    )


class FlowerFederation:
    """The processes of one measurement and the folder *home* that they live in."""

    def __init__(self, home: Path, *, tls: bool) -> None:
        self.tls = tls
        self._home = home
        self.times_file = home / "times.txt"
        self._certificate = home / "superlink.pem"
        self._key = home / "superlink.key"
        self._ports = _free_ports(1 + SITES)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = _environment(home)
        self._address = f"{_HOST}:{self._ports[0]}"
        if tls:
            write_loopback_certificate(self._certificate, self._key)

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it answers."""
        options = ["--insecure"]
        if self.tls:
            options = [
                f"--ssl-certfile={self._certificate}",
                f"--ssl-keyfile={self._key}",
                f"--ssl-ca-certfile={self._certificate}",
            ]
        self._start(
            "flower-superlink",
            *options,
            "--disable-runtime-dependency-installation",
            f"--host={_HOST}",
            f"--port={self._ports[0]}",
        )
        deadline_s = time.monotonic() + _START_S
        while not self._answers():
            self.check(deadline_s, "the SuperLink to answer")

    def submit(self, source: Path, settings: str) -> None:
        """Build the app in the folder *source* and submit its run with ``flwr run``."""
        app = self._home / "app"
        shutil.copytree(source, app, ignore=shutil.ignore_patterns("__pycache__"))
        trust = f'root-certificates = "{self._certificate}"' if self.tls else "insecure = true"
        connection = f'[superlink.bench]\naddress = "{self._address}"\n{trust}\n'
        (self._home / "config.toml").write_text(connection, encoding="utf-8")
        self._start("flwr", "run", str(app), "bench", "--run-config", settings)
        command = self._processes["flwr"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(timeout=_START_S)
        if command.returncode != 0:
            raise RuntimeError(f"`flwr run` ended with status {command.returncode}.\n{self._log_tail()}")
        del self._processes["flwr"]

    def start_supernodes(self, settings: Sequence[str] = ("",) * SITES) -> None:
        """Start the three SuperNodes, each with its ``--node-config``, without waiting for them."""
        trust = f"--root-certificates={self._certificate}" if self.tls else "--insecure"
        for site, (port, own) in enumerate(zip(self._ports[1:], settings, strict=True)):
            self._start(
                "flower-supernode",
                trust,
                f"--superlink={self._address}",
                f"--host={_HOST}",
                f"--port={port}",
                *([f"--node-config={own}"] if own else []),
                name=f"flower-supernode-{site}",
            )

    def round_ends_s(self) -> dict[int, float]:
        """Return round -> monotonic seconds of its end; round 0 is the start of the first."""
        if not self.times_file.exists():
            return {}
        complete, _, _ = self.times_file.read_text(encoding="utf-8").rpartition("\n")
        pairs = (line.split() for line in complete.splitlines())
        return {int(number): float(end_s) for number, end_s in pairs}

    def wait_for_round(self, number: int, limit_s: float) -> None:
        """Wait until round *number* has ended, at most *limit_s* seconds."""
        deadline_s = time.monotonic() + limit_s
        while number not in self.round_ends_s():
            self.check(deadline_s, f"round {number} to end")

    def end(self) -> None:
        """End every process, those that Flower's own processes started included."""
        _end_processes(self._home)
        for process in self._processes.values():
            process.wait(timeout=1.0)

    def _start(self, command: str, *arguments: str, name: str | None = None) -> None:
        name = name or command
        with (self._home / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / command), *arguments],
                env=self._environment,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _answers(self) -> bool:
        url = f"{'https' if self.tls else 'http'}://{self._address}/health"
        verify = ssl.create_default_context(cafile=self._certificate) if self.tls else False
        try:
            return httpx.get(url, verify=verify, trust_env=False, timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    def check(self, deadline_s: float, what: str) -> None:
        """Sleep a moment; raise if a process has ended or the deadline has passed."""
        ended = [name for name, process in self._processes.items() if process.poll() is not None]
        if ended:
            raise RuntimeError(f"{', '.join(ended)} ended while waiting for {what}.\n{self._log_tail()}")
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"the deadline passed while waiting for {what}.\n{self._log_tail()}")
        time.sleep(0.05)

    def _log_tail(self, lines: int = 15) -> str:
        parts = []
        for path in sorted(self._home.glob("*.log")):
            tail = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- {path.name}", *tail]))
        return "\n".join(parts)


def _environment(home: Path) -> dict[str, str]:
    """Return the environment that marks every Flower process of this measurement."""
    return {
        **os.environ,
        # Flower starts its helpers by name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(TASK_POLL_S),
        "NO_PROXY": "*",
        "no_proxy": "*",
    }


def _free_ports(count: int) -> list[int]:
    """Return *count* distinct TCP ports that are free on loopback now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((_HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def _marked_processes(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FLWR_HOME") == str(home):
                yield process


def _end_processes(home: Path, *, patience_s: float = 5.0) -> None:
    """End every process of this measurement: ask, wait, then kill; again until none is left."""
    while marked := list(_marked_processes(home)):
        for process in marked:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, stubborn = psutil.wait_procs(marked, timeout=patience_s)
        for process in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=patience_s)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Time Flower's SuperLink and three SuperNodes.")
    parser.add_argument("--rounds", type=int, default=6, help="no-op rounds to run, at least 3 (default: 6)")
    parser.add_argument("--no-tls", action="store_true", help="plain HTTP, which Flower calls insecure")
    options = parser.parse_args()
    print(json.dumps(asdict(measure(options.rounds, tls=not options.no_tls)), indent=2))


if __name__ == "__main__":
    _main()
