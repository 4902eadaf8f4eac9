"""A quick look at privacy facts that a stranger wrote, before an accountant is asked.

Rules
-----
1. The exact accountant takes minutes for figures that promise nothing. Rényi differential privacy (Mironov,
   https://arxiv.org/abs/1702.07476) bounds the same epsilon from above in milliseconds, for honest figures
   by less than four times: what it puts above that cannot follow from the charge beside the figures.
2. Charges above :data:`MAX_EPSILON` cannot come from a recipe, and are refused like a contradiction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasmid.core.errors import ProtocolError
from plasmid.dp.accountant import dp_sgd_bound

MAX_EPSILON = 1000.0
"""As recipes allow."""
MAX_SITES = 1000
MAX_KINDS = 64
"""Sites whose figures differ: each is accounted by itself."""
_FAR, _MORE = 4.0, 4.0


def check_plausible(values: Mapping[str, Any]) -> None:
    """Raise ProtocolError (``protocol.claims``) if the facts in *values* cannot hold, or take too long."""
    try:
        sound = _plausible(values)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError):
        sound = False
    if not sound:
        raise ProtocolError(
            "protocol.claims",
            "the facts about privacy hold figures that cannot give the epsilon beside them, or one above "
            f"{MAX_EPSILON:g}.",
            "Nothing is claimed about this run; its record was changed.",
        )


def _plausible(values: Mapping[str, Any]) -> bool:
    sites = values["participants"]
    if len(sites) > MAX_SITES:
        return False
    if values["unit"] == "none":
        return True
    charged, delta = float(values["epsilon"]), float(values["delta"])
    if not (0 < charged <= MAX_EPSILON and 0 < delta < 1):
        return False
    if values["mechanism"] != "dp-sgd":
        return True  # accounted by Rényi orders anyway
    kinds = {(float(site["rate"]), float(site["noise_multiplier"])) for site in sites}
    steps = int(values["attempts"]) * int(values["steps"])
    if len(kinds) > MAX_KINDS or not 0 < steps <= 10**8:
        return False
    return all(
        dp_sgd_bound(rate=rate, noise_multiplier=noise, steps=steps, delta=delta) <= _FAR * charged + _MORE
        for rate, noise in kinds
    )
