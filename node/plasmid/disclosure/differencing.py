"""Which sets of people differ by so few that two released sums over them tell about those few. Pure.

Rules
-----
1. A release is a family of named sets: the cells of a table (*base* sets), and margins, whose names hold a
   ``*``. What an analyst can compute from a release is a sum over any union of base cells.
2. Two releases **conflict** if there are a set A of one and a union U of base cells of the other, or a set of
   the other (a margin too), such that A and U share people, are not equal, and fewer than ``least`` people
   are in A alone and fewer than ``least`` in U alone. For then the difference of two sums is about those
   few. A in U, U in A, "all but one" and "one swapped for another" are all of this kind.
3. Which union comes closest is no guess: a base cell with ``least`` people in A has to be in it, one with
   ``least`` outside A must not, and over the few that are left every pair of differences that can be reached
   is enumerated (at most least² of them). Exact where base cells are disjoint.
4. Sets that are equal conflict in nothing: their sums are equal, too.
5. Not covered: combinations of three and more releases.

Source: Denning and Schlörer (1983) on trackers; Hundepool et al., Statistical Disclosure Control (2012), 6.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Small = NDArray[np.uint32]

PREFIX = 4096
"""At least so many people are compared before all of them are."""
_BLOCK = 2_000_000
"""Numbers that are held at a time."""


@dataclass(frozen=True)
class Sets:
    """People by the sets that they are in: all who are in the same sets are of one *class*.

    Attributes
    ----------
    names
        Of the sets.
    keys, classes
        Every person once, by ascending key, and his class: uint64 and uint32 [people].
    member_class, member_set
        Which class is in which set, uint32 [memberships].
    """

    names: tuple[str, ...]
    keys: Keys
    classes: Small
    member_class: Small
    member_set: Small

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The number of people in each set."""
        return self.per_set(np.bincount(self.classes, minlength=self.number_of_classes).astype(np.int64))

    @cached_property
    def base(self) -> NDArray[np.bool_]:
        """Which sets are base cells."""
        return np.array(["*" not in name for name in self.names], dtype=bool)

    @cached_property
    def number_of_classes(self) -> int:
        """How many classes there are."""
        return int(self.member_class.max()) + 1 if self.member_class.size else 0

    @cached_property
    def by_class(self) -> tuple[Small, Small]:
        """The memberships by class: classes and sets."""
        order = np.argsort(self.member_class, kind="stable")
        return self.member_class[order], self.member_set[order]

    def per_set(self, people: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of people per set from that per class, along the last axis."""
        order = np.argsort(self.member_set, kind="stable")
        starts = np.searchsorted(self.member_set[order], np.arange(len(self.names)))
        return np.add.reduceat(people[..., self.member_class[order]], starts, axis=-1)

    def below(self, end: np.uint64 | None) -> Sets:
        """Return the same sets of those whose key is below *end*; of all without one."""
        if end is None:
            return self
        number = int(np.searchsorted(self.keys, end))
        return replace(self, keys=self.keys[:number], classes=self.classes[:number])


def sets_of(cells: Mapping[str, Keys]) -> Sets:
    """Return the sets of *cells*: keys of people by the name of a cell. Empty cells are left out."""
    given = {
        name: np.unique(np.asarray(keys, np.uint64)) for name, keys in sorted(cells.items()) if len(keys)
    }
    if not given:
        nobody = np.zeros(0, np.uint32)
        return Sets((), np.zeros(0, np.uint64), nobody, nobody, nobody)
    keys = np.concatenate(list(given.values()))
    of_set = np.repeat(np.arange(len(given)), [len(one) for one in given.values()])
    order = np.argsort(keys, kind="stable")
    keys, of_set = keys[order], of_set[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    # A class is known by the sum of random words of its sets: two of 10^5 are equal with chance 3e-10.
    words = np.random.default_rng(0).integers(0, 2**64, len(given), dtype=np.uint64)
    _, first, classes = np.unique(
        np.add.reduceat(words[of_set], starts), return_index=True, return_inverse=True
    )
    ends = np.append(starts[1:], keys.size)
    members = [of_set[starts[person] : ends[person]] for person in first]
    return Sets(
        names=tuple(given),
        keys=keys[starts],
        classes=classes.astype(np.uint32),
        member_class=np.repeat(np.arange(len(members)), [len(one) for one in members]).astype(np.uint32),
        member_set=np.concatenate(members).astype(np.uint32),
    )


def conflict(old: Sets, new: Sets, least: int) -> tuple[str, str] | None:
    """Return the names of a set and of one (or ``""`` for a union) that conflict with it, None without any.

    The first is of either release, the second of the other. People with small keys are compared first: what
    no choice among them keeps below *least* no choice among all does.
    """
    prefix = max(PREFIX, 64 * max(len(old.names), len(new.names)))
    if min(old.keys.size, new.keys.size) > prefix:
        end = min(old.keys[prefix], new.keys[prefix])
        if next(_conflicts(old.below(end), new.below(end), least, part=True), None) is None:
            return None
    return next(_conflicts(old, new, least, part=False), None)


def _conflicts(old: Sets, new: Sets, least: int, *, part: bool) -> Iterator[tuple[str, str]]:
    """Yield conflicts; with *part*, of what may be one if there are more people than these."""
    classes = _shared(old, new)
    yield from _one_way(old, new, classes, least, part=part)
    yield from _one_way(new, old, (classes[1], classes[0], classes[2]), least, part=part)


def _shared(old: Sets, new: Sets) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the classes of people who are in both, and how many are of each pair."""
    if old.keys.size == new.keys.size and np.array_equal(old.keys, new.keys):
        one, other = old.classes, new.classes
    else:
        at = np.searchsorted(old.keys, new.keys)
        at[at == old.keys.size] = 0
        same = old.keys[at] == new.keys if old.keys.size else np.zeros(new.keys.size, bool)
        one, other = old.classes[at[same]], new.classes[same]
    codes = one.astype(np.int64) * max(1, new.number_of_classes) + other
    if old.number_of_classes * new.number_of_classes <= 1_000_000:
        counts = np.bincount(codes)
        found = np.flatnonzero(counts)
        counts = counts[found]
    else:
        found, counts = np.unique(codes, return_counts=True)
    return found // max(1, new.number_of_classes), found % max(1, new.number_of_classes), counts


def _one_way(
    ones: Sets,
    others: Sets,
    shared: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    least: int,
    *,
    part: bool,
) -> Iterator[tuple[str, str]]:
    """Yield the sets of *ones* that conflict with a set, or a union of base cells, of *others*."""
    if not ones.names or not others.names:
        return
    of_one, of_other, counts = shared
    # Every set of *ones* beside every pair of classes that its people are of, by set.
    first = np.searchsorted(ones.by_class[0], of_one)
    number = np.searchsorted(ones.by_class[0], of_one, side="right") - first
    at = np.repeat(first - np.cumsum(number) + number, number) + np.arange(number.sum())
    sets, to, weights = ones.by_class[1][at], np.repeat(of_other, number), np.repeat(counts, number)
    block = max(1, _BLOCK // max(1, others.member_class.size))
    for low in range(0, len(ones.names), block):
        rows = min(block, len(ones.names) - low)
        mine = (sets >= low) & (sets < low + rows)
        codes = (sets[mine].astype(np.int64) - low) * others.number_of_classes + to[mine]
        per_class = np.bincount(codes, weights[mine], minlength=rows * others.number_of_classes)
        per_class = np.rint(per_class.reshape(rows, -1)).astype(np.int64)
        shares = others.per_set(per_class)
        sizes = ones.sizes[low : low + rows]
        alone, beside = sizes[:, None] - shares, others.sizes - shares
        near = (alone < least) & (beside < least)
        if not part:
            near &= (shares > 0) & (alone + beside > 0)
        for row, column in np.argwhere(near):
            yield ones.names[low + row], others.names[column]
        missed = sizes - per_class.sum(axis=1)
        shares, beside = shares[:, others.base], beside[:, others.base]
        for row in _hopeful(missed, shares, beside, least):
            if (part or sizes[row] >= least) and _union_near(
                int(missed[row]), shares[row], beside[row], least, equal=part
            ):
                yield ones.names[low + row], ""


def _hopeful(
    missed: NDArray[np.int64], shares: NDArray[np.int64], beside: NDArray[np.int64], least: int
) -> NDArray[np.intp]:
    """Return the rows that the cells which must and must not be in a union leave below *least*."""
    needed, barred = shares >= least, beside >= least
    alone = missed + (shares * barred).sum(axis=1)
    extra = (beside * needed).sum(axis=1)
    return np.flatnonzero(~(needed & barred).any(axis=1) & (alone < least) & (extra < least))


def _union_near(
    missed: int, shares: NDArray[np.int64], beside: NDArray[np.int64], least: int, *, equal: bool
) -> bool:
    """Return whether some union of cells differs from a set by fewer than *least* people on either side.

    Parameters
    ----------
    missed
        People of the set who are in no cell.
    shares, beside
        Of each cell: how many of its people are in the set, and how many are not; see :func:`_hopeful`.
    equal
        Whether a union that is the set itself counts.
    """
    needed, barred = shares >= least, beside >= least
    alone, extra = missed + int(shares[barred].sum()), int(beside[needed].sum())
    reached = np.zeros((least, least), bool)  # [in the set alone, in the union alone]
    reached[alone, extra] = True
    for share, rest in zip(
        *(part[~needed & ~barred & (shares > 0)] for part in (shares, beside)), strict=True
    ):
        without, with_it = np.zeros_like(reached), np.zeros_like(reached)
        without[share:] = reached[: least - share]
        with_it[:, rest:] = reached[:, : least - rest]
        reached = without | with_it
    if not equal:
        reached[0, 0] = False
    return bool(reached.any())
