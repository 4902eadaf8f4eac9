"""One attempt at a round, from a site's seat: steps 5 to 7 of ``plasmid-sa/2`` after the vector was masked.

Rules
-----
1. **One contribution, one survivor list, one answer a slot.**
2. The survivors are distinct invited sites, all over this site's manifest, its own contribution among
   them, at least m and theta of them.
3. Shares leave once, against theta equal consents, this site's own among them, more than c of which say that
   their author has verified the state: of b for survivors, of k for invited sites that dropped out, **never
   both for one**.
4. The shares are erased as they leave.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plasmid.core.errors import ProtocolError
from plasmid.secagg.statements import Consent, Contribution, Shares, survivors_digest

SELF, KEY = range(2)
"""The two shares that a site holds of each site's slot: of its secret b (self-mask) and k (pair masks)."""


class Attempt:
    """What a site knows about the slot that it masked last.

    Parameters
    ----------
    run, epoch, slot, site, manifest
        Of this site and this attempt; *manifest* is the digest H.
    roster, invited
        In order; share index = roster position + 1.
    theta, c
        The epoch's threshold, and how many sites may collude.
    held
        uint8 [n, 2, 32], this site's shares of each site's b and k of the slot: a view, erased in place.
    """

    def __init__(
        self,
        *,
        run: str,
        epoch: int,
        slot: int,
        site: str,
        manifest: str,
        roster: tuple[str, ...],
        invited: tuple[str, ...],
        theta: int,
        c: int,
        held: NDArray[np.uint8],
    ) -> None:
        self.run, self.epoch, self.slot, self.site, self.manifest = run, epoch, slot, site, manifest
        self._roster, self._invited, self._theta, self._held = roster, invited, theta, held
        self._c = c
        self._contribution: Contribution | None = None
        self._consent: Consent | None = None
        self._survivors: frozenset[str] = frozenset()
        self._answered = False

    def contributed(self, said: Contribution) -> None:
        """Note this site's own contribution. Raises ProtocolError (``protocol.survivors``)."""
        place = (said.run, said.epoch, said.slot, said.site, said.manifest)
        if place != (self.run, self.epoch, self.slot, self.site, self.manifest):
            raise _survivors("what this site noted as its contribution is of another attempt")
        if self._contribution not in (None, said):
            raise _survivors("this site has another contribution for this slot")
        self._contribution = said

    def check_survivors(self, contributions: Sequence[Contribution], *, m: int) -> None:
        """Refuse what no sum may be over. Raises ProtocolError (``protocol.survivors``)."""
        mine, least = self._contribution, max(m, self._theta)
        sites = {said.site for said in contributions}
        problem = (
            "this site's own contribution is missing or changed"
            if mine is None or mine not in contributions
            else "a site is in the survivor list twice"
            if len(sites) != len(contributions)
            else "a site in the survivor list was not invited"
            if not sites <= set(self._invited)
            else "a contribution is for another manifest"
            if any(
                (said.run, said.epoch, said.round, said.slot, said.manifest)
                != (mine.run, mine.epoch, mine.round, mine.slot, mine.manifest)
                for said in contributions
            )
            else f"{len(sites)} survivors are fewer than {least}"
            if len(sites) < least
            else ""
        )
        if problem:
            raise _survivors(problem)
        if self._consent is not None and self._consent.survivors != survivors_digest(contributions):
            raise _survivors("this site agreed to another survivor list for this slot")

    def consent(self, contributions: Sequence[Contribution], *, m: int, verified: bool) -> Consent:
        """Return the consent to open this sum. Raises ProtocolError (``protocol.survivors``)."""
        self.check_survivors(contributions, m=m)
        mine = self._contribution
        assert mine is not None, "it is among the contributions"
        if self._consent is None:
            self._survivors = frozenset(said.site for said in contributions)
            self._consent = Consent(
                run=self.run,
                epoch=self.epoch,
                round=mine.round,
                slot=self.slot,
                site=self.site,
                manifest=self.manifest,
                survivors=survivors_digest(contributions),
                verified=verified,
            )
        return self._consent

    def shares(self, consents: Sequence[Consent]) -> Shares:
        """Return the shares that open the sum, once.

        Raises
        ------
        ProtocolError
            ``protocol.consents``: this site has not agreed, one of *consents* is over something else or by
            no survivor, they are of fewer than theta sites, this one counted, or no more than c of their
            authors have verified the state; ``protocol.slot_used``: the slot was answered.
        """
        mine = self._consent
        if self._answered:
            raise ProtocolError("protocol.slot_used", f"slot {self.slot} was answered.")
        if mine is None:
            raise _consents("this site has not agreed to a survivor list")
        sites = {said.site for said in consents}
        equal = all(
            said == mine.model_copy(update={"site": said.site, "verified": said.verified})
            for said in consents
        )
        if not equal or not sites <= self._survivors:
            raise _consents("they are not all by survivors, over what this site agreed to")
        if len(sites | {self.site}) < self._theta:
            raise _consents(f"{len(sites)} are fewer than {self._theta}")
        known = {said.site for said in [*consents, mine] if said.verified}
        if len(known) <= self._c:
            raise _consents(f"{len(known)} sites have verified the state, more than {self._c} must")
        answer = Shares(
            run=self.run,
            epoch=self.epoch,
            slot=self.slot,
            site=self.site,
            manifest=self.manifest,
            self_shares=self._of(SELF, [site for site in self._invited if site in self._survivors]),
            key_shares=self._of(KEY, [site for site in self._invited if site not in self._survivors]),
        )
        self._answered = True
        self._held[:] = 0
        return answer

    def _of(self, kind: int, sites: Sequence[str]) -> dict[str, bytes]:
        return {site: self._held[self._roster.index(site), kind].tobytes() for site in sites}


def _survivors(problem: str) -> ProtocolError:
    return ProtocolError("protocol.survivors", f"{problem}.", "The attempt is void; it takes another slot.")


def _consents(problem: str) -> ProtocolError:
    return ProtocolError(
        "protocol.consents", f"the consents do not open a sum: {problem}.", "The attempt takes another slot."
    )
