"""``plasmid hub``: users, roles, tokens, tables and files of a hub on this machine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from plasmid.cli.main import installed, main, summary
from plasmid.hub.settings import HubSettings

PLATFORM_ONLY = ("fastapi", "sqlalchemy", "alembic", "fsspec", "uvicorn", "ray")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    for name in ("DATABASE_URL", "BLOBS_URL", "URL"):
        monkeypatch.delenv(f"PLASMID_HUB_{name}", raising=False)


def hub(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return what the command answers in JSON: its data, or its error."""
    sys.argv[1:] = ["hub", *arguments, "--format", "json"]
    with pytest.raises(SystemExit) as ended:
        main()
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["status"] == "ok") is (ended.value.code == 0)
    found: dict[str, Any] = said["data"] if said["status"] == "ok" else said["error"]
    return found


def test_from_a_user_to_a_token_that_is_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    assert hub(capsys, "migrate") == {"revision": "0002", "changed": True}
    assert hub(capsys, "migrate")["changed"] is False
    assert hub(capsys, "user", "add", "ann", "--email", "ann@lab.org")["account"]["email"] == "ann@lab.org"
    assert hub(capsys, "user", "add", "bob")["account"]["kind"] == "user"
    assert hub(capsys, "organisation", "add", "lab", "--admin", "ann")["members"] == {"ann": "admin"}
    assert hub(capsys, "member", "add", "lab", "bob", "--role", "write")["members"]["bob"] == "write"
    assert hub(capsys, "member", "ls", "lab")["members"] == {"ann": "admin", "bob": "write"}
    assert hub(capsys, "member", "remove", "lab", "bob")["members"] == {"ann": "admin"}
    assert hub(capsys, "organisation", "ls")["organisations"] == {"lab": {"ann": "admin"}}
    made = hub(capsys, "token", "create", "ann", "--name", "laptop", "--scope", "write", "--days", "30")
    with HubSettings.from_environment().open() as opened:
        account = opened.accounts.who(made["secret"])
    assert account is not None
    assert (account.name, account.scope) == ("ann", "write")
    listed = hub(capsys, "token", "ls", "ann")["tokens"]
    assert [(token["id"], token["name"]) for token in listed] == [(made["token"]["id"], "laptop")]
    assert made["secret"] not in json.dumps(listed)
    assert hub(capsys, "token", "revoke", made["token"]["id"])["token"]["id"] == made["token"]["id"]
    assert hub(capsys, "token", "ls")["tokens"] == []
    assert [known["name"] for known in hub(capsys, "user", "ls")["accounts"]] == ["ann", "bob", "lab"]
    assert hub(capsys, "collect") == {"blobs": 0, "size": 0, "partial": 0}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["user", "add", "a/b"], "hub.name"),
        (["organisation", "add", "lab", "--admin", "nobody"], "hub.account_missing"),
        (["member", "add", "lab", "nobody"], "hub.account_missing"),
        (["token", "create", "nobody", "--name", "x"], "hub.account_missing"),
        (["token", "revoke", "x"], "hub.token_missing"),
        (["collect"], "hub.migrations"),
        (["serve", "--host", "0.0.0.0"], "hub.plain_http"),
        (["serve", "--host", "example.org"], "hub.plain_http"),
        (["serve", "--url", "example.org"], "hub.url"),
        (["nonsense"], "usage.invalid"),
        (["user", "nonsense"], "usage.invalid"),
        (["member", "add", "lab", "ann", "--role", "owner"], "usage.invalid"),
    ],
)
def test_what_cannot_be_done_is_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: str
) -> None:
    assert hub(capsys, *arguments)["code"] == code


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("DATABASE_URL", "nonsense", "hub.database"),
        ("DATABASE_URL", "oracle+absent://x", "hub.database"),
        ("DATABASE_URL", "postgresql+psycopg://ann:secret@127.0.0.1:1/hub", "hub.database"),
        ("DATABASE_URL", "sqlite:////absent/hub.db", "hub.database"),
        ("BLOBS_URL", "absent://x", "hub.blobs_url"),
    ],
)
def test_a_database_or_store_that_cannot_be_used_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str
) -> None:
    monkeypatch.setenv(f"PLASMID_HUB_{name}", value)
    problem = hub(capsys, "user", "ls")
    assert problem["code"] == code
    assert "secret" not in problem["message"]


def test_a_failed_organisation_is_not_half_made(capsys: pytest.CaptureFixture[str]) -> None:
    hub(capsys, "organisation", "add", "lab", "--admin", "nobody")
    assert hub(capsys, "user", "ls")["accounts"] == []


def test_every_verb_of_the_hub_has_a_line_of_help() -> None:
    points = installed("plasmid.verbs.hub")
    assert set(points) == {point.name for point in entry_points(group="plasmid.verbs.hub")}
    assert {"serve", "migrate", "collect", "user", "organisation", "member", "token"} <= set(points)
    for point in points.values():
        assert summary(point).endswith(".")
    assert len({summary(point) for point in points.values()}) == len(points)


def test_a_node_lists_them_and_says_which_extra_they_need(tmp_path: Path) -> None:
    hide = f"import sys; sys.modules.update(dict.fromkeys({PLATFORM_ONLY!r}))"
    loaded = "[name for name in sys.modules if name.startswith('plasmid.hub.')]"
    after = f"import atexit; atexit.register(lambda: print({loaded}))"
    run = "from plasmid.cli.main import main; main()"
    for arguments, status in ((["hub", "--help"], 0), (["hub", "user", "ls", "--format", "json"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", f"{hide}; {after}; sys.argv[1:] = {arguments!r}; {run}"],
            env={"PLASMID_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        if status:
            assert json.loads(done.stdout.splitlines()[0])["error"]["code"] == "usage.extra_missing"
        else:
            assert "Make, list and revoke users' tokens." in done.stdout
            assert ast.literal_eval(done.stdout.splitlines()[-1]) == []
