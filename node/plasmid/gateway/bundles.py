"""What the gateway asks of a site half before a run is admitted.

Rules
-----
1. A mechanism that clips every record is nothing for a half that returns a finished vector.
2. A Flower ``ClientApp`` needs flwr, an extra of the node. That it is installed is looked up, not imported.
3. Where a document's own Python sees single records under a privacy unit, this host must be able to lock the
   processes that compute them apart; one that cannot takes no part.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from plasmid.computations import api
from plasmid.core.errors import RecipeError, SiteFailed
from plasmid.training.lockdown import lacking


def _has_flower() -> bool:
    return importlib.util.find_spec("flwr") is not None


def check_half(computation: api.Computation, document: Any) -> None:
    """Refuse a *document* whose site half cannot give what its mechanism promises here.

    Raises
    ------
    RecipeError
        ``recipe.opaque``.
    SiteFailed
        ``site.no_lock``, ``site.no_flower``.
    """
    bundle = getattr(document, "bundle", None)
    if bundle is not None and bundle.half == "flower" and not _has_flower():
        raise SiteFailed(
            "site.no_flower",
            f"{document.name} is a Flower ClientApp, and flwr is not installed at this site.",
            "Its owner may install it: pip install 'plasmid[flower]'.",
        )
    if document.privacy.record_clip is None:
        return
    half = api.site_half(computation, document)
    if half == "vector":
        raise RecipeError(
            "recipe.opaque",
            f"mechanism: {document.privacy.mechanism} clips every {document.privacy.unit}; "
            f"{document.computation} returns a finished vector, in which nobody can.",
            "Use mechanism: output, which noises the vector for its whole bound.",
        )
    why = lacking() if half == "per_record" and document.computation == "bundle" else None
    if why is not None:
        raise SiteFailed(
            "site.no_lock",
            f"the records of {document.name} cannot be computed apart from one another here: {why}.",
            "Run the site on Linux (x86_64 or aarch64) with seccomp, or use a recipe with mechanism: output.",
        )
