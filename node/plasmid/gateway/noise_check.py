"""Whether a vector that the worker noised (``dp-sgd``) can be one: the gateway's own look at its noise.

Rules
-----
1. With plain SGD a round of T steps moves value i by -f r_i / (B g_i) times the sum of T noised sums of
   clipped gradients, f r_i the round's rate, B the expected units, g_i the group's scale. Divided by that, by
   the clip C, by sigma and by sqrt(T) it is w = z + s, with z of d independent standard normal values and
   |s| <= n sqrt(T) / sigma, n the units that a step can hold.
2. |z|^2 is within d - 8 sqrt(2 d) and d + 8 sqrt(2 d) + 64, each but for e^-32 = 1.3e-14 (Laurent and Massart
   2000, lemma 1). Of one step s is independent of z, and |w|^2 is above the lower figure, too; of several
   steps |w| is above its root less the most that |s| can be. Below that, or above the root of the upper
   figure plus the most that |s| can be, the vector is refused. Both have 0.1 % for float32.
3. What does not learn in the round must not have moved: nothing hides there.
4. A public weight multiplies all of it. Only tensors of the adapter itself are looked at; what a method sends
   in other coordinates (half, sketch, core) is not, nor is FedProx's pull, nor AdamW, which moves every value
   by about its rate, whatever the noise.
5. It finds noise that is missing or too small only as far as the gradients' own sum is short, and in no fewer
   than 129 values. The noise itself is the worker's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.errors import ProtocolError
from plasmid.protocol.messages import UnitTerms
from plasmid.recipes.weights import weights_of

_ROOM = 1e-3
_PARTS: dict[str, api.Part] = {
    "head.weight": "head",
    "head.bias": "head",
    "head.covariates": "covariates",
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
}


@dataclass(frozen=True)
class Limits:
    """Between which lengths w lies, and of how many values it is."""

    low: float
    high: float
    values: int


def limits(values: int, *, steps: int, sigma: float, units: float) -> Limits:
    """Return the limits for *values* values, of which a step of at most *units* units moves the sum."""
    spread, drift = 8.0 * math.sqrt(2.0 * values), units * math.sqrt(steps) / sigma
    low = math.sqrt(max(0.0, values - spread))
    if steps > 1:
        low = max(0.0, low - drift)
    high = math.sqrt(values + spread + 64.0) + drift
    return Limits(low * (1.0 - _ROOM), high * (1.0 + _ROOM), values)


def most_units(rate: float, units: int) -> float:
    """Return more than a Poisson sample of *units* holds but for e^-32 (Bernstein)."""
    mean = rate * units
    return min(float(units), mean + 8.0 * math.sqrt(mean) + 22.0)


def check_noised(
    document: Any,
    shape: api.Shape,
    terms: UnitTerms,
    vector: NDArray[Any],
    *,
    site: str,
    round_: int,
    units: int,
) -> None:
    """Refuse a *vector* [shape.schema.size] of finite values that cannot be of the noise that was ordered.

    Parameters
    ----------
    units
        How many units the view holds, canaries included.

    Raises
    ------
    ProtocolError
        ``protocol.noise``: it is shorter, or longer, than rule 2 allows, or what does not learn has moved.
    """
    training = document.training
    if training.optimizer != "sgd" or training.proximal or terms.noise_multiplier is None:
        return
    sigma, steps = terms.noise_multiplier, training.steps_in(round_)
    weights = weights_of(document)
    weight = 1.0 if weights is None else weights.of(site, units)
    moved = weight * training.factor(round_, document.rounds) / training.batch
    moved *= sigma * document.privacy.record_clip * math.sqrt(steps)
    square, values = 0.0, 0
    for part, rate in _tensors(document, shape, vector, round_):
        if not rate:
            if part.any():
                raise _refused(f"values that do not learn in round {round_} have moved")
            continue
        square += float(np.square(part / (rate * moved), dtype=np.float64).sum())
        values += part.size
    if not values or not moved:
        return
    found = limits(values, steps=steps, sigma=sigma, units=most_units(terms.rate, units))
    if not found.low <= math.sqrt(square) <= found.high:
        side = "shorter" if math.sqrt(square) < found.low else "longer"
        raise _refused(
            f"the step of round {round_} is {side} than one of {values} noised values can be: "
            f"{found.low:.1f} to {found.high:.1f} standard deviations of the noise"
        )


def _tensors(
    document: Any, shape: api.Shape, vector: NDArray[Any], round_: int
) -> Iterator[tuple[NDArray[Any], float]]:
    """Yield the adapter's own tensors in *vector*, each with rate by scale, 0 where it does not learn."""
    training, scale = document.training, document.privacy.gradient_scale
    learn = api.method(document).learns(document, round_)
    rates: dict[api.Part, float] = {
        "A": training.lora_lr / scale.lora,
        "B": training.lora_lr * training.lora_b_ratio / scale.lora,
        "head": training.head_lr / scale.head,
        "covariates": training.covariate_lr / scale.covariates,
    }
    for name, values in shape.schema.unflatten(vector).items():
        part = next((part for ending, part in _PARTS.items() if name.endswith(ending)), None)
        if part is not None:
            yield values, rates[part] if part in learn else 0.0


def _refused(what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.noise",
        f"the worker did not noise what it returned as it was told: {what}.",
        "Nothing has left. Gateway and worker must be of one release; report it if they are.",
    )
