"""``tcr-covid`` as deployed: every party with its own folder and, as root, its own operating-system user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployed import Deployment
from e2e.conftest import QUICK, ROWS, excerpt
from plasmid.recipes.catalogue import get
from plasmid.recipes.load import load_recipe

DONORS = ("donor_1005703", "donor_1886", "donor_3646")
PARTIES = ("coordinator", "researcher", *DONORS)


def _users() -> dict[str, int]:
    """Return a user id per party where this process may switch to one that can run this interpreter."""
    if os.geteuid() != 0:
        return {}
    users = {party: 61000 + number for number, party in enumerate(PARTIES)}
    probe = [sys.executable, "-c", "import plasmid.cli.main"]
    try:
        subprocess.run(
            probe, user=61000, group=61000, extra_groups=[], cwd="/", check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):  # an interpreter in root's own home
        return {}
    return users


@pytest.fixture(scope="module")
def federation() -> Iterator[Deployment]:
    root = Path(tempfile.mkdtemp(prefix="plasmid-deployed-"))
    root.chmod(0o755)
    tables = {}
    for donor in DONORS:
        tables[donor] = root / f"{donor}.csv"
        excerpt(get("tcr-covid").parent / "data" / f"{donor}.csv", tables[donor], ROWS)
    try:
        with Deployment(root, tables, _users()) as made:
            made.start_sites()
            made.wait_online()
            yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _digest() -> str:
    settings = dict(pair.split("=", 1) for pair in QUICK if "=" in pair)
    return load_recipe("tcr-covid", overrides=settings, seed=None).digest


def _run(federation: Deployment, *, check: bool) -> dict[str, Any]:
    how = ["--coordinator", federation.url, "--yes"]
    return federation.cli("researcher", "run", "tcr-covid", *QUICK, *how, check=check)


def test_without_a_policy_nothing_runs(federation: Deployment) -> None:
    answer = federation.cli(
        "researcher", "run", "tcr-covid", *QUICK, "--coordinator", federation.url, "--yes", check=False
    )
    assert answer["error"]["code"] == "recipe.too_few_sites"
    for donor in DONORS:
        assert (
            f"{donor}: The site has no policy, so nothing runs there. [policy.absent]"
            in answer["error"]["message"]
        )


def test_tcr_covid_runs_without_shared_files(federation: Deployment) -> None:
    federation.allow([_digest()])
    answer = federation.cli(
        "researcher", "run", "tcr-covid", *QUICK, "--coordinator", federation.url, "--yes"
    )
    data = answer["data"]
    assert data["sites"] == list(DONORS)
    assert 0.5 < data["metrics"]["federated"] < 1.0
    assert data["metrics"]["local"] == {}
    assert data["metrics"]["central"] is None
    provenance = json.loads((Path(data["adapter"]) / "provenance.json").read_text())
    assert provenance["participants"] == list(DONORS)
    assert (provenance["n"], provenance["c"]) == (3, 1)
    shown = federation.cli("researcher", "runs", "show", data["run_id"], "--coordinator", federation.url)
    assert shown["data"]["state"] == "SUCCEEDED"


def test_each_home_is_its_owners_alone(federation: Deployment) -> None:
    for party in PARTIES:
        folder = federation.home(party)
        assert folder.stat().st_mode & 0o077 == 0
        if federation.users:
            assert folder.stat().st_uid == federation.users[party]


def test_what_leaves_is_in_the_journal(federation: Deployment) -> None:
    for donor in DONORS:
        lines = (federation.home(donor) / "site" / "journal.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events.count("contributed") == 2
        assert events.count("manifest") == 2
        assert "refused" in events  # the run without a policy
