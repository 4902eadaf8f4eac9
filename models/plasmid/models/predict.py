"""Probabilities from an adapter's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from plasmid.models.adapter import Vector
from plasmid.models.artifact import Adapter, read_adapter
from plasmid.models.specs import Cell
from plasmid.models.store import ensure_model


def predict(
    adapter: Adapter | Path, columns: Mapping[str, Sequence[Cell]], *, device: str | None = None
) -> Vector:
    """Return the probability of each label, float32 [rows, labels], in the order of the head's labels.

    Parameters
    ----------
    columns
        Values by column name: the adapter's input column and its covariates.
    device
        None is a GPU if there is one, else the CPU.

    Raises
    ------
    ModelError
        The adapter is not sound or doesn't fit its base, or the base isn't there or differs.
    DataError
        A column is missing or holds something else than its type.
    """
    import torch

    from plasmid.models.encoder import AdaptedModel

    if isinstance(adapter, Path):
        adapter = read_adapter(adapter)
    about = adapter.about
    base = ensure_model(about.base.id, revision=about.base.revision, digest=about.base.digest)
    _, state = adapter.on(base)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = AdaptedModel.load(base, about.lora, about.head, device=chosen)
    model.set_state(state)
    rows = model.encode(columns, input_column=about.input, max_length=about.max_length)
    return model.probabilities(rows)
