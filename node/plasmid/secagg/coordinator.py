"""Secure aggregation, protocol ``plasmid-sa/2``: the coordinator's pure half, which opens the sum over S.

Rules
-----
1. What is put together from shares is compared with the commitment of its owner's advert: of b for a
   survivor, of k for an invited site that dropped out. Nothing else is ever asked for.
2. A drop-out's seeds with earlier sites come from its recovery blob, those with later ones from its k. Only
   pairs with a survivor are in the sum.
3. Wrong shares do not stop it while theta right ones are found within :data:`MAX_TRIES` sets: first the
   set that was right before, then sets that leave out one answer, two, and so on.
4. A chunk of the sum needs the words and pads of its own place alone, so chunks can run anywhere.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice

import numpy as np

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.secagg import shamir
from plasmid.secagg.channels import open_blob
from plasmid.secagg.keystream import Keystreams, Pad, commitment, pair_key, pair_seed, self_key
from plasmid.secagg.ring import Encoding, Words
from plasmid.secagg.roster import check_adverts, check_colluders, threshold
from plasmid.secagg.statements import SECRET_BYTES, Advert, Recovery, Shares, digest_of

MAX_TRIES = 4096
"""Sets of theta answers tried for one secret: any two wrong ones of 64 are found, any number of up to 12."""

_PART_BYTES = 4 * 1024 * 1024
"""Of the sum at a time: it stays in the last level of cache while a long stretch of each body is added."""

Reader = Callable[[int, int], Words]
"""Returns *count* words of one masked vector from word *offset* on."""


class CoordinatorEpoch:
    """What the coordinator holds of one key epoch.

    Parameters
    ----------
    adverts, c
        As the sites were shown them.
    recoveries
        For each site its statement and its blobs, one per slot.

    Raises
    ------
    ProtocolError
        ``protocol.adverts``, ``protocol.colluders``: no site would accept them; ``protocol.recovery``: a
        statement is missing or for another epoch, or the blobs are not those that it names.
    """

    def __init__(
        self,
        adverts: Sequence[Advert],
        recoveries: Mapping[str, tuple[Recovery, Sequence[bytes]]],
        *,
        c: int,
    ) -> None:
        ordered = check_adverts(adverts)
        check_colluders(len(ordered), c, 1)
        self.roster = tuple(advert.site for advert in ordered)
        self.rho, self.theta = digest_of(ordered), threshold(len(ordered), c)
        self.run, self.epoch = ordered[0].run, ordered[0].epoch
        self.slots = len(ordered[0].key_commitments) // SECRET_BYTES
        self._adverts = {advert.site: advert for advert in ordered}
        self._blobs: dict[str, Sequence[bytes]] = {}
        for site in self.roster:
            said, sealed = recoveries.get(site, (None, ()))
            if (
                said is None
                or (said.run, said.epoch, said.site, said.rho) != (self.run, self.epoch, site, self.rho)
                or len(sealed) != self.slots
                or sha256_hex(b"".join(sealed)) != said.blob
            ):
                raise ProtocolError(
                    "protocol.recovery",
                    f"the recovery of {site} is missing or wrong.",
                    "Start the run again.",
                )
            self._blobs[site] = sealed

    def pads(
        self,
        slot: int,
        manifest: str,
        *,
        invited: Sequence[str],
        survivors: Sequence[str],
        shares: Sequence[Shares],
    ) -> list[Pad]:
        """Return the key streams that, added to the sum of the survivors' vectors, leave the plain sum."""
        return self.opening(slot, manifest, invited=invited, survivors=survivors, shares=shares)[0]

    def opening(
        self,
        slot: int,
        manifest: str,
        *,
        invited: Sequence[str],
        survivors: Sequence[str],
        shares: Sequence[Shares],
    ) -> tuple[list[Pad], bytes]:
        """Return the :meth:`pads`, and what sites are told of them (:mod:`plasmid.secagg.samples`).

        Raises
        ------
        ProtocolError
            ``protocol.invited``: not theta survivors, all invited, all of the roster; ``protocol.shares``:
            fewer than theta answers have the form that was asked for, or theta right ones were not found;
            ``protocol.recovery``: a drop-out's blob does not open.
        """
        alive = [site for site in self.roster if site in set(survivors)]
        gone = [site for site in self.roster if site in set(invited) - set(survivors)]
        if (
            not 0 <= slot < self.slots
            or sorted(survivors) != alive
            or sorted(invited) != sorted(alive + gone)
            or len(alive) < self.theta
        ):
            raise ProtocolError(
                "protocol.invited",
                f"the sum of {len(alive)} of {len(invited)} sites cannot be opened, {self.theta} are needed.",
            )
        answers = self._answers(slot, manifest, alive, gone, shares)
        opened = self._open(slot, [*alive, *gone], set(gone), answers)
        pads = [Pad(self_key(opened[site], manifest), subtract=True) for site in alive]
        for site in gone:
            seeds = self._seeds(slot, site, opened[site])
            # The earlier site of a pair added the stream, the later one subtracted it.
            pads += [Pad(pair_key(seeds(other), manifest), subtract=other < site) for other in alive]
        told = [*(opened[site] for site in alive), *(pad.key for pad in pads[len(alive) :])]
        return pads, b"".join(told)

    def _answers(
        self, slot: int, manifest: str, alive: list[str], gone: list[str], shares: Sequence[Shares]
    ) -> dict[str, dict[str, bytes]]:
        """Return, for each survivor that answered in due form, its shares by owner."""
        place = (self.run, self.epoch, slot, manifest)
        answers = {
            said.site: {**said.self_shares, **said.key_shares}
            for said in shares
            if (said.run, said.epoch, said.slot, said.manifest) == place
            and said.site in alive
            and sorted(said.self_shares) == alive
            and sorted(said.key_shares) == gone
        }
        if len(answers) < self.theta:
            raise ProtocolError(
                "protocol.shares",
                f"{len(answers)} sites answered in due form, {self.theta} are needed; "
                f"missing or malformed: {', '.join(site for site in alive if site not in answers)}.",
                "The attempt takes another slot.",
            )
        return answers

    def _open(
        self, slot: int, owners: list[str], gone: set[str], answers: dict[str, dict[str, bytes]]
    ) -> dict[str, bytes]:
        """Return each owner's secret: k of one that is *gone*, else b."""
        order = [site for site in self.roster if site in answers]
        matrix = np.frombuffer(
            b"".join(answers[site][owner] for site in order for owner in owners), np.uint8
        ).reshape(len(order), len(owners), SECRET_BYTES)
        wanted = {owner: self._commitment(slot, owner, key=owner in gone) for owner in owners}
        found: dict[str, bytes] = {}
        trusted = tuple(range(self.theta))
        for column, owner in enumerate(owners):
            if owner in found:
                continue
            for chosen in _sets(len(order), trusted):
                weights = shamir.lagrange([self.roster.index(order[answer]) + 1 for answer in chosen])
                # A set that opens one secret mostly opens the rest: all that are left, in one go.
                opened = shamir.combine(weights, matrix[list(chosen), column:])
                secrets = dict(zip(owners[column:], (row.tobytes() for row in opened), strict=True))
                if _is(secrets[owner], wanted[owner]):
                    found |= {site: key for site, key in secrets.items() if _is(key, wanted[site])}
                    trusted = chosen
                    break
            else:
                raise ProtocolError(
                    "protocol.shares",
                    f"the answers of {', '.join(order)} hold no {self.theta} right shares of {owner}.",
                    f"Leave out {owner} if it goes on: it may have dealt wrong shares.",
                )
        return found

    def _commitment(self, slot: int, site: str, *, key: bool) -> bytes:
        advert = self._adverts[site]
        digests = advert.key_commitments if key else advert.self_commitments
        return digests[slot * SECRET_BYTES : (slot + 1) * SECRET_BYTES]

    def _seeds(self, slot: int, site: str, secret: bytes) -> Callable[[str], bytes]:
        """Return the function from another site to the pair seed of *site* with it."""
        given = open_blob(secret, self._blobs[site][slot], advert=self._adverts[site], slot=slot)
        earlier = self.roster[: self.roster.index(site)]
        if len(given) != SECRET_BYTES * len(earlier):
            raise ProtocolError("protocol.recovery", f"the recovery blob of {site} has a wrong length.")

        def seed(other: str) -> bytes:
            if other > site:
                return pair_seed(secret, other)
            start = earlier.index(other) * SECRET_BYTES
            return given[start : start + SECRET_BYTES]

        return seed


def _is(secret: bytes, digest: bytes) -> bool:
    return hmac.compare_digest(commitment(secret), digest)


def _sets(answers: int, trusted: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield sets of answers as large as *trusted*, which comes first; at most MAX_TRIES."""
    yield trusted
    seen = {trusted}
    order = [*trusted, *(answer for answer in range(answers) if answer not in trusted)]
    left_out = (
        excluded for size in range(1, answers - len(trusted) + 1) for excluded in combinations(order, size)
    )
    for excluded in islice(left_out, MAX_TRIES):
        chosen = tuple(answer for answer in order if answer not in excluded)[: len(trusted)]
        if chosen not in seen:
            seen.add(chosen)
            yield chosen


def sum_words(
    bodies: Sequence[Reader], encoding: Encoding, pads: Sequence[Pad], start: int, stop: int
) -> Words:
    """Return words *start* to *stop* (exclusive) of the sum in the ring of all *bodies* and *pads*."""
    total = np.empty(stop - start, encoding.dtype)
    streams = Keystreams(pads, encoding.dtype, offset=start)
    step = _PART_BYTES // encoding.dtype.itemsize
    for offset in range(start, stop, step):
        part = total[offset - start : offset - start + step]
        part[:] = bodies[0](offset, part.size) if bodies else 0
        for read in bodies[1:]:
            np.add(part, read(offset, part.size), out=part)
        streams.add(part)
    return total
