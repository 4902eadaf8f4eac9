"""What a worker may use: memory, CPU time, processes, threads, disk and log, each reached and each ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from plasmid.isolation.levels import Limits
from plasmid.isolation.port import Isolation
from plasmid.isolation.supervisor import MAX_LOG_BYTES, MAX_REFUSALS
from support.servers.sandboxed import ALL, LIMITS, REAL, run

levels = pytest.mark.parametrize("isolation", ALL, ids=lambda isolation: isolation.level)
real = pytest.mark.parametrize("isolation", REAL, ids=lambda isolation: isolation.level)


@levels
def test_two_gigabytes_of_its_own_are_refused(tmp_path: Path, isolation: Isolation) -> None:
    code = "import mmap\nmemory = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE)\ndone(True)"
    outcome = run(isolation, tmp_path, code)
    assert outcome.got_through == (isolation.level == "none")
    assert ("Cannot allocate memory" in outcome.log) == (isolation.level != "none")
    assert outcome.notices == (
        [] if isolation.level == "none" else ["2048 MiB of memory at once were refused"]
    )


@real
@pytest.mark.parametrize("pieces", [1, 3])
def test_memory_up_to_the_limit_is_asked_for_without_a_word(
    tmp_path: Path, isolation: Isolation, pieces: int
) -> None:
    """Three pieces of half the limit are too much together, which the kernel refuses by itself."""
    code = (
        "import mmap\n"
        f"kept = [mmap.mmap(-1, 250 << 20, flags=mmap.MAP_PRIVATE) for _ in range({pieces})]\n"
        "done(True)"
    )
    outcome = run(isolation, tmp_path, code)
    assert (outcome.got_through, outcome.notices) == (pieces == 1, [])


@levels
def test_memory_that_is_shared_counts_too(tmp_path: Path, isolation: Isolation) -> None:
    """The kernel has no limit for it, so that the guard sees it grow."""
    code = (
        "import mmap, time\n"
        "memory = mmap.mmap(-1, 5 << 27)\n"
        "for start in range(0, 5 << 27, 1 << 24):\n"
        "    memory[start : start + (1 << 24)] = bytes(1 << 24)\n"
        "    time.sleep(0.02)\n"
        "done(True)"
    )
    outcome = run(isolation, tmp_path, code)
    if isolation.level == "none":
        assert outcome.got_through
        return
    assert not outcome.got_through
    assert outcome.reason is not None
    assert outcome.reason.endswith("of memory, and 512 MiB are allowed")
    assert outcome.notices == [f"the worker was ended: {outcome.reason}"]


@levels
def test_memory_of_children_counts_too(tmp_path: Path, isolation: Isolation) -> None:
    """Three processes with 240 MiB each, none of them over the limit by itself."""
    code = (
        "import time\n"
        "for _ in range(2):\n"
        "    if os.fork() == 0: break\n"
        "memory = bytearray(b'1') * (240 << 20)\n"
        "time.sleep(1.5)\n"
        "done(True)"
    )
    outcome = run(isolation, tmp_path, code)
    assert outcome.got_through == (isolation.level == "none")
    assert ("memory" in (outcome.reason or "")) == (isolation.level != "none")


@levels
def test_cpu_time_ends(tmp_path: Path, isolation: Isolation) -> None:
    """All processes together; one alone is ended by the kernel as well."""
    code = (
        "import time\n"
        "if os.fork() == 0:\n"
        "    while time.process_time() < 0.8: pass\n"
        "    os._exit(0)\n"
        "while time.process_time() < 0.8: pass\n"
        "os.wait()\n"
        "done(True)"
    )
    outcome = run(isolation, tmp_path, code, limits=LIMITS.model_copy(update={"cpu_s": 1}))
    assert outcome.got_through == (isolation.level == "none")
    if isolation.level != "none":
        assert outcome.reason is not None
        assert outcome.reason.endswith("of CPU time, and 1 s are allowed")


@real
def test_a_fork_bomb_is_stopped_and_then_ended(tmp_path: Path, isolation: Isolation) -> None:
    """Refusals do not end it; that it goes on asking does, and nothing of it is left."""
    outcome = run(isolation, tmp_path, "while True:\n    try: os.fork()\n    except OSError: pass\n")
    assert outcome.reason is not None
    assert outcome.reason.startswith("it asked ")
    assert outcome.notices[0] == "more than 4 processes were refused"
    assert int(outcome.reason.split()[2]) <= 2 * MAX_REFUSALS


@real
def test_threads_are_counted(tmp_path: Path, isolation: Isolation) -> None:
    code = (
        "import threading, time\n"
        "threading.stack_size(32768)\n"
        "for _ in range(1200): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
        "time.sleep(2)\n"
        "done(True)"
    )
    outcome = run(isolation, tmp_path, code)
    assert not outcome.got_through
    assert outcome.reason is not None
    assert outcome.reason.endswith("of threads, and 1024 are allowed")


@levels
def test_the_private_folder_has_an_end(tmp_path: Path, isolation: Isolation) -> None:
    code = (
        "import time\n"
        "for number in range(8):\n"
        "    with open(f'{number}', 'wb') as file: file.write(bytes(4 << 20)); file.flush(); os.fsync(file)\n"
        "time.sleep(0.5)\n"
        "done(True)"
    )
    outcome = run(isolation, tmp_path, code)
    assert outcome.got_through == (isolation.level == "none")
    assert ("No space left" in outcome.log or "of disk, and 8 MiB are allowed" in (outcome.reason or "")) == (
        isolation.level != "none"
    )
    assert not (tmp_path / "scratch").exists(), "it goes with the worker"


@real
def test_one_file_has_an_end(tmp_path: Path, isolation: Isolation) -> None:
    outcome = run(isolation, tmp_path, "open('one', 'wb').write(bytes(16 << 20)); done(True)")
    assert not outcome.got_through
    assert "File too large" in outcome.log or "No space left" in outcome.log


@real
def test_the_private_folder_goes_whatever_its_modes(tmp_path: Path, isolation: Isolation) -> None:
    """Also without following a link out of it."""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    code = (
        "os.makedirs('a/b'); open('a/b/c', 'w').close(); os.mkdir('d', 0o000)\n"
        f"os.symlink({str(tmp_path)!r}, 'link'); done(True)"
    )
    assert run(isolation, tmp_path, code).got_through
    assert not (tmp_path / "scratch").exists()
    assert kept.read_text() == "kept"


@real
def test_what_it_says_has_an_end(tmp_path: Path, isolation: Isolation) -> None:
    code = "for _ in range(6): os.write(2, b'x' * (1 << 20))\n"
    outcome = run(isolation, tmp_path, code)
    assert outcome.status == 0, "what is beyond is dropped, and it goes on"
    assert len(outcome.log) == MAX_LOG_BYTES


@levels
def test_a_worker_leaves_no_process_behind(tmp_path: Path, isolation: Isolation) -> None:
    """One that ends while a child of its child, whose parent has gone, sleeps."""
    code = (
        "import time\n"
        "if os.fork() == 0:\n"
        "    try: os.setsid()\n"
        "    except OSError: pass\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(os.getpid(), flush=True); os._exit(0)\n"
    )
    before = _sleepers()
    run(isolation, tmp_path, code)
    deadline = time.monotonic() + 10  # to be killed is not yet to be gone
    while (left := _sleepers() - before) and isolation.level != "none" and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert (left != set()) == (isolation.level == "none")


def _sleepers() -> set[int]:
    """Return the processes whose program is the text of the test above."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if b"time.sleep(60)" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


@real
def test_an_honest_program_is_not_hindered(tmp_path: Path, isolation: Isolation) -> None:
    """Threads, a process, a pair of sockets, files of its own, signals to itself, and no capability."""
    code = (
        "import signal, socket, subprocess, sys, tempfile, threading\n"
        "got = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: got.append('signal'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "thread = threading.Thread(target=got.append, args=('thread',)); thread.start(); thread.join()\n"
        "program = [sys.executable, '-I', '-S', '-c', 'print(1)']\n"
        "child = subprocess.run(program, capture_output=True, check=True)\n"
        "got.append(child.stdout.decode().strip())\n"
        "one, other = socket.socketpair(); one.send(b'pair'); got.append(other.recv(4).decode())\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    open(folder + '/file', 'w').write('file'); got.append(open(folder + '/file').read())\n"
        "os.rename(tempfile.mkstemp()[1], 'renamed'); got.append(os.path.exists('renamed'))\n"
        "status = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines())\n"
        "names = ('CapEff', 'CapPrm', 'CapBnd', 'NoNewPrivs', 'Seccomp')\n"
        "got.append([status[name].strip() for name in names])\n"
        "got.append(len(os.urandom(8)) + len(open('/dev/urandom', 'rb').read(8)))\n"
        "got.append(os.path.expanduser('~') == os.getcwd())\n"
        "got.append('processor' in open('/proc/cpuinfo').read())\n"
        "print(json.dumps(got), flush=True)\n"
    )
    outcome = run(isolation, tmp_path, code)
    none = "0000000000000000"
    assert outcome.said == [
        "signal", "thread", "1", "pair", "file", True, [none, none, none, "1", "2"], 16, True, True
    ]  # fmt: skip
    assert (outcome.status, outcome.reason, outcome.notices) == (0, None, [])


@real
def test_a_program_that_aborts_has_not_been_ended_by_the_sandbox(
    tmp_path: Path, isolation: Isolation
) -> None:
    outcome = run(isolation, tmp_path, "os.abort()")
    assert outcome.status in (-signal.SIGABRT, 128 + signal.SIGABRT)
    assert outcome.reason is None


@real
def test_a_flood_of_questions_ends_it(tmp_path: Path, isolation: Isolation) -> None:
    code = "import socket\nwhile True:\n    try: socket.socket()\n    except OSError: pass\n"
    outcome = run(isolation, tmp_path, code)
    assert outcome.reason == f"it asked {MAX_REFUSALS + 1} times for what is not for it, last for socket"
    assert outcome.notices == ["socket(AF_INET) was refused", f"the worker was ended: {outcome.reason}"]


def test_limits_say_what_they_are_by_default() -> None:
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert Limits().memory_bytes == pages * 3 // 4
    assert Limits(memory_mib=100).memory_bytes == 104_857_600
    assert Limits().scratch_bytes == 2**30
