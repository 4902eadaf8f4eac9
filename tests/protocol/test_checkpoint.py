"""Checkpoints and cosignatures: the published form, byte for byte, and nothing else."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from plasmid.core.errors import ProtocolError
from plasmid.protocol.checkpoint import (
    MAX_NOTE_BYTES,
    Checkpoint,
    Note,
    _key_id,
    cosign,
    key_name,
    origin_of,
    parse_note,
)
from plasmid.protocol.identity import Identity, fingerprint, verify

ROOT = hashlib.sha256(b"root").digest()
ALPHA = Identity("alpha", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
BETA = Identity("beta", Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))


def checkpoint(size: int = 7, *, generation: int = 1) -> Checkpoint:
    return Checkpoint(origin_of("alpha", ALPHA.public, generation), size, ROOT)


def note() -> Note:
    return Note(checkpoint()).signed(ALPHA, "alpha")


def test_the_key_id_and_the_signature_are_those_of_the_note_format() -> None:
    """The example of the note format's first implementation: its verifier key and its signed note."""
    name, key_id = "PeterNeumann", "c74f20a3"
    key = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    kind, public = key[:1], key[1:].hex()
    assert _key_id(name, kind, public).hex() == key_id
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    signature = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    assert signature[:4].hex() == key_id
    verify(public, text.encode(), signature[4:].hex())


def test_a_checkpoint_s_text_has_three_lines() -> None:
    said = checkpoint(20852163)
    text = f"plasmid-log/alpha/{fingerprint(ALPHA.public)}\n20852163\n{base64.b64encode(ROOT).decode()}\n"
    assert said.text() == text
    assert (said.site, said.key_fingerprint, said.generation) == ("alpha", fingerprint(ALPHA.public), 1)
    assert checkpoint(generation=3).origin == said.origin + "/3"
    assert checkpoint(generation=3).generation == 3


def test_a_signature_line_is_name_key_id_and_ed25519_over_the_text() -> None:
    (line,) = note().lines
    dash, name, encoded = line.split(" ")
    data = base64.b64decode(encoded)
    assert (dash, name) == ("\u2014", key_name("alpha", ALPHA.public))
    public = bytes.fromhex(ALPHA.public)
    assert data[:4] == hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    Ed25519PublicKey.from_public_bytes(public).verify(data[4:], checkpoint().text().encode())
    assert note().text() == f"{checkpoint().text()}\n{line}\n"


def test_a_cosignature_line_is_time_and_ed25519_over_header_time_and_text() -> None:
    line = cosign(checkpoint(), BETA, "beta", 1679315147)
    _, name, encoded = line.split(" ")
    data = base64.b64decode(encoded)
    public = bytes.fromhex(BETA.public)
    assert data[:4] == hashlib.sha256(name.encode() + b"\n\x04" + public).digest()[:4]
    assert data[4:12] == (1679315147).to_bytes(8, "big")
    message = f"cosignature/v1\ntime 1679315147\n{checkpoint().text()}".encode()
    Ed25519PublicKey.from_public_bytes(public).verify(data[12:], message)


def test_a_note_comes_back_and_says_who_signed() -> None:
    made = note().with_lines([cosign(checkpoint(), BETA, "beta", 5)])
    read = parse_note(made.text())
    assert read == made == parse_note(made.text().encode())
    read.check("alpha", ALPHA.public)
    assert read.cosigned("beta", BETA.public) == 5
    assert read.cosigned("alpha", ALPHA.public) is None  # its own signature is no cosignature
    assert read.cosigned("gamma", BETA.public) is None
    assert read.with_lines(made.lines) == read


def test_unknown_signatures_are_ignored() -> None:
    stranger = "\u2014 example.com/witness " + base64.b64encode(b"\x01" * 80).decode()
    read = parse_note(note().with_lines([stranger]).text())
    read.check("alpha", ALPHA.public)
    assert read.cosigned("beta", BETA.public) is None


@pytest.mark.parametrize(
    "made",
    [
        Note(checkpoint(), (cosign(checkpoint(), BETA, "beta", 5),)),  # not signed by the log
        Note(checkpoint(8), note().lines),  # another size
        Note(Checkpoint(checkpoint().origin, 7, bytes(32)), note().lines),  # another root
        Note(checkpoint()).signed(BETA, "alpha"),  # another key under the log's name
        Note(Checkpoint(origin_of("beta", BETA.public), 7, ROOT)).signed(ALPHA, "alpha"),  # another's log
        Note(checkpoint(), (cosign(checkpoint(), ALPHA, "alpha", 5),)),  # a cosignature for a signature
    ],
)
def test_what_the_site_did_not_sign_is_refused(made: Note) -> None:
    with pytest.raises(ProtocolError) as caught:
        made.check("alpha", ALPHA.public)
    assert caught.value.code == "protocol.signature"


def test_a_cosignature_that_is_none_is_refused() -> None:
    other = cosign(checkpoint(8), BETA, "beta", 5)
    late = cosign(checkpoint(), BETA, "beta", 2**62)
    for line in (other, late):
        with pytest.raises(ProtocolError) as caught:
            note().with_lines([line]).cosigned("beta", BETA.public)
        assert caught.value.code == "protocol.signature"


def changed(old: str, new: str) -> str:
    text = note().text()
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        checkpoint().text(),
        checkpoint().text() + "\n",
        note().text()[:-1],
        note().text() + "\n",
        note().text() + "garbage\n",
        changed("\n7\n", "\n07\n"),
        changed("\n7\n", "\n+7\n"),
        changed("\n7\n", "\n-7\n"),
        changed("\n7\n", f"\n{2**53}\n"),
        changed("\n7\n", "\n\u0667\n"),
        changed("=\n\n", "\n\n"),
        changed("=\n\n", "=\nan extension line\n\n"),
        changed("plasmid-log/", "plasmid-message/"),
        changed("/alpha/", "/../"),
        changed("\n7\n", "/1\n7\n"),  # a second spelling of the first generation
        changed("\u2014 ", "- "),
        changed("\u2014 ", "\u2014  "),
        "x" * (MAX_NOTE_BYTES + 1),
    ],
)
def test_there_is_one_spelling(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ProtocolError) as caught:
            parse_note(form)
        assert caught.value.code == "protocol.malformed"


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ProtocolError):
        parse_note(b"\xff" * 20)
