"""A warm Ray actor that is many sites, one after the other, around one base model.

Rules
-----
1. What a site computes is what its worker and its gateway would: rows in the canonical order of a snapshot,
   the same seed, the same engine, the output contract, the words in the ring with the site's share of the
   noise (:mod:`plasmid.training.rounds`, :mod:`plasmid.gateway.output`). On the same threads the sum is that
   of a real run, to the last bit; but small sites take their steps together, and theirs is so up to rounding
   (:mod:`plasmid.training.together`).
2. The state is read from the file that the round published. What goes back is one sum in the ring for all
   sites of the call: sums in a ring are exact, whatever their order. Where masks are asked for, each
   site's words go back by themselves.
3. The base model is loaded once. Encoded rows of the latest :data:`KEPT_SITES` sites are kept, also for
   another document that encodes alike.
4. An error goes back as data: Ray's own quote more than a person needs.
"""

from __future__ import annotations

import gc
import resource
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.canonical import digest_json
from plasmid.core.errors import PlasmidError, RunFailed, place
from plasmid.data.reading import read_table, site_rows
from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Table
from plasmid.gateway.output import bounded, in_ring
from plasmid.models.store import BaseModel, open_model
from plasmid.privacy.ring import TAIL, Encoding, Words
from plasmid.protocol.body import unpack
from plasmid.recipes.beside import shape_of
from plasmid.recipes.documents import parse_document
from plasmid.recipes.schema import Recipe
from plasmid.site.node import local_seed
from plasmid.training.engine import Engine
from plasmid.training.rounds import site_vector, small_sites_vectors
from plasmid.training.together import groups, may_go_together

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


class SimulatedSites:
    """See the module."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._kin = ""
        self._given: dict[str, str] = {}
        self._scorer: Engine | None = None
        self._test: tuple[str, Table] | None = None

    @_told
    def open(
        self, document: dict[str, Any], digest: str, base: Mapping[str, str], tables: Mapping[str, str]
    ) -> None:
        """Take the *document* of the next rounds; *tables* are the sites' files."""
        recipe = parse_document(document)
        assert isinstance(recipe, Recipe), "only what trains is simulated"
        self._recipe, self._digest = recipe, digest
        self._base: BaseModel = open_model(base["id"], revision=base["revision"], digest=base["digest"])
        self._tables = {site: Path(path) for site, path in tables.items()}
        self._frames = api.method(recipe).frames(recipe, self._base)
        encodes = {name: document[name] for name in ("model", "task", "data", "adapter")}
        own = document["computation"] if self._frames else ""
        training = document["training"]
        kin = digest_json([encodes, own, training["precision"], training["checkpointing"]])
        if kin != self._kin or tables != self._given:
            self._engines.clear()
            self._scorer, self._test = None, None
        self._kin, self._given = kin, dict(tables)
        for site, engine in self._engines.items():
            self._engines[site] = engine.over(recipe=recipe)

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
            engines = {site: self._engine(site) for site in some}
            for site, vector in self._vectors(engines, round_, values, sampling).items():
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
            self._engine(site)

    def _groups(self, sites: Sequence[str]) -> Iterator[list[str]]:
        """Yield *sites* in groups that take their steps together, of those that are kept at a time."""
        for start in range(0, len(sites), KEPT_SITES):
            some = sites[start : start + KEPT_SITES]
            if may_go_together(self._recipe):
                for places in groups([self._engine(site) for site in some]):
                    yield [some[place] for place in places]
            else:
                yield from ([site] for site in some)

    def _vectors(
        self,
        engines: Mapping[str, Engine],
        round_: int,
        state: NDArray[Any],
        sampling: Mapping[str, Mapping[str, Any] | None],
    ) -> dict[str, NDArray[Any]]:
        recipe = self._recipe
        seeds = {site: local_seed(recipe.seed, site, round_) for site in engines}
        if len(engines) > 1:
            return small_sites_vectors(engines, recipe, self._base, state, round_=round_, seeds=seeds)
        ((site, engine),) = engines.items()
        how: dict[str, Any] = {"round_": round_, "seed": seeds[site], "sampling": sampling[site]}
        return {site: site_vector(engine, recipe, self._base, state, site=site, **how)}

    def _words(self, vector: NDArray[Any], shape: api.Shape, encoding: Encoding) -> Words:
        vector, _ = bounded(vector, shape, noised=self._recipe.privacy.mechanism == "dp-sgd")
        turned = self._recipe.privacy.rotation == "hadamard"
        return in_ring(vector, encoding, turned_by=bytes.fromhex(self._digest) if turned else None)

    def _engine(self, site: str) -> Engine:
        if site in self._engines:
            self._engines.move_to_end(site)
            return self._engines[site]
        descriptor, _ = site_rows(self._tables[site], self._recipe, Path(tempfile.gettempdir()))
        table = Snapshot(descriptor).table()
        near = next(iter(self._engines.values()), None)
        if near is not None:
            engine = near.over(table)
        else:
            checkpointing = self._recipe.training.checkpointing
            engine = Engine(self._recipe, self._base, table, checkpointing=checkpointing, frames=self._frames)
            gc.freeze()  # libraries and model stay; to look at them at each collection takes long
        self._engines[site] = engine
        if len(self._engines) > KEPT_SITES:
            self._engines.popitem(last=False)
        return engine

    @_told
    def score(self, state: NDArray[Any], test: str) -> float:
        """Return the recipe's metric of what *state* stands for on the file *test*."""
        recipe = self._recipe
        if self._test is None or self._test[0] != test:
            self._test = (test, read_table(Path(test), recipe.contract))
        columns = self._test[1].columns
        # One engine keeps the encoded test for all states that are scored.
        self._scorer = (self._scorer or self._engine(next(iter(self._tables)))).over(recipe=recipe)
        adapter = api.method(recipe).adapter(recipe, self._base, state)
        return self._scorer.score(adapter, columns)

    @_told
    def peak_bytes(self) -> int:
        """Return the largest resident set of this process so far."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
