"""The container level: Podman's command and a cluster's pod, rendered; run where Podman can be had."""

from __future__ import annotations

import copy
import itertools
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plasmid.training.isolation import container as container_module
from plasmid.training.isolation.container import Container, podman
from plasmid.training.isolation.pod import open_doors, render
from plasmid.training.isolation.port import Limits, Spec, interpreter
from plasmid.training.isolation.tree import descendants

LIMITS = Limits(memory_mib=512, cpu_s=600, processes=4, scratch_mib=8)
IMAGE = "registry.example/plasmid@sha256:" + "a" * 64


def spec(tmp_path: Path, **changes: Any) -> Spec:
    base = tmp_path / "a, base"
    base.mkdir(exist_ok=True)
    values: dict[str, Any] = {"read": (base,), "environment": {"LANG": "C.UTF-8"}, "limits": LIMITS}
    return Spec((sys.executable, "-c", "pass"), scratch=tmp_path / "scratch", **values | changes)


def test_podman_is_told_to_open_nothing(tmp_path: Path) -> None:
    given = spec(tmp_path)
    said = podman(given, limited=True)
    mib = 512 * 2**20
    for option in (
        "--rm", "--pull=never", "--network=none", "--no-hosts", "--http-proxy=false", "--read-only",
        "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges", "--pid=private",
        "--ipc=private", "--uts=private", "--unsetenv-all", "--env=LANG=C.UTF-8", "--env=HOME=/scratch",
        "--tmpfs=/scratch:rw,nosuid,nodev,noexec,mode=0700,size=8388608", "--ulimit=core=0:0",
    ):  # fmt: skip
        assert option in said
    following = dict(itertools.pairwise(said))
    assert following["--memory"] == following["--memory-swap"] == str(mib)
    assert following["--pids-limit"] == "1024"
    assert following["--rootfs"] == str(tmp_path / "scratch"), "nothing but what is mounted"
    assert said[-2:] == ("3", "4")
    never = (
        "--privileged",
        "--cap-add",
        "--volume",
        "-v",
        "--userns=host",
        "--pid=host",
        "seccomp=unconfined",
    )
    assert not [part for part in said if part.startswith(never) or "unconfined" in part or "host:" in part]


def test_what_is_mounted_is_what_the_worker_needs_and_read_only(tmp_path: Path) -> None:
    given = spec(tmp_path)
    mounts = [part.removeprefix("--mount=") for part in podman(given, limited=True) if "--mount" in part]
    assert len(mounts) == len(given.readable())
    assert all(mount.endswith("ro=true") for mount in mounts)
    base = tmp_path / "a, base"
    assert f'type=bind,"source={base}","destination={base}",ro=true' in mounts
    lent = (*interpreter(), base)
    for path in given.readable():
        assert any(path in (one.absolute(), one.resolve()) for one in lent)


def test_without_cgroups_the_guard_alone_limits(tmp_path: Path) -> None:
    said = podman(spec(tmp_path), limited=False)
    assert "--cgroups=disabled" in said
    assert "--memory" not in said


def test_devices_are_passed_on_only_if_lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spec, "device_files", lambda self: [Path("/dev/nvidia0")] if self.devices else [])
    assert not [part for part in podman(spec(tmp_path), limited=True) if part.startswith("--device")]
    assert "--device=/dev/nvidia0" in podman(spec(tmp_path, devices=("nvidia",)), limited=True)


def test_the_worker_gets_nothing_of_podman_s_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_module.shutil, "which", lambda _: "/usr/bin/podman")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY")
    prepared = Container().wrap(spec(tmp_path))
    assert prepared.environment["XDG_RUNTIME_DIR"] == "/run/user/1000"
    assert "CANARY" not in str(prepared)
    assert "XDG_RUNTIME_DIR" not in str(prepared.argv)
    assert prepared.detached
    assert prepared.orders is not None
    assert prepared.orders["first"]


def test_a_host_without_podman_or_with_root_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_module.shutil, "which", lambda _: None)
    assert Container().unavailable() == "the program podman is not installed"
    monkeypatch.setattr(container_module.shutil, "which", lambda _: "/usr/bin/podman")
    monkeypatch.setattr(container_module.os, "geteuid", lambda: 0)
    assert Container().unavailable() == "only rootless Podman is used, and this is root"


# -- a pod -----------------------------------------------------------------------------------------


def test_a_rendered_pod_is_locked_down(tmp_path: Path) -> None:
    given = spec(tmp_path, devices=("nvidia",))
    network, pod = render(given, name="run-1", image=IMAGE, processors=4)
    assert open_doors(pod, given) == []
    assert network["spec"] == {
        "podSelector": {"matchLabels": pod["metadata"]["labels"]},
        "policyTypes": ["Ingress", "Egress"],
    }, "both directions, and no rule that allows anything"
    (worker,) = pod["spec"]["containers"]
    assert (
        worker["resources"]["limits"]
        == worker["resources"]["requests"]
        == {
            "cpu": "4",
            "memory": str(520 * 2**20),
            "ephemeral-storage": "16Mi",
            "nvidia.com/gpu": "1",
        }
    )
    assert pod["spec"]["activeDeadlineSeconds"] == 150, "600 CPU seconds on four processors"
    assert pod["spec"]["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(8 * 2**20)}


OPENED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "network": (lambda pod: pod.update(hostNetwork=True), "hostNetwork is on"),
    "processes": (lambda pod: pod.update(hostPID=True), "hostPID is on"),
    "memory of others": (lambda pod: pod.update(hostIPC=True), "hostIPC is on"),
    "users": (lambda pod: pod.pop("hostUsers"), "there is no user namespace (hostUsers)"),
    "token": (
        lambda pod: pod.pop("automountServiceAccountToken"),
        "it holds a token of the cluster (automountServiceAccountToken)",
    ),
    "services": (
        lambda pod: pod.pop("enableServiceLinks"),
        "the cluster's services are in its environment (enableServiceLinks)",
    ),
    "resolver": (lambda pod: pod.update(dnsPolicy="ClusterFirst"), "it has a resolver (dnsPolicy)"),
    "deadline": (
        lambda pod: pod.pop("activeDeadlineSeconds"),
        "its CPU time has no end (activeDeadlineSeconds)",
    ),
    "sidecar": (lambda pod: pod["containers"].append(pod["containers"][0]), "it has 2 containers"),
    "first container": (
        lambda pod: pod.update(initContainers=[{}]),
        "it has other containers (initContainers)",
    ),
    "volume": (
        lambda pod: pod["volumes"].append({"name": "more", "hostPath": {"path": "/"}}),
        "the volume more is none that the worker needs",
    ),
    "disk": (
        lambda pod: pod["volumes"][0]["emptyDir"].pop("sizeLimit"),
        "the folder scratch is not in memory, or has no end",
    ),
    "image": (
        lambda pod: pod["containers"][0].update(image="plasmid:latest"),
        "its image is not named by a digest",
    ),
    "setuid": (
        lambda pod: _context(pod).pop("allowPrivilegeEscalation"),
        "allowPrivilegeEscalation is not false",
    ),
    "root's files": (
        lambda pod: _context(pod).pop("readOnlyRootFilesystem"),
        "readOnlyRootFilesystem is not true",
    ),
    "root": (lambda pod: _context(pod).update(runAsNonRoot=False), "runAsNonRoot is not true"),
    "privileged": (lambda pod: _context(pod).update(privileged=True), "it is privileged"),
    "capability": (
        lambda pod: _context(pod)["capabilities"].update(add=["SYS_ADMIN"]),
        "it keeps capabilities",
    ),
    "filter": (
        lambda pod: _context(pod)["seccompProfile"].update(type="Unconfined"),
        "it has no filter of system calls (seccompProfile)",
    ),
    "memory": (
        lambda pod: pod["containers"][0]["resources"]["limits"].pop("memory"),
        "its memory has no limit",
    ),
    "mount": (
        lambda pod: pod["containers"][0]["volumeMounts"][1].pop("readOnly"),
        " can be written to",
    ),
    "environment": (
        lambda pod: pod["containers"][0].update(envFrom=[{}]),
        "its environment comes from the cluster (envFrom, valueFrom)",
    ),
}


def _context(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod["containers"][0]["securityContext"]
    return found


@pytest.mark.parametrize("door", OPENED)
def test_each_door_of_a_pod_is_looked_at(tmp_path: Path, door: str) -> None:
    given = spec(tmp_path)
    pod = copy.deepcopy(render(given, name="run-1", image=IMAGE)[1])
    open_it, said = OPENED[door]
    open_it(pod["spec"])
    (found,) = set(open_doors(pod, given))
    assert found.endswith(said)


# -- for real --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["bubblewrap", "container"])
def test_a_hostile_worker_and_its_children_end_with_a_gateway_that_is_killed(
    tmp_path: Path, level: str
) -> None:
    """It does not read its channel, and has a child in the background."""
    problem = container_module.Container().unavailable() if level == "container" else None
    if problem is not None:
        pytest.skip(problem)
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from plasmid.training.isolation import choose\n"
        "from plasmid.training.isolation.guard import Guard\n"
        "from plasmid.training.isolation.port import Limits, Spec\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "(folder / 'scratch').mkdir()\n"
        "hostile = 'import os, time\\nos.fork()\\ntime.sleep(60)'\n"
        "spec = Spec((sys.executable, '-I', '-S', '-c', hostile), (), {}, folder / 'scratch')\n"
        f"guard = Guard(choose({level!r}), spec, channel=os.open(os.devnull, os.O_RDONLY),\n"
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
