"""What the log says about one release: enough for the owner to see what left, nothing that gives rows away.

Rules
-----
1. Names, shapes, counts, digests and public bounds; never a value of the vector.
2. A norm is logged only where the contract bounds it. Of a short vector without that bound (a sum of three
   numbers, say) the norm would be nearly the vector.
3. ``clip_fraction`` is the part of the norm that the clip took away, 1 - after / before: 0 where nothing was
   clipped. Where the worker adds noise (``dp-sgd``), both norms are of the noised vector.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema
from plasmid.computations import api
from plasmid.gateway.admission import AdmittedRun
from plasmid.protocol.messages import Manifest
from plasmid.secagg.ring import blocks

Fact = str | int | float | bool | list[str] | None


def released(
    admitted: AdmittedRun,
    manifest: Manifest,
    shape: api.Shape,
    vector: NDArray[Any],
    *,
    norm: float,
    coordinator: str,
    population: str | None,
    spent: float | None,
) -> dict[str, Fact]:
    """Return the facts of a release, beside its run and its body.

    Parameters
    ----------
    vector, norm
        What was bounded, and its L2 norm before.
    coordinator
        The pinned key of whom it goes to.
    population, spent
        Whose budget was charged, and its epsilon spent so far, this run's whole cost included; None without
        a privacy unit.
    """
    before = after = None
    if shape.norm is not None:
        before, after = norm, min(norm, _norm(vector))
    return {
        "phase": manifest.phase,
        "round": manifest.round,
        "epoch": manifest.epoch,
        "slot": manifest.slot,
        "manifest": manifest.digest(),
        "tensors": tensors(shape.schema),
        "dtype": shape.dtype.name,
        "norm": before,
        "norm_after": after,
        "clip_fraction": None if before is None or after is None else clip_fraction(before, after),
        "bound": manifest.bound,
        "mechanism": manifest.mechanism,
        "epsilon": admitted.document.privacy.epsilon,
        "population": population,
        "epsilon_spent": spent,
        "masked": admitted.masked,
        "coordinator": coordinator,
        "project": admitted.project.digest(),
        "roster": list(admitted.roster),
    }


def tensors(schema: AdapterSchema) -> list[str]:
    """Return ``name [shape]`` of each tensor, in order."""
    return [f"{spec.name} {list(spec.shape)}" for spec in schema.tensors]


def clip_fraction(before: float, after: float) -> float:
    """Return 1 - *after* / *before*, in [0, 1]."""
    return 0.0 if before <= after else 1.0 - after / before


def _norm(vector: NDArray[Any]) -> float:
    return math.sqrt(sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks(vector)))
