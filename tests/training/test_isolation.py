"""Every level that this host has, attacked for real; each attack gets through without isolation."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plasmid.isolation.bubblewrap import Bubblewrap
from plasmid.isolation.port import Isolation, Spec
from plasmid.isolation.tree import descendants
from support.servers.sandboxed import ALL, ATTACKS, REAL, Victim, run

SEEN = {
    "tcp": "socket(AF_INET) was refused",
    "tcp6": "socket(AF_INET6) was refused",
    "udp": "socket(AF_INET) was refused",
    "dns": "socket(AF_INET) was refused",
    "netlink": "socket(AF_NETLINK) was refused",
    "abstract socket": "socket(AF_UNIX) was refused",
    "socket with a path": "socket(AF_UNIX) was refused",
    "memory that no process has": "memfd_create was refused",
    "more processes than it may": "more than 4 processes were refused",
    "a signal to another process": "kill was refused",
    "a signal to the gateway": "kill was refused",
    "a signal to everybody": "kill was refused",
    "a signal by a process descriptor": "pidfd_open was refused",
    "a signal by a file": "fcntl was refused",
    "limits of another process": "prlimit64 was refused",
}
"""What the site's log says; at the other attacks the kernel only returns an error."""
ENDS = {
    "tracing another process": "it called ptrace",
    "memory of another process, by a call": "it called process_vm_readv",
    "a namespace of its own": "it called unshare",
}


def test_this_host_has_a_real_level() -> None:
    """Where there is none, nothing else here says anything."""
    assert [isolation.level for isolation in REAL] != []
    assert "landlock" in [isolation.level for isolation in REAL], "Linux 6.2 or later is needed to test"


@pytest.mark.parametrize("isolation", ALL, ids=lambda isolation: isolation.level)
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_gets_through_without_isolation_alone(
    tmp_path: Path, isolation: Isolation, attack: str
) -> None:
    with Victim(tmp_path) as victim:
        outcome = run(isolation, tmp_path, ATTACKS[attack], given=victim.names)
        alive = victim.process.poll() is None
        keys = (tmp_path / "home" / "keys.json").exists()
        heard = victim.heard
    if isolation.level == "none":
        assert outcome.got_through, f"the control is no control: {outcome}"
        return
    assert not outcome.got_through
    assert (alive, keys, heard) == (True, True, b"")
    if attack in ENDS:
        assert outcome.reason == ENDS[attack]
        assert outcome.notices == [f"the worker was ended: {ENDS[attack]}"]
    else:
        assert outcome.reason is None
        assert "Error" in outcome.log, "it was refused, not merely overlooked"
    if attack in SEEN:
        assert outcome.notices == [SEEN[attack]]


@pytest.mark.parametrize("isolation", REAL, ids=lambda isolation: isolation.level)
def test_no_process_of_the_sandbox_itself_can_be_written_to(tmp_path: Path, isolation: Isolation) -> None:
    """One that could would run the attacker's code without the filter. A child can, where there is /proc."""
    code = (
        "import time\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(60)\n"
        "opened = []\n"
        "for process in range(1, 100):\n"
        "    try: opened.append(open(f'/proc/{process}/mem', 'r+b') and process)\n"
        "    except OSError: pass\n"
        "print(json.dumps([sorted({os.getpid(), child} & {*range(100)}), opened]), flush=True)\n"
    )
    own, opened = run(isolation, tmp_path, code).said
    if isolation.level == "bubblewrap":
        assert (own, opened) == ([2, 3], [2, 3])
    else:
        assert opened == []


STAND_INS = [Path(name) for name in ("/dev/fuse", "/dev/kvm", "/dev/loop-control", "/dev/net/tun")]


@pytest.mark.parametrize("isolation", REAL, ids=lambda isolation: isolation.level)
def test_a_device_is_there_only_if_it_is_lent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: Isolation
) -> None:
    """A device that this host has stands in for a GPU; the level passes on the files that the spec names."""
    usable = [path for path in STAND_INS if os.access(path, os.R_OK | os.W_OK)]
    if not usable:
        pytest.skip("this host has no device that could stand in for a GPU")
    monkeypatch.setattr(Spec, "device_files", lambda self: usable[:1] if self.devices else [])
    code = f"os.close(os.open({str(usable[0])!r}, os.O_RDWR)); done(True)"
    for devices in ((), ("nvidia",)):
        outcome = run(isolation, tmp_path, code, devices=devices)
        assert outcome.got_through == bool(devices), outcome


@pytest.mark.parametrize("isolation", REAL, ids=lambda isolation: isolation.level)
def test_names_and_sizes_of_files_are_all_that_landlock_shows(tmp_path: Path, isolation: Isolation) -> None:
    """A limit that docs/gateway/sandbox.md states; with namespaces there is nothing to see."""
    hidden = tmp_path / "hidden"
    hidden.write_text("four")
    outcome = run(isolation, tmp_path, f"done(os.stat({str(hidden)!r}).st_size == 4)")
    assert outcome.got_through == (isolation.level == "landlock")


def test_a_hostile_worker_and_its_children_end_with_a_gateway_that_is_killed(tmp_path: Path) -> None:
    """It does not read its channel, and has a child in the background."""
    if Bubblewrap().unavailable() is not None:
        pytest.skip("this host has no bubblewrap")
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from plasmid.isolation.choice import choose\n"
        "from plasmid.isolation.supervisor import Guard\n"
        "from plasmid.isolation.levels import Limits\n"
        "from plasmid.isolation.port import Spec\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "(folder / 'scratch').mkdir()\n"
        "hostile = 'import os, time\\nos.fork()\\ntime.sleep(60)'\n"
        "spec = Spec((sys.executable, '-I', '-S', '-c', hostile), (), {}, folder / 'scratch')\n"
        f"guard = Guard(choose('bubblewrap'), spec, channel=os.open(os.devnull, os.O_RDONLY),\n"
        "              log=folder / 'log', notice=print)\n"
        "guard.launch()\n"
        "print(guard._root, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        root = int(gateway.stdout.readline())
        deadline = time.monotonic() + 30
        while sum("sleep(60)" in _command(one) for one in descendants(root)) < 2:
            assert time.monotonic() < deadline, "the attack is none"
            time.sleep(0.05)
        hostile = [os.pidfd_open(one) for one in descendants(root)]
        gateway.kill()
    try:
        for one in hostile:
            assert select.select([one], [], [], 30)[0] == [one]
    finally:
        for one in hostile:
            os.close(one)


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""
