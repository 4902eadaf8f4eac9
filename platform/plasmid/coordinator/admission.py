"""Asking the invited sites, and waiting for those whose people are to approve the run first.

    ask all -> nobody waits: go on
            -> some wait: AWAITING_APPROVAL until each has said yes or no, then ask all again

Rules
-----
1. A run starts when no invited site is still waiting; who refuses or is away is left out, if enough accept.
2. While others wait, who has accepted keeps no worker and no budget: it is told to rest, and asked again.
3. A site that neither answers nor comes back before its own deadline has refused. When too few are left, the
   run ends at once, not at the last deadline.
4. What a site last said is in the database, so a coordinator that starts again waits on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from plasmid.coordinator.context import RunContext
from plasmid.coordinator.plan import Job, check_roster, colluders
from plasmid.coordinator.states import RunState
from plasmid.core.clock import Clock, now, parse
from plasmid.core.errors import RecipeError, RunFailed
from plasmid.protocol.messages import Admission, Admit, End, UnitTerms

ADMISSION_TIMEOUT_S = 180.0
"""The least that a site gets to answer: it reads its view, however large, before it says yes. A document
whose ``round_timeout_s`` is longer gives it that."""
LOOK_S = 0.5
SEND_AGAIN_S = 20.0
"""A site that was started anew does not know what it was asked before."""
GRACE = timedelta(minutes=1)
"""What a site's clock may be behind this one's."""


class Admissions:
    """The admission of one run. See the module's rules."""

    def __init__(self, context: RunContext, organisations: dict[str, str], *, clock: Clock = now) -> None:
        self._context, self._organisations, self._clock = context, organisations, clock
        asked, project = context.runs.asked(context.run)
        self._request = Admit(run=context.run, request=asked, project=project)
        self._said: dict[str, Admission] = {}
        self._refused: dict[str, str] = {}
        self._expired = False

    def admit(self, job: Job, invited: list[str]) -> dict[str, UnitTerms | None]:
        """Return the sites that take part, with what each made of the document's epsilon.

        Raises
        ------
        RecipeError
            ``recipe.too_few_sites``, ``recipe.colluders``.
        RunFailed
            ``run.approval_expired``: too few sites are left, and one did not approve in time.
            ``run.stopped``.
        """
        runs, run = self._context.runs, self._context.run
        if runs.state(run) is RunState.AWAITING_APPROVAL:
            self._said = runs.awaited(run)
            self._await(job, invited, sent=-math.inf)
        else:
            runs.move(run, RunState.ADMITTING, text=f"asking {len(invited)} sites")
        while True:
            self._ask(job, invited)
            if not (self._waiting() and self._enough(job, invited)):
                return self._finish(job)
            if runs.state(run) is not RunState.AWAITING_APPROVAL:
                runs.move(run, RunState.AWAITING_APPROVAL, text=", ".join(self._waiting()))
            self._await(job, invited, sent=time.monotonic())

    def _ask(self, job: Job, invited: list[str]) -> None:
        """Ask every site that has not refused, and take what they say."""
        timeout_s = max(ADMISSION_TIMEOUT_S, job.document.federation.round_timeout_s)
        sites = [site for site in invited if site not in self._refused]
        online = self._context.hear_again("admission", sites)
        self._context.send((site, self._request) for site in online)
        collected = self._context.collect("admission", online, timeout_s=timeout_s)
        for site, signed in collected.got.items():
            self._take(site, Admission.model_validate(signed.payload))
        away = {site: "it is not connected" for site in sites if site not in online} | collected.missing
        for site, why in away.items():
            known = self._said.get(site)
            if known is None or known.pending is None:  # who waits may be away until its deadline
                self._said.pop(site, None)
                self._refused[site] = why

    def _await(self, job: Job, invited: list[str], *, sent: float) -> None:
        """Return when no site waits any more, or too few can be left; *sent* is when they were last asked."""
        self._rest(site for site, said in self._said.items() if said.accepted)
        while self._waiting() and self._enough(job, invited):
            time.sleep(LOOK_S)
            waiting = self._waiting()
            if time.monotonic() - sent > SEND_AGAIN_S:
                sent = time.monotonic()
                online = set(self._context.online())
                self._context.send((site, self._request) for site in waiting if site in online)
            collected = self._context.collect("admission", waiting, timeout_s=0.0)
            for site, signed in collected.got.items():
                said = Admission.model_validate(signed.payload)
                if said != self._said[site]:
                    self._take(site, said)
            self._rest(site for site in waiting if self._said.get(site) and self._said[site].accepted)
            self._expire()

    def _enough(self, job: Job, invited: list[str]) -> bool:
        least: int = job.document.federation.min_sites
        return len(invited) - len(self._refused) >= least

    def _waiting(self) -> list[str]:
        return sorted(site for site, said in self._said.items() if said.pending is not None)

    def _take(self, site: str, said: Admission) -> None:
        context = self._context
        context.runs.admit(context.run, site, said)
        if said.accepted or said.pending is not None:
            self._said[site] = said
        else:
            self._said.pop(site, None)
            self._refused[site] = f"{said.sentence} [{said.code}]".lstrip()
            self._expired |= said.code == "policy.approval_expired"

    def _rest(self, sites: Iterable[str]) -> None:
        """Let *sites* end the run for now; they are asked again."""
        end = End(run=self._context.run, state=RunState.AWAITING_APPROVAL)
        self._context.send((site, end) for site in sites)

    def _expire(self) -> None:
        """Count as refused who has let its own deadline pass without a word."""
        present: datetime = self._clock()
        for site in self._waiting():
            pending = self._said[site].pending
            if pending is not None and pending.expires and present > parse(pending.expires) + GRACE:
                self._take(site, self._said[site].model_copy(update=_EXPIRED))

    def _finish(self, job: Job) -> dict[str, UnitTerms | None]:
        terms = {site: said.terms for site, said in self._said.items() if said.accepted}
        roster = sorted(terms)
        left_out = dict.fromkeys(self._waiting(), f"its people have yet to approve [{_AWAITING}]")
        organisations = {site: self._organisations[site] for site in roster}
        c = colluders(organisations, job.document.federation.colluding_organisations)
        try:
            check_roster(job, roster, self._refused | left_out, c)
        except RecipeError as error:
            if error.code != "recipe.too_few_sites" or not self._expired:
                raise
            raise RunFailed(
                "run.approval_expired",
                f"the run was not approved in time: {error.message}",
                "Talk to the sites' owners, then ask for the run anew.",
            ) from error
        return terms


_AWAITING = "policy.awaiting_approval"
_EXPIRED: dict[str, Any] = {
    "pending": None,
    "code": "policy.approval_expired",
    "sentence": "It let its own deadline pass.",
}
