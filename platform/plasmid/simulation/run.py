"""A simulated run: the controller's rounds and the upstream strategy, over sites that are actors.

    recipe -> Job -> Rounds (as a real run) -> SimulatedSum -> actors

Rules
-----
1. The loop, the computation's step and the server's optimiser are the real run's own objects
   (:class:`plasmid.coordinator.rounds.Rounds`, :class:`plasmid.strategies.server.ServerOptimiser`); what
   stands in for the sites is the sum.
2. What differs is told with every result (:func:`differences`).
3. Whoever simulates holds every site's rows. There is no gateway: no policy, ledger, log or signature, and so
   no promise to anybody, whatever the noise.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plasmid.computations._personal import keeps
from plasmid.coordinator.plan import check_named, prepare
from plasmid.core.errors import RecipeError
from plasmid.gateway.site_parameters import unit_terms
from plasmid.link.bodies import Bodies
from plasmid.recipes.load import ResolvedRecipe
from plasmid.secagg.statements import MAX_ROSTER
from plasmid.simulation.cluster import Cluster
from plasmid.worker.gain import mean_over_sites

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Simulated:
    """What came of a simulated run.

    Attributes
    ----------
    state
        The public state that is released, [Shape.state.size].
    value
        The recipe's metric on the test; None without one. Judged at the sites, the mean of ``by_site``.
    by_site
        Where it was judged at the sites: the metric of each one's adapter on its rows held out, None where
        they have none.
    bytes_up
        Bytes of one site's body in one round, as a real run sends it.
    seconds, round_s
        Of all of it, and of each round: sum, the method's step, the server's optimiser, the published state.
    """

    state: NDArray[Any]
    value: float | None
    bytes_up: int
    seconds: float
    round_s: tuple[float, ...]
    by_site: dict[str, float | None] | None = None


@dataclass(frozen=True)
class _Unrecorded:
    """The run's database, of which a simulation keeps nothing."""

    progress: Progress | None
    rounds: int
    ends: list[float]

    def end_round(self, _run: str, round_: int, _state: str) -> None:
        self.ends.append(time.monotonic())
        if self.progress is not None:
            self.progress(round_, self.rounds)


@dataclass(frozen=True)
class _Place:
    """What :class:`plasmid.coordinator.rounds.Rounds` needs of a run's surroundings."""

    run: str
    bodies: Bodies
    runs: _Unrecorded


def check_simulated(resolved: ResolvedRecipe) -> None:
    """Raise RecipeError (``recipe.not_simulated``) for what only a real run can do; ``recipe.no_model``."""
    recipe = resolved.recipe
    reasons = [
        why
        for holds, why in (
            (bool(resolved.files), "its own Python runs in a site's sandbox only"),
            (
                recipe.privacy.audit is not None,
                "a canary audit needs the sites' own processes; --set privacy.audit=null leaves it out",
            ),
        )
        if holds
    ]
    if reasons:
        raise RecipeError(
            "recipe.not_simulated",
            f"the recipe {recipe.name} is not simulated: {'; '.join(reasons)}.",
            "Use plasmid run.",
        )


def judged_at_sites(resolved: ResolvedRecipe) -> bool:
    """Return whether sites keep a part of the adapter, so that there is none for a test of others' rows."""
    return keeps(resolved.recipe)


def simulate(
    cluster: Cluster,
    resolved: ResolvedRecipe,
    tables: Mapping[str, Path],
    test: Path | None,
    *,
    at_sites: bool = False,
    sites_a_round: int | None = None,
    masked: bool = False,
    progress: Progress | None = None,
) -> Simulated:
    """Return what a run of *resolved* over the files *tables* comes to.

    Parameters
    ----------
    at_sites
        Judge each site's adapter on the rows that ``data.holdout`` keeps from training there, and not on the
        *test*; also of a recipe whose sites all have the same one.
    sites_a_round
        How many of the sites take part in each round; None is all of them.
    masked
        Mask and open every sum by the protocol itself; it is the same sum.
    progress
        Called with (rounds done, rounds).

    Raises
    ------
    RecipeError
        As :func:`check_simulated`; ``recipe.site_unknown``, ``recipe.too_few_sites``, ``recipe.most_sites``,
        ``recipe.colluders``.
    PlasmidError
        As :class:`plasmid.simulation.sums.SimulatedSum`; RunFailed (``run.simulation``): an actor died; as
        :func:`plasmid.worker.gain.mean_over_sites`.
    """
    from plasmid.coordinator.rounds import Rounds
    from plasmid.data.views.public_size import public_size
    from plasmid.planning.traffic import body_sizes
    from plasmid.simulation.sums import SimulatedSum

    check_simulated(resolved)
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it tells of the one node that a strategy sees
    began, document = time.monotonic(), resolved.document
    job = prepare(document, resolved.digest)
    check_named(job, tables)
    assert job.base is not None, "what trains has a base model"
    by_size = job.document.privacy.unit in ("record", "patient")
    terms = {
        site: unit_terms(job.document, public_size(path, document) if by_size else None)
        for site, path in tables.items()
    }
    named = {"id": job.base.id, "revision": job.base.revision, "digest": job.base.digest}
    files = {site: str(path) for site, path in tables.items()}
    with tempfile.TemporaryDirectory(prefix="plasmid-simulation-") as folder:
        own = Path(folder) / "own"
        own.mkdir()
        cluster.open(document, resolved.digest, named, files, str(own))
        bodies = Bodies(Path(folder))
        count = min(sites_a_round or len(tables), len(tables))
        sums = SimulatedSum(cluster, job, bodies, terms, sites_a_round=count, masked=masked)
        ends: list[float] = []
        place = _Place("simulation", bodies, _Unrecorded(progress, job.document.rounds, ends))
        rounds = Rounds(place, job, sums)
        ends.append(time.monotonic())
        state = rounds.run()
        by_site = cluster.judge(state, list(tables)) if at_sites else None
    round_s = tuple(after - before for before, after in pairwise(ends))
    value: float | None = None
    if by_site is not None:
        value = mean_over_sites(by_site, resolved.recipe.task.metric)
    elif test is not None:
        value = cluster.score(state, str(test))
    up, _ = body_sizes(job.document, job.shape, sums.plan)
    return Simulated(state, value, up, time.monotonic() - began, round_s, by_site)


def differences(*, sites: int, a_round: int, masked: bool, unit: str) -> list[str]:
    """Return in sentences what a simulation of *sites*, *a_round* of them in each round, leaves out."""
    said = [
        (
            "This is a simulation: one process holds every site's rows. There were no gateways, policies, "
            "ledgers or signatures, and no network; it promises nothing to anybody."
        ),
        "Every round's sum was masked and opened by plasmid-sa/2, with all keys in one process."
        if masked
        else "Sums were rounded as secure aggregation rounds them, but not masked (--masks does that).",
    ]
    if a_round < sites:
        said.append(
            f"{a_round} of {sites} sites took part in each round, drawn anew; a real run invites all of them."
        )
    if a_round > MAX_ROSTER:
        said.append(f"A real run has at most {MAX_ROSTER} sites.")
    if unit != "none":
        said.append("Noise was that of a real run whose sites declare their rows rounded down to two digits.")
    return said
