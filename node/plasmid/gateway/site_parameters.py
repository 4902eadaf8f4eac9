"""What a site's own figures make of a document's epsilon and delta: rate, noise, attempts.

Rules
-----
1. The owner declares N, a rounded public number of units, in ``site.yaml``; the true number is never used.
2. delta must be below 1/N: above, publishing some units outright would be allowed.
3. Each site calibrates its own ``dp-sgd`` noise to its own rate, over all attempts the run may take.
"""

from __future__ import annotations

from typing import Any

from plasmid.core.errors import DataError, PolicyRefused
from plasmid.planner.attempts import attempts, sampling_rate, step_noise
from plasmid.protocol.messages import UnitTerms


def check_size(document: Any, size: int | None) -> None:
    """Refuse a *document* that protects units of which a site has declared no *size* that fits.

    Raises
    ------
    DataError
        ``data.no_public_size``: the owner has not declared N.
    PolicyRefused
        ``policy.delta``: delta is not below 1/N.
    """
    privacy = document.privacy
    if privacy.unit in ("none", "site"):
        return
    if size is None:
        raise DataError(
            "data.no_public_size",
            f"the document protects a {privacy.unit}, and this site has not said how many it holds.",
            "Put a rounded number, public from now on, into site.yaml or the view's file as 'public_size'.",
        )
    if privacy.delta * size >= 1.0:
        raise PolicyRefused(
            "policy.delta",
            f"the document says delta: {privacy.delta}, which is not below 1/{size}.",
            f"Use a delta well below {1.0 / size:.1e}.",
        )


def unit_terms(document: Any, size: int | None) -> UnitTerms | None:
    """Return the terms of *document* at a site, None without a privacy unit.

    Parameters
    ----------
    size
        The public size N of the view; None where its owner has declared none.

    Raises
    ------
    PlasmidError
        As :func:`check_size`.
    """
    privacy = document.privacy
    if privacy.unit == "none":
        return None
    tries = attempts(document)
    if privacy.unit == "site":
        return UnitTerms(public_size=None, rate=1.0, noise_multiplier=None, attempts=tries)
    check_size(document, size)
    assert size is not None, "it was checked"
    rate = sampling_rate(document, size)
    noise = step_noise(document, rate)
    return UnitTerms(public_size=size, rate=rate, noise_multiplier=noise, attempts=tries)


def sampling(document: Any, terms: UnitTerms | None) -> dict[str, Any] | None:
    """Return what the worker needs to sample, clip and noise units, as JSON values; None without a unit.

    The names are those of :class:`plasmid.worker.dp.UnitSampling`.
    """
    privacy = document.privacy
    if terms is None or privacy.record_clip is None:
        return None
    training, scale = getattr(document, "training", None), getattr(privacy, "gradient_scale", None)
    return {
        "unit": privacy.unit,
        "clip": privacy.record_clip,
        "rate": terms.rate,
        "expected": float(training.batch) if training else 1.0,
        "noise_multiplier": terms.noise_multiplier or 0.0,
        "max_records": privacy.max_records,
        "scale": scale.model_dump() if scale else {},
    }
