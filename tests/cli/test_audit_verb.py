"""``plasmid audit``: the list, the file for others, what it proves, and a new beginning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.cli.verbs.audit import app
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.keys.keystore import Cost, EncryptedFile
from plasmid.gateway.members.cosigning import Cosigning
from plasmid.gateway.members.peers import Peer, Peers, write_peers
from plasmid.log.audit_log import AuditLog
from plasmid.log.export import PROOF
from plasmid.protocol.identity import Identity, fingerprint

PASSPHRASE = "correct horse battery staple"
BETA = Identity.generate("beta")


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    home = SiteHome(tmp_path / "site")
    home.folder.mkdir()
    home.write_config(SiteConfig(name="alpha", organisation="A"))
    keys = EncryptedFile.create(home.keys, "alpha", lambda: PASSPHRASE, cost=Cost(n=2))
    (home.folder / "passphrase").write_text(PASSPHRASE)
    (home.folder / "passphrase").chmod(0o600)
    peer = Peer(name="beta", organisation="B", key=BETA.public)
    write_peers(home.peers, Peers(coordinator=BETA.public, sites=[peer]))
    log = AuditLog(home.audit, keys.identity())
    log.write("started")
    log.write("refused", run="run-1", rule="policy.budget", reason="too little [left]", result="refused")
    log.write("released", run="run-2", object="b" * 64, bytes=4000, norm=1.5, roster=["alpha", "beta"])
    return home


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(site: SiteHome) -> Ask:
    def asked(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*arguments, "--home", str(site.folder), "--format", "json"])
        answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        assert (answer["status"] == "ok") == (result.exit_code == 0), result.output
        return answer

    return asked


def told(site: SiteHome, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--home", str(site.folder)])
    assert result.exit_code == 0, result.output
    return result.stdout


def seqs(answer: dict[str, Any]) -> list[int]:
    return [entry["seq"] for entry in answer["data"]["entries"]]


def test_entries_are_listed_and_picked(ask: Ask, site: SiteHome) -> None:
    assert seqs(ask("ls")) == [1, 2, 3]
    assert seqs(ask("ls", "--run", "run-1")) == [2]
    assert seqs(ask("ls", "--action", "released")) == [3]
    assert seqs(ask("ls", "--refused")) == [2]
    assert seqs(ask("ls", "--since", "2020-01-01T00:00:00Z")) == [1, 2, 3]
    assert seqs(ask("ls", "--since", "2999-01-01T00:00:00Z")) == []
    text = told(site, "ls")
    assert "refused refused  gateway  run run-1 rule policy.budget" in text
    assert "too little [left]" in text
    assert "bytes=4000 norm=1.5" in text
    assert "No such entry." in told(site, "ls", "--run", "run-9")


def test_a_terminal_is_told_nothing_but_letters(site: SiteHome) -> None:
    AuditLog(site.audit).write("dropped", actor="person:[red]", reason="a type \x1b[2J\x9b of nobody")
    text = told(site, "ls", "--action", "dropped")
    assert "person:[red]" in text
    assert "a type \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER} of nobody" in text


def test_the_own_log_is_verified_without_a_passphrase(ask: Ask, site: SiteHome) -> None:
    (found,) = ask("verify")["data"]["files"]
    assert (found["first"], found["last"], found["signed"], found["cosigned"]) == (1, 3, 3, [])
    assert found["key"] == site.public
    log = site.audit / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"4000", b"4001"))
    assert ask("verify")["error"]["code"] == "storage.log_damaged"
    assert ask("export", str(site.folder / "out"))["error"]["code"] == "storage.log_damaged"


def cosigned(site: SiteHome, tmp_path: Path) -> None:
    """Have beta cosign alpha's log."""
    other = SiteHome(tmp_path / "beta")
    other.folder.mkdir()
    alpha = EncryptedFile(site.keys, lambda: PASSPHRASE).identity()
    peer = Peer(name="alpha", organisation="A", key=alpha.public)
    write_peers(other.peers, Peers(coordinator=BETA.public, sites=[peer]))
    asking = Cosigning(site, alpha, AuditLog(site.audit, alpha))
    (offer,) = asking.offers()
    answer, _ = Cosigning(other, BETA, AuditLog(other.audit, BETA)).answer(offer)
    assert asking.take(answer) is None


def test_an_export_is_verified_anywhere(ask: Ask, site: SiteHome, tmp_path: Path) -> None:
    cosigned(site, tmp_path)
    file = tmp_path / "alpha.audit"
    assert ask("export", str(file))["data"]["entries"] == 3
    assert file.stat().st_mode & 0o777 == 0o600
    elsewhere = CliRunner().invoke(app, ["verify", str(file), "--key", f"alpha={fingerprint(site.public)}"])
    assert elsewhere.exit_code == 0
    signed = f"signed by alpha up to entry 3 ({fingerprint(site.public)}, the key that you gave)"
    assert signed in elsewhere.stdout
    assert "cosigned by beta up to entry 3" in elsewhere.stdout
    given = ask("verify", str(file), "--key", f"beta={BETA.public}")["data"]["files"][0]["cosigned"]
    assert [(one["site"], one["last"], one["key_given"]) for one in given] == [("beta", 3, True)]
    wrong = ask("verify", str(file), "--key", f"beta={'0' * 64}")["error"]
    assert wrong["code"] == "protocol.log_false"


def test_an_entry_is_proven_alone(ask: Ask, site: SiteHome, tmp_path: Path) -> None:
    file = tmp_path / "entry.tlog-proof"
    assert ask("prove", "3", str(file))["data"]["entry"] == 3
    assert file.read_bytes().startswith(PROOF.encode())
    assert b"too little" not in file.read_bytes()
    (found,) = ask("verify", str(file))["data"]["files"]
    assert found["entry"]["facts"]["bytes"] == 4000
    assert "     3  " in told(site, "verify", str(file))
    assert told(site, "prove", "3").encode() == file.read_bytes()
    assert ask("prove", "4")["error"]["code"] == "protocol.log_unsigned"


def test_two_files_that_contradict_each_other_are_refused(ask: Ask, site: SiteHome, tmp_path: Path) -> None:
    identity = EncryptedFile(site.keys, lambda: PASSPHRASE).identity()
    ask("export", str(tmp_path / "one"))
    same = ask("verify", str(tmp_path / "one"), str(tmp_path / "one"))
    assert len(same["data"]["files"]) == 2
    assert "do not contradict" in told(site, "verify", str(tmp_path / "one"), str(tmp_path / "one"))
    other = AuditLog(tmp_path / "other", identity)
    for name in ("a", "b", "c"):
        other.write(name)
    site.audit.rename(tmp_path / "first")
    (tmp_path / "other").rename(site.audit)
    ask("export", str(tmp_path / "two"))
    split = ask("verify", str(tmp_path / "one"), str(tmp_path / "two"))["error"]
    assert split["code"] == "protocol.log_split"


@pytest.mark.parametrize("text", ["", "alpha", "alpha=", "=" + "0" * 64, "alpha=xyz", f"alpha={'g' * 64}"])
def test_a_key_that_is_none_is_refused(ask: Ask, text: str) -> None:
    assert ask("verify", "--key", text)["error"]["code"] == "usage.audit_key"


def test_a_new_log_begins_only_with_a_yes_and_the_key(ask: Ask, site: SiteHome) -> None:
    (site.audit / "log.jsonl").unlink()
    restart = ("restart", "--reason", "a broken disk")
    assert ask(*restart)["error"]["code"] == "usage.not_confirmed"
    done = ask(*restart, "--yes", "--passphrase-file", str(site.folder / "passphrase"))["data"]
    assert done["generation"] == 2
    assert Path(done["kept"]).is_dir()
    (first,) = ask("ls")["data"]["entries"]
    assert (first["action"], first["actor"], first["reason"]) == ("restarted", "owner", "a broken disk")
    ask("verify")
