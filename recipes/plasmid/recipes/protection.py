"""Who takes part, how a contribution is hidden, and what differential privacy is promised: two sections.

Rules
-----
1. ``federation`` (:class:`Limits`) and ``privacy`` (:class:`Protection`, :class:`Privacy`) are shared by
   recipes and queries; what contradicts itself in them is yielded as ``(path, what)``, all of it at once.
2. Without a unit no key of differential privacy may be given; under one, all that decide epsilon must be.
3. Fewer than three organisations can hide nothing in a sum (each subtracts itself): only ``dp-sgd``, whose
   noise needs no mask, runs with ``protect: none`` under a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field
from pydantic_core import PydanticCustomError

from plasmid.recipes.columns import Strict

Location = tuple[str | int, ...]


class Limits(Strict):
    """Who must take part, and how long a round may take.

    ``min_sites`` is the smallest set of sites whose sum may be opened. ``spare_attempts`` is how many
    attempts at a round may fail in the whole run; under a privacy unit they are charged beforehand.
    """

    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 3
    colluding_organisations: Annotated[int, Field(ge=0, le=1000)] = 1
    round_timeout_s: Annotated[float, Field(gt=0, le=604_800)] = 600.0
    spare_attempts: Annotated[int, Field(ge=0, le=1000)] = 2


Protect = Literal["masked", "none"]
Unit = Literal["none", "record", "patient", "site"]
Mechanism = Literal["dp-sgd", "dp-fedsgd", "output"]
Clip = Annotated[float, Field(gt=0, le=1e6)]


class Protection(Strict):
    """How one site's contribution is hidden, and what differential privacy is given to whom.

    Attributes
    ----------
    protect
        ``masked`` (only the sum is seen) or ``none``.
    unit
        Whose presence (epsilon, delta) hides: one ``record``, all records of one ``patient``, a whole
        ``site``; ``none`` for no differential privacy. Adjacency is adding or removing one unit.
    mechanism
        ``dp-sgd``: noise at the site in every step, which trusts nobody. ``dp-fedsgd``: one sum of clipped
        gradients or records a round, the noise shared by the sites. ``output``: a finished vector, noised
        for its whole bound. None without a unit.
    epsilon, delta
        For the whole run, spare attempts included; None without a unit.
    record_clip
        L2 bound of one unit's gradient or vector (``dp-sgd``, ``dp-fedsgd``).
    max_records
        At most so many records of a patient count in one sample.
    rotation
        ``hadamard`` spreads a vector over its coordinates by a public random rotation, so that shared
        noise fits a narrower ring.
    """

    protect: Protect = "masked"
    unit: Unit = "none"
    mechanism: Mechanism | None = None
    epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    record_clip: Clip | None = None
    max_records: Annotated[int, Field(ge=1, le=4096)] = 16
    rotation: Literal["none", "hadamard"] = "none"

    @property
    def shares_noise(self) -> bool:
        """Whether the noise is made in shares inside the secure sum."""
        return self.mechanism in ("dp-fedsgd", "output")


class AuditPlan(Strict):
    """A canary audit after the last round.

    ``canaries`` are planted at every site, each with probability 1/2. With ``gate`` a failed audit ends the
    run without an adapter. ``max_audited_epsilon`` is what the audit compares with where there is no unit.
    """

    canaries: Annotated[int, Field(ge=10, le=100_000)]
    gate: bool = False
    max_audited_epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None


class GradientScale(Strict):
    """What a unit's gradient is multiplied by, per parameter group, before the clip; undone after the noise.

    Public constants. Where one group's gradients are much longer than another's they would take the whole
    clip, and the other would drown in noise.
    """

    lora: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    head: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    covariates: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0


class Privacy(Protection):
    """``update_clip``: the largest L2 norm of one site's update in one round; a longer one is scaled down."""

    update_clip: Clip = 10.0
    gradient_scale: GradientScale = Field(default_factory=GradientScale)
    audit: AuditPlan | None = None


def refuse(contradictions: Iterable[tuple[Location, str]]) -> None:
    """Raise PydanticCustomError, all *contradictions* with it, if there is one."""
    if problems := list(contradictions):
        raise PydanticCustomError("contradiction", "sections contradict one another", {"problems": problems})


def masked_limits(federation: Limits, privacy: Protection) -> Iterator[tuple[Location, str]]:
    """Yield what is wrong with *federation* if contributions are masked: a sum must hide two honest sites."""
    if privacy.protect != "masked":
        return
    sites, colluding = federation.min_sites, federation.colluding_organisations
    if sites < 3:
        what = f"masked sums need at least 3 sites (each of 2 could subtract itself), not {sites}"
        yield ("federation", "min_sites"), what
    elif sites - colluding < 2:
        what = f"must be at least 2 less than min_sites ({sites}), so that a sum hides two honest sites"
        yield ("federation", "colluding_organisations"), f"{what}, not {colluding}"


def unit_limits(privacy: Protection) -> Iterator[tuple[Location, str]]:
    """Yield what contradicts itself in the unit, mechanism and figures of *privacy*."""
    figures = ("mechanism", "epsilon", "delta")
    if privacy.unit == "none":
        for name in (*figures, "record_clip"):
            if getattr(privacy, name) is not None:
                yield ("privacy", name), "means nothing with unit: none; name the unit that it protects"
        return
    for name in figures:
        if getattr(privacy, name) is None:
            yield ("privacy", name), f"is needed with unit: {privacy.unit}"
    if privacy.mechanism is None:
        return
    per_unit = privacy.mechanism != "output"
    if per_unit and privacy.unit == "site":
        yield ("privacy", "mechanism"), f"unit: site needs mechanism: output, not {privacy.mechanism}"
    if per_unit and privacy.record_clip is None:
        yield ("privacy", "record_clip"), f"is needed with mechanism: {privacy.mechanism}"
    if not per_unit and privacy.record_clip is not None:
        yield (
            ("privacy", "record_clip"),
            "means nothing with mechanism: output, which bounds the vector",
        )
    if privacy.protect == "none" and privacy.shares_noise:
        what = f"mechanism: {privacy.mechanism} shares noise inside a masked sum; only dp-sgd needs no mask"
        yield ("privacy", "protect"), what
    if privacy.rotation != "none" and not privacy.shares_noise:
        yield ("privacy", "rotation"), "is for noise shared inside the sum"


def audit_limits(privacy: Privacy) -> Iterator[tuple[Location, str]]:
    """Yield what contradicts itself in the audit of *privacy*."""
    if privacy.audit is None:
        return
    stated = privacy.audit.max_audited_epsilon
    if privacy.unit == "none" and stated is None:
        yield ("privacy", "audit", "max_audited_epsilon"), "is needed where no unit gives an epsilon"
    if privacy.unit != "none" and stated is not None:
        yield (
            ("privacy", "audit", "max_audited_epsilon"),
            "means nothing under a unit, whose epsilon counts",
        )
    if privacy.unit == "site":
        yield ("privacy", "audit"), "canaries are records; they say nothing about unit: site"
