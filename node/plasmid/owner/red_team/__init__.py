"""``plasmid doctor --red-team``: attacks on a copy of a site, with harmless payloads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from plasmid.gateway.home import SiteHome
from plasmid.isolation.choice import choose
from plasmid.owner.red_team import escapes, requests, rounds, sums, visits
from plasmid.owner.red_team import storage as keeping
from plasmid.owner.red_team.attack import Attack, Outcome, carry_out
from plasmid.owner.red_team.scratch import Scratch

ATTACKS: tuple[Attack[Scratch], ...] = (
    *requests.ATTACKS,
    *rounds.ATTACKS,
    *sums.ATTACKS,
    *keeping.ATTACKS,
    *escapes.ATTACKS,
    *visits.ATTACKS,
)


def run(real: SiteHome, attacks: tuple[Attack[Scratch], ...] = ATTACKS) -> Iterator[Outcome]:
    """Yield how *attacks* on copies of the site in *real* come out. Nothing of the real one is changed."""
    isolation = choose(real.config().isolation)
    with tempfile.TemporaryDirectory(prefix="plasmid-red-team-") as folder:
        numbers = iter(range(len(attacks)))
        yield from carry_out(attacks, lambda: Scratch(Path(folder) / str(next(numbers)), real, isolation))


def rows(outcomes: list[Outcome]) -> dict[int, bool]:
    """Return for each row of the list of threats that was tried whether all its attacks held."""
    tried = sorted({outcome.row for outcome in outcomes if outcome.row is not None})
    return {row: all(outcome.held for outcome in outcomes if outcome.row == row) for row in tried}
