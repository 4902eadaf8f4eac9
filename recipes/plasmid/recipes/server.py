"""The server's optimiser of a recipe: which upstream strategies there are over a sum, and what they take.

Rules
-----
1. A strategy that needs nothing but the mean of all sites goes by its name in ``flwr.serverapp.strategy``,
   with the keyword arguments of that class but those that say who takes part or what a reply holds.
2. All others are refused by name: over a secure sum they would silently be something else. The refusal says
   why, and what comes nearest.
3. Flower is not needed to say so; a test compares both tables with its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from plasmid.bases.specs import Strict
from plasmid.core.problems import did_you_mean, shown
from plasmid.recipes.protection import Location

Option = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

_LARGEST = sys.float_info.max  # an int of a document may be larger than any float
_POSITIVE = ("above 0", lambda value: value > 0)
_NOT_NEGATIVE = ("at least 0", lambda value: value >= 0)
_FRACTION = ("at least 0 and below 1", lambda value: 0 <= value < 1)
_ADAPTIVE = {"eta": _POSITIVE, "eta_l": _NOT_NEGATIVE, "tau": _POSITIVE}
_MOMENTS = {"beta_1": _FRACTION, "beta_2": _FRACTION}

OPTIONS: Mapping[str, Mapping[str, tuple[str, Any]]] = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": _POSITIVE, "server_momentum": _FRACTION},
    "FedAdam": {**_ADAPTIVE, **_MOMENTS},
    "FedYogi": {**_ADAPTIVE, **_MOMENTS},
    "FedAdagrad": _ADAPTIVE,
}
"""Strategies that step with the mean alone, and their options: what a value must be, and whether it is."""

_SINGLE = (
    "compares single contributions, and only their sum is ever seen",
    "FedAvg, where privacy.update_clip bounds what one site can do to the mean",
)
_PRIVATE = (
    "clips or noises what it sees, and it sees a sum",
    "a privacy unit (privacy.unit, mechanism), whose clip and noise are the sites' own",
)
_TREES = ("passes trees from site to site", "computation: trees, which grows them from summed histograms")
IMPOSSIBLE: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"), _SINGLE),
    **dict.fromkeys(("FedXgbBagging", "FedXgbCyclic"), _TREES),
    **dict.fromkeys(
        [
            f"DifferentialPrivacy{side}Side{kind}Clipping"
            for side in ("Client", "Server")
            for kind in ("Adaptive", "Fixed")
        ],
        _PRIVATE,
    ),
    "FedProx": ("is FedAvg with a term in the sites' loss", "FedAvg with training.proximal"),
    "QFedAvg": ("weighs each site by its loss, which nobody sees", "FedAvg with federation.weights"),
}
"""Upstream strategies that need more than a sum: why, and what comes nearest."""


class Server(Strict):
    """The server's optimiser: a strategy of ``flwr.serverapp.strategy`` and its keyword arguments.

    What an option's value may be is for :func:`server_contradictions` to say, in one sentence an option.
    """

    strategy: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "FedAvg"
    options: Annotated[dict[Option, Any], Field(max_length=50)] = Field(default_factory=dict)


def server_contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` for each thing that is wrong with ``federation.server``."""
    server: Server | None = getattr(sections.get("federation"), "server", None)
    if server is None:
        return
    path, name = ("federation", "server", "strategy"), server.strategy
    if name in IMPOSSIBLE:
        why, nearest = IMPOSSIBLE[name]
        yield path, f"{name} {why}; the nearest here is {nearest}"
    elif name not in OPTIONS:
        yield path, f"must be one of {', '.join(OPTIONS)}, not {name!r}{did_you_mean(name, OPTIONS)}"
    else:
        for option, value in server.options.items():
            if what := _problem(name, option, value):
                yield ("federation", "server", "options", option), what


def _problem(strategy: str, option: str, value: object) -> str | None:
    known = OPTIONS[strategy]
    if option not in known:
        takes = ", ".join(known) or "no options"
        return f"is not an option of {strategy}{did_you_mean(option, known)}, which takes {takes}"
    must, holds = known[option]
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    return None if number and holds(value) else f"must be a number {must}, not {shown(value)}"
