"""The mask generator against published vectors, and its blocks against one piece."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from plasmid.secagg.keystream import (
    BLOCK_BYTES,
    KEY_BYTES,
    Keystreams,
    Pad,
    blob_key,
    channel_key,
    commitment,
    derive,
    pair_key,
    pair_seed,
    self_key,
)
from plasmid.secagg.ring import Words


def add_keystream(words: Words, key: bytes, *, subtract: bool = False, offset: int = 0) -> None:
    """Add one key stream to *words* from word *offset* of it on."""
    Keystreams([Pad(key, subtract)], words.dtype, offset=offset).add(words)


NIST_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")


def test_the_cipher_meets_nist_sp_800_38a() -> None:
    """F.5.1, CTR-AES128.Encrypt, its first two blocks."""
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    assert Cipher(AES(NIST_KEY), CTR(counter)).encryptor().update(plain).hex() == (
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
    )


@pytest.mark.parametrize(
    ("key", "stream"),
    [
        # RFC 4493, section 4: AES-128 of the zero block under the key of SP 800-38A
        (NIST_KEY.hex(), "7df76b0c1ab899b33e42f047b91b546f"),
        # FIPS 197 under the zero key, then E(K, 1) and E(K, 2) of NIST's GCM test cases 1 and 2
        (
            "00" * 16,
            "66e94bd4ef8a2c3b884cfa59ca342b2e58e2fccefa7e3061367f1d57a4e7455a0388dace60b6a392f328c2b971b2fe78",
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_the_stream_is_aes_of_a_counter_from_zero(key: str, stream: str, dtype: str) -> None:
    expected = np.frombuffer(bytes.fromhex(stream), dtype)
    words = np.zeros(expected.size, dtype)
    add_keystream(words, bytes.fromhex(key))
    assert words.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("size", [1, 5, 32_768, 65_536, 65_537, 200_003])
def test_blocks_equal_one_piece(dtype: str, size: int) -> None:
    words = np.zeros(size, dtype)
    add_keystream(words, NIST_KEY)
    one_piece = Cipher(AES(NIST_KEY), CTR(bytes(16))).encryptor().update(bytes(words.nbytes))
    assert words.tobytes() == one_piece


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_adding_wraps_and_subtracting_undoes_it(dtype: str) -> None:
    start = np.random.default_rng(1).integers(0, 2**32, 70_001, dtype=np.uint64).astype(dtype)
    words = start.copy()
    add_keystream(words, NIST_KEY)
    pad = np.zeros_like(start)
    add_keystream(pad, NIST_KEY)
    modulus = 2 ** (8 * words.dtype.itemsize)
    assert words[:50].tolist() == [
        (a + b) % modulus for a, b in zip(start[:50].tolist(), pad[:50].tolist(), strict=True)
    ]
    assert np.count_nonzero(words == start) < 10
    add_keystream(words, NIST_KEY, subtract=True)
    assert np.array_equal(words, start)


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 5, 4093, 65_536, 200_001])
def test_a_part_of_a_stream_is_the_part_of_the_stream(dtype: str, offset: int) -> None:
    whole = np.zeros(offset + 70_003, dtype)
    add_keystream(whole, NIST_KEY)
    part = np.zeros(70_003, dtype)
    add_keystream(part, NIST_KEY, offset=offset)
    assert np.array_equal(part, whole[offset:])


def test_a_stream_may_be_longer_than_a_32_bit_counter() -> None:
    """Word 2**40 of 8 bytes is AES block 2**39: the counter is one number of 128 bits, big-endian."""
    words = np.zeros(2, np.uint64)
    add_keystream(words, NIST_KEY, offset=2**40)
    block = Cipher(AES(NIST_KEY), CTR((2**39).to_bytes(16, "big"))).encryptor().update(bytes(16))
    assert words.tobytes() == block


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_many_streams_at_once_are_the_streams_one_by_one(dtype: str) -> None:
    pads = [Pad(bytes([index]) * 16, subtract=index % 3 == 0) for index in range(7)]
    size = 2 * BLOCK_BYTES // np.dtype(dtype).itemsize + 77
    start = np.random.default_rng(2).integers(0, 2**32, size, dtype=np.uint64).astype(dtype)
    at_once, in_parts, one_by_one = start.copy(), start.copy(), start.copy()
    Keystreams(pads, at_once.dtype, offset=9).add(at_once)
    streams = Keystreams(pads, in_parts.dtype, offset=9)
    for part in (in_parts[:50], in_parts[50:51], in_parts[51:]):  # each takes what comes next
        streams.add(part)
    for pad in pads:
        add_keystream(one_by_one, pad.key, subtract=pad.subtract, offset=9)
    assert np.array_equal(at_once, one_by_one)
    assert np.array_equal(in_parts, one_by_one)


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 by hand."""
    key = hmac.digest(bytes(32), secret, hashlib.sha256)
    out = block = b""
    for counter in range(1, 1 + -(-length // 32)):
        block = hmac.digest(key, block + info + bytes([counter]), hashlib.sha256)
        out += block
    return out[:length]


def test_the_hand_made_hkdf_meets_rfc_5869() -> None:
    """Appendix A.3: no salt, no info."""
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


@pytest.mark.parametrize("length", [KEY_BYTES, 32, 100])
def test_a_derived_key_is_hkdf_with_length_prefixed_info(length: int) -> None:
    info = b"\0\0\0\x0cplasmid-sa/2" + b"\0\0\0\4pair" + b"\0\0\0\2\x01\x02"
    assert derive(b"k" * 32, "pair", b"\x01\x02", length=length) == hkdf(b"k" * 32, info, length)


def test_no_two_joins_of_the_info_agree() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ()]
    assert len({derive(b"k" * 32, *info) for info in parts}) == len(parts)
    assert derive(b"k" * 32, "a") == derive(b"k" * 32, b"a")


def test_the_key_schedule_has_one_name_for_each_purpose() -> None:
    secret, digest = bytes(range(32)), "c3" * 32
    assert channel_key(secret, b"s" * 32, digest) == derive(secret + b"s" * 32, "channel", b"\xc3" * 32)
    assert pair_seed(secret, "beta") == derive(secret, "pair-seed", "beta")
    assert blob_key(secret) == derive(secret, "blob")
    assert self_key(secret, digest) == derive(secret, "self", b"\xc3" * 32, length=16)
    assert pair_key(secret, digest) == derive(secret, "pair", b"\xc3" * 32, length=16)
    assert commitment(secret) == hashlib.sha256(secret).digest()
