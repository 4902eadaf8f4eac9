"""Keys at rest: what a file of keys gives away, to whom, and what a wrong passphrase changes."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import KeysError, PlasmidError
from plasmid.gateway.keys.keystore import (
    CHOSEN,
    DRAWN,
    MAX_FILE_BYTES,
    Cost,
    EncryptedFile,
    KeyStore,
    draw_passphrase,
)
from plasmid.gateway.keys.passphrase import from_file
from plasmid.protocol.identity import verify

CHEAP = Cost(n=2)
WORDS = "correct horse battery"


def made(path: Path, *, words: str = WORDS, cost: Cost = CHEAP) -> EncryptedFile:
    return EncryptedFile.create(path, "alpha", lambda: words, cost=cost)


def opened(path: Path, words: str = WORDS) -> EncryptedFile:
    return EncryptedFile(path, lambda: words)


def test_the_keys_come_back_as_they_were(tmp_path: Path) -> None:
    new: KeyStore = made(tmp_path / "site" / "keys.json")
    again = opened(tmp_path / "site" / "keys.json")
    assert again.name == again.identity().name == "alpha"
    assert again.public == again.identity().public
    assert new.identity().public == again.identity().public
    assert new.tls_password() == again.tls_password()
    assert len(again.tls_password()) == 64
    verify(again.public, b"said", new.identity().sign(b"said"))


def test_name_and_public_key_need_no_passphrase(tmp_path: Path) -> None:
    public = made(tmp_path / "keys.json").identity().public

    def never() -> str:
        raise AssertionError("nobody is to be asked")

    assert (EncryptedFile(tmp_path / "keys.json", never).public) == public


def test_the_passphrase_is_asked_for_once_a_process_and_anew_by_a_new_object(tmp_path: Path) -> None:
    made(tmp_path / "keys.json")
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        return WORDS

    keys = EncryptedFile(tmp_path / "keys.json", ask)
    keys.identity(), keys.tls_password(), keys.identity()
    assert len(asked) == 1
    EncryptedFile(tmp_path / "keys.json", ask).identity()
    assert len(asked) == 2


@pytest.mark.promise("keys-encrypted")
def test_the_file_is_its_owners_and_holds_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = made(path)
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    seed = keys.identity()._private.private_bytes_raw()
    for secret in (seed.hex(), keys.tls_password().decode(), WORDS):
        assert secret not in text
    assert json.loads(text)["public"] == keys.public


def test_two_files_of_one_passphrase_share_nothing(tmp_path: Path) -> None:
    one, two = (json.loads(made(tmp_path / name).path.read_text()) for name in ("a.json", "b.json"))
    assert all(one[part] != two[part] for part in ("salt", "nonce", "sealed", "public"))


@pytest.mark.promise("keys-encrypted")
@pytest.mark.parametrize("wrong", ["correct horse batterx", "Correct horse battery", "", "x" * 2000])
def test_a_wrong_passphrase_opens_nothing_and_changes_nothing(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "keys.json"
    made(path)
    before = path.read_bytes()
    keys = opened(path, wrong)
    for use in (keys.identity, keys.tls_password, lambda: keys.rekey(lambda: "another twelve")):
        with pytest.raises(KeysError) as refused:
            use()
        assert refused.value.code == "keys.passphrase"
        assert wrong == "" or wrong not in "".join(traceback.format_exception(refused.value))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "beta"},
        {"public": "0" * 64},
        {"cost": {"n": 4, "r": 8, "p": 1}},
        {"salt": "0" * 64},
        {"nonce": "0" * 24},
        {"sealed": "A" * 107 + "="},
    ],
    ids=str,
)
def test_a_changed_file_is_the_same_error_as_a_wrong_passphrase(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "keys.json"
    made(path)
    with pytest.raises(KeysError) as wrong:
        opened(path, "not the passphrase").identity()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(KeysError) as changed:
        opened(path).identity()
    assert changed.value.as_dict() == wrong.value.as_dict()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"format": "plasmid-keys/2"}',
        b"[" * 10_000,
        b" " * (MAX_FILE_BYTES + 1),
    ],
)
def test_what_is_no_file_of_keys_is_said(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(text)
    with pytest.raises(KeysError) as refused:
        opened(path).identity()
    assert refused.value.code == "keys.damaged"


@pytest.mark.parametrize("cost", [{"n": 2**21}, {"n": 2**10, "r": 64}, {"n": 1000}, {"n": 2**10, "p": 99}])
def test_a_cost_that_would_exhaust_the_host_is_refused_unread(tmp_path: Path, cost: dict[str, int]) -> None:
    path = tmp_path / "keys.json"
    made(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cost": {"r": 8, "p": 1} | cost}))
    with pytest.raises(KeysError) as refused:
        opened(path).identity()
    assert refused.value.code == "keys.damaged"


def test_no_keys_is_said(tmp_path: Path) -> None:
    with pytest.raises(KeysError) as refused:
        opened(tmp_path / "keys.json").identity()
    assert refused.value.code == "keys.absent"
    assert "site init" in refused.value.hint


@pytest.mark.parametrize("words", ["", "eleven char", "ü" * 513])
def test_a_new_passphrase_has_its_length(tmp_path: Path, words: str) -> None:
    with pytest.raises(KeysError) as refused:
        made(tmp_path / "keys.json", words=words)
    assert refused.value.code == "keys.weak_passphrase"
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize("name", ["../up", "A", "", "a b"])
def test_a_name_is_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlasmidError) as refused:
        EncryptedFile.create(tmp_path / "keys.json", name, lambda: WORDS, cost=CHEAP)
    assert refused.value.code == "usage.name"


def test_keys_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made(path)
    before = path.read_bytes()
    with pytest.raises(PlasmidError) as refused:
        made(path)
    assert refused.value.code == "usage.exists"
    assert path.read_bytes() == before


def test_rekeying_keeps_the_keys_and_shuts_out_the_old_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = made(path)
    public, password = keys.identity().public, keys.tls_password()
    keys.rekey(lambda: "another twelve", cost=CHEAP)
    assert (keys.identity().public, keys.tls_password()) == (public, password)
    assert opened(path, "another twelve").tls_password() == password
    with pytest.raises(KeysError):
        opened(path).identity()


def test_a_weak_new_passphrase_leaves_the_old_one(tmp_path: Path) -> None:
    keys = made(tmp_path / "keys.json")
    with pytest.raises(KeysError) as refused:
        keys.rekey(lambda: "short", cost=CHEAP)
    assert refused.value.code == "keys.weak_passphrase"
    assert opened(tmp_path / "keys.json").identity().public == keys.public


def test_one_letter_has_one_spelling(tmp_path: Path) -> None:
    """A composed letter and its decomposed form look alike; keyboards differ in which they send."""
    path = tmp_path / "keys.json"
    made(path, words="caf\u00e9 caf\u00e9 caf\u00e9")
    assert opened(path, "cafe\u0301 cafe\u0301 cafe\u0301").identity().name == "alpha"


def test_what_is_written_is_what_is_used(tmp_path: Path) -> None:
    assert (CHOSEN.n, CHOSEN.r, CHOSEN.p) == (2**16, 8, 2)
    keys = made(tmp_path / "keys.json", cost=CHOSEN)
    assert json.loads(keys.path.read_text())["cost"] == {"n": 2**16, "r": 8, "p": 2}
    assert opened(keys.path).identity().public == keys.public


def test_a_drawn_passphrase_is_its_owners_and_of_256_bits(tmp_path: Path) -> None:
    draw_passphrase(tmp_path / "one")
    draw_passphrase(tmp_path / "two")
    one, two = from_file(tmp_path / "one")(), from_file(tmp_path / "two")()
    assert one != two
    assert len(one) == 43
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    made(tmp_path / "keys.json", words=one, cost=DRAWN)
    assert opened(tmp_path / "keys.json", one).identity().name == "alpha"
