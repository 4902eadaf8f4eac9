"""A grid of simulated runs, what they came to over seeds, and the table that says so.

Rules
-----
1. Cells run one after the other, each on all cores; one that is finished is not run again, and a killed
   comparison goes on where it was (:class:`plasmid.experiments.grid.Finished`).
2. A cell that fails is told with its code; the others go on. It is not kept.
3. The interval is Student's, at 95 %, over seeds: how far another seed would move the mean. Sites and test
   are the same in every cell, so it says nothing about other sites or other test rows. One seed has none.
4. Baselines are those of ``plasmid run`` (:mod:`plasmid.experiments.baselines`), at every seed, without
   noise.
5. Where sites keep a part of the adapter in any cell, every cell and baseline is judged at the sites, on the
   rows that each of them holds out: that part is of no use to others' rows, and one yardstick is for all.
6. What a simulation leaves out is said with the figures (:func:`plasmid.simulation.run.differences`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plasmid.core.errors import PlasmidError
from plasmid.experiments.baselines import run_baselines
from plasmid.experiments.grid import Cell, Finished, data_digest, told
from plasmid.simulation.cluster import local_cluster
from plasmid.simulation.run import differences, simulate
from plasmid.tasks.metrics import FEWER_IS_BETTER

Note = Callable[[str], None]
LEVEL = 0.95
_JUDGED = {
    "test": "on data that nobody trained on",
    "sites": "of each site's own adapter on its rows held out, mean over the sites",
}


@dataclass(frozen=True)
class Figure:
    """One row: values over seeds.

    Attributes
    ----------
    half_width
        Of the 95 % interval of the mean; None with one seed.
    bytes_up, seconds
        Of one site and round, and of a whole simulated run (mean); None for a baseline.
    """

    what: str
    values: tuple[float, ...]
    mean: float
    half_width: float | None
    bytes_up: int | None = None
    seconds: float | None = None
    method: str | None = None
    epsilon: float | None = None


def figure(what: str, values: Sequence[float], **more: Any) -> Figure:
    """Return the row of *values* (one or more)."""
    mean, half = statistics.fmean(values), None
    if len(values) > 1:
        from scipy.stats import t

        spread = statistics.stdev(values) / math.sqrt(len(values))
        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread
    return Figure(what, tuple(values), mean, half, **more)


@dataclass(frozen=True)
class Comparison:
    """What came of a grid.

    Attributes
    ----------
    judged
        ``test``, or ``sites``: the mean over them, each on its rows held out.
    rows, baselines
        In the order of the grid.
    failed
        ``{"cell", "code", "message"}`` of each cell that failed.
    computed, kept
        How many cells and baselines ran now, and how many had been kept.
    """

    recipe: str
    title: str
    metric: str
    judged: str
    seeds: tuple[int, ...]
    rows: tuple[Figure, ...]
    baselines: tuple[Figure, ...]
    failed: tuple[dict[str, str], ...]
    said: tuple[str, ...]
    computed: int
    kept: int

    def as_json(self) -> dict[str, Any]:
        """Return the JSON values of the machine interface."""
        return {"schema": "plasmid.compare/1", **asdict(self)}

    def markdown(self) -> str:
        """Return the table, and under it what is to be known of it."""
        seeds = ", ".join(map(str, self.seeds))
        lines = [
            f"# {self.title}",
            f"{self.metric} {_JUDGED[self.judged]}; seeds {seeds}."
            + (f" Of {self.metric} less is better." if self.metric in FEWER_IS_BETTER else ""),
            "",
            f"| model | {self.metric}, mean | 95 % interval | by seed | bytes up a round | seconds |",
            "|---|---|---|---|---|---|",
            *(_line(row) for row in (*self.rows, *self.baselines)),
            "",
            *(f"- {one['cell']} failed: {one['message']} [{one['code']}]" for one in self.failed),
            "- The interval is over seeds alone: another draw of sites or of test rows is not in it.",
            *(f"- {sentence}" for sentence in self.said),
        ]
        return "\n".join([*lines, ""])


def _line(row: Figure) -> str:
    half = (
        "-"
        if row.half_width is None
        else f"{row.mean - row.half_width:.3f} to {row.mean + row.half_width:.3f}"
    )
    cells = [
        row.what,
        f"{row.mean:.3f}",
        half,
        ", ".join(f"{value:.3f}" for value in row.values),
        "-" if row.bytes_up is None else f"{row.bytes_up:,}",
        "-" if row.seconds is None else f"{row.seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def compared(
    cells: Sequence[Cell],
    tables: Mapping[str, Path],
    test: Path | None,
    kept: Finished,
    *,
    sites_a_round: int | None,
    masked: bool,
    workers: int | None,
    baselines: Sequence[Cell],
    note: Note,
) -> Comparison:
    """Run what is not finished of *cells*, and return the comparison. All of them can be simulated.

    Parameters
    ----------
    test
        None judges at the sites.
    sites_a_round, masked
        As :func:`plasmid.simulation.run.simulate`.
    workers
        Actors; None is one for each core.
    baselines
        The recipe as it is, a cell for each seed; none leaves the baselines out.

    Raises
    ------
    PlasmidError
        What the baselines raise.
    """
    data = data_digest(tables, test)
    count = min(sites_a_round or len(tables), len(tables))
    keys = [
        kept.key("cell", cell.resolved.digest, data=data, sites_a_round=count, masked=masked)
        for cell in cells
    ]
    found = {key: value for key in keys if (value := kept.get(key)) is not None}
    missing = [(key, cell) for key, cell in zip(keys, cells, strict=True) if key not in found]
    had, failed = len(found), []
    if missing:
        note(f"{len(missing)} of {len(cells)} cells to compute; starting Ray ...")
        with local_cluster(workers) as cluster:
            for number, (key, cell) in enumerate(missing, 1):
                head = f"cell {number}/{len(missing)} ({cell.name})"
                note(f"{head} ...")
                try:
                    made = simulate(
                        cluster,
                        cell.resolved,
                        tables,
                        test,
                        at_sites=test is None,
                        sites_a_round=sites_a_round,
                        masked=masked,
                        progress=_counting(note, head, "round {}/{}"),
                    )
                except PlasmidError as error:
                    failed.append({"cell": cell.name, "code": error.code, "message": error.message})
                    continue
                value = {"value": made.value, "bytes_up": made.bytes_up, "seconds": made.seconds}
                found[key] = kept.put(key, {**value, "cell": cell.name, "digest": cell.resolved.digest})
    rows: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for key, cell in zip(keys, cells, strict=True):
        if key in found:
            rows.setdefault((cell.method, cell.epsilon), []).append(found[key])
    simple, computed, reused = _baselines(baselines, tables, test, data, kept, note)
    recipe = cells[0].resolved.recipe
    units = {cell.resolved.recipe.privacy.unit for cell in cells} - {"none"}
    said = differences(sites=len(tables), a_round=count, masked=masked, unit=next(iter(units), "none"))
    return Comparison(
        recipe=recipe.name,
        title=recipe.title,
        metric=recipe.task.metric,
        judged="sites" if test is None else "test",
        seeds=tuple(dict.fromkeys(cell.seed for cell in cells)),
        rows=tuple(_row(method, epsilon, group) for (method, epsilon), group in rows.items()),
        baselines=tuple(simple),
        failed=tuple(failed),
        said=tuple(said),
        computed=len(found) - had + computed,
        kept=had + reused,
    )


def _counting(note: Note, head: str, what: str) -> Callable[[int, int], None]:
    return lambda done, every: note(f"{head}: {what.format(done, every)}")


def _row(method: str, epsilon: float | None, group: Sequence[Mapping[str, Any]]) -> Figure:
    return figure(
        method if epsilon is None else f"{method}, epsilon {told(epsilon)}",
        [one["value"] for one in group],
        bytes_up=group[0]["bytes_up"],
        seconds=statistics.fmean(one["seconds"] for one in group),
        method=method,
        epsilon=epsilon,
    )


def _baselines(
    cells: Sequence[Cell],
    tables: Mapping[str, Path],
    test: Path | None,
    data: str,
    kept: Finished,
    note: Note,
) -> tuple[list[Figure], int, int]:
    """Return the baselines' rows, and how many seeds were computed and kept."""
    found, computed = [], 0
    for cell in cells:
        key = kept.key("baselines", cell.resolved.digest, data=data)
        value = kept.get(key)
        if value is None:
            head = f"baselines, seed {cell.seed}"
            note(f"{head} ...")
            made = run_baselines(
                cell.resolved,
                tables,
                test,
                progress=_counting(note, head, "{}/{} steps"),
            )
            value, computed = kept.put(key, made), computed + 1
        found.append(value)
    if not found:
        return [], 0, 0
    simple, local = [one["simple"] for one in found], [one["local"].values() for one in found]
    best = min if cells[0].resolved.recipe.task.metric in FEWER_IS_BETTER else max
    whose = "best single site" if test else "each site its own"
    rows = {
        f"simple model, {whose}": [one["local"] for one in simple],
        "simple model, all data pooled": [one["central"] for one in simple],
        "mean single site" if test else "each site alone": [statistics.fmean(one) for one in local if one],
        "best single site": [best(one) for one in local] if test else [],
        "central (all data in one place)": [one["central"] for one in found],
    }
    measured = {what: values for what, values in rows.items() if values and None not in values}
    return [figure(what, values) for what, values in measured.items()], computed, len(found) - computed
