"""The bare encoder of an imported model, loaded offline and checked to be whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from plasmid.core.errors import ModelError
from plasmid.models.architectures import architecture
from plasmid.models.store import BaseModel


def load_encoder(base: BaseModel, *, attention: str = "sdpa") -> Any:
    """Return the bare encoder of *base* as float32 in eval mode, from its folder alone.

    Raises
    ------
    ModelError
        ``model.tensors_missing``: a tensor that pooled encodings need isn't in the file, or has
        another shape.
    """
    return _loaded(base, attn_implementation=attention).eval()


def check_encoder(base: BaseModel) -> None:
    """Raise what :func:`load_encoder` would, by names and shapes alone: no weight is read."""
    _loaded(base, device_map="meta")


def _loaded(base: BaseModel, **settings: Any) -> Any:
    from transformers import AutoModel

    known = architecture(base.entry.architecture)
    with _quiet():
        model, report = AutoModel.from_pretrained(
            base.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
            **({"add_pooling_layer": False} if known.pooler else {}),
        )
    model.config.use_cache = False  # a causal model would keep keys and values for a next token
    problems = [name for name in report["missing_keys"] if not name.startswith(known.unused)]
    problems += [item[0] for item in report["mismatched_keys"]]
    if problems:
        raise ModelError(
            "model.tensors_missing",
            f"the weights of {base.id} lack or misshape {len(problems)} tensors, "
            f"among them {', '.join(sorted(problems)[:5])}.",
            "The weights don't belong to that config.json; import a whole checkpoint.",
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars, and reports on tensors that are left out on purpose, off stderr."""
    from transformers.utils import logging

    quieter: Any = logging
    level = quieter.get_verbosity()
    quieter.disable_progress_bar()
    quieter.set_verbosity_error()
    try:
        yield
    finally:
        quieter.set_verbosity(level)
