"""What a run would take, told before it starts: values, bytes, memory, time, epsilon.

Rules
-----
1. Each figure says how it came about: ``exact`` (both ends compute and compare it), ``measured`` (a probe on
   this machine, :mod:`plasmid.planning.probe`), or ``computed`` (from a model of ours). What cannot be had is
   None, and never a guess.
2. Bytes: :mod:`plasmid.planning.traffic`. Memory that no probe measured: :mod:`plasmid.planning.footprint`.
   A base model that is described, and not here, has its outline (:mod:`plasmid.bases.outline`).
3. Time is that of a rehearsal, all sites on this machine, while it is as busy as during the probe. Sites
   compute in turns of as many as the probe had at once. What does not depend on the recipe (starting
   processes, admission, key epoch, the round's messages) was measured once, in units of
   :attr:`Probe.open_s`: those are imports, too, and take as much longer elsewhere.
4. Epsilon is the document's own for the whole run, spare attempts included, beside what the ledgers of
   sites on this machine have left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plasmid.bases.outline import Outline, missing, planned_model
from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.gateway.budget_rows import budget_rows, budgets_of
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.isolation.choice import strongest
from plasmid.planner.attempts import attempt_plan
from plasmid.planning.footprint import cpu_bytes, gpu_bytes, weight_bytes
from plasmid.planning.probe import Probe, cores, probe
from plasmid.planning.traffic import Traffic, traffic
from plasmid.protocol.messages import Planned
from plasmid.recipes.beside import shape_of
from plasmid.recipes.schema import Recipe

GATEWAY_BYTES = 90 * 2**20
"""Of a site's resident gateway, measured (``make bench NAME=demo``)."""
FEDERATION_STARTS = (2.0, 0.165)
"""Of coordinator and sites, from nothing to connected: in ``open_s``, so many and for each site."""
ADMISSION_STARTS = (0.5, 0.26)
"""Of a run, from asked for to its first manifest."""
MESSAGE_STARTS = (0.045, 0.004)
"""Of a round's messages and shares. All three: three, six and ten sites on two cores, November 2026."""


@dataclass(frozen=True)
class Budget:
    """What one site on this machine has left of a population's budget; None where it has none."""

    site: str
    population: str
    left: float | None


@dataclass(frozen=True)
class Estimate:
    """See the module.

    Attributes
    ----------
    steps
        Of one site in all rounds.
    gpu_bytes, worker_bytes, weight_bytes
        Of a site's worker on a GPU and on a CPU, and of these the base model's weights, all computed; None
        for a document that trains nothing.
    probe
        None where there were no rows to probe with, or no weights, or Python of the recipe's own and no
        sandbox for it.
    missing
        What a run on this machine lacks, a sentence each.
    epsilon, delta
        None without a privacy unit.
    """

    trainable_parameters: int
    sites: int
    rounds: int
    steps: int
    traffic: Traffic
    gpu_bytes: int | None
    worker_bytes: int | None
    weight_bytes: int | None
    probe: Probe | None
    epsilon: float | None
    delta: float | None
    budgets: tuple[Budget, ...]
    missing: tuple[str, ...] = ()

    @property
    def cpu_bytes(self) -> int | None:
        """Resident memory of one site at its peak, worker and gateway: measured, or else computed."""
        peak = (self.probe and self.probe.peak_bytes) or self.worker_bytes
        return None if not peak else peak + GATEWAY_BYTES

    @property
    def seconds(self) -> dict[str, float] | None:
        """Seconds of a rehearsal by part, and their ``total``."""
        found = self.probe
        if found is None:
            return None
        turns = self.sites / found.parallel
        work_s = self.steps * found.step_s
        parts = {
            "federation": _starts(FEDERATION_STARTS, self.sites, found),
            "admission": _starts(ADMISSION_STARTS, self.sites, found),
            "first_round": turns * (found.open_s + found.cache_s),
            "rounds": turns * (work_s + self.rounds * found.around_s)
            + self.rounds * _starts(MESSAGE_STARTS, self.sites, found),
            # Central takes as many steps as all sites together, and so do the sites alone: two children.
            "baselines": found.open_s
            + (2 * self.sites * work_s + turns * found.cache_s) / min(2, found.parallel),
        }
        return {**parts, "run": sum(parts[name] for name in _RUN), "total": sum(parts.values())}

    def as_json(self) -> dict[str, Any]:
        """Return the JSON values of the machine interface."""
        return {
            "trainable_parameters": self.trainable_parameters,
            "sites": self.sites,
            "rounds": self.rounds,
            "bytes": self.traffic.as_json(),
            "memory": {
                "cpu_bytes": self.cpu_bytes,
                "gpu_bytes": self.gpu_bytes,
                "weight_bytes": self.weight_bytes,
            },
            "seconds": self.seconds,
            "probe": asdict(self.probe) if self.probe else None,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "budgets": [asdict(one) for one in self.budgets],
            "missing": list(self.missing),
        }


_RUN = ("admission", "first_round", "rounds")


def _starts(model: tuple[float, float], sites: int, found: Probe) -> float:
    return (model[0] + model[1] * sites) * found.open_s


def estimate(
    document: Any, tables: Mapping[str, Path], *, home: Path, sites: int | None = None, probed: bool = True
) -> Estimate:
    """Return the estimate of a parsed *document*.

    Parameters
    ----------
    tables
        Each site's file, where they are at hand; the largest ones are probed.
    sites
        How many take part; None is the number of *tables*, or ``min_sites`` without any.
    home
        The state folder, whose sites' ledgers are read.
    probed
        False starts no worker: no memory is measured, and no time.

    Raises
    ------
    ModelError, RecipeError, ProtocolError
        The base model cannot be had; the document does not fit it, or so many sites.
    PlasmidError
        As :func:`plasmid.planning.probe.probe`.
    """
    trains = isinstance(document, Recipe)
    base = None
    if trains:
        model = document.model
        base = planned_model(model.base, revision=model.revision, digest=model.digest)
    shape = shape_of(api.load(document.computation), document, base)
    count = sites or len(tables) or document.federation.min_sites
    c = max(1, document.federation.colluding_organisations)
    # A rate of 1 asks for the most noise, and the widest words where noise is shared.
    planned = Planned(sites=count, c=c, noise_rate=1.0 if document.privacy.shares_noise else 0.0)
    plan = attempt_plan(document, shape, sites=count, c=c, planned=planned)
    found = None
    # Python that somebody wrote into the recipe runs in a sandbox, or not.
    locked = not getattr(document, "bundle", None) or strongest()[0] != "none"
    here = base is not None and not isinstance(base, Outline)
    if base is not None and here and tables and probed and locked:
        at_once = min(cores(), count, len(tables))
        largest = sorted(tables.values(), key=lambda path: -path.stat().st_size)[:at_once]
        found = probe(document, base, largest, threads=max(1, cores() // count))
    return Estimate(
        trainable_parameters=shape.schema.size,
        sites=count,
        rounds=document.rounds,
        steps=len(document.training.pace(document.rounds)) if trains else 0,
        traffic=traffic(document, shape, plan, sites=count, round_s=_round_s(document, found, count)),
        gpu_bytes=None if base is None else gpu_bytes(document, base, shape.state.size),
        worker_bytes=None if base is None else cpu_bytes(document, base, shape.state.size),
        weight_bytes=None if base is None else weight_bytes(base, document.model.quantization),
        probe=found,
        epsilon=document.privacy.epsilon,
        delta=document.privacy.delta,
        budgets=budgets(document, home),
        missing=() if base is None else (*missing(base), *_too_small(document, base, shape.state.size)),
    )


def _too_small(document: Recipe, base: BaseModel, trainable: int) -> tuple[str, ...]:
    """Return that this machine has too little memory for one worker on its CPU, if it has."""
    needed, there = (
        cpu_bytes(document, base, trainable),
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
    if needed <= there:
        return ()
    gib = 2**30
    on_gpu = gpu_bytes(document, base, trainable) / gib
    told = (
        f"memory: a worker takes up to {needed / gib:,.0f} GiB on a CPU, this machine has {there / gib:,.0f} "
        f"GiB. On a GPU it takes up to {on_gpu:,.0f} GiB of the GPU's."
    )
    return (told,)


def _round_s(document: Any, found: Probe | None, sites: int) -> float:
    if found is None:
        return 0.0
    steps = len(document.training.pace(document.rounds)) / document.rounds
    return float(sites / found.parallel * (steps * found.step_s + found.around_s))


def budgets(document: Any, home: Path) -> tuple[Budget, ...]:
    """Return what the sites under *home* have left for *document*; none without a privacy unit."""
    if document.privacy.unit == "none":
        return ()
    found = []
    for folder in (home / "site", *sorted((home / "sites").glob("*"))):
        site = SiteHome(folder)
        if not (folder / "site.yaml").exists():
            continue
        config = site.config()
        rows = {row["population"]: row for row in budget_rows(Ledger(site.ledger), budgets_of(site))}
        row = rows.get(config.population)
        found.append(Budget(config.name, config.population, row["epsilon"]["left"] if row else None))
    return tuple(found)
