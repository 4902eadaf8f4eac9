"""Identity keys, signatures and the fingerprints that people compare."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from plasmid.core.errors import ProtocolError
from plasmid.protocol.identity import _SMALL_ORDER, Identity, fingerprint, verify

# RFC 8032, section 7.1, tests 1 and 2
SECRET_1 = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC_1 = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
SECRET_2 = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC_2 = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE_2 = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def identity(secret: str, name: str = "alpha") -> Identity:
    return Identity(name, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))


def refused(public: str, data: bytes, signature: str) -> None:
    with pytest.RaisesExc(ProtocolError, check=lambda error: error.code == "protocol.signature"):
        verify(public, data, signature)


def test_keys_and_signatures_meet_rfc_8032() -> None:
    assert identity(SECRET_1).public == PUBLIC_1
    known = identity(SECRET_2)
    assert known.public == PUBLIC_2
    assert known.sign(b"\x72") == SIGNATURE_2
    verify(PUBLIC_2, b"\x72", SIGNATURE_2)


@pytest.mark.parametrize(
    ("public", "data", "signature"),
    [
        (PUBLIC_1, b"\x72", SIGNATURE_2),
        (PUBLIC_2, b"\x73", SIGNATURE_2),
        (PUBLIC_2, b"", SIGNATURE_2),
        (PUBLIC_2, b"\x72", SIGNATURE_2[:-2] + "10"),
        (PUBLIC_2, b"\x72", SIGNATURE_2[:-2]),
        (PUBLIC_2, b"\x72", ""),
        (PUBLIC_2, b"\x72", "zz" * 64),
        ("ff" * 32, b"\x72", SIGNATURE_2),
        ("", b"\x72", SIGNATURE_2),
    ],
)
def test_any_other_signature_is_refused(public: str, data: bytes, signature: str) -> None:
    refused(public, data, signature)


def test_a_fingerprint_is_known_and_long_enough_to_compare() -> None:
    assert fingerprint(PUBLIC_1) == "EH7D-DX5B-KSRG-CYTL-7BKA-I36S-E4NX"
    # base32: five bits a letter
    assert 5 * len(fingerprint(PUBLIC_2).replace("-", "")) == 140
    assert fingerprint(PUBLIC_1) != fingerprint(PUBLIC_2)


def test_a_key_is_written_and_read() -> None:
    made = Identity.generate("alpha")
    read = Identity.from_pem("alpha", made.to_pem())
    assert read.public == made.public
    verify(made.public, b"data", read.sign(b"data"))
    assert Identity.generate("alpha").public != made.public


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"nothing of the kind",
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
)
def test_a_key_of_another_kind_is_refused(pem: bytes) -> None:
    with pytest.raises(ProtocolError, match="the identity key of alpha") as caught:
        Identity.from_pem("alpha", pem)
    assert caught.value.code == "protocol.identity"


def test_an_identity_does_not_show_its_key() -> None:
    known = identity(SECRET_1)
    assert SECRET_1 not in repr(vars(known)) + repr(known)


@pytest.mark.parametrize("sign_bit", [0, 1 << 255])
@pytest.mark.parametrize("y", sorted(_SMALL_ORDER))
def test_nothing_verifies_under_a_key_of_small_order(y: int, sign_bit: int) -> None:
    """The identity point as key and R, S = 0: without the check this fits every message."""
    public = (y | sign_bit).to_bytes(32, "little").hex()
    refused(public, b"any message", (b"\x01" + bytes(63)).hex())


def test_the_small_orders_are_those_of_the_curve() -> None:
    p, d = 2**255 - 19, -121665 * pow(121666, -1, 2**255 - 19)
    for y in _SMALL_ORDER:
        u, v = y * y - 1, d * y * y + 1
        x2 = u * pow(v, -1, p) % p
        x = pow(x2, (p + 3) // 8, p)
        x = x if (x * x - x2) % p == 0 else x * pow(2, (p - 1) // 4, p) % p
        assert (x * x - x2) % p == 0  # it is on the curve
        point = (x, y % p)
        for _ in range(3):
            point = _double(point, p, d)
        assert point == (0, 1)  # eight times it is the identity


def _double(point: tuple[int, int], p: int, d: int) -> tuple[int, int]:
    x, y = point
    t = d * x * x * y * y
    return 2 * x * y * pow(1 + t, -1, p) % p, (y * y + x * x) * pow(1 - t, -1, p) % p
