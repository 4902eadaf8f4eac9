"""The Ray cluster of a simulation: on this host, with a token of its own, and one warm actor a core."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from plasmid.core.errors import RunFailed, from_dict
from plasmid.core.files import home
from plasmid.planning.probe import cores
from plasmid.secagg.ring import Encoding
from plasmid.serving.ray_output import quiet_start, unheard

OBJECT_STORE_BYTES = 256 * 2**20


class Cluster:
    """Actors (:class:`plasmid.simulation.worker.SimulatedSites`), each on its share of the cores."""

    def __init__(self, ray: Any, workers: int) -> None:
        from plasmid.simulation.worker import SimulatedSites

        self._ray = ray
        threads = max(1, cores() // workers)
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}}
        kind = ray.remote(SimulatedSites).options(num_cpus=0, runtime_env=environment)
        self._actors = [kind.remote(threads) for _ in range(workers)]

    def open(
        self,
        document: Mapping[str, Any],
        digest: str,
        base: Mapping[str, str],
        tables: Mapping[str, str],
        folder: str,
    ) -> None:
        """Have every actor take the *document* of the next rounds; *folder* is theirs for that long."""
        told = (dict(document), digest, dict(base), dict(tables), folder)
        self._answers([actor.open.remote(*told) for actor in self._actors])

    def contribute(
        self,
        sites: Sequence[str],
        round_: int,
        state: str,
        encoding: Encoding,
        sampling: Mapping[str, dict[str, Any] | None],
        *,
        apart: bool,
        following: Sequence[str] = (),
    ) -> list[Any]:
        """Return each actor's part of a round; the sites are dealt in order, as many to each.

        Parameters
        ----------
        following
            The sites of the next round, which are read while what this one returns is worked on.
        """
        asked = []
        for number, actor in enumerate(self._actors):
            own, later = (list(some[number :: len(self._actors)]) for some in (sites, following))
            if own:
                terms = {site: sampling[site] for site in own}
                asked.append(actor.contribute.remote(own, round_, state, encoding, terms, apart=apart))
            if later:
                actor.read.remote(later)  # what is amiss there is told by the round that needs it
        return self._answers(asked)

    def score(self, state: Any, test: str) -> float:
        """Return the metric of *state* on the file *test*."""
        return float(self._answers([self._actors[0].score.remote(state, test)])[0])

    def judge(self, state: Any, sites: Sequence[str]) -> dict[str, float | None]:
        """Return the metric, on its rows held out, of the adapter that each of *sites* has in the end."""
        each = len(self._actors)
        asked = [
            actor.judge.remote(state, own)
            for number, actor in enumerate(self._actors)
            if (own := list(sites[number::each]))
        ]
        found = {site: value for part in self._answers(asked) for site, value in part.items()}
        return {site: found[site] for site in sites}

    def peak_bytes(self) -> int:
        """Return the sum of the actors' largest resident sets."""
        return sum(self._answers([actor.peak_bytes.remote() for actor in self._actors]))

    def _answers(self, asked: Sequence[Any]) -> list[Any]:
        import ray.exceptions

        try:
            answers = self._ray.get(list(asked))
        except ray.exceptions.RayActorError:
            answers = None
        if answers is None:
            raise RunFailed(
                "run.simulation",
                "a process of the simulation died, most likely for want of memory.",
                "Use fewer --workers, or a smaller training.batch.",
            )
        for _, error in answers:
            if error is not None:
                raise from_dict(error)
        return [value for value, _ in answers]


@contextmanager
def local_cluster(workers: int | None = None) -> Iterator[Cluster]:
    """Yield a cluster of *workers* actors; None is one for each core. It ends with the block."""
    from plasmid.coordinator.coordinator import secure_ray

    folder = home() / "simulation"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    secure_ray(folder)  # before Ray is imported, which looks at once
    import ray

    own = not ray.is_initialized()
    if own:
        with quiet_start():
            ray.init(
                address="local",
                num_cpus=workers or cores(),
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
            )
    try:
        yield Cluster(ray, workers or cores())
    finally:
        if own:
            with unheard():
                ray.shutdown()
