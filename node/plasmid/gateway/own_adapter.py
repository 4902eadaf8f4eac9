"""The end of a run at a site that keeps an adapter of its own: it is put together, trained on, and kept.

Rules
-----
1. It begins when the site has countersigned what the run came to, so that nobody waits for it and nothing
   that leaves depends on it.
2. The last public state and what the site keeps for itself make the adapter. With ``training.personal_steps``
   the worker trains it on the site's own rows, so many steps and no more, without noise: nothing of it
   leaves.
3. What it is before those steps is kept first: the owner's pause or a restart ends them, and leaves that. Its
   provenance says how many it has had.
"""

from __future__ import annotations

import numpy as np

from plasmid.adapters.adapter import Vector
from plasmid.computations import api
from plasmid.computations._personal import keeps, whole_of, with_personal
from plasmid.core.errors import ModelError
from plasmid.gateway.admission import AdmittedRun
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.session import Progress, WorkerSession


def makes_own(admitted: AdmittedRun) -> bool:
    """Return whether this site has an adapter of its own when the run is over."""
    return api.makes_adapter(api.load(admitted.document.computation)) and keeps(admitted.document)


def own_of(gateway: Gateway, admitted: AdmittedRun, round_: int) -> Vector | None:
    """Return what the worker is given beside the public state of a round: what this site alone has, or None.

    Those are the personal tensors of the rounds before, or, of a document that names a run, the site's own
    adapter of it.

    Raises
    ------
    StorageError
        ``storage.personal_damaged``.
    """
    named = getattr(admitted.document, "run", None)
    if named is None:
        return gateway.personal.before(admitted.run, round_, admitted.personal)
    assert admitted.base is not None, "an adapter has a base model"
    try:
        from plasmid.adapters.artifact import (
            read_adapter,  # with cards and chat templates: not for every node
        )

        return read_adapter(gateway.personal.adapter(named)).on(admitted.base)[1]
    except ModelError:  # it took no part, has forgotten it, or it is of another kind: this site cannot say
        return None


def make_own(
    gateway: Gateway, admitted: AdmittedRun, session: WorkerSession, *, seed: int, progress: Progress
) -> None:
    """Make and keep the site's own adapter of a run whose last state it has followed.

    Parameters
    ----------
    seed
        Of the order of rows.

    Raises
    ------
    PlasmidError
        What the worker reports; StorageError: it cannot be kept.
    """
    document, base, run = admitted.document, admitted.base, admitted.run
    assert base is not None, "an adapter has a base model"
    state, steps = admitted.following.last, document.training.personal_steps
    own = gateway.personal.before(run, document.rounds + 1, admitted.personal)
    released = api.method(document).adapter(document, base, state)
    facts = {"site": gateway.site, "digest": admitted.digest, "rounds": document.rounds}

    def keep(adapter: Vector, steps: int) -> None:
        gateway.personal.finish(gateway.audit, run, document, base, adapter, facts | {"steps": steps})

    keep(with_personal(document, base, released, own), 0)
    if steps:
        order = {"phase": "personal", "round": document.rounds + 1, "seed": seed, "sampling": None}
        adapter = session.compute(
            state,
            order=order,
            length=whole_of(document, base).size,
            dtype=np.dtype("<f4"),
            progress=progress,
            own=own,
        )
        keep(adapter, steps)
