"""``plasmid_sa_2.json``: the implementation gives its answers, and they follow from the rules alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from plasmid.secagg.statements import Bundle
from support.federation.known_answers import SITES, SLOT, VECTORS, inputs, outputs, started

DOCUMENT = json.loads(VECTORS.read_text())
IN, OUT = DOCUMENT["inputs"], DOCUMENT["outputs"]
PLACE = {site: place for place, site in enumerate(SITES)}


def test_the_implementation_gives_the_known_answers() -> None:
    assert inputs() == IN
    answer, _ = outputs(IN)
    assert set(answer) == set(OUT)
    for name, value in OUT.items():
        assert answer[name] == value, name


def test_the_recorded_bundle_opens_to_the_known_shares_and_seeds() -> None:
    a, b = (started(IN)[site] for site in ("a", "b"))
    bundle = Bundle.model_validate(DOCUMENT["recorded"]["bundle_a_to_b"])
    plain = b._channel.open(bundle, sender=a.advert, receiver=b.advert)
    shares = OUT["shares_of_b_then_k_by_holder_then_owner"]["b"]["a"]
    assert plain.hex() == IN["sites"]["a"]["g"] + shares + OUT["seeds_a_to_b"]


# -- from the rules alone, without plasmid's code --------------------------------------------------


def hkdf(secret: bytes, *parts: bytes, length: int = 32) -> bytes:
    """RFC 5869 with the protocol's info: its name and each part after its length."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (b"plasmid-sa/2", *parts))
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\1", "sha256")[:length]


def secret(site: str, kind: str) -> bytes:
    """Return b or k of *site* for the slot of the attempt."""
    start = 32 * (SLOT + (IN["slots"] if kind == "k" else 0))
    return bytes.fromhex(IN["sites"][site]["b_then_k_of_each_slot"])[start : start + 32]


def stream(key: bytes) -> np.ndarray:
    size = 4 * (IN["encoding"]["length"] + 4)
    return np.frombuffer(Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(size)), "<u4")


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def times(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a, b = (a << 1) ^ (0x11B if a & 0x80 else 0), b >> 1
    return product


H = bytes.fromhex(OUT["manifest_digest"])


def test_derived_keys() -> None:
    for known, key in zip(IN["derive"], OUT["derive"], strict=True):
        parts = [bytes.fromhex(p[4:]) if p.startswith("hex:") else p.encode() for p in known["info"]]
        assert hkdf(bytes.fromhex(known["secret"]), *parts, length=known["length"]).hex() == key


def test_the_digest_of_the_manifest() -> None:
    """RFC 8785 writes 1.0 as 1 and 1e-07 as 1e-7."""
    integers = {name: 1 if value == 1.0 else value for name, value in IN["manifest"].items()}
    integers["noise_variance"] = 0
    text = canonical(integers).replace(b"1e-07", b"1e-7")
    assert hashlib.sha256(text).hexdigest() == OUT["manifest_digest"]


@pytest.mark.parametrize("owner", SITES)
def test_shares_are_the_polynomial_at_the_position_plus_one(owner: str) -> None:
    size = 2 * IN["slots"] * 32
    zero = bytes.fromhex(IN["sites"][owner]["b_then_k_of_each_slot"])
    rest = bytes.fromhex(IN["sites"][owner]["coefficients_of_x_then_x2"])
    for holder, place in PLACE.items():
        x = place + 1
        share = bytes(zero[i] ^ times(rest[i], x) ^ times(rest[size + i], times(x, x)) for i in range(size))
        assert OUT["shares_of_b_then_k_by_holder_then_owner"][holder][owner] == share.hex()


@pytest.mark.parametrize("site", SITES)
def test_words_and_masks(site: str) -> None:
    steps = [round(value * 2 ** IN["encoding"]["scale_log2"]) % 2**32 for value in IN["values"][site]]
    assert OUT["words"][site] == [*steps, 0, 0, 0, 0]
    masked = np.array(OUT["words"][site], np.uint32) + stream(hkdf(secret(site, "b"), b"self", H, length=16))
    for other in SITES:
        first, second = sorted((site, other))
        if first == second:
            continue
        seed = hkdf(secret(first, "k"), b"pair-seed", second.encode())
        pad = stream(hkdf(seed, b"pair", H, length=16))
        masked = masked + pad if site == first else masked - pad
    assert masked.tolist() == OUT["masked"][site]


@pytest.mark.parametrize("site", SITES)
def test_blobs(site: str) -> None:
    opened = AESGCM(hkdf(secret(site, "k"), b"blob")).decrypt(
        bytes(12),
        bytes.fromhex(OUT["blobs"][site][SLOT]),
        f"{IN['run']}|{IN['epoch']}|{site}|{SLOT}".encode(),
    )
    earlier = [other for other in SITES if other < site]
    assert opened == b"".join(hkdf(secret(other, "k"), b"pair-seed", site.encode()) for other in earlier)


def test_the_digest_of_all_blobs() -> None:
    recoveries = [
        {
            "type": "recovery",
            "protocol": IN["protocol"],
            "run": IN["run"],
            "epoch": IN["epoch"],
            "site": site,
            "rho": OUT["rho"],
            "blob": hashlib.sha256(bytes.fromhex("".join(OUT["blobs"][site]))).hexdigest(),
        }
        for site in SITES
    ]
    assert hashlib.sha256(canonical(recoveries)).hexdigest() == OUT["ready"]["blobs"]


def test_the_consent() -> None:
    for site, said in OUT["contributions"].items():
        words = np.array(OUT["masked"][site], "<u4")
        assert said["body"] == hashlib.sha256(b"\0" + words.tobytes()).hexdigest()  # a tree of one leaf
    pairs = [[site, OUT["contributions"][site]["body"]] for site in IN["survivors"]]
    assert OUT["consent"]["survivors"] == hashlib.sha256(canonical(pairs)).hexdigest()
    assert OUT["consent_digest"] == hashlib.sha256(canonical(OUT["consent"])).hexdigest()


def test_the_answers_and_the_sum() -> None:
    shares = OUT["shares_of_b_then_k_by_holder_then_owner"]
    size = IN["slots"] * 32
    for answer in OUT["answers"]:
        for kind, start in (("self_shares", 32 * SLOT), ("key_shares", size + 32 * SLOT)):
            for owner, share in answer[kind].items():
                held = bytes.fromhex(shares[answer["site"]][owner])
                assert base64.b64decode(share) == held[start : start + 32]
        assert (sorted(answer["self_shares"]), sorted(answer["key_shares"])) == (IN["survivors"], ["c"])
    total = sum(np.array(OUT["words"][site], np.uint32) for site in IN["survivors"])
    assert OUT["total"] == np.asarray(total).tolist()
    masked = sum(np.array(OUT["masked"][site], np.uint32) for site in IN["survivors"])
    for pad in OUT["pads"]:
        words = stream(bytes.fromhex(pad["key"]))
        masked = masked - words if pad["subtract"] else masked + words
    assert np.asarray(masked).tolist() == OUT["total"]


# -- tags, from the rules alone --------------------------------------------------------------------

P = 2**61 - 1


def elements(key: bytes, count: int, start: int = 0) -> list[int]:
    """The low 61 bits of each 8 bytes of AES-128-CTR; p, which none of these is, would be rejected."""
    drawn = Cipher(AES(key), CTR(start.to_bytes(16, "big"))).encryptor().update(bytes(8 * count))
    found = [int.from_bytes(drawn[8 * i : 8 * i + 8], "little") & P for i in range(count)]
    assert P not in found
    return found


def tag(key: bytes, values: list[int], sites: list[str]) -> int:
    """Columns of 4096 share their coefficients; each row has one of its own, and each site an offset."""
    rows = -(-len(values) // 4096)
    coefficients = elements(hkdf(key, b"total", H, length=16), 4096 + rows)
    products = (coefficients[4096 + i // 4096] * coefficients[i % 4096] * x for i, x in enumerate(values))
    offsets = (elements(hkdf(key, b"offset", H, site.encode(), length=16), 1)[0] for site in sites)
    return (sum(products) + sum(offsets)) % P


def signed(words: list[int], bits: int = 32) -> list[int]:
    return [word - 2**bits if word >> (bits - 1) else word for word in words]


def test_the_group_s_key() -> None:
    given = b"".join(bytes.fromhex(IN["sites"][site]["g"]) for site in SITES)
    assert OUT["group_key"] == hkdf(given, b"group", bytes.fromhex(OUT["rho"])).hex()
    for site in SITES:
        committed = hashlib.sha256(bytes.fromhex(IN["sites"][site]["g"])).digest()
        assert started(IN)[site].advert.group_commitment == committed


@pytest.mark.parametrize("site", SITES)
def test_tags_and_their_masks(site: str) -> None:
    own = tag(bytes.fromhex(OUT["group_key"]), signed(OUT["words"][site]), [site])
    assert own == OUT["tags"][site]
    masked = own + elements(hkdf(secret(site, "b"), b"self", H, length=16), 1, 2**64)[0]
    for other in SITES:
        first, second = sorted((site, other))
        if first == second:
            continue
        seed = hkdf(secret(first, "k"), b"pair-seed", second.encode())
        element = elements(hkdf(seed, b"pair", H, length=16), 1, 2**64)[0]
        masked = masked + element if site == first else masked - element
    assert base64.b64decode(OUT["contributions"][site]["tag"]) == (masked % P).to_bytes(8, "big")


def test_the_tag_of_the_sum_is_the_sum_of_the_tags() -> None:
    assert OUT["total_tag"] == sum(OUT["tags"][site] for site in IN["survivors"]) % P
    assert OUT["total_tag"] == tag(bytes.fromhex(OUT["group_key"]), signed(OUT["total"]), IN["survivors"])


def test_the_opening_is_the_secrets_of_the_survivors_and_the_keys_of_the_drop_out_s_pairs() -> None:
    secrets = b"".join(secret(site, "b") for site in IN["survivors"])
    keys = "".join(pad["key"] for pad in OUT["pads"][len(IN["survivors"]) :])
    assert OUT["opening"] == secrets.hex() + keys


def test_a_sample_leads_to_the_root_of_its_body() -> None:
    sample = OUT["sample"]
    body = hashlib.shake_256(b"body").digest(16_488)
    assert (sample["leaf_bytes"], sample["leaves"]) == (256, 65)
    assert sample["leaf"] == body[6 * 256 : 7 * 256].hex()
    found = hashlib.sha256(b"\0" + bytes.fromhex(sample["leaf"])).digest()
    for level, step in enumerate(map(bytes.fromhex, sample["path"])):
        pair = step + found if sample["index"] >> level & 1 else found + step
        found = hashlib.sha256(b"\1" + pair).digest()
    assert (found.hex(), len(sample["path"])) == (sample["root"], 7)


def test_a_vector_of_two_rows_of_64_bits() -> None:
    words = [(2**63 - 1 + i) % 2**64 for i in range(4100)]
    assert OUT["two_rows"]["tag"] == tag(
        bytes.fromhex(IN["two_rows_key"]), signed(words, 64), IN["survivors"]
    )
