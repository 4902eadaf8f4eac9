"""Our side of ``secure_aggregation``: what a site and the coordinator do for one vector, and a key epoch."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

from plasmid.protocol.body import body_bytes
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import open_signed, parse_signed, sign, wire
from plasmid.secagg import tags
from plasmid.secagg.coordinator import sum_words
from plasmid.secagg.keystream import BLOCK_BYTES, KEY_BYTES
from plasmid.secagg.ring import TAIL, Words, encode, plan_encoding
from plasmid.secagg.site import SiteEpoch
from plasmid.secagg.statements import Shares
from support.federation.secure_sum import DOCUMENT, H, reader, sealed

BOUND = 8.0
"""As Flower's clipping range."""


def colluders(n: int) -> int:
    """Return the c of the benchmark: a third of the sites."""
    return max(1, n // 3)


class Client:
    """One site with *neighbours* others, which protects vectors of *length* values."""

    def __init__(self, neighbours: int, length: int, *, vectors: int) -> None:
        names = [f"site-{index:02}" for index in range(neighbours + 1)]
        self.encoding = plan_encoding(length=length, bound=BOUND, sites=len(names), bits=32)
        self._site = sealed(names, c=colluders(len(names)), slots=vectors).sites[names[len(names) // 2]]
        self._slots = iter(range(vectors))

    def protect(self, values: NDArray[np.float32]) -> Words:
        """Return *values* in fixed point and masked, in the next slot."""
        words = encode(values, self.encoding)
        self._site.mask(words, slot=next(self._slots), manifest=H, invited=self._site.roster)
        return words

    @property
    def upload_bytes(self) -> int:
        """The size of the body that a site uploads."""
        return body_bytes("words", self.encoding.length + TAIL, self.encoding.dtype)


def key_streams(length: int, count: int) -> None:
    """Make as many bytes as *count* key streams of *length* words and drop them: no mask can do with less.

    As the masks' own: AES of counters, a block at a time.
    """
    counters, pad = memoryview(bytes(BLOCK_BYTES)), memoryview(bytearray(BLOCK_BYTES + 16))
    for index in range(count):
        cipher = Cipher(AES(bytes([index]) * KEY_BYTES), ECB()).encryptor()
        for start in range(0, 4 * length, BLOCK_BYTES):
            cipher.update_into(counters[: min(BLOCK_BYTES, 4 * length - start)], pad)


class Server:
    """A round of *n* sites and *length* values, the second of which drops out, up to the answers."""

    def __init__(self, n: int, length: int) -> None:
        names = [f"site-{index:02}" for index in range(n)]
        self.encoding = plan_encoding(length=length, bound=BOUND, sites=n, bits=32)
        self._epoch = sealed(names, c=colluders(n), slots=1)
        self._alive = [name for name in names if name != names[1]]
        self._plain = np.zeros(length + TAIL, self.encoding.dtype)
        source, said = np.random.default_rng(0), []
        for name in self._alive:
            words = encode(0.05 * source.standard_normal(length, np.float32), self.encoding)
            self._plain += words
            said.append(self._epoch.contribute(name, words))
        consents = self._epoch.consents(self._alive, said)
        self._shares: Sequence[Shares] = self._epoch.shares(self._alive, consents)

    def open_tag(self) -> bytes:
        """Return the sum of the tags, opened by the pads of the sum that was opened last."""
        return tags.opened((self._epoch.tags[name] for name in self._alive), self._pads)

    def open(self) -> Words:
        """Return the opened sum."""
        self._pads = pads = self._epoch.coordinator.pads(
            0, H, invited=self._epoch.roster, survivors=self._alive, shares=self._shares
        )
        readers = [reader(self._epoch.vectors[name]) for name in self._alive]
        return sum_words(readers, self.encoding, pads, 0, self._plain.size)

    def check(self, total: Words) -> None:
        """Refuse a *total* that is not exactly the plain sum. Raises RuntimeError."""
        if not np.array_equal(total, self._plain):
            raise RuntimeError("the opened sum is not the plain sum")


class _Setup:
    """The set-up of an epoch among all; what the first site spends, sends and receives is counted."""

    def __init__(self, n: int, slots: int) -> None:
        self.names = [f"site-{index:02}" for index in range(n)]
        self._identities = {name: Identity.generate(name) for name in self.names}
        self._public = {name: identity.public for name, identity in self._identities.items()}
        self._sites: dict[str, SiteEpoch] = {}
        self._c, self._slots = colluders(n), slots
        self.cpu_s, self.up_bytes, self.down_bytes = 0.0, 0, 0

    def run(self) -> None:
        """Take every step of the set-up."""
        adverts = self._all(self._start, {name: [] for name in self.names})
        bundles = self._all(self._bundles, self._everyone(adverts))
        to: dict[str, list[bytes]] = {name: [] for name in self.names}
        for sender, sent in bundles.items():
            for receiver, bundle in zip([name for name in self.names if name != sender], sent, strict=True):
                to[receiver].append(bundle)
        recoveries = self._all(self._recovery, to)
        ready = self._all(self._ready, self._everyone(recoveries))
        self._all(self._seal, self._everyone(ready))

    def _start(self, name: str, _: list[Any]) -> list[Any]:
        self._sites[name] = SiteEpoch(run="run", epoch=1, site=name, document=DOCUMENT, slots=self._slots)
        return [self._sites[name].advert]

    def _bundles(self, name: str, adverts: list[Any]) -> list[Any]:
        return list(self._sites[name].bundles(adverts, c=self._c, least=1))

    def _recovery(self, name: str, bundles: list[Any]) -> list[Any]:
        said, blobs = self._sites[name].recovery(bundles)
        if name == self.names[0]:
            self.up_bytes += sum(len(base64.b64encode(blob)) for blob in blobs)
        return [said]

    def _ready(self, name: str, recoveries: list[Any]) -> list[Any]:
        return [self._sites[name].ready(recoveries)]

    def _seal(self, name: str, ready: list[Any]) -> list[Any]:
        self._sites[name].seal(ready)
        return []

    def _everyone(self, sent: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
        all_of_it = [data for mine in sent.values() for data in mine]
        return dict.fromkeys(self.names, all_of_it)

    def _all(
        self, step: Callable[[str, list[Any]], list[Any]], inbox: dict[str, list[bytes]]
    ) -> dict[str, list[bytes]]:
        """Let each site open its *inbox*, take a *step* and sign what comes of it."""
        sent = {}
        for name in self.names:
            before = time.process_time()
            said = step(name, [self._opened(data) for data in inbox[name]])
            sent[name] = [wire(sign(self._identities[name], one)) for one in said]
            if name == self.names[0]:
                self.cpu_s += time.process_time() - before
                self.up_bytes += sum(map(len, sent[name]))
                self.down_bytes += sum(map(len, inbox[name]))
        return sent

    def _opened(self, data: bytes) -> Any:
        signed = parse_signed(data)
        return open_signed(signed, self._public[signed.signer])


def key_epoch(n: int, slots: int) -> tuple[float, int, int]:
    """Return CPU seconds, bytes up and bytes down of the set-up of an epoch at the first site of the roster.

    It sends the most, since it deals pair seeds to all others. JSON, base64 and signatures are included.
    """
    setup = _Setup(n, slots)
    setup.run()
    return setup.cpu_s, setup.up_bytes, setup.down_bytes
