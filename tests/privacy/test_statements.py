"""Statements: one spelling of each, the length of each field, and digests that both ends can compute."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from plasmid.secagg.statements import (
    PROTOCOL,
    Advert,
    Base64Bytes,
    Bundle,
    Consent,
    Ready,
    Recovery,
    Shares,
    Verified,
    digest_of,
    survivors_digest,
)
from support.federation.secure_sum import H, contribution, started

D = "d" * 64
HEAD = {"run": "run", "epoch": 1}
VERIFIED = Verified(round=2, state=D, needs=3)
STATEMENTS = {
    statement.type: statement
    for statement in (
        started(slots=2)["alpha"].advert,
        Bundle(**HEAD, sender="a", receiver="b", rho=D, kem=bytes(1088), sealed=bytes(112), heard=["{}"]),
        Recovery(**HEAD, site="a", rho=D, blob=D),
        Ready(**HEAD, site="a", rho=D, blobs=D, n=3, c=1, theta=3, verified=VERIFIED),
        contribution("a", memoryview(b"1234")),
        Consent(**HEAD, round=1, slot=0, site="a", manifest=H, survivors=D, verified=True),
        Shares(**HEAD, slot=0, site="a", manifest=H, self_shares={"a": bytes(32)}, key_shares={}),
    )
}
every = pytest.mark.parametrize("kind", STATEMENTS)


@every
def test_a_statement_comes_back_from_json_and_has_one_form(kind: str) -> None:
    statement = STATEMENTS[kind]
    text = json.dumps(statement.model_dump(mode="json"))
    assert type(statement).model_validate_json(text) == statement
    assert all(
        isinstance(value, bytes | str | int | dict | list) for value in statement.model_dump().values()
    )


@every
def test_a_field_more_less_or_of_another_protocol_is_refused(kind: str) -> None:
    kind_of, payload = type(STATEMENTS[kind]), STATEMENTS[kind].model_dump(mode="json")
    with pytest.raises(ValidationError, match="extra_forbidden"):
        kind_of.model_validate({**payload, "more": 1})
    for name in set(payload) - {"type", "protocol", "heard"}:
        with pytest.raises(ValidationError, match="missing"):
            kind_of.model_validate({key: value for key, value in payload.items() if key != name})
    with pytest.raises(ValidationError):
        kind_of.model_validate({**payload, "protocol": "plasmid-sa/1"})


def spelt(data: bytes) -> str:
    return base64.b64encode(data).decode()


LENGTHS = [
    ("advert", "x25519", (31, 33, 0)),
    ("advert", "mlkem768", (1183, 1185)),
    ("advert", "key_commitments", (0, 31, 33, 257 * 32)),
    ("advert", "self_commitments", (0, 63, 257 * 32)),
    ("bundle", "kem", (1087, 1089)),
    ("advert", "group_commitment", (31, 33)),
    ("bundle", "sealed", (0, 111, 256 * 96 + 32 + 17)),
]


@pytest.mark.parametrize(("kind", "name", "sizes"), LENGTHS)
def test_a_binary_field_has_its_length(kind: str, name: str, sizes: tuple[int, ...]) -> None:
    payload = STATEMENTS[kind].model_dump(mode="json")
    for size in sizes:
        with pytest.raises(ValidationError, match="not the length of this field"):
            type(STATEMENTS[kind]).model_validate({**payload, name: spelt(bytes(size))})


def test_a_share_has_its_length_and_an_answer_at_most_64() -> None:
    payload = STATEMENTS["shares"].model_dump(mode="json")
    for shares in ({"a": spelt(bytes(31))}, {"A": spelt(bytes(32))}):
        with pytest.raises(ValidationError):
            Shares.model_validate({**payload, "self_shares": shares})
    for count, accepted in ((64, True), (65, False)):
        many = {f"s{index}": spelt(bytes(32)) for index in range(count)}
        if accepted:
            assert len(Shares.model_validate({**payload, "key_shares": many}).key_shares) == count
        else:
            with pytest.raises(ValidationError, match="too_long"):
                Shares.model_validate({**payload, "key_shares": many})


@pytest.mark.parametrize(
    "value", ["AAE", "AAE=\n", "AAF=", "AA E=", "AA-_", "A", "AAAA", 1, None, ["AAE="], True]
)
def test_bytes_have_one_spelling(value: Any) -> None:
    field = Base64Bytes(2)
    assert field.read("AAE=") == field.read(b"\x00\x01") == b"\x00\x01"
    with pytest.raises(ValueError, match=r"base64|length"):
        field.read(value)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("advert", "run", "../run"),
        ("advert", "epoch", 0),
        ("advert", "epoch", "1"),
        ("advert", "site", "A"),
        ("advert", "document", "D" * 64),
        ("ready", "n", 65),
        ("ready", "theta", 0),
        ("bundle", "heard", ["x" * 2049]),
        ("bundle", "heard", ["x"] * 3),
        ("bundle", "heard", [1]),
        ("contribution", "round", 0),
        ("contribution", "ledger_counter", -1),
        ("contribution", "body", "0" * 63),
        ("consent", "slot", 256),
        ("consent", "round", 0),
        ("consent", "slot", -1),
    ],
)
def test_a_value_out_of_range_is_refused(kind: str, name: str, value: Any) -> None:
    payload = STATEMENTS[kind].model_dump(mode="json")
    with pytest.raises(ValidationError):
        type(STATEMENTS[kind]).model_validate({**payload, name: value})


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def test_a_digest_over_statements_is_of_their_json_in_the_order_of_sites() -> None:
    adverts: list[Advert] = [site.advert for site in started(("b", "a", "c"), slots=1).values()]
    by_hand = [adverts[place].model_dump(mode="json") for place in (1, 0, 2)]
    assert digest_of(adverts) == hashlib.sha256(canonical(by_hand)).hexdigest()
    assert digest_of(adverts[::-1]) == digest_of(adverts)
    assert by_hand[0]["protocol"] == PROTOCOL == "plasmid-sa/2"


def test_a_digest_of_survivors_is_of_sites_and_bodies_alone() -> None:
    said = [contribution(name, memoryview(name.encode())) for name in ("b", "a")]
    pairs = [["a", said[1].body], ["b", said[0].body]]
    assert survivors_digest(said) == hashlib.sha256(canonical(pairs)).hexdigest()
    assert survivors_digest(said[:1]) != survivors_digest(said)
