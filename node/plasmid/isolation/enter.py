"""The door: what runs inside before the worker does, shuts everything behind itself, and becomes the worker.

Rules
-----
1. Standard library alone, run by its path (``python -I -S enter.py``): nothing of the site or of the recipe
   is imported before the door is shut.
2. Orders come as one line of JSON over standard output, a socket to the guard; the same way go back ``{}``
   with the filter's listener, or what failed. Only then does the worker start.
3. In this order: die with the parent, adopt orphans, drop capabilities, no new privileges, limits, Landlock,
   filter. What cannot be done is an error, never left out.
4. As process 1 of a namespace it stays, and no other process may look into it or write to it: it waits for
   every process that ends, and ends with the worker, or when the guard has gone; the kernel then ends all
   others.

landlock(7), seccomp(2), prctl(2), capabilities(7), getrlimit(2).
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PDEATHSIG, _DUMPABLE, _CAPBSET_DROP, _SUBREAPER, NO_NEW_PRIVS = 1, 4, 24, 36, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH, _NET_PORT, _CONNECT = 1, 2, 1 << 1
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _syscall(number: int, *arguments: Any) -> int:
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments))


def prctl(option: int, value: int) -> int:
    """Call prctl(2). Raises OSError."""
    return _checked(_libc.prctl(option, *(ctypes.c_ulong(given) for given in (value, 0, 0, 0))))


def drop_capabilities(*, keep: int = 0) -> None:
    """Give up every capability but those of the mask *keep* that are held. Raises OSError."""
    for capability in range(64):
        try:
            prctl(_CAPBSET_DROP, capability)
        except OSError:
            break  # none left to drop, or none that may be dropped: then there are none to gain either
    header, held = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, held))
    kept = struct.unpack_from("=I", held.raw, 4)[0] & keep
    _checked(_libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)))


def landlock(rules: dict[str, Any]) -> None:
    """Keep to *rules* (``plasmid.isolation.landlock.ruleset``). Raises OSError."""
    attributes = bytes.fromhex(rules["attributes"])
    ruleset = _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    for path, access in rules["paths"]:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        beneath = struct.pack("=Qi", access, opened)
        _syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), beneath, ctypes.c_uint(0))
        os.close(opened)
    for port in rules["ports"]:
        there = struct.pack("=QQ", _CONNECT, port)
        _syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_NET_PORT), there, ctypes.c_uint(0))
    _syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)


def install(number: int, code: bytes, flags: int) -> int:
    """Filter system calls by *code*; return what the kernel does, a listener if *flags* say so."""
    instructions = ctypes.create_string_buffer(code, len(code))
    given = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    return _syscall(number, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(flags), given)


def _shut(orders: dict[str, Any]) -> int:
    """Shut every door that *orders* name; return the filter's listener."""
    if orders["parent"] is not None:
        prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != orders["parent"]:
            sys.exit("the gateway has gone")
        prctl(_SUBREAPER, 1)
    drop_capabilities()
    prctl(NO_NEW_PRIVS, 1)
    for name, value in orders["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if orders["landlock"] is not None:
        landlock(orders["landlock"])
    return install(orders["seccomp"], bytes.fromhex(orders["filter"]), _NEW_LISTENER)


def _stay(guard: socket.socket, worker: int) -> None:
    """Be process 1 until *worker* has ended or *guard* has gone."""

    def reap(*_: object) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == worker:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
            if process == 0:
                return

    signal.signal(signal.SIGCHLD, reap)
    reap()
    guard.recv(1)  # nothing is sent: it returns when the other end has been closed
    os._exit(1)


def main() -> None:
    """Do as the guard orders, then become the worker."""
    with socket.socket(fileno=os.dup(1)) as guard, guard.makefile("rb") as lines:
        orders = json.loads(lines.readline())
        if orders["first"]:
            prctl(_DUMPABLE, 0)  # of this process and, until it becomes the worker, of its child
        if orders["first"] and (worker := os.fork()) != 0:
            os.close(0)
            os.close(1)
            _stay(guard, worker)
        try:
            listener = _shut(orders)
        except Exception as error:  # noqa: BLE001 - whatever it was, the guard must know
            guard.sendall(json.dumps({"error": str(error)}).encode())
            sys.exit(1)
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))]
        guard.sendmsg([b"{}"], passed)
        os.close(listener)
    os.dup2(2, 1)
    os.execv(orders["command"][0], orders["command"])  # noqa: S606 - our own command


if __name__ == "__main__":
    main()
