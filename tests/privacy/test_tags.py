"""Tags: exact in every corner of the ring, additive over sites, masked in the field."""

from __future__ import annotations

import numpy as np
import pytest

from plasmid.secagg.keystream import Pad, derive
from plasmid.secagg.tags import COLUMNS, P, elements, is_element, masked, opened, pack_tag, read_tag, tag

KEY, H = bytes(range(32)), "a1" * 32


def by_hand(words: np.ndarray, sites: tuple[str, ...]) -> int:
    rows = -(-words.size // COLUMNS)
    h = bytes.fromhex(H)
    drawn = elements(derive(KEY, "total", h, length=16), COLUMNS + rows).tolist()
    offsets = sum(int(elements(derive(KEY, "offset", h, site, length=16), 1)[0]) for site in sites)
    values = words.view("<i4" if words.itemsize == 4 else "<i8").tolist()
    return (
        sum(drawn[COLUMNS + i // COLUMNS] * drawn[i % COLUMNS] * x for i, x in enumerate(values)) + offsets
    ) % P


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("size", [1, COLUMNS - 1, COLUMNS, COLUMNS + 1, 70_000])
def test_a_tag_is_exact(dtype: str, size: int) -> None:
    bits = 8 * np.dtype(dtype).itemsize
    random = (
        np.random.default_rng(size).integers(0, 2**bits - 1, size, np.uint64, endpoint=True).astype(dtype)
    )
    for words in (random, np.full(size, 2 ** (bits - 1), dtype), np.full(size, 2**bits - 1, dtype)):
        assert tag(KEY, H, words, ("a", "b")) == by_hand(words, ("a", "b"))


def test_the_tag_of_a_sum_is_the_sum_of_the_tags() -> None:
    source = np.random.default_rng(1)
    vectors = {site: source.integers(-1000, 1000, 5000).astype(np.int32).view(np.uint32) for site in "abc"}
    total = np.sum(list(vectors.values()), axis=0, dtype=np.uint32)
    apart = sum(tag(KEY, H, words, [site]) for site, words in vectors.items()) % P
    assert tag(KEY, H, total, "abc") == apart
    assert tag(KEY, H, total, "ab") != apart
    assert tag(KEY, "b2" * 32, total, "abc") != apart
    assert tag(bytes(32), H, total, "abc") != apart


def test_zeros_have_no_known_tag_and_multiples_no_multiple() -> None:
    """What a hash without offsets would give away."""
    words = np.arange(100, dtype=np.uint32)
    assert tag(KEY, H, np.zeros(100, np.uint32), ["a"]) != 0
    assert tag(KEY, H, 2 * words, ["a"]) != 2 * tag(KEY, H, words, ["a"]) % P


def test_masks_cancel_in_the_field() -> None:
    own, pair = Pad(bytes(16)), Pad(bytes([1] * 16))
    a = masked(5, [own, pair])
    b = masked(P - 3, [pair._replace(subtract=True)])
    assert a != 5
    assert read_tag(opened([pack_tag(a), pack_tag(b)], [own._replace(subtract=True)])) == 2


def test_an_element_has_one_spelling() -> None:
    assert is_element(pack_tag(P - 1))
    assert not is_element(P.to_bytes(8, "big"))
    assert not is_element(bytes(7))


def test_p_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def __init__(self) -> None:
            self.calls = 0

        def update(self, data: bytes) -> bytes:
            self.calls += 1
            return (b"\xff" * 8 + b"\x01" + bytes(7))[: len(data)] if self.calls == 1 else b"\x02" + bytes(7)

    stream = Stream()
    monkeypatch.setattr(
        "plasmid.secagg.tags.Cipher", lambda *_: type("C", (), {"encryptor": lambda self: stream})()
    )
    assert elements(bytes(16), 1).tolist() == [2]
