"""Exports and proofs: what a stranger can verify with the file alone, and what shows."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import PlasmidError, ProtocolError
from plasmid.log.export import PROOF, Known, Named, export, prove
from plasmid.log.verify import Proven, compare, parse_export, sentences
from plasmid.protocol.identity import Identity, fingerprint
from support.federation.cosigners import Cosigners


@pytest.fixture
def sites(tmp_path: Path) -> Cosigners:
    """Alpha has 7 entries: 5 that its peers cosigned, one that it signed alone, one that nobody signed."""
    made = Cosigners(tmp_path)
    for number in range(5):
        made.logs["alpha"].write("released", number=number)
    made.exchange("alpha")
    made.logs["alpha"].write("end")
    made.logs["alpha"].write("ask")
    return made


def named(sites: Cosigners, name: str) -> Named:
    known = {
        one: Known(name=one, organisation=f"{one} hospital", key=identity.public)
        for one, identity in sites.identities.items()
    }
    return Named(site=known[name], peers=[one for peer, one in known.items() if peer != name])


def exported(sites: Cosigners, name: str) -> bytes:
    return export(sites.logs[name].files, named(sites, name))


def proof(sites: Cosigners, seq: int) -> bytes:
    return prove(sites.logs["alpha"].files, named(sites, "alpha"), seq)


def read(data: bytes, **given: str) -> Proven:
    return parse_export(data, "the file", given)


def refused(code: str, data: bytes, **given: str) -> PlasmidError:
    with pytest.raises(ProtocolError) as caught:
        read(data, **given)
    assert caught.value.code == code
    return caught.value


# -- what is proven ----------------------------------------------------------------------------------


def test_an_export_says_what_is_proven_by_whom_and_what_is_not(sites: Cosigners) -> None:
    alpha, beta = sites.identities["alpha"].public, sites.identities["beta"].public
    found = read(exported(sites, "alpha"), alpha=alpha)
    assert (found.first, found.last, found.signed) == (1, 7, 6)
    assert [(one.site, one.size, one.key.given) for one in found.cosigned] == [
        ("beta", 5, False),
        ("gamma", 5, False),
    ]
    first, signed, one, two, unseen, unsigned, never = sentences(found)
    assert first == f"the file: entries 1 to 7 of plasmid-log/alpha/{fingerprint(alpha)}"
    assert signed == f"signed by alpha up to entry 6 ({fingerprint(alpha)}, the key that you gave)"
    when = found.cosigned[0].time
    assert one.startswith(f"cosigned by beta up to entry 5 at {when} ({fingerprint(beta)}, ")
    assert one.endswith("named by the file alone: compare it with its owner)")
    assert two.startswith("cosigned by gamma up to entry 5")
    assert unseen == ("not proven: that everybody was shown the same entry 6; no peer has cosigned that far")
    assert unsigned == "not proven: entry 7, which nobody has signed yet"
    assert never == "never proven: that the site wrote down all that it did"


@pytest.mark.promise("export-verifies")
def test_a_fingerprint_is_enough(sites: Cosigners) -> None:
    given = {
        name: fingerprint(identity.public).replace("-", "") for name, identity in sites.identities.items()
    }
    found = read(exported(sites, "alpha"), **given)
    assert found.key.given
    assert all(one.key.given for one in found.cosigned)


def test_an_export_holds_the_entries_as_they_were_written(sites: Cosigners) -> None:
    lines = exported(sites, "alpha").split(b"\n")
    assert b"\n".join(lines[1:]) == sites.logs["alpha"].files.log.read_bytes()


@pytest.mark.parametrize("seq", [1, 2, 3, 4, 5, 6])
def test_a_proof_shows_one_entry(sites: Cosigners, seq: int) -> None:
    data = proof(sites, seq)
    assert data.startswith(f"{PROOF}\nextra ".encode())
    found = read(data)
    assert found.entry == sites.logs["alpha"].entries()[seq - 1]
    assert (found.first, found.last) == (seq, seq)
    # the most cosigned checkpoint that covers it
    assert (found.signed, len(found.cosigned)) == ((5, 2) if seq <= 5 else (6, 0))


@pytest.mark.parametrize("seq", [-1, 0, 7, 8])
def test_what_nobody_signed_has_no_proof(sites: Cosigners, seq: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        proof(sites, seq)
    assert caught.value.code == "protocol.log_unsigned"


def test_a_log_without_a_checkpoint_is_not_exported(sites: Cosigners, tmp_path: Path) -> None:
    sites.logs["beta"].files.checkpoint.unlink()
    with pytest.raises(ProtocolError) as caught:
        exported(sites, "beta")
    assert caught.value.code == "protocol.log_unsigned"


# -- what shows ----------------------------------------------------------------------------------------


def lines_of(data: bytes) -> list[bytes]:
    return data.split(b"\n")


def header(data: bytes, **changes: Any) -> bytes:
    first, *rest = lines_of(data)
    values = json.loads(first) | changes
    return b"\n".join([json.dumps(values).encode(), *rest])


def an_edit(data: bytes) -> bytes:
    return data.replace(b'"number":2', b'"number":3', 1)


def a_line_less(data: bytes) -> bytes:
    lines = lines_of(data)
    return b"\n".join(lines[:3] + lines[4:])


def the_end_cut(data: bytes) -> bytes:
    return b"\n".join([*lines_of(data)[:4], b""])


def a_torn_line(data: bytes) -> bytes:
    return data[:-5]


def another_order(data: bytes) -> bytes:
    lines = lines_of(data)
    return b"\n".join([lines[0], lines[2], lines[1], *lines[3:]])


CHANGES = [an_edit, a_line_less, the_end_cut, a_torn_line, another_order]


@pytest.mark.promise("export-verifies")
@pytest.mark.parametrize("change", CHANGES)
def test_an_export_that_was_changed_is_refused(sites: Cosigners, change: Callable[[bytes], bytes]) -> None:
    data = exported(sites, "alpha")
    read(data)  # control
    assert change(data) != data
    refused("protocol.log_false", change(data))


def test_a_key_that_the_reader_knows_is_used(sites: Cosigners) -> None:
    other = Identity.generate("x").public
    for name in ("alpha", "beta"):
        for key in (other, fingerprint(other).replace("-", "")):
            error = refused("protocol.log_false", exported(sites, "alpha"), **{name: key})
            assert f"another key for {name} than the one that you gave" in error.message


def test_another_key_in_the_file_fits_no_signature(sites: Cosigners) -> None:
    data = exported(sites, "alpha")
    stranger = {"name": "alpha", "organisation": "x", "key": Identity.generate("alpha").public}
    refused("protocol.signature", header(data, site=stranger))
    peers = json.loads(lines_of(data)[0])["peers"]
    found = read(header(data, peers=[peers[0] | {"key": stranger["key"]}, peers[1]]))
    assert [one.site for one in found.cosigned] == ["gamma"]  # nobody's cosignature counts for beta
    refused("protocol.log_false", header(data, peers=[peers[0], peers[0]]))


def test_checkpoints_of_another_log_are_refused(sites: Cosigners) -> None:
    data = exported(sites, "alpha")
    for name in ("beta", "gamma"):
        other = sites.logs[name].checkpoint().text()
        refused("protocol.signature", header(data, checkpoints=[other]))
    mine = json.loads(lines_of(data)[0])["checkpoints"]
    sites.logs["alpha"].restart(actor="owner", reason="x")
    both = [*mine, sites.logs["alpha"].checkpoint().text()]
    refused("protocol.log_false", header(data, checkpoints=both))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}",
        b"{}\n",
        b"[" * 10**6,
        b'{"a":1' + b',"a":1' * 400_000 + b"}\n",
        b"\xff\xfe\n",
        PROOF.encode(),
        f"{PROOF}\nindex 0\n\n".encode(),
        f"{PROOF}\nextra !\nindex 0\n\nx\n".encode(),
        f"{PROOF}\nextra e30=\nindex 0\n\nx\n".encode(),
        f"{PROOF}\nextra e30=\nindex 00\n\nx\n".encode(),
        f"{PROOF}\nextra e30=\nindex {'9' * 5000}\n\nx\n".encode(),
    ],
)
def test_what_is_neither_is_refused(data: bytes) -> None:
    refused("protocol.malformed", data)


def test_a_proof_that_was_changed_is_refused(sites: Cosigners) -> None:
    data = proof(sites, 3)
    read(data)  # control
    head, extra, index, *rest = data.decode().split("\n")
    values = json.loads(base64.b64decode(extra.removeprefix("extra ")))

    def with_entry(entry: str) -> bytes:
        made = base64.b64encode(json.dumps(values | {"entry": entry}).encode()).decode()
        return "\n".join([head, f"extra {made}", index, *rest]).encode()

    assert read(with_entry(values["entry"])).first == 3
    refused("protocol.log_false", with_entry(values["entry"].replace('"number":2', '"number":3')))
    refused("protocol.log_false", with_entry("{}"))
    for other in ("index 1", "index 3"):
        refused("protocol.log_false", "\n".join([head, extra, other, *rest]).encode())
    refused("protocol.log_false", "\n".join([head, extra, index, *rest[1:]]).encode())
    refused("protocol.log_false", "\n".join([head, extra, index, rest[0], rest[0], *rest[1:]]).encode())
    refused("protocol.log_false", data, alpha=Identity.generate("alpha").public)


# -- several files ---------------------------------------------------------------------------------------


def test_files_of_one_log_are_compared(sites: Cosigners) -> None:
    early = read(exported(sites, "alpha"))
    sites.logs["alpha"].write("released")
    late = read(exported(sites, "alpha"))
    compare([early, late, read(proof(sites, 2)), read(exported(sites, "beta"))])


def test_two_histories_that_were_shown_to_two_readers_are_seen(sites: Cosigners, tmp_path: Path) -> None:
    first = read(exported(sites, "alpha"))
    other = Cosigners(tmp_path / "other")
    other.identities = sites.identities
    other.restart("alpha")
    for number in range(7):
        other.logs["alpha"].write("released", number=number + 100)
    second = parse_export(exported(other, "alpha"), "the other file", {})
    for files in ([first, second], [second, first]):
        with pytest.raises(ProtocolError, match=r"has two histories of \d entries") as caught:
            compare(files)
        assert caught.value.code == "protocol.log_split"


@pytest.mark.promise("export-verifies")
def test_a_peer_s_export_shows_that_another_history_was_cosigned(sites: Cosigners, tmp_path: Path) -> None:
    """Beta was shown one history of alpha, the reader another: beta's file has alpha's own signature."""
    of_beta = read(exported(sites, "beta"))
    assert [one.site for one in of_beta.witnessed] == ["alpha"]
    compare([of_beta, read(exported(sites, "alpha"))])  # control
    other = Cosigners(tmp_path / "other")
    other.identities = sites.identities
    other.restart("alpha")
    for number in range(5):
        other.logs["alpha"].write("released", number=number + 100)
    shown = parse_export(exported(other, "alpha"), "what the reader was shown", {})
    with pytest.raises(ProtocolError, match="two histories of 5 entries"):
        compare([of_beta, shown])
