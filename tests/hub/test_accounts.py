"""Who may do what, and tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from plasmid.core.errors import HubError
from plasmid.hub.accounts.accounts import Accounts
from plasmid.hub.settings import Hub
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import ACTIONS, Account, Action

BEGIN = datetime(2026, 11, 26, tzinfo=UTC)


def refusal(code: str) -> pytest.RaisesExc[HubError]:
    return pytest.RaisesExc(HubError, check=lambda error: error.code == code)


def asked(hub: Hub, user: str, scope: Action) -> Account:
    account = hub.accounts.who(hub.accounts.create_token(user, "test", scope=scope)[1])
    assert account is not None
    return account


@pytest.mark.promise("hub-keeps-hashes")
def test_a_token_is_shown_once_and_stored_as_its_hash(hub: Hub) -> None:
    token, secret = hub.accounts.create_token("Ann", "laptop", scope="write")
    assert secret.startswith("hf_")
    assert (len(secret), token.account, token.scope) == (37, "ann", "write")
    account = hub.accounts.who(secret)
    assert account is not None
    assert (account.name, account.scope, account.organisations) == ("ann", "write", {"lab": "admin"})
    with hub.engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM tokens")).all()
    assert secret[3:] not in repr(rows)
    for wrong in ("", "hf_", secret[:-1], secret + "x", token.id, "hf_\0", "hf_\ud800"):
        assert hub.accounts.who(wrong) is None


def test_a_revoked_token_opens_nothing(hub: Hub) -> None:
    token, secret = hub.accounts.create_token("ann", "laptop")
    other = hub.accounts.create_token("bob", "laptop")[0]
    assert [known.id for known in hub.accounts.tokens()] == [token.id, other.id]
    assert hub.accounts.revoke(token.id[:8]) == token
    assert hub.accounts.who(secret) is None
    assert hub.accounts.tokens("ann") == []
    for wrong in ("", token.id, "x"):
        with refusal("hub.token_missing"):
            hub.accounts.revoke(wrong)


def test_a_token_expires_and_tells_when_it_was_used(hub: Hub) -> None:
    clock = [BEGIN]
    accounts = Accounts(hub.engine, clock=lambda: clock[0])
    _, secret = accounts.create_token("ann", "laptop", days=1)
    clock[0] = BEGIN + timedelta(hours=23)
    assert accounts.who(secret) is not None
    assert accounts.tokens("ann")[0].used == clock[0]
    clock[0] = BEGIN + timedelta(days=1)
    assert accounts.who(secret) is None


@pytest.mark.parametrize("private", [False, True])
def test_a_role_and_a_scope_allow_the_least_of_both(hub: Hub, private: bool) -> None:
    for user, role in (("bob", "read"), ("eve", "write")):
        hub.accounts.join("lab", user, role)  # type: ignore[arg-type]
    repo = hub.registry.create(RepoId("lab", "x"), by=hub.accounts.get("ann"), private=private)
    allowed = {
        f"{user}/{scope}": [
            action for action in ACTIONS if Accounts.may(asked(hub, user, scope), repo, action)
        ]
        for user in ("ann", "bob", "eve")
        for scope in ACTIONS
    }
    read, write, admin = ["read"], ["read", "write"], ["read", "write", "admin"]
    assert allowed == {
        "ann/read": read, "ann/write": write, "ann/admin": admin,
        "bob/read": read, "bob/write": read, "bob/admin": read,
        "eve/read": read, "eve/write": write, "eve/admin": write,
    }  # fmt: skip
    assert Accounts.may(None, repo, "read") is not private
    assert not Accounts.may(None, repo, "write")
    hub.accounts.leave("lab", "bob")
    assert Accounts.may(asked(hub, "bob", "admin"), repo, "read") is not private


def test_who_may_make_repositories(hub: Hub) -> None:
    hub.accounts.join("lab", "bob", "read")
    assert Accounts.may_create(asked(hub, "ann", "write"), "LAB")
    assert Accounts.may_create(asked(hub, "bob", "write"), "bob")
    assert not Accounts.may_create(asked(hub, "ann", "read"), "ann")
    assert not Accounts.may_create(asked(hub, "bob", "admin"), "lab")
    assert not Accounts.may_create(asked(hub, "bob", "admin"), "ann")
    assert not Accounts.may_create(None, "ann")


def test_names_are_taken_whatever_their_case(hub: Hub) -> None:
    with refusal("hub.account_exists"):
        hub.accounts.create_organisation("ANN")
    with refusal("hub.name"):
        hub.accounts.create_user("a/b")
    with refusal("hub.email"):
        hub.accounts.create_user("carl", email="nowhere")
    with refusal("hub.account_missing"):
        hub.accounts.join("ann", "bob", "read")
    with refusal("hub.account_missing"):
        hub.accounts.create_token("lab", "x")
    with refusal("hub.role"):
        hub.accounts.join("lab", "bob", "owner")  # type: ignore[arg-type]
    with refusal("hub.token_name"):
        hub.accounts.create_token("ann", "")
    assert [account.name for account in hub.accounts.all()] == ["ann", "bob", "eve", "lab"]
    assert hub.accounts.members("lab") == {"ann": "admin"}
