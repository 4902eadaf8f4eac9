"""Bundles and blobs open for whom they are meant, in the epoch they are meant for, and for nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from plasmid.core.errors import ProtocolError
from plasmid.secagg.channels import Channel, open_blob, seal_blob
from plasmid.secagg.statements import Advert, Bundle

RHO = "5a" * 32


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


def made(site: str, **fields: Any) -> tuple[Channel, Advert]:
    """Return a site's keys, and its advert."""
    channel = Channel()
    advert = Advert(
        **{"run": "run", "epoch": 1, **fields},
        site=site,
        document="d" * 64,
        x25519=channel.x25519,
        mlkem768=channel.mlkem768,
        key_commitments=bytes(32),
        self_commitments=bytes(32),
        group_commitment=bytes(32),
    )
    return channel, advert


A_KEYS, A = made("a")
B_KEYS, B = made("b")
C_KEYS, C = made("c")
PLAIN = bytes(range(96))
BUNDLE = A_KEYS.seal(PLAIN, sender=A, receiver=B, rho=RHO)


def test_a_bundle_opens_for_its_receiver() -> None:
    assert B_KEYS.open(BUNDLE, sender=A, receiver=B) == PLAIN
    assert (BUNDLE.sender, BUNDLE.receiver, BUNDLE.rho, len(BUNDLE.sealed)) == ("a", "b", RHO, 96 + 16)
    assert PLAIN not in BUNDLE.sealed


def test_two_bundles_of_the_same_plain_share_nothing() -> None:
    """The key is fresh each time, which is why the nonce may be constant."""
    again = A_KEYS.seal(PLAIN, sender=A, receiver=B, rho=RHO)
    back = B_KEYS.seal(PLAIN, sender=B, receiver=A, rho=RHO)
    assert len({BUNDLE.kem, again.kem, back.kem}) == len({BUNDLE.sealed, again.sealed, back.sealed}) == 3


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("keys", "bundle", "sender", "receiver"),
    [
        (C_KEYS, BUNDLE, A, B),  # somebody else's keys
        (B_KEYS, BUNDLE, C, B),  # another sender's
        (B_KEYS, BUNDLE, A.model_copy(update={"site": "c"}), B),
        (B_KEYS, BUNDLE, A, B.model_copy(update={"site": "c"})),
        (B_KEYS, BUNDLE, A.model_copy(update={"epoch": 2}), B),
        (B_KEYS, BUNDLE, A.model_copy(update={"run": "run-2"}), B),
        (B_KEYS, BUNDLE.model_copy(update={"rho": "00" * 32}), A, B),
        (B_KEYS, BUNDLE.model_copy(update={"kem": flipped(BUNDLE.kem, 5)}), A, B),
        (B_KEYS, BUNDLE.model_copy(update={"sealed": flipped(BUNDLE.sealed, 20)}), A, B),
        (B_KEYS, BUNDLE.model_copy(update={"sealed": flipped(BUNDLE.sealed, 111)}), A, B),
        (B_KEYS, BUNDLE.model_copy(update={"sealed": BUNDLE.sealed[:-1]}), A, B),
        (B_KEYS, BUNDLE.model_copy(update={"sealed": b""}), A, B),
        (B_KEYS, BUNDLE, A.model_copy(update={"x25519": bytes(32)}), B),  # a key of small order
    ],
)
def test_a_bundle_opens_for_nobody_else_and_no_other_way(
    keys: Channel, bundle: Bundle, sender: Advert, receiver: Advert
) -> None:
    with refusal("protocol.bundles"):
        keys.open(bundle, sender=sender, receiver=receiver)


@pytest.mark.parametrize("key", [{"x25519": bytes(32)}, {"mlkem768": b"\xff" * 1184}])
def test_nothing_is_sealed_to_a_key_that_is_none(key: dict[str, bytes]) -> None:
    with refusal("protocol.adverts"):
        A_KEYS.seal(PLAIN, sender=A, receiver=B.model_copy(update=key), rho=RHO)


def test_a_blob_opens_with_its_secret_alone() -> None:
    blob = seal_blob(b"k" * 32, PLAIN, advert=A, slot=3)
    assert open_blob(b"k" * 32, blob, advert=A, slot=3) == PLAIN
    assert len(seal_blob(b"k" * 32, b"", advert=A, slot=0)) == 16  # the first site was given no seeds
    for secret, sealed, advert, slot in (
        (b"K" + b"k" * 31, blob, A, 3),
        (b"k" * 32, flipped(blob, 0), A, 3),
        (b"k" * 32, blob[:10], A, 3),
        (b"k" * 32, blob, B, 3),
        (b"k" * 32, blob, A.model_copy(update={"epoch": 2}), 3),
        (b"k" * 32, blob, A, 2),
    ):
        with refusal("protocol.recovery"):
            open_blob(secret, sealed, advert=advert, slot=slot)
