"""What the owner runs to see what left and whether all is in order, as real commands on real files.

The page has its own tests: tests/site/test_page.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plasmid.gateway.home import SiteConfig, SiteHome
from support.federation.owner_site import RUN, make_site, make_used_site


def plasmid(home: SiteHome, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command about the site in *home*."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLASMID")}
    return subprocess.run(
        [sys.executable, "-m", "plasmid.cli.main", *arguments, "--home", str(home.folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def data(home: SiteHome, *arguments: str, status: int = 0) -> Any:
    """Run a command and return its JSON answer."""
    done = plasmid(home, *arguments, "--format", "json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_used_site(tmp_path / "site")[0]


# -- the outbox --------------------------------------------------------------------------------------


def test_the_outbox_lists_every_body_with_all_that_is_known_of_it(home: SiteHome) -> None:
    found = data(home, "site", "outbox")["data"]
    assert [row["round"] for row in found["released"]] == [1, 2, 3]
    assert found["bytes"] == 3 * 136_016
    first = found["released"][0]
    assert first["tensors"] == ["layer.0.query.A [8, 512]", "head.weight [1, 560]"]
    assert (first["norm"], first["norm_after"], first["clip_fraction"]) == (2.5, 1.0, 0.6)
    assert (first["epsilon"], first["epsilon_spent"], first["population"]) == (3.0, 3.0, "default")
    assert (first["roster"], first["coordinator"]) == (
        ["hospital-a", "hospital-b", "hospital-c"], "d" * 64
    )  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["time"])
    (refused,) = found["refused"]
    assert (refused["rule"], refused["run"]) == ("policy.digest_not_allowed", "mean-fedcba9876543210")


def test_it_says_the_same_in_words(home: SiteHome) -> None:
    said = plasmid(home, "site", "outbox").stdout
    for words in (
        "round 2  136,016 bytes  masked, noise: dp-sgd",
        "norm 2.5, 1 after the clip (60.0% clipped)",
        "epsilon 3 for the run; 3 spent so far of default",
        "to hospital-a, hospital-b, hospital-c, through the coordinator dddddddddddddddd",
        "layer.0.query.A [8, 512], head.weight [1, 560]",
        "3 bodies, 408,048 bytes",
        "refused: policy.digest_not_allowed  the digest is 1234 <script>alert('canary')</script>",
    ):
        assert words in said, words


def test_it_is_of_one_run_where_one_is_named(home: SiteHome) -> None:
    assert len(data(home, "site", "outbox", "--run", RUN)["data"]["released"]) == 3
    none = data(home, "site", "outbox", "--run", "mean-fedcba9876543210")["data"]
    assert (none["released"], len(none["refused"])) == ([], 1)


def test_a_site_that_has_sent_nothing_says_so(tmp_path: Path) -> None:
    home, _ = make_site(tmp_path / "site")
    assert plasmid(home, "site", "outbox").stdout == "Nothing has left this site.\n"
    assert data(home, "site", "outbox")["data"] == {"released": [], "refused": [], "bytes": 0}


def test_where_there_is_no_site_it_says_so(tmp_path: Path) -> None:
    home = SiteHome(tmp_path / "nothing")
    assert data(home, "site", "outbox", status=1)["error"]["code"] == "usage.no_site"
    assert data(home, "doctor", status=1)["error"]["code"] == "usage.no_site"
    assert not home.folder.exists()


# -- the doctor --------------------------------------------------------------------------------------

CHECKED = {
    *("keys", "rights", "state", "isolation", "policy", "peers", "ledger", "log", "clock", "disk"),
    *("versions", "certificates", "coordinator", "member"),
}


def test_the_doctor_looks_at_everything_and_says_what_to_do(home: SiteHome) -> None:
    """A site that was never enrolled has no certificates, and nothing else is wrong with it."""
    answer = data(home, "doctor", "--offline", status=1)
    checks = answer["data"]["checks"]
    assert {line["check"] for line in checks} == CHECKED
    failed = [line for line in checks if line["state"] == "FAIL"]
    assert {line["check"] for line in failed} == {"certificates"}
    assert {line["do"] for line in failed} == {"Run 'plasmid site join'."}
    assert (answer["error"]["code"], answer["error"]["message"]) == (
        "site.doctor", "not in order: certificates."
    )  # fmt: skip
    said = plasmid(home, "doctor", "--offline")
    assert said.returncode == 1
    assert "FAIL  certificates there is no tls.pem: the site is not enrolled." in said.stdout
    assert "not in order: certificates" in said.stderr


def test_it_names_what_is_wrong_with_the_folder(home: SiteHome) -> None:
    home.keys.chmod(0o644)
    log = home.audit / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"round":2', b'"round":9'))
    home.write_config(SiteConfig(**{**home.config().model_dump(), "isolation": "none"}))
    answer = data(home, "doctor", "--offline", status=1)
    failed = {line["check"]: line for line in answer["data"]["checks"] if line["state"] == "FAIL"}
    assert failed.keys() == {"rights", "log", "certificates"}
    assert "chmod 600" in failed["rights"]["do"]
    assert "are not those that this site signed" in failed["log"]["what"]
    assert "plasmid audit restart" in failed["log"]["do"]


def kept(home: SiteHome) -> dict[Path, bytes]:
    """Return every file of the site but the locks, which are empty."""
    files = [path for path in home.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: path.read_bytes() for path in files}


@pytest.mark.slow
def test_the_red_team_attacks_a_copy_within_a_minute_or_so(home: SiteHome) -> None:
    before = kept(home)
    answer = data(home, "doctor", "--red-team", "--offline", status=1)
    found = answer["data"]["red_team"]
    assert answer["error"]["message"] == "not in order: certificates.", "and no attack"
    assert found["held"] == found["tried"] == len(found["attacks"]) >= 47
    assert found["rows_held"] == found["rows_tried"] >= 27
    assert {attack["row"] for attack in found["attacks"]} >= {1, 5, 6, 8, 9, 12, 18, 22, 23, 31, 34, 37}
    assert kept(home) == before
