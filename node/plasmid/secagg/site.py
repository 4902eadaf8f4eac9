"""Secure aggregation, protocol ``plasmid-sa/2``: a site's state machine for one key epoch.

After Bonawitz et al. 2017 (CCS, "Practical Secure Aggregation for Privacy-Preserving Machine Learning"),
malicious setting. Each **slot** is one instance of it, with one set-up per **epoch** for all its slots. One
attempt at one round takes one slot.

Rules
-----
1. n, c and theta are as :mod:`plasmid.secagg.roster` says; each site checks c before it deals a share.
2. Advert: fresh X25519 and ML-KEM-768 keys, the SHA-256 of a fresh contribution g to the group's key and,
   per slot, of two fresh secrets, k (pair masks) and b (self-mask). rho is the digest of all adverts, this
   site's own among them.
3. Bundle, from i to every other j: g of i; j's shares, theta of n, of every b and k of i and, if i < j, the
   seeds r_ij = HKDF(k_i, j). The index of a share is the position in the roster + 1. A g that is not what its
   advert commits to makes the epoch void and is named; K = HKDF(all g in the order of the roster, rho).
4. Recovery: per slot, the seeds that i was given, sealed under HKDF(k_i, "blob"), for the coordinator.
5. Ready: (rho, blobs, n, c, theta). A site masks only when it holds n equal ones. **One advert, one set of
   bundles, one ready statement an epoch**; a step that fails makes the epoch void.
6. **A slot masks one vector, once**: it is marked used before the first word changes, and slots only rise.
   The streams are of HKDF(b, "self" | H), added, and, for each other invited site, of HKDF(r, "pair" | H),
   added for a later site and subtracted for an earlier one; H is the digest of the manifest. The tag of what
   is masked leaves under one field element of the same streams (:mod:`plasmid.secagg.tags`).
7. Survivors, consents and shares: :mod:`plasmid.secagg.attempt`.
8. A slot's secrets are erased once it is answered or a later one is used; a slot passed over is dead.

Signatures are checked by the caller (``plasmid.gateway``), against identities it has pinned; this
module sees statements that are known to be their author's.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.secagg import shamir, tags
from plasmid.secagg.attempt import KEY, SELF, Attempt
from plasmid.secagg.channels import Channel, seal_blob
from plasmid.secagg.keystream import Keystreams, Pad, commitment, pair_key, pair_seed, self_key
from plasmid.secagg.ring import Words
from plasmid.secagg.roster import check_adverts, check_colluders, least_colluders, threshold
from plasmid.secagg.statements import (
    MAX_SLOTS,
    SECRET_BYTES,
    Advert,
    Bundle,
    Consent,
    Contribution,
    Ready,
    Recovery,
    Shares,
    Verified,
    digest_of,
)

__all__ = ["SiteEpoch", "check_colluders", "least_colluders", "threshold"]

_SEED = 2
"""Beside the shares SELF and KEY: the seed of the pair. In its own place a site keeps its b."""


class SiteEpoch:
    """One site's secrets and steps in one key epoch.

    Set-up: :attr:`advert`, :meth:`bundles`, :meth:`recovery`, :meth:`ready`, :meth:`seal`, each once.
    An attempt: :meth:`mask`, :meth:`contributed`, :meth:`consent`, :meth:`shares`.
    """

    def __init__(self, *, run: str, epoch: int, site: str, document: str, slots: int) -> None:
        if not 1 <= slots <= MAX_SLOTS:
            raise ProtocolError("protocol.slots", f"{slots} slots asked for, 1 to {MAX_SLOTS} are possible.")
        self.run, self.epoch, self.site, self.slots = run, epoch, site, slots
        self._channel = Channel()
        drawn = bytearray(secrets.token_bytes(2 * slots * SECRET_BYTES))
        self._secrets = np.frombuffer(drawn, np.uint8).reshape(2, slots, SECRET_BYTES)
        self._given = secrets.token_bytes(SECRET_BYTES)
        self.advert = Advert(
            run=run,
            epoch=epoch,
            site=site,
            document=document,
            x25519=self._channel.x25519,
            mlkem768=self._channel.mlkem768,
            key_commitments=_commitments(self._secrets[KEY]),
            self_commitments=_commitments(self._secrets[SELF]),
            group_commitment=commitment(self._given),
        )
        self._adverts: dict[str, Advert] = {}
        self.rho, self.theta, self.group_key = "", 0, b""
        self._recovery: Recovery | None = None
        self._ready: Ready | None = None
        self._next_step, self._next_slot = "bundles", 0
        self._attempt: Attempt | None = None

    @property
    def roster(self) -> tuple[str, ...]:
        """The sites of the epoch, in order."""
        return tuple(self._adverts)

    @property
    def sealed(self) -> bool:
        """Whether all sites are ready, so that :meth:`mask` works."""
        return self._next_step == "sealed"

    # -- set-up ------------------------------------------------------------------------------------

    def bundles(self, adverts: Sequence[Advert], *, c: int, least: int) -> list[Bundle]:
        """Take everyone's adverts and return the bundles to send, one to every other site.

        Raises
        ------
        ProtocolError
            ``protocol.adverts``: a site, key or commitment twice or not one, another run, epoch, recipe or
            number of slots, this site's own advert missing or changed, or a roster outside 3 to 64;
            ``protocol.colluders``: see :func:`check_colluders`; ``protocol.ready``: not the next step.
        """
        self._begin("bundles")
        ordered = check_adverts(adverts)
        if self.advert not in ordered:
            raise ProtocolError(
                "protocol.adverts", "this site's own advert is missing or changed.", "Start the run again."
            )
        n = len(ordered)
        check_colluders(n, c, least)
        self._adverts = {advert.site: advert for advert in ordered}
        self.rho, self.theta, self._c = digest_of(ordered), threshold(n, c), c
        me = self.roster.index(self.site)
        dealt = shamir.split(self._secrets.ravel(), threshold=self.theta, shares=n)
        dealt = dealt.reshape(n, 2, self.slots, SECRET_BYTES)
        self._held = np.zeros((n, 3, self.slots, SECRET_BYTES), np.uint8)
        self._held[me, :_SEED], self._held[me, _SEED] = dealt[me], self._secrets[SELF]
        sent = []
        for index, receiver in enumerate(ordered):
            if index == me:
                continue
            plain = self._given + dealt[index].tobytes()
            if index > me:
                seeds = b"".join(pair_seed(k.tobytes(), receiver.site) for k in self._secrets[KEY])
                self._held[index, _SEED] = np.frombuffer(seeds, np.uint8).reshape(self.slots, SECRET_BYTES)
                plain += seeds
            sent.append(self._channel.seal(plain, sender=self.advert, receiver=receiver, rho=self.rho))
        self._next_step = "recovery"
        return sent

    def recovery(self, bundles: Sequence[Bundle]) -> tuple[Recovery, list[bytes]]:
        """Open the bundles addressed to this site; return its statement and the blobs, one per slot.

        The statement goes to all, the blobs to the coordinator alone, which stores them.

        Raises
        ------
        ProtocolError
            ``protocol.bundles``: one is missing, superfluous, for another epoch, of a wrong length, does not
            open, or holds another contribution to the group's key than its sender committed to;
            ``protocol.ready``: not the next step.
        """
        self._begin("recovery")
        roster, me = self.roster, self.roster.index(self.site)
        by_sender = {bundle.sender: bundle for bundle in bundles}
        given_by = {self.site: self._given}
        if len(bundles) != len(roster) - 1 or {*by_sender, self.site} != set(roster):
            raise ProtocolError("protocol.bundles", "the bundles are not those of the other sites.")
        for index, sender in enumerate(roster):
            if index == me:
                continue
            bundle = by_sender[sender]
            head = (bundle.run, bundle.epoch, bundle.receiver, bundle.rho)
            if head != (self.run, self.epoch, self.site, self.rho):
                raise ProtocolError("protocol.bundles", f"the bundle of {sender} is not for this epoch.")
            opened = self._channel.open(bundle, sender=self._adverts[sender], receiver=self.advert)
            rows = self._held[index, : 3 if index < me else _SEED]
            if len(opened) != SECRET_BYTES + rows.size:
                raise ProtocolError("protocol.bundles", f"the bundle of {sender} has a wrong length.")
            given_by[sender] = opened[:SECRET_BYTES]
            if commitment(given_by[sender]) != self._adverts[sender].group_commitment:
                raise ProtocolError(
                    "protocol.bundles",
                    f"{sender} gave another part of the group's key than it had committed to.",
                    f"Leave out {sender} if it goes on.",
                )
            rows[:] = np.frombuffer(opened, np.uint8, offset=SECRET_BYTES).reshape(rows.shape)
        self.group_key = tags.group_key((given_by[site] for site in roster), self.rho)
        given = self._held[:me, _SEED]
        sealed = [
            seal_blob(k.tobytes(), given[:, slot].tobytes(), advert=self.advert, slot=slot)
            for slot, k in enumerate(self._secrets[KEY])
        ]
        self._secrets[:] = 0
        del self._channel, self._given
        self._recovery = Recovery(
            run=self.run, epoch=self.epoch, site=self.site, rho=self.rho, blob=sha256_hex(b"".join(sealed))
        )
        self._next_step = "ready"
        return self._recovery, sealed

    def ready(self, recoveries: Sequence[Recovery], *, verified: Verified | None = None) -> Ready:
        """Take everyone's recovery statements and return the statement to sign.

        Raises
        ------
        ProtocolError
            ``protocol.recovery``: not exactly one per site of the roster, one for another epoch, or this
            site's own missing or changed; ``protocol.ready``: not the next step.
        """
        self._begin("ready")
        if (
            sorted(said.site for said in recoveries) != list(self.roster)
            or self._recovery not in recoveries
            or {(said.run, said.epoch, said.rho) for said in recoveries} != {(self.run, self.epoch, self.rho)}
        ):
            raise ProtocolError("protocol.recovery", "the recovery statements are not those of the epoch.")
        self._ready = Ready(
            run=self.run,
            epoch=self.epoch,
            site=self.site,
            rho=self.rho,
            blobs=digest_of(recoveries),
            n=len(self.roster),
            c=self._c,
            theta=self.theta,
            verified=verified,
        )
        self._next_step = "seal"
        return self._ready

    def seal(self, statements: Sequence[Ready]) -> None:
        """Take everyone's ready statements; from now on :meth:`mask` works.

        Raises
        ------
        ProtocolError
            ``protocol.ready``: not the next step, not exactly one per site of the roster, or not all equal.
        """
        self._begin("seal")
        same = {(s.run, s.epoch, s.rho, s.blobs, s.n, s.c, s.theta) for s in [*statements, self._ready] if s}
        if sorted(s.site for s in statements) != list(self.roster) or len(same) != 1:
            raise ProtocolError(
                "protocol.ready", "the sites do not agree on the epoch.", "Start the run again."
            )
        self._next_step = "sealed"

    def _begin(self, step: str) -> None:
        if self._next_step != step:
            raise ProtocolError("protocol.ready", f"{step} is not the next step of this epoch.")
        self._next_step = "void"

    # -- an attempt --------------------------------------------------------------------------------

    def mask(self, words: Words, *, slot: int, manifest: str, invited: Sequence[str]) -> bytes:
        """Mask *words* (encoded vector with its tail) in place; return their tag, masked too.

        The slot is used from the start of it.

        Parameters
        ----------
        manifest
            SHA-256 of the canonical manifest, H.
        invited
            The sites of this attempt in order: this one and others of the roster, theta or more.

        Raises
        ------
        ProtocolError
            ``protocol.slot_used``: the slot is used, older than one used, or unknown;
            ``protocol.invited``: no such sites; ``protocol.ready``: the epoch is not sealed.
        """
        if not self.sealed:
            raise ProtocolError("protocol.ready", "no site masks before all are ready.")
        chosen = set(invited)
        if (
            list(invited) != [site for site in self.roster if site in chosen]
            or self.site not in chosen
            or len(invited) < self.theta
        ):
            raise ProtocolError(
                "protocol.invited",
                f"the manifest does not invite this site and others of the roster, {self.theta} in all.",
            )
        if not self._next_slot <= slot < self.slots:
            raise ProtocolError("protocol.slot_used", f"slot {slot} is used or unknown.")
        self._next_slot = slot + 1
        self._attempt = Attempt(
            run=self.run,
            epoch=self.epoch,
            slot=slot,
            site=self.site,
            manifest=manifest,
            roster=self.roster,
            invited=tuple(invited),
            theta=self.theta,
            c=self._c,
            held=self._held[:, :_SEED, slot],
        )
        pads = []
        for index, other in enumerate(self.roster):
            seed = self._held[index, _SEED, slot].tobytes()
            if other == self.site:
                pads.append(Pad(self_key(seed, manifest)))
            elif other in chosen:
                pads.append(Pad(pair_key(seed, manifest), subtract=other < self.site))
        self._held[:, :, :slot] = 0
        self._held[:, _SEED, slot] = 0
        own = tags.masked(tags.tag(self.group_key, manifest, words, [self.site]), pads)
        Keystreams(pads, words.dtype).add(words)
        return tags.pack_tag(own)

    def contributed(self, said: Contribution) -> None:
        """Note the statement that leaves with the masked vector: consent wants it among the survivors.

        Raises
        ------
        ProtocolError
            ``protocol.slot_used``: not the slot that was masked last; ``protocol.survivors``: it is of
            another site, epoch or manifest, or another one was noted.
        """
        self._current(said.slot).contributed(said)

    def check_survivors(self, slot: int, contributions: Sequence[Contribution], *, m: int) -> None:
        """Refuse what :meth:`consent` would refuse, and agree to nothing. Raises ProtocolError."""
        self._current(slot).check_survivors(contributions, m=m)

    def consent(
        self, slot: int, contributions: Sequence[Contribution], *, m: int, verified: bool = True
    ) -> Consent:
        """Return the consent to open the sum of *contributions*; for the same survivors the same.

        Parameters
        ----------
        m
            The smallest number of survivors; theta counts where it is larger.
        verified
            Whether this site has verified the state of the round.

        Raises
        ------
        ProtocolError
            ``protocol.slot_used``: not the slot that was masked last; ``protocol.survivors``: another
            survivor list was agreed to, a site is in it twice or not invited, this site's own contribution is
            missing or changed, one is for another manifest, or they are fewer than *m* or theta.
        """
        return self._current(slot).consent(contributions, m=m, verified=verified)

    def committed(self, site: str, slot: int) -> bytes:
        """Return the commitment of *site* to its b of *slot*."""
        return self._adverts[site].self_commitments[slot * SECRET_BYTES : (slot + 1) * SECRET_BYTES]

    def shares(self, slot: int, consents: Sequence[Consent]) -> Shares:
        """Return the shares that open the sum, once, and erase them here.

        Raises
        ------
        ProtocolError
            ``protocol.slot_used``: not the slot that was masked last, or it was answered;
            ``protocol.consents``: this site has not agreed, one of *consents* is over something else or by
            no survivor, they are of fewer than theta sites, this one counted, or of no more than c sites that
            have verified the state.
        """
        return self._current(slot).shares(consents)

    def _current(self, slot: int) -> Attempt:
        if self._attempt is None or self._attempt.slot != slot:
            raise ProtocolError("protocol.slot_used", f"slot {slot} is not the one that was masked last.")
        return self._attempt


def _commitments(slots: NDArray[np.uint8]) -> bytes:
    return b"".join(commitment(secret.tobytes()) for secret in slots)
