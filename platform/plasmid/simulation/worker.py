"""A warm Ray actor that is many sites, one after the other, around one base model.

Rules
-----
1. What a site computes is what its worker and its gateway would: rows in the canonical order of a snapshot,
   the same seed, the same engine, the output contract, the words in the ring with the site's share of the
   noise (:mod:`plasmid.worker.rounds`, :mod:`plasmid.gateway.output`). On the same threads the sum is that
   of a real run, to the last bit; but small sites take their steps together, and theirs is so up to rounding
   (:mod:`plasmid.worker.stacked_sites`).
2. The state is read from the file that the round published. What goes back is one sum in the ring for all
   sites of the call: sums in a ring are exact, whatever their order. Where masks are asked for, each
   site's words go back by themselves.
3. The base model is loaded once, for each rank that a site has. Encoded rows of the latest
   :data:`KEPT_SITES` sites are kept, also for another document that encodes alike.
4. What a site keeps for itself is in a file of the run's own folder, so that any actor goes on with it.
5. An error goes back as data: Ray's own quote more than a person needs.
"""

from __future__ import annotations

import gc
import resource
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import Vector
from plasmid.bases.store import BaseModel, open_model
from plasmid.computations import api
from plasmid.computations._personal import keeps, with_personal
from plasmid.core.canonical import digest_json
from plasmid.core.errors import DataError, PlasmidError, RunFailed, place
from plasmid.data.table import Table
from plasmid.data.views.reading import read_table, training_table
from plasmid.gateway.output import bounded, in_ring
from plasmid.gateway.run import local_seed
from plasmid.protocol.body import unpack
from plasmid.recipes.beside import shape_of
from plasmid.recipes.documents import parse_document
from plasmid.recipes.schema import Recipe
from plasmid.recipes.stopping import stop_of
from plasmid.secagg.ring import TAIL, Encoding, Words
from plasmid.worker.engine import Engine
from plasmid.worker.gain import held_table
from plasmid.worker.held_back import parted
from plasmid.worker.rounds import own_steps, site_vector, small_sites_vectors
from plasmid.worker.stacked_sites import groups, may_go_together

KEPT_SITES = 64


def _told(method: Callable[..., Any]) -> Callable[..., tuple[Any, dict[str, str] | None]]:
    """Make *method* return (value, None) or (None, error)."""

    @wraps(method)
    def answered(*arguments: Any, **named: Any) -> tuple[Any, dict[str, str] | None]:
        try:
            return method(*arguments, **named), None
        except PlasmidError as error:
            return None, error.as_dict()
        except Exception as error:  # noqa: BLE001 - a defect; its text could quote a cell
            what = f"a simulated site failed at {place(error)}."
            return None, RunFailed("run.simulation", what, "Report it, with the recipe.").as_dict()

    return answered


@dataclass(frozen=True)
class _Site:
    """An engine of a rank on what a site trains on, and the rows held back to judge each round by, if any."""

    rank: int
    engine: Engine
    held: Table | None


class SimulatedSites:
    """See the module."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._sites: OrderedDict[str, _Site] = OrderedDict()
        self._kin = ""
        self._given: dict[str, str] = {}
        self._scorer: Engine | None = None
        self._test: tuple[str, Table] | None = None

    @_told
    def open(
        self,
        document: dict[str, Any],
        digest: str,
        base: Mapping[str, str],
        tables: Mapping[str, str],
        folder: str,
    ) -> None:
        """Take the *document* of the next rounds; *tables* are the sites' files.

        Parameters
        ----------
        folder
            Where what sites keep for themselves is written; empty to begin with.
        """
        recipe = parse_document(document)
        assert isinstance(recipe, Recipe), "only what trains is simulated"
        self._recipe, self._digest = recipe, digest
        self._base: BaseModel = open_model(base["id"], revision=base["revision"], digest=base["digest"])
        self._tables = {site: Path(path) for site, path in tables.items()}
        self._folder, self._places = Path(folder), {site: place for place, site in enumerate(tables)}
        self._frames = api.method(recipe).frames(recipe, self._base)
        encodes = {name: document[name] for name in ("model", "task", "data", "adapter")}
        own = document["computation"] if self._frames else ""
        training = document["training"]
        stop = stop_of(recipe)
        parts = [encodes, own, training["precision"], training["checkpointing"], stop and stop.share]
        kin = digest_json(parts)
        if kin != self._kin or tables != self._given:
            self._sites.clear()
            self._scorer, self._test = None, None
        self._kin, self._given = kin, dict(tables)
        for site, known in self._sites.items():
            self._sites[site] = replace(known, engine=known.engine.over(recipe=self._ranked(site)))

    @_told
    def contribute(
        self,
        sites: Sequence[str],
        round_: int,
        state: str,
        encoding: Encoding,
        sampling: Mapping[str, dict[str, Any] | None],
        *,
        apart: bool,
    ) -> Words | dict[str, Words]:
        """Return the sum in the ring of what *sites* send in *round_*; *apart* returns it by site.

        Parameters
        ----------
        state
            The file of the published state.
        sampling
            What each site's gateway tells its worker about units.
        """
        shape = shape_of(api.load(self._recipe.computation), self._recipe, self._base)
        values = unpack(Path(state).read_bytes(), "state", length=shape.state.size, dtype=shape.dtype)
        found: dict[str, Words] = {}
        for some in self._groups(sites):
            chosen = {site: self._site(site) for site in some}
            for site, vector in self._vectors(chosen, round_, values, sampling).items():
                found[site] = self._words(vector, shape, encoding)
        if apart:
            return found
        total = np.zeros(encoding.length + TAIL, encoding.dtype)
        for words in found.values():
            total += words
        return total

    @_told
    def read(self, sites: Sequence[str]) -> None:
        """Read and encode the rows of as many of *sites* as are kept."""
        for site in sites[:KEPT_SITES]:
            self._site(site)

    def _groups(self, sites: Sequence[str]) -> Iterator[list[str]]:
        """Yield *sites* in groups that take their steps together, of those that are kept at a time."""
        for start in range(0, len(sites), KEPT_SITES):
            some = sites[start : start + KEPT_SITES]
            if self._may_go_together():
                for places in groups([self._site(site).engine for site in some]):
                    yield [some[place] for place in places]
            else:
                yield from ([site] for site in some)

    def _may_go_together(self) -> bool:
        recipe = self._recipe
        own = keeps(recipe) or recipe.adapter.ranks or stop_of(recipe)
        return not own and may_go_together(recipe)

    def _vectors(
        self,
        chosen: Mapping[str, _Site],
        round_: int,
        state: NDArray[Any],
        sampling: Mapping[str, Mapping[str, Any] | None],
    ) -> dict[str, NDArray[Any]]:
        recipe = self._recipe
        seeds = {site: local_seed(recipe.seed, site, round_) for site in chosen}
        if len(chosen) > 1:
            engines = {site: one.engine for site, one in chosen.items()}
            return small_sites_vectors(engines, recipe, self._base, state, round_=round_, seeds=seeds)
        ((site, one),) = chosen.items()
        how: dict[str, Any] = {"round_": round_, "seed": seeds[site], "sampling": sampling[site]}
        how |= {"held": one.held, "own": self._own(site), "keep": lambda own: np.save(self._kept(site), own)}
        return {site: site_vector(one.engine, recipe, self._base, state, site=site, **how)}

    def _kept(self, site: str) -> Path:
        return self._folder / f"{self._places[site]}.npy"

    def _own(self, site: str) -> Vector | None:
        """Return what *site* has kept for itself; None before it has trained."""
        path = self._kept(site)
        return np.load(path) if path.exists() else None

    def _words(self, vector: NDArray[Any], shape: api.Shape, encoding: Encoding) -> Words:
        vector, _ = bounded(vector, shape, noised=self._recipe.privacy.mechanism == "dp-sgd")
        turned = self._recipe.privacy.rotation == "hadamard"
        return in_ring(vector, encoding, turned_by=bytes.fromhex(self._digest) if turned else None)

    def _ranked(self, site: str) -> Recipe:
        """Return the recipe as *site* trains it, with its own rank."""
        adapter = self._recipe.adapter
        rank = adapter.ranks.get(site)
        return self._recipe.model_copy(update={"adapter": adapter.of_rank(rank)}) if rank else self._recipe

    def _training(self, site: str) -> Table:
        return training_table(self._tables[site], self._recipe, Path(tempfile.gettempdir()))

    def _site(self, site: str) -> _Site:
        if site in self._sites:
            self._sites.move_to_end(site)
            return self._sites[site]
        recipe, held = self._ranked(site), None
        table: Any = self._training(site)
        if stop := stop_of(recipe):
            table, held = parted(table, stop.share, recipe.data.patient)
        rank = recipe.adapter.lora.rank
        self._sites[site] = _Site(rank, self._engine(recipe, table), held)
        if len(self._sites) > KEPT_SITES:
            self._sites.popitem(last=False)
        return self._sites[site]

    def _engine(self, recipe: Recipe, table: Table) -> Engine:
        """Return an engine of the *recipe*'s rank on *table*, around the model of another of that rank."""
        for known in self._sites.values():
            if known.rank == recipe.adapter.lora.rank:
                return known.engine.over(table, recipe=recipe)
        checkpointing = recipe.training.checkpointing
        engine = Engine(recipe, self._base, table, checkpointing=checkpointing, frames=self._frames)
        gc.freeze()  # libraries and model stay; to look at them at each collection takes long
        return engine

    def _judging(self) -> Engine:
        """Return the engine that scores every adapter, which keeps the latest encoded rows."""
        if self._scorer is None:
            first = next(iter(self._tables))
            near = self._site(first)
            if near.rank == self._recipe.adapter.lora.rank:
                self._scorer = near.engine
            else:
                self._scorer = self._engine(self._recipe, self._training(first))
        self._scorer = self._scorer.over(recipe=self._recipe)
        return self._scorer

    @_told
    def judge(self, state: NDArray[Any], sites: Sequence[str]) -> dict[str, float | None]:
        """Return the metric, on its rows held out, of the adapter that each of *sites* has in the end.

        That is what *state* stands for, with what the site keeps for itself, after its own steps. None where
        the rows held out have no metric: they are too few, or of one label.
        """
        recipe, base = self._recipe, self._base
        found: dict[str, float | None] = {}
        for site in sites:
            adapter = api.method(recipe).adapter(recipe, base, state)
            adapter = with_personal(recipe, base, adapter, self._own(site))
            if recipe.training.personal_steps:
                seed = local_seed(recipe.seed, site, recipe.rounds + 1)
                adapter = own_steps(self._site(site).engine, recipe, base, adapter, seed=seed)
            test = held_table(self._tables[site], recipe, Path(tempfile.gettempdir()))
            try:
                found[site] = self._judging().score(adapter, test.columns) if test.rows else None
            except DataError:
                found[site] = None
        return found

    @_told
    def score(self, state: NDArray[Any], test: str) -> float:
        """Return the recipe's metric of what *state* stands for on the file *test*."""
        recipe = self._recipe
        if self._test is None or self._test[0] != test:
            self._test = (test, read_table(Path(test), recipe.contract))
        adapter = api.method(recipe).adapter(recipe, self._base, state)
        return self._judging().score(adapter, self._test[1].columns)

    @_told
    def peak_bytes(self) -> int:
        """Return the largest resident set of this process so far."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
