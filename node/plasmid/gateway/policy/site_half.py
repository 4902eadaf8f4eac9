"""What the gateway asks of a site half before a run is admitted.

Rules
-----
1. A mechanism that clips every record is nothing for a half that returns a finished vector.
2. A Flower ``ClientApp`` needs flwr, and a molecule among the covariates RDKit: extras of the node. That they
   are installed is looked up, not imported.
3. Where a document's own Python sees single records under a privacy unit, this host must be able to lock the
   processes that compute them apart; one that cannot takes no part.
"""

from __future__ import annotations

from typing import Any

from plasmid.computations import api
from plasmid.core import extras
from plasmid.core.errors import RecipeError, SiteFailed
from plasmid.isolation.lockdown import lacking
from plasmid.recipes.schema import Recipe


def check_half(computation: api.Computation, document: Any) -> None:
    """Refuse a *document* whose site half cannot give what its mechanism promises here.

    Raises
    ------
    RecipeError
        ``recipe.opaque``.
    SiteFailed
        ``site.no_lock``, ``site.no_flower``, ``site.no_rdkit``.
    """
    bundle = getattr(document, "bundle", None)
    if bundle is not None and bundle.half == "flower" and not extras.is_installed("flwr"):
        raise SiteFailed(
            "site.no_flower",
            f"{document.name} is a Flower ClientApp, and flwr is not installed at this site.",
            f"Its owner may install it: {extras.install('flwr')}.",
        )
    reads = document.head().needs if isinstance(document, Recipe) else ()
    if "rdkit" in reads and not extras.is_installed("rdkit"):
        raise SiteFailed(
            "site.no_rdkit",
            f"{document.name} reads fragments of molecules, and RDKit is not installed at this site.",
            f"Its owner may install it: {extras.install('rdkit')}.",
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
