"""What a site keeps of its peers' own words: the newest, whole, and only where the peer signed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.gateway.members.heads import Heads, said_by
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import sign, wire
from plasmid.secagg.statements import MAX_HEARD, Consent, Contribution
from support.federation.attacks import refusal
from support.federation.in_memory import SITES

D = "d" * 64
ALPHA, BETA, _ = (Identity.generate(site) for site in SITES)


def contribution(identity: Identity, counter: int, *, run: str = "run", number: int = 1) -> str:
    said = Contribution(
        run=run,
        site=identity.name,
        epoch=number,
        round=number,
        slot=number,
        manifest=D,
        body=D,
        body_bytes=number,
        tag=bytes(8),
        ledger_counter=counter,
        ledger_head=D,
        isolation="bubblewrap",
    )
    return wire(sign(identity, said)).decode()


def test_the_newest_is_kept_and_lasts(tmp_path: Path) -> None:
    heads = Heads(tmp_path / "heads.json")
    assert heads.newest("beta", BETA.public) == ""
    first, second = contribution(BETA, 3), contribution(BETA, 5)
    heads.note([(BETA.public, second), (ALPHA.public, contribution(ALPHA, 1))])
    heads.note([(BETA.public, first)])
    again = Heads(tmp_path / "heads.json")
    assert again.newest("beta", BETA.public) == second
    assert set(again.all()) == {"alpha", "beta"}


def test_what_a_site_did_not_sign_or_what_charges_nothing_is_not_kept(tmp_path: Path) -> None:
    heads = Heads(tmp_path / "heads.json")
    heads.note([(ALPHA.public, contribution(BETA, 9)), (ALPHA.public, contribution(ALPHA, 0))])
    assert heads.all() == {}
    assert not (tmp_path / "heads.json").exists()


def test_a_new_key_s_word_takes_the_place_of_a_former_one_s(tmp_path: Path) -> None:
    heads, renewed = Heads(tmp_path / "heads.json"), Identity.generate("beta")
    heads.note([(BETA.public, contribution(BETA, 9))])
    assert heads.newest("beta", renewed.public) == ""
    heads.note([(renewed.public, contribution(renewed, 1))])
    assert heads.newest("beta", renewed.public)


@pytest.mark.parametrize("text", ["", "{}", "[]", "x", '{"payload":{},"signer":"beta"}', "9" * 5000])
def test_what_is_no_statement_is_nobody_s(text: str) -> None:
    assert said_by(BETA.public, text) is None


def test_statements_of_other_kinds_and_keys_are_none() -> None:
    said = Consent(run="r", epoch=1, round=1, slot=0, site="beta", manifest=D, survivors=D, verified=True)
    assert said_by(BETA.public, wire(sign(BETA, said)).decode()) == said
    assert said_by(ALPHA.public, wire(sign(BETA, said)).decode()) is None


def test_the_longest_statement_fits() -> None:
    """Names of 63 letters, every number the largest."""
    identity = Identity.generate("b" * 63)
    text = contribution(identity, 2**53 - 1, run="r" * 63, number=2**53 - 1)
    assert len(text) < MAX_HEARD - 512


@pytest.mark.parametrize("content", ["", "[]", "{", '{"b":5}', '{"b":null}'])
def test_damaged_heads_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "heads.json").write_text(content)
    with refusal("storage.heads_damaged"):
        Heads(tmp_path / "heads.json").note([(BETA.public, contribution(BETA, 1))])
