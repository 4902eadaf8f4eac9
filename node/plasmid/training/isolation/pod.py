"""A locked-down pod: what a cluster must be asked for so that a worker in it is at the level ``container``.

Rules
-----
1. Rendered as data, for whoever starts pods; this release has no launcher that does. :func:`open_doors` says
   what of a pod is not locked down: ask it about the pod that the cluster made, for admission hooks change
   what was sent.
2. No network (a policy that denies everything, and no resolver), no token of the cluster, no namespace of the
   host, a user namespace, a read-only root, no capability, no new privileges, a filter of system calls.
3. Memory, processors and the private folder are bounded by the cluster. CPU time is bounded by the deadline:
   a pod with *n* processors has used at most *n* seconds in each. How many processes a pod may have is the
   node's to say (``podPidsLimit`` of the kubelet).
4. Files come from the image, named by its digest, and from the ``Spec``'s own folders, read-only.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ (restricted, and more).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plasmid.training.isolation.port import Spec, inside

SCRATCH = "/scratch"
USER = 65532
_LABEL = "plasmid-worker"
_HOST = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")


def render(spec: Spec, *, name: str, image: str, processors: int = 1) -> list[dict[str, Any]]:
    """Return the manifests: a policy of the network, then the pod.

    Parameters
    ----------
    spec
        Its ``read`` are folders of the node; interpreter and libraries are the image's.
    image
        With its digest: ``registry/name@sha256:...``.
    processors
        How many it may use at one time.
    """
    limits = spec.limits
    size = {
        "cpu": str(processors),
        "memory": str(limits.memory_bytes + limits.scratch_bytes),
        "ephemeral-storage": "16Mi",
    }
    if "nvidia" in spec.devices:
        size["nvidia.com/gpu"] = "1"
    environment = inside(spec.environment, Path(SCRATCH))
    mounts = [{"name": "scratch", "mountPath": SCRATCH}]
    volumes: list[dict[str, Any]] = [
        {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": str(limits.scratch_bytes)}}
    ]
    for number, path in enumerate(spec.read):
        mounts.append({"name": f"read-{number}", "mountPath": str(path), "readOnly": True})  # type: ignore[dict-item]
        volumes.append({"name": f"read-{number}", "hostPath": {"path": str(path)}})
    container = {
        "name": "worker",
        "image": image,
        "command": list(spec.command),
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "workingDir": SCRATCH,
        "stdin": True,
        "stdinOnce": True,
        "resources": {"limits": size, "requests": size},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts,
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostUsers": False,
        **dict.fromkeys(_HOST, False),
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "restartPolicy": "Never",
        "activeDeadlineSeconds": max(1, limits.cpu_s // processors),
        "containers": [container],
        "volumes": volumes,
    }
    labels = {_LABEL: name}
    nothing = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress", "Egress"]}
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name},
            "spec": nothing,
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": pod},
    ]


def open_doors(pod: Mapping[str, Any], spec: Spec) -> list[str]:
    """Return what of *pod*, a manifest, is not locked down as *spec* needs it; empty if nothing."""
    return list(_of_pod(pod["spec"], spec))


def _of_pod(pod: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    for field in _HOST:
        if pod.get(field, False):
            yield f"{field} is on"
    if pod.get("hostUsers", True):
        yield "there is no user namespace (hostUsers)"
    if pod.get("automountServiceAccountToken", True):
        yield "it holds a token of the cluster (automountServiceAccountToken)"
    if pod.get("enableServiceLinks", True):
        yield "the cluster's services are in its environment (enableServiceLinks)"
    if pod.get("dnsPolicy") != "None":
        yield "it has a resolver (dnsPolicy)"
    if not 0 < pod.get("activeDeadlineSeconds", 0) <= spec.limits.cpu_s:
        yield "its CPU time has no end (activeDeadlineSeconds)"
    for kind in ("initContainers", "ephemeralContainers"):
        if pod.get(kind):
            yield f"it has other containers ({kind})"
    if len(pod["containers"]) != 1:
        yield f"it has {len(pod['containers'])} containers"
    lent = {str(path) for path in spec.read}
    for volume in pod.get("volumes", []):
        if "emptyDir" in volume:
            if volume["emptyDir"].get("medium") != "Memory" or "sizeLimit" not in volume["emptyDir"]:
                yield f"the folder {volume['name']} is not in memory, or has no end"
        elif volume.get("hostPath", {}).get("path") not in lent:
            yield f"the volume {volume['name']} is none that the worker needs"
    for container in pod["containers"]:
        yield from _of_container(container)


def _of_container(container: Mapping[str, Any]) -> Iterator[str]:
    if re.search(r"@sha256:[0-9a-f]{64}$", container["image"]) is None:
        yield "its image is not named by a digest"
    said = container.get("securityContext", {})
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True}
    for field, value in wanted.items():
        if said.get(field) is not value:
            yield f"{field} is not {str(value).lower()}"
    if said.get("privileged", False):
        yield "it is privileged"
    capabilities = said.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield "it keeps capabilities"
    if said.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "it has no filter of system calls (seccompProfile)"
    limits = container.get("resources", {}).get("limits", {})
    for field in ("cpu", "memory", "ephemeral-storage"):
        if field not in limits:
            yield f"its {field} has no limit"
    for mount in container.get("volumeMounts", []):
        if mount["mountPath"] != SCRATCH and mount.get("readOnly") is not True:
            yield f"{mount['mountPath']} can be written to"
    if container.get("envFrom") or any("valueFrom" in one for one in container.get("env", [])):
        yield "its environment comes from the cluster (envFrom, valueFrom)"
