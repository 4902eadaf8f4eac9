"""Under which licence something made from several adapters may be used.

Rules
-----
1. One licence for all is the child's.
2. Permissive licences (:data:`PERMISSIVE`) ask for their texts and names to be kept, and go together: the
   child is under all of them, and its card lists them.
3. Anything else is a question for a lawyer, not for a table: it is refused, unless somebody states the
   child's licence; then the card says that this was stated, and lists the parents'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plasmid.core.errors import ModelError

PERMISSIVE = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "0bsd", "zlib", "unlicense", "cc0-1.0"}
)


@dataclass(frozen=True)
class Licence:
    """The child's licence.

    Attributes
    ----------
    license
        For the card's front matter: an SPDX name in lower case, or ``other``.
    name
        With ``other``, what it is called; else "".
    sentence
        How it came about.
    """

    license: str
    name: str
    sentence: str


def compose_licences(parents: Mapping[str, str], stated: str | None = None) -> Licence:
    """Return the licence of a child.

    Parameters
    ----------
    parents
        The licence of each, by name; "" where its card says none.
    stated
        What whoever makes the child says; None follows from the parents'.

    Raises
    ------
    ModelError
        ``model.licences_differ``: nothing follows from them.
    """
    theirs = {name: licence.strip().lower() for name, licence in parents.items()}
    distinct = sorted(set(theirs.values()))
    if stated is not None:
        return Licence(stated.lower(), "", "Stated by whoever merged; it does not follow from the parents'.")
    if len(distinct) == 1 and distinct[0] not in ("", "other", "unknown"):
        return Licence(distinct[0], "", "That of all parents.")
    if distinct and PERMISSIVE.issuperset(distinct):
        return Licence(
            "other",
            "-and-".join(distinct),
            f"All of {', '.join(distinct)} apply: keep their texts and names.",
        )
    shown = "; ".join(f"{name}: {licence or 'none stated'}" for name, licence in theirs.items())
    raise ModelError(
        "model.licences_differ",
        f"no licence follows from those of the parents: {shown}.",
        "Ask their owners, then state the child's with --licence.",
    )
