"""Secure aggregation, protocol ``plasmid-sa/0``: a site's state machine for one key epoch.

After Bonawitz et al. 2017 (CCS, "Practical Secure Aggregation for Privacy-Preserving Machine
Learning"), its offline phase batched per epoch. Version 0 has pairwise masks only: no self-masks, no
shares, no recovery, so the sum exists over the whole roster or not at all.

Rules
-----
1. An **epoch** has a roster of n sites in the order of their names, and A **slots**. Its secrets live
   in this object and nowhere else.
2. Advert: a fresh X25519 key, a fresh ML-KEM-768 key and, per slot, the SHA-256 of a fresh 32-byte
   secret k. rho is the digest of all adverts in roster order.
3. Bundle, from i to every j > i: the pair seeds r_ij = HKDF(k_i, j) of all slots, under AES-256-GCM
   with the key HKDF(X25519(C_i, C_j) | ML-KEM secret, rho) and (i, j, epoch) as associated data.
   That key is used once, so the nonce is constant.
4. Ready: signed over (rho, n, c) once all bundles that are due have been opened. A site masks only when
   it holds n equal ready statements.
5. c is at least the site's own :func:`least_colluders`, and c >= n - 1 is refused.
6. **A slot masks one vector, once**: :meth:`SiteEpoch.mask` destroys the slot's secrets before it
   returns. Slots only rise.
7. y = x + sum over j > i of PRG(HKDF(r_ij, "pair" | H)) - sum over j < i of the same, H the digest of
   the manifest: sites that were shown different manifests produce noise, not a sum.

Signatures are checked by the caller (``plasmid.gateway``), against identities it has pinned; this
module sees statements that are known to be their author's.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from plasmid.core.canonical import digest_json, sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.privacy.keystream import KEY_BYTES, add_keystream, derive
from plasmid.privacy.ring import Words
from plasmid.privacy.statements import MAX_ROSTER, MAX_SLOTS, Advert, Bundle, Ready

_SECRET_BYTES = 32
_NONCE = bytes(12)  # each key encrypts one message


def least_colluders(organisations: Mapping[str, str | None], largest: int, *, me: str) -> int:
    """Return the smallest c that a site accepts.

    Parameters
    ----------
    organisations
        For each site of the roster its organisation as this owner confirmed it, None if unconfirmed.
    largest
        How many whole organisations are assumed to collude (the recipe's ``colluding_organisations``).
    me
        The site that asks; its own organisation does not collude against itself.
    """
    mine = organisations[me]
    others = [org for site, org in organisations.items() if site != me]
    unconfirmed = sum(org is None for org in others)
    sizes = Counter(org for org in others if org is not None and org != mine)
    return max(1, unconfirmed + sum(count for _, count in sizes.most_common(largest)))


def check_colluders(n: int, c: int, least: int) -> None:
    """Refuse a plan that assumes fewer colluders than *least*, or that no mask could withstand.

    Raises
    ------
    ProtocolError
        ``protocol.colluders``.
    """
    if c < least:
        raise ProtocolError(
            "protocol.colluders",
            f"the plan assumes {c} colluding sites, this site assumes at least {least}.",
            "Confirm the peers in peers.yaml, or raise the recipe's colluding_organisations.",
        )
    if c >= n - 1:
        raise ProtocolError(
            "protocol.colluders",
            f"with {n} sites, {c} of them colluding, a mask hides nothing.",
            "Invite more organisations: at least c + 2 sites are needed.",
        )


class SiteEpoch:
    """One site's secrets and steps in one key epoch. Methods are called in the order of the rules."""

    def __init__(self, *, run: str, epoch: int, site: str, document: str, slots: int) -> None:
        if not 1 <= slots <= MAX_SLOTS:
            raise ProtocolError("protocol.slots", f"{slots} slots asked for, 1 to {MAX_SLOTS} are possible.")
        self.run, self.epoch, self.site = run, epoch, site
        self._x25519 = X25519PrivateKey.generate()
        self._mlkem = MLKEM768PrivateKey.generate()
        self._own = [secrets.token_bytes(_SECRET_BYTES) for _ in range(slots)]
        self._seeds: dict[int, dict[str, bytes]] = {slot: {} for slot in range(slots)}
        self._adverts: dict[str, Advert] = {}
        self._next_slot = 0
        self.rho = ""
        self.advert = Advert(
            run=run,
            epoch=epoch,
            site=site,
            document=document,
            x25519=self._x25519.public_key().public_bytes_raw().hex(),
            mlkem768=self._mlkem.public_key().public_bytes_raw().hex(),
            slots=[sha256_hex(secret) for secret in self._own],
        )
        self._statement: Ready | None = None
        self._sealed = False

    @property
    def roster(self) -> tuple[str, ...]:
        """The sites of the epoch, in order."""
        return tuple(self._adverts)

    def bundles(self, adverts: Sequence[Advert]) -> list[Bundle]:
        """Take everyone's adverts and return the bundles to send.

        Raises
        ------
        ProtocolError
            ``protocol.adverts``: a site twice, a key twice or not one, another run or epoch, a different
            number of slots, this site's own advert missing or changed, or a roster outside 3 to 64.
        """
        ordered = sorted(adverts, key=lambda advert: advert.site)
        keys = {advert.x25519 for advert in ordered} | {advert.mlkem768 for advert in ordered}
        wrong = (
            "a set of adverts was given twice"
            if self.rho
            else "a roster holds 3 to 64 sites"
            if not 3 <= len(ordered) <= MAX_ROSTER
            else "a site or a key appears twice"
            if len({advert.site for advert in ordered}) != len(ordered) or len(keys) != 2 * len(ordered)
            else "this site's own advert is missing or changed"
            if self.advert not in ordered
            else "an advert is for another run, epoch, recipe or number of slots"
            if any(
                (a.run, a.epoch, a.document, len(a.slots))
                != (self.run, self.epoch, self.advert.document, len(self.advert.slots))
                for a in ordered
            )
            else ""
        )
        if wrong:
            raise ProtocolError("protocol.adverts", f"{wrong}.", "The epoch is void; start the run again.")
        self._adverts = {advert.site: advert for advert in ordered}
        self.rho = digest_json([advert.model_dump() for advert in ordered])
        sent = []
        for other in self.roster[self.roster.index(self.site) + 1 :]:
            theirs = self._adverts[other]
            seeds = [derive(secret, "pair-seed", other) for secret in self._own]
            for slot, seed in enumerate(seeds):
                self._seeds[slot][other] = seed
            try:
                peer = MLKEM768PublicKey.from_public_bytes(bytes.fromhex(theirs.mlkem768))
                shared, kem = peer.encapsulate()
                key = self._channel_key(theirs, shared)
            except ValueError as error:
                raise ProtocolError("protocol.adverts", f"a key in the advert of {other} is none.") from error
            sealed = AESGCM(key).encrypt(_NONCE, b"".join(seeds), self._associated(self.site, other))
            sent.append(
                Bundle(
                    run=self.run,
                    epoch=self.epoch,
                    sender=self.site,
                    receiver=other,
                    rho=self.rho,
                    kem=kem.hex(),
                    sealed=sealed.hex(),
                )
            )
        self._own.clear()
        return sent

    def ready(self, bundles: Sequence[Bundle], *, c: int, least: int) -> Ready:
        """Open the bundles addressed to this site and return the statement to sign.

        Raises
        ------
        ProtocolError
            ``protocol.bundles``: one is missing, superfluous, for another epoch, or does not open;
            ``protocol.colluders``: see :func:`check_colluders`; ``protocol.ready``: before
            :meth:`bundles`, or a second time.
        """
        if not self.rho or self._statement is not None:
            raise ProtocolError("protocol.ready", "a site is ready once, after the adverts.")
        check_colluders(len(self._adverts), c, least)
        expected = self.roster[: self.roster.index(self.site)]
        if sorted(bundle.sender for bundle in bundles) != sorted(expected):
            raise ProtocolError("protocol.bundles", "the bundles are not those of the sites before this one.")
        for bundle in bundles:
            head = (bundle.run, bundle.epoch, bundle.receiver, bundle.rho)
            if head != (self.run, self.epoch, self.site, self.rho):
                raise ProtocolError(
                    "protocol.bundles", f"the bundle of {bundle.sender} is not for this epoch."
                )
            shared = self._mlkem.decapsulate(bytes.fromhex(bundle.kem))
            try:
                key = self._channel_key(self._adverts[bundle.sender], shared)
                opened = AESGCM(key).decrypt(
                    _NONCE, bytes.fromhex(bundle.sealed), self._associated(bundle.sender, self.site)
                )
            except (InvalidTag, ValueError) as error:  # ValueError: its X25519 key is of small order
                raise ProtocolError(
                    "protocol.bundles", f"the bundle of {bundle.sender} does not open."
                ) from error
            if len(opened) != _SECRET_BYTES * len(self._seeds):
                raise ProtocolError("protocol.bundles", f"the bundle of {bundle.sender} has a wrong length.")
            for slot, seeds in self._seeds.items():
                seeds[bundle.sender] = opened[slot * _SECRET_BYTES : (slot + 1) * _SECRET_BYTES]
        self._statement = Ready(
            run=self.run, epoch=self.epoch, site=self.site, rho=self.rho, n=len(self._adverts), c=c
        )
        return self._statement

    def seal(self, statements: Sequence[Ready]) -> None:
        """Take everyone's ready statements; from now on :meth:`mask` works.

        Raises
        ------
        ProtocolError
            ``protocol.ready``: before :meth:`ready`, not exactly one per site of the roster, or
            not all equal.
        """
        same = {(s.run, s.epoch, s.rho, s.n, s.c) for s in statements}
        mine = self._statement
        if (
            mine is None
            or sorted(s.site for s in statements) != list(self.roster)
            or same != {(mine.run, mine.epoch, mine.rho, mine.n, mine.c)}
        ):
            raise ProtocolError(
                "protocol.ready", "the sites do not agree on the epoch.", "Start the run again."
            )
        self._sealed = True

    def mask(self, words: Words, *, slot: int, manifest: str, invited: Sequence[str]) -> None:
        """Mask *words* (encoded vector with its tail) in place, and destroy the slot's secrets.

        Parameters
        ----------
        manifest
            SHA-256 of the canonical manifest, H.
        invited
            The sites of this round: in version 0 the whole roster.

        Raises
        ------
        ProtocolError
            ``protocol.slot_used``: the slot is used, older than one used, or unknown;
            ``protocol.invited``: not the whole roster; ``protocol.ready``: the epoch is not sealed.
        """
        if not self._sealed:
            raise ProtocolError("protocol.ready", "no site masks before all are ready.")
        if tuple(invited) != self.roster:
            raise ProtocolError("protocol.invited", "the manifest does not invite the whole roster.")
        if slot < self._next_slot or slot not in self._seeds:
            raise ProtocolError("protocol.slot_used", f"slot {slot} is used or unknown.")
        self._next_slot = slot + 1
        seeds = self._seeds.pop(slot)
        for used in [earlier for earlier in self._seeds if earlier < slot]:
            del self._seeds[used]
        for other, seed in seeds.items():
            key = derive(seed, "pair", bytes.fromhex(manifest), length=KEY_BYTES)
            add_keystream(words, key, subtract=other < self.site)

    def _channel_key(self, theirs: Advert, shared: bytes) -> bytes:
        exchanged = self._x25519.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(theirs.x25519)))
        return derive(exchanged + shared, "channel", bytes.fromhex(self.rho))

    def _associated(self, sender: str, receiver: str) -> bytes:
        return f"{self.run}|{self.epoch}|{sender}|{receiver}".encode()
