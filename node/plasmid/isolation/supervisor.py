"""The guard: one thread of the helper that starts a worker, watches it, and answers for it.

Rules
-----
1. It starts the worker itself: the kernel ends what dies with its parent when the *thread* that started it
   ends.
2. Calls that the filter stops come to it; it refuses them, counts new processes, and says in the site's log,
   once each, what was tried. Who tries what only an attacker would is ended.
3. Ten times a second it compares memory, CPU time, threads and the private folder of the worker and all its
   children with the limits. The kernel's own limits for each process hold between two looks.
4. What the worker writes to standard error is copied to the site's worker log up to a cap: the worker holds
   no file of the site.
5. Whoever is ended, is ended with all its children: a worker leaves nothing behind.

seccomp_unotify(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plasmid.core.errors import SiteFailed
from plasmid.core.files import remove_tree
from plasmid.isolation.filter import RULINGS, Ruling, name_of
from plasmid.isolation.port import Isolation, Prepared, Spec
from plasmid.isolation.syscalls import machine
from plasmid.isolation.tree import (
    Usage,
    descendants,
    folder_bytes,
    named_inside,
    parent_of,
    process_of,
    usage,
)

Notice = Callable[[str], None]

TICK_S = 0.1
START_S = 30.0
MAX_LOG_BYTES = 4 * 2**20
"""Of standard error, for one worker."""
MAX_NOTICES = 32
MAX_REFUSALS, MAX_CALLS = 1000, 100_000
"""Of calls that the filter stops: a worker that goes on asking would keep the gateway busy."""
MAX_THREADS = 1024
FRESH_S = 0.05
"""For how long a process that was let through may not be in ``/proc`` yet."""

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CALL, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_GO_ON = 1
_DESCRIPTOR, _CREDENTIALS, _SCM_CREDENTIALS = struct.Struct("=i"), struct.Struct("=iII"), 2
_NAMESPACES = 0x7E020000


class Guard(threading.Thread):
    """Starts one worker in *isolation* and watches it until it has ended.

    Attributes
    ----------
    reason
        Why the sandbox ended the worker; None while it runs, and where it ended by itself.
    """

    def __init__(self, isolation: Isolation, spec: Spec, *, channel: int, log: Path, notice: Notice) -> None:
        super().__init__(name="guard", daemon=True)
        self._isolation, self._spec = isolation, spec
        self._channel, self._log, self._notice = channel, log, notice
        self.reason: str | None = None
        self.process: subprocess.Popen[bytes]
        self._problem: SiteFailed | None = None
        self._ready = threading.Event()
        self._said: set[str] = set()
        self._refusals, self._calls, self._logged = 0, 0, 0
        self._let_through: list[float] = []
        self._wrappers, self._root, self._first = 0, -1, -1
        self._namespaced = False
        self._used = Usage()
        self._listener = self._errors = -1
        self._door: socket.socket | None = None

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the worker; return its process. Raises SiteFailed (``site.sandbox``) if it cannot."""
        self.start()
        self._ready.wait()
        if self._problem is not None:
            self.join()
            raise self._problem
        return self.process

    def end(self, reason: str | None = None) -> None:
        """End the worker and all its children, now."""
        self.reason = self.reason or reason
        if self._first >= 0:
            with contextlib.suppress(OSError):  # it has ended
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    # -- the thread --------------------------------------------------------------------------------

    def run(self) -> None:
        """Start, watch, clear up."""
        try:
            prepared = self._isolation.wrap(self._spec)
            self._open(prepared)
        except (OSError, ValueError, SiteFailed) as error:
            self._problem = SiteFailed(
                "site.sandbox",
                f"a worker could not be started in {self._isolation.level}: {error}",
                "Run 'plasmid doctor'; 'isolation' in site.yaml chooses another level.",
            )
            self._ready.set()
            self._clear()
            return
        self._ready.set()
        try:
            self._watch(prepared)
        finally:
            self._clear()

    def _open(self, prepared: Prepared) -> None:
        ours, theirs = socket.socketpair()
        self._errors, errors = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._errors, False)
        with ours, theirs:
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own command
                    prepared.argv,
                    stdin=self._channel,
                    stdout=theirs.fileno() if prepared.orders is not None else errors,
                    stderr=errors,
                    env=dict(prepared.environment),
                    cwd=self._spec.scratch,
                    start_new_session=True,
                )
            finally:
                os.close(errors)
                os.close(self._channel)
                self._channel = -1
            theirs.close()
            if prepared.orders is None:
                return
            door = self._order(ours, prepared.orders)
            self._root, self._namespaced = self.process.pid, prepared.orders["first"]
            if self._namespaced:
                first = parent_of(door) or -1
                self._first = os.pidfd_open(first)  # when it ends, the kernel ends all of its namespace
            self._door = ours.dup()  # process 1 of theirs ends when it closes, however this process ends
            self._wrappers = len(descendants(self._root)) - 1

    def _order(self, door: socket.socket, orders: Mapping[str, Any]) -> int:
        """Tell the door its *orders* and take the filter's listener; return the number of its process."""
        door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        door.settimeout(START_S)
        door.sendall(json.dumps(orders).encode() + b"\n")
        room = socket.CMSG_SPACE(_DESCRIPTOR.size) + socket.CMSG_SPACE(_CREDENTIALS.size)
        said, passed, _, _ = door.recvmsg(4096, room)
        process = -1
        for _, kind, data in passed:
            if kind == socket.SCM_RIGHTS:
                (self._listener,) = _DESCRIPTOR.unpack(data[: _DESCRIPTOR.size])
            elif kind == _SCM_CREDENTIALS:
                process = _CREDENTIALS.unpack(data)[0]
        if self._listener < 0:
            self._copy()
            raise ValueError(json.loads(said or b"{}").get("error", "it ended while it was starting"))
        return process

    def _watch(self, prepared: Prepared) -> None:
        exit_ = os.pidfd_open(self.process.pid)
        poller = select.poll()
        for descriptor in (exit_, self._errors, self._listener):
            if descriptor >= 0:
                poller.register(descriptor, select.POLLIN)
        looked = time.monotonic()
        try:
            while True:
                for descriptor, event in poller.poll(TICK_S * 1000):
                    if descriptor == exit_:
                        return
                    if descriptor == self._listener and event & select.POLLIN:
                        self._judge()
                    elif descriptor == self._errors and event & select.POLLIN:
                        self._copy()
                    else:
                        poller.unregister(descriptor)
                if time.monotonic() - looked >= TICK_S:
                    looked = time.monotonic()
                    self._look(prepared)
        finally:
            os.close(exit_)

    def _clear(self) -> None:
        if hasattr(self, "process"):
            self.end()  # the children of one that ended by itself: a zombie, whose number is still its own
            status = self.process.wait()
            self._copy()
            self.reason = self.reason or self._why(status)
            if self.reason is not None:
                self._tell(f"the worker was ended: {self.reason}")
        first, self._first = self._first, -1
        for descriptor in (self._channel, self._listener, self._errors, first):
            if descriptor >= 0:
                os.close(descriptor)
        if self._door is not None:
            self._door.close()
        remove_tree(self._spec.scratch)

    def _why(self, status: int) -> str | None:
        """Return what a status says about limits: that of a signal, or of a wrapper whose child had one."""
        number = -status if status < 0 else status - 128
        if number == signal.SIGSYS:
            return "it made a system call that is not this machine's"
        if number in (signal.SIGXCPU, signal.SIGKILL) and self._used.cpu_s > self._spec.limits.cpu_s - 1:
            return _beyond("CPU time", f"{self._used.cpu_s:.0f} s", f"{self._spec.limits.cpu_s} s")
        return None

    # -- what it does ------------------------------------------------------------------------------

    def _judge(self) -> None:
        call = bytearray(_CALL.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, call)
        except OSError:  # the one that asked has ended meanwhile
            return
        id_, _, _, number, _, _, *arguments = _CALL.unpack(call)
        name = name_of(machine(), number)
        self._calls += 1
        refusal = self._refusal(name, arguments)
        if refusal not in (0, errno.ENOSYS):  # a library may try a call that is not there again and again
            self._refusals += 1
        if self.reason is not None:  # who is to be ended gets no answer, and so does not go on meanwhile
            return
        answer = _ANSWER.pack(id_, 0, -refusal, 0) if refusal else _ANSWER.pack(id_, 0, 0, _GO_ON)
        with contextlib.suppress(OSError):  # as above
            fcntl.ioctl(self._listener, _SEND, answer)
        if self._refusals > MAX_REFUSALS or self._calls > MAX_CALLS:
            self.end(f"it asked {self._calls} times for what is not for it, last for {name}")

    def _refusal(self, name: str, arguments: list[int]) -> int:
        """Return the error that a call gets; 0 lets it go on."""
        ruling = RULINGS.get(name, Ruling.ABSENT)
        if name == "clone" and arguments[0] & _NAMESPACES:
            ruling = Ruling.END
        if ruling is Ruling.END:
            self.end(f"it called {name}")
            return errno.EPERM
        if ruling is Ruling.COUNT:
            return self._count()
        if ruling is Ruling.MEMORY:
            self._tell(f"{arguments[1] >> 20} MiB of memory at once were refused")
            return errno.ENOMEM
        if ruling is Ruling.OWN and self._is_own(_signed(arguments[0])):
            return 0
        self._tell(f"{_described(name, arguments)} was refused")
        return errno.ENOSYS if ruling is Ruling.ABSENT else errno.EPERM

    def _count(self) -> int:
        now = time.monotonic()
        self._let_through = [then for then in self._let_through if now - then < FRESH_S]
        running = len(descendants(self._root)) - self._wrappers + len(self._let_through)
        if running >= self._spec.limits.processes or self.reason is not None:
            self._tell(f"more than {self._spec.limits.processes} processes were refused")
            return errno.EAGAIN
        self._let_through.append(now)
        return 0

    def _is_own(self, number: int) -> bool:
        """Whether a call about *number*, a process, thread or (below 0) group, is about the sandbox alone."""
        if number == 0:
            return True
        if self._namespaced:
            return number != -1 and abs(number) in named_inside(descendants(self._root))
        return number == -self._root or process_of(number) in descendants(self._root)

    def _look(self, prepared: Prepared) -> None:
        if prepared.orders is None:  # limited by what started it, in processes that are not below this one
            return
        limits = self._spec.limits
        self._used = used = usage(descendants(self._root))
        if used.memory_bytes > limits.memory_bytes:
            self.end(_beyond("memory", f"{used.memory_bytes >> 20} MiB", f"{limits.memory_bytes >> 20} MiB"))
        elif used.cpu_s > limits.cpu_s:
            self.end(_beyond("CPU time", f"{used.cpu_s:.0f} s", f"{limits.cpu_s} s"))
        elif used.threads > MAX_THREADS:
            self.end(_beyond("threads", str(used.threads), str(MAX_THREADS)))
        elif prepared.scratch is not None:
            size = folder_bytes(prepared.scratch)
            if size is None or size > limits.scratch_bytes:
                found = "too many files" if size is None else f"{size >> 20} MiB"
                self.end(_beyond("disk", found, f"{limits.scratch_mib} MiB"))

    def _copy(self) -> None:
        with contextlib.suppress(BlockingIOError), self._log.open("ab") as log:
            while data := os.read(self._errors, 65536):
                kept = data[: max(0, MAX_LOG_BYTES - self._logged)]
                self._logged += len(kept)
                log.write(kept)

    def _tell(self, text: str) -> None:
        if text not in self._said and len(self._said) < MAX_NOTICES:
            self._said.add(text)
            self._notice(text)


def _signed(argument: int) -> int:
    """Return an argument that the kernel reads as an int."""
    return int(struct.unpack("=i", struct.pack("=I", argument & 0xFFFFFFFF))[0])


def _beyond(what: str, used: str, allowed: str) -> str:
    return f"it used {used} of {what}, and {allowed} are allowed"


def _described(name: str, arguments: list[int]) -> str:
    if name in ("socket", "socketpair"):
        with contextlib.suppress(ValueError):
            return f"{name}({socket.AddressFamily(arguments[0]).name})"
    return name
