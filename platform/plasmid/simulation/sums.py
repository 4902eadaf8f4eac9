"""What stands for the secure sum in a simulation: the sites' words, added up by warm actors.

Rules
-----
1. Encoding, bounds, noise and threshold are those that a real run of so many sites would plan
   (:func:`plasmid.planner.attempts.attempt_plan`).
2. Of the sites, ``sites_a_round`` take part in a round: drawn from the document's seed and the round, so that
   every run of the document draws the same. A real run invites all of its sites to every round.
3. Without masks the actors add up in the ring, and one sum an actor comes back. With masks every site's words
   are masked and opened by the protocol itself (:mod:`plasmid.simulation.masks`): the total is the same, bit
   for bit, and costs what the protocol costs.
4. Nobody drops out, and nothing is attempted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from plasmid.coordinator.plan import Job, check_roster
from plasmid.coordinator.secure_sum import Opened, Phase, State
from plasmid.gateway.site_parameters import sampling
from plasmid.link.bodies import Bodies
from plasmid.planner.attempts import attempt_plan
from plasmid.protocol.messages import UnitTerms
from plasmid.secagg.ring import TAIL, decode_sum
from plasmid.simulation.cluster import Cluster
from plasmid.simulation.masks import masked_total

Drawn = Callable[[int], Sequence[str]]


class SimulatedSum:
    """The sums of one simulated run; what :class:`plasmid.coordinator.rounds.Rounds` asks for."""

    def __init__(
        self,
        cluster: Cluster,
        job: Job,
        bodies: Bodies,
        terms: Mapping[str, UnitTerms | None],
        *,
        sites_a_round: int,
        masked: bool,
    ) -> None:
        self._cluster, self._job, self._bodies, self._terms = cluster, job, bodies, dict(terms)
        self._a_round, self._masked = sites_a_round, masked
        document = job.document
        self._c = max(1, document.federation.colluding_organisations)
        rate = max((term.rate for term in terms.values() if term), default=0.0)
        planned = job.planned(sites_a_round, self._c, rate)
        check_roster(job, self.drawn(1), {}, self._c)
        self.plan = attempt_plan(document, job.shape, sites=sites_a_round, c=self._c, planned=planned)
        self._sampling = {site: sampling(document, term) for site, term in self._terms.items()}

    def drawn(self, round_: int) -> list[str]:
        """Return the sites of a round, in order."""
        every = sorted(self._terms)
        if self._a_round >= len(every):
            return every
        source = np.random.default_rng([self._job.document.seed, round_])
        return sorted(every[place] for place in source.choice(len(every), self._a_round, replace=False))

    def total(self, round_: int, state: State, *, phase: Phase = "train") -> Opened:
        """Return the sum of one round; it has no tag, which nobody would verify.

        Raises
        ------
        PlasmidError
            What a simulated site raised; ProtocolError: as :func:`plasmid.simulation.masks.masked_total`.
        """
        assert phase == "train", "canary audits are not simulated"
        sites, encoding = self.drawn(round_), self.plan.encoding
        parts = self._cluster.contribute(
            sites,
            round_,
            str(self._bodies.published(state.digest).absolute()),
            encoding,
            self._sampling,
            apart=self._masked,
            following=self.drawn(round_ + 1) if round_ < self._job.document.rounds else (),
        )
        if self._masked:
            words = {site: own for part in parts for site, own in part.items()}
            total = masked_total(
                {site: words[site].copy() for site in sites},  # what comes from Ray cannot be written to
                encoding,
                document=self._job.digest,
                round_=round_,
                c=self._c,
                least=self.plan.min_sites,
            )
        else:
            total = np.zeros(encoding.length + TAIL, encoding.dtype)
            for part in parts:
                total += part
        return Opened(decode_sum(total, encoding, len(sites)), total, tuple(sites), None)
