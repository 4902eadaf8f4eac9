"""What a computation is: the public halves of one loop over a secure sum.

Rules
-----
1. A computation is a module of this package; its name is the ``computation`` of the documents that
   ask for it. It holds public arithmetic only: no training loop, no clip, no noise, no I/O.
   ``plasmid.worker`` and ``plasmid.gateway`` do those, the coordinator drives the loop.
2. :meth:`Computation.shape` says what one site sends in a round and how far it may reach. The site
   and the coordinator each compute it from their own copy and compare.
3. The site half is exactly one of ``loss`` (the node trains), ``per_record`` (the node clips every
   record and sums) or ``vector`` (finished and opaque; the node clips it as a whole). A document may carry
   that half itself, as a bundle; its computation is then the public half alone.
   What trains an adapter has a few more functions (:class:`Method`): what learns in a round, what a state is
   as an adapter, and what of a trained one is sent. There is one path through the worker for all of them.
4. :meth:`Computation.advance` is pure and sees the decoded sum only. What is summed need not be what is
   public: ``Shape.state`` is a schema of its own where they differ.
5. A ``per_record`` half that counts or sums in cells may say so (``table``, ``cell``, ``amounts``, see
   :class:`Cellular`); without a privacy unit the node then applies its rules against disclosure to them.
6. A computation may begin with what the requester gives: in place of ``initial`` it then has ``first`` and
   ``begins`` (see :class:`Begun`). One with ``SCORED`` sees of each record what the adapter in its state says
   of it, too (see :class:`Scored`). One with ``JUDGED`` has a ``vector`` of what the node found out about the
   adapter at the site (:mod:`plasmid.computations.gain`), not of the state.
7. Another package may bring a method, by an entry point of the group :data:`GROUP` that names its module. It
   cannot take the name of one that is here. Who installs it at a site makes it part of the gateway.
8. :data:`API_VERSION` enters every digest; it changes when the meaning of these rules does. Modules whose
   name begins with an underscore are what several computations share; they are no computations, and the
   digest covers them beside the files that import them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, Vector
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import RecipeError

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel

API_VERSION = "5"

SiteHalf = Literal["loss", "per_record", "vector"]
State = NDArray[np.floating[Any]]
Part = Literal["A", "B", "core", "head", "covariates"]
"""What may learn in a round: a factor of every adapted layer, the square matrix between two public frames
that stands for B, or a part of the head."""
HEAD: frozenset[Part] = frozenset({"head", "covariates"})
"""What is no factor. It learns in every round, whatever the method."""

GROUP = "plasmid.computations"

_LOSS = re.compile(r'^SITE_HALF: SiteHalf = "loss"$', re.MULTILINE)
METHODS = tuple(
    path.stem
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))
    if path != Path(__file__) and _LOSS.search(path.read_text(encoding="utf-8"))
)
"""The computations here that train an adapter, :class:`Method`: found by their site half."""

_SINGLE = "it compares single contributions, and only their sum is ever seen"
IMPOSSIBLE: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("median", "fed_median", "fedmedian", "trimmed_mean", "fedtrimmedavg", "geometric_median"),
        (_SINGLE, "finetune, whose update_clip bounds what one site can do to the mean"),
    ),
    **dict.fromkeys(
        ("krum", "multi_krum", "multikrum", "bulyan"),
        (_SINGLE, "finetune, whose update_clip bounds what one site can do to the mean"),
    ),
    **dict.fromkeys(
        ("flora", "stacking"),
        (
            "it stacks every site's factors, which would show them one by one",
            "sketch, which recovers the mean product from sums and keeps its nearest of the adapter's rank",
        ),
    ),
    **dict.fromkeys(
        ("fedex", "fedex_lora", "flexlora"),
        (
            "it needs every site's product",
            "sketch, which recovers the mean product from sums and keeps its nearest of the adapter's rank",
        ),
    ),
    **dict.fromkeys(("fedsa_lora", "fedsalora"), ("it has a shorter name here", "fedsa")),
    **dict.fromkeys(("fedprox",), ("it is no method of its own", "any method with training.proximal")),
}
"""What is asked for by these names and does not exist over a sum: why, and what comes nearest."""


def impossible(name: object) -> str | None:
    """Return why no computation *name* can exist over a sum, and what comes nearest; None for other names."""
    found = IMPOSSIBLE.get(name.lower().replace("-", "_")) if isinstance(name, str) else None
    return None if found is None else f"{name}: {found[0]}; the nearest here is {found[1]}"


def part_of(name: str) -> Part:
    """Return which part the tensor *name* of a method's public state belongs to."""
    if name.startswith("head."):
        return "covariates" if name == "head.covariates" else "head"
    ends: Mapping[str, Part] = {".lora_A.weight": "A", ".lora_B.weight": "B", ".core": "core"}
    return next(part for end, part in ends.items() if name.endswith(end))


@dataclass(frozen=True)
class Sum:
    """The decoded sum of one round.

    Attributes
    ----------
    values
        The total, float [Shape.schema.size].
    sites
        Over how many contributions it is.
    round
        The round, from 1.
    """

    values: State
    sites: int
    round: int

    @property
    def mean(self) -> State:
        """The mean contribution."""
        return np.asarray(self.values / self.sites)


@dataclass(frozen=True)
class Shape:
    """What is summed in one round, and what the public state is.

    Attributes
    ----------
    schema
        Names and shapes of the tensors of one site's vector, in order.
    bound
        Largest absolute value of a coordinate of one site's vector.
    norm
        Largest L2 norm of one site's vector, to which the gateway scales it down; None where only the
        coordinates are bounded.
    bits
        Width of the ring that the computation needs.
    record_bound
        Largest absolute value of a coordinate of one record's vector (``per_record``).
    public
        The tensors of the public state, where they are others; see :attr:`state`.
    most_sites
        Over how many contributions a sum may be so that :meth:`Computation.advance` can take it apart; None
        where any number will do.
    most_noise
        Largest standard deviation, in one coordinate and for each site, of shared noise that leaves the sum
        an answer; None where that is for the reader to see.
    beside
        So many coordinates at the end, each from 0 to ``bound``, are no part of what ``norm`` bounds; see
        :mod:`plasmid.recipes.beside`.
    """

    schema: AdapterSchema
    bound: float
    norm: float | None
    bits: Literal[32, 64]
    record_bound: float = 1.0
    public: AdapterSchema | None = None
    most_sites: int | None = None
    most_noise: float | None = None
    beside: int = 0

    @property
    def state(self) -> AdapterSchema:
        """Names and shapes of the public state's tensors, in order."""
        return self.public or self.schema

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the state and of one site's vector: float32 in a ring of 32 bits, float64 in one of 64."""
        return np.dtype("<f4" if self.bits == 32 else "<f8")


@dataclass(frozen=True)
class Layout:
    """What a vector without a privacy unit consists of: ``numbers`` tables of ``shape``, then one of flags.

    Attributes
    ----------
    counted
        Whether the first table holds counts of records, which add up along its axes.
    """

    shape: tuple[int, ...]
    numbers: int
    counted: bool

    @property
    def cells(self) -> int:
        """The number of cells of one table."""
        return math.prod(self.shape)


class Computation(Protocol):
    """The module-level interface of a computation; see the module's rules.

    Attributes
    ----------
    WORDS
        What it does, for people who approve. Those of a package's own method are never shown as a fact.
    """

    SITE_HALF: SiteHalf
    WORDS: str

    def shape(self, document: Any, base: BaseModel | None) -> Shape:
        """Return the shape of one contribution for a resolved *document* and its base model."""

    def initial(self, document: Any, shape: Shape) -> State:
        """Return the first public state, float [shape.state.size]."""

    def advance(self, document: Any, shape: Shape, state: State, summed: Sum) -> State:
        """Return the next public state from the decoded sum of a round's contributions."""


class Begun(Protocol):
    """What a computation has instead of ``initial`` that begins with what the requester gives.

    Its documents name that by its digest, as ``given``.
    """

    def first(self, document: Any, shape: Shape, given: NDArray[np.float32]) -> State:
        """Return the first public state, float [shape.state.size]."""

    def begins(self, document: Any, shape: Shape, state: State) -> bool:
        """Return whether *state* is the first state of what the document names."""

    def adapter_of(self, shape: Shape, state: State) -> NDArray[np.float32]:
        """Return the adapter in *state*."""


class Scored(dict[str, Any]):
    """A record, by column name, and what an adapter says of it."""

    probabilities: Sequence[float]
    """Of each label."""


class Method(Computation, Protocol):
    """What a computation that trains an adapter has besides. All of it is numpy, and pure.

    Attributes
    ----------
    LINEAR
        Whether what is sent is linear in what training changed. Only then may it be a sum of gradients
        (``dp-fedsgd``) or carry noise of its own (``output``).
    SERVER_OPTIMISERS
        Whether the factors, too, move by the mean alone in the rounds in which they learn, and not at all in
        others, so that an optimiser with a memory of earlier rounds means what it says. If not, it steps the
        head alone, and the factors are what ``advance`` makes of the sum.
    SITE_RANKS
        Whether what comes of the sum is exact also where sites train factors of different ranks.
    ADAPTER_KEYS
        Keys of the recipe's section ``adapter`` that it needs, and others refuse.
    PERSONAL
        The parts of the adapter that each site keeps for itself; a method without it has none
        (:mod:`plasmid.computations._personal`).
    """

    LINEAR: bool
    SERVER_OPTIMISERS: bool
    SITE_RANKS: bool
    ADAPTER_KEYS: tuple[str, ...]

    def losses(self, model: Any, batch: Any) -> Any:
        """Return the loss of each row, [n]."""

    def learns(self, document: Any, round_: int) -> frozenset[Part]:
        """Return what learns in a round, from 1. The rest stays as it is, has no part in clip and noise."""

    def frames(self, document: Any, base: BaseModel) -> Mapping[str, Vector]:
        """Return the frame U [out, rank] of each factor B that is held as U times a core, by B's name.

        Its columns are orthonormal; ``core`` learns in place of B. Empty for a method without cores.
        """

    def adapter(self, document: Any, base: BaseModel, state: State) -> Vector:
        """Return the adapter that a public *state* stands for: what is trained, and what is released.

        float32, in the order of :func:`plasmid.adapters.adapter.adapter_schema`. It is the same to the last
        bit on every machine: sites countersign the files that follow from it.
        """

    def sent(self, document: Any, base: BaseModel, before: Vector, after: Vector, round_: int) -> State:
        """Return a site's vector, [Shape.schema.size]: the adapter was *before* and is *after* training.

        Under ``dp-fedsgd``, *before* is zeros and *after* the sum of clipped gradients.
        """


class Cellular(Protocol):
    """What a computation with cells has besides."""

    def table(self, document: Any) -> Layout:
        """Return the layout of the vector without a privacy unit; records leave the flags 0."""

    def cell(self, document: Any, row: Mapping[str, Any]) -> int | None:
        """Return the record's cell in the flat table, None for a record that is left out."""

    def amounts(self, document: Any, row: Mapping[str, Any]) -> tuple[float, ...]:
        """Return what the record adds to each number, in the column's own unit: dominance is about size."""


def layout(computation: Computation, document: Any) -> Layout | None:
    """Return where a document's cells are; None for one under a privacy unit, or without cells."""
    if document.privacy.unit != "none" or not hasattr(computation, "table"):
        return None
    return cast(Cellular, computation).table(document)


def makes_adapter(computation: Computation) -> bool:
    """Return whether what comes of *computation* is an adapter: it trains one."""
    return getattr(computation, "SITE_HALF", None) == "loss"  # a document may bring the half


def given_digest(given: NDArray[np.float32]) -> str:
    """Return the SHA-256 of what a requester gives, little-endian."""
    return sha256_hex(given.astype("<f4").tobytes())


def first_state(computation: Computation, document: Any, shape: Shape, given: bytes | None) -> State:
    """Return the first public state; *given* is what the requester gives, float32 little-endian.

    Raises
    ------
    RecipeError
        ``recipe.given``: it is missing, or not what the document names.
    """
    if not hasattr(computation, "first"):
        return computation.initial(document, shape)
    begun = cast(Begun, computation)
    if given is not None and sha256_hex(given) == document.given:
        state = begun.first(document, shape, np.frombuffer(given, "<f4"))
        if state.size == shape.state.size:
            return state
    raise RecipeError(
        "recipe.given",
        "the adapter that the document names was not given, or does not fit it.",
        "Start the run with 'plasmid evaluate', which sends it.",
    )


def site_half(computation: Computation, document: Any) -> SiteHalf:
    """Return which half *document* has computed at the sites: its bundle's, or the computation's own.

    A Flower ``ClientApp`` gives a finished vector.
    """
    bundle = getattr(document, "bundle", None)
    half = computation.SITE_HALF if bundle is None else bundle.half
    return cast(SiteHalf, "vector" if half == "flower" else half)


def method(document: Any) -> Method:
    """Return the computation of a *document* with the loss half."""
    return cast(Method, load(document.computation))


@functools.cache
def brought() -> Mapping[str, importlib.metadata.EntryPoint]:
    """Return the methods that installed packages bring, by name; one that several bring is nobody's."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        if importlib.util.find_spec(f"plasmid.computations.{point.name}") is None:
            found.setdefault(point.name, []).append(point)
    return {name: points[0] for name, points in found.items() if len({point.value for point in points}) == 1}


def module_of(name: object) -> str | None:
    """Return the module of the computation called *name*, None where there is none."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "api":
        return None
    here = f"plasmid.computations.{name}"
    if importlib.util.find_spec(here) is not None:
        return here
    point = brought().get(name)
    return None if point is None else point.value


def is_method(name: object) -> bool:
    """Return whether *name* is a computation that trains an adapter."""
    return isinstance(name, str) and (name in METHODS or name in brought())


def words(name: str) -> str:
    """Return what the computation *name* of this release does, in one sentence for approvers."""
    return f"{name}: {load(name).WORDS}"


def load(name: str) -> Computation:
    """Return the computation called *name*.

    Raises
    ------
    RecipeError
        ``recipe.computation_unknown``; ``recipe.computation_broken``: the package that brings it does not
        import, or it is no :class:`Method`.
    """
    module = module_of(name)
    if module is None:
        raise RecipeError(
            "recipe.computation_unknown",
            f"there is no computation called {name[:60]!r} in this version.",
            "Check the recipe's 'computation', or install the version or package that it was written for.",
        )
    if name not in brought():
        return cast(Computation, importlib.import_module(module))
    try:
        found = importlib.import_module(module)
        missing = sorted(part for part in _PARTS if not hasattr(found, part))
    except Exception as error:  # noqa: BLE001 - it is somebody else's code
        problem = f"importing {module} ended with {type(error).__name__}"
    else:
        if not missing and found.SITE_HALF == "loss":
            return cast(Computation, found)
        problem = f"{module} lacks {', '.join(missing)}" if missing else f"{module} trains no adapter"
    raise RecipeError(
        "recipe.computation_broken",
        f"the computation {name!r} is brought by an installed package, but {problem}.",
        "Mend the package, or uninstall it; docs/own-methods.md says what a method has.",
    )


_PARTS = (
    *("SITE_HALF", "LINEAR", "SERVER_OPTIMISERS", "SITE_RANKS", "ADAPTER_KEYS"),
    *("shape", "initial", "losses", "learns", "frames", "adapter", "sent", "advance"),
)
"""What a module has that is a :class:`Method`."""
