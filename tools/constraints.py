"""``make constraints``: ``constraints/gateway.txt`` and ``constraints/node.txt``, by uv and pip.

Rules
-----
1. Versions are those of this environment, which the tests ran with; a local build (``2.13.0+cpu``) counts as
   the release that it was built from, and what is not installed here is the newest that fits.
2. The files are for CPython 3.11 on Linux x86-64, with the hashes of all files of each release. pip must
   accept them with ``--require-hashes``; licences are those that its report has of what it would install.
3. No configuration of this machine is used, so that torch is the one which an index serves to everybody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distributions
from pathlib import Path

from pins import CONSTRAINTS, FILES, REPOSITORY, Pin, licence, named, written

_EXTRAS: dict[str, tuple[str, ...]] = {"gateway": (), "node": ("--extra", "worker")}
_FOR = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--prerelease", "disallow")
_SHOWN = ("--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links")


def main() -> None:
    """Write both files."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pip = _pip(scratch)
        (scratch / "tested.txt").write_text(_tested(), encoding="utf-8")
        CONSTRAINTS.mkdir(exist_ok=True)
        for part, path in FILES.items():
            resolved = scratch / f"{part}.txt"
            command = ["uv", "pip", "compile", "pyproject.toml", *_EXTRAS[part], *_FOR, *_SHOWN, "--quiet"]
            _run([*command, "--constraints", str(scratch / "tested.txt"), "--output-file", str(resolved)])
            pins = _with_licences(resolved, _report(pip, resolved))
            path.write_text("".join(map(written, pins)), encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(REPOSITORY)}: {len(pins)} packages\n")


def _pip(scratch: Path) -> Path:
    """Return a pip of today: the one of an environment may be older than what a report must hold."""
    venv.create(scratch / "pip", with_pip=True)
    python = scratch / "pip" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
    return python


def _tested() -> str:
    """Return what is installed here, a line each."""
    installed = {named(one.name): one.version.partition("+")[0] for one in distributions()}
    return "".join(
        f"{name}=={version}\n" for name, version in installed.items() if name not in ("pip", "plasmid")
    )


def _report(python: Path, path: Path) -> dict[str, str]:
    """Return the licence of each package that pip would install from *path*, by name."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    said = _run([*command, "--require-hashes", "--requirement", str(path), "--report", "-"])
    items = json.loads(said)["install"]
    return {named(item["metadata"]["name"]): licence(item["metadata"]) for item in items}


def _with_licences(path: Path, licences: dict[str, str]) -> list[Pin]:
    pins = []
    for block in path.read_text(encoding="utf-8").replace(" \\\n", "").splitlines():
        pinned, *hashes = block.split("    --hash=sha256:")
        name, _, version = pinned.partition("==")
        pins.append(Pin(name, version, tuple(hashes), licences[name]))
    return pins


def _run(command: list[str]) -> str:
    """Return what *command* prints, run without the settings of this machine's pip."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    plain |= {"PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        command, cwd=REPOSITORY, env=plain, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


if __name__ == "__main__":
    main()
