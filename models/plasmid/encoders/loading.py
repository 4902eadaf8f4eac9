"""An imported model, the encoder or a language model with its head, loaded offline, checked to be whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from plasmid.adapters.adapter import packed_layers
from plasmid.bases.architectures import AUTO, architecture
from plasmid.bases.specs import Quantization
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import float_parts
from plasmid.core.errors import ModelError
from plasmid.core.gc_pause import uncollected
from plasmid.lora.packed import PackedLinear


def load_encoder(base: BaseModel, *, attention: str = "sdpa", quantization: Quantization = "none") -> Any:
    """Return the bare encoder of *base* as float32 in eval mode, from its folder alone.

    Parameters
    ----------
    quantization
        ``"nf4"``: with those layers packed that :func:`plasmid.adapters.adapter.packed_layers` names.

    Raises
    ------
    ModelError
        ``model.tensors_missing``: a tensor that pooled encodings need isn't in the file, or has
        another shape; ``model.causal``, ``model.masked``: it is a language model with a head of its own.
    """
    if base.entry.own_head == "masked":
        raise ModelError(
            "model.masked",
            f"{base.id} keeps its head for masked tokens, and is only trained with 'task.kind: masked-lm'.",
            "Import the same model, or a merged export of its adapter, without --masked: as an encoder.",
        )
    if base.entry.causal:
        raise ModelError(
            "model.causal",
            f"{base.id} is a causal language model: it goes on with texts, and has no encoder for a head.",
            "Use an encoder ('plasmid models ls'), or serve it for /v1/chat/completions.",
        )
    model = _packed(_loaded(base, attn_implementation=attention).eval(), base, quantization)
    model.config.use_cache = False  # keys and values for a next token would be kept
    return model


def load_language(base: BaseModel, *, attention: str = "sdpa", quantization: Quantization = "none") -> Any:
    """Return the model of *base*, the head of its own included, as float32 in eval mode.

    Parameters
    ----------
    quantization
        As :func:`load_encoder`.

    Raises
    ------
    ModelError
        ``model.tensors_missing``.
    """
    model = _packed(_loaded(base, attn_implementation=attention).eval(), base, quantization)
    model.config.use_cache = False
    return model


def load_causal(base: BaseModel, *, dtype: torch.dtype = torch.float32) -> Any:
    """Return the causal model of *base*, its head included, in *dtype* and eval mode, from its folder alone.

    Raises
    ------
    ModelError
        ``model.tensors_missing``; ``model.not_causal``: it is an encoder.
    """
    if not base.entry.causal:
        raise ModelError(
            "model.not_causal",
            f"{base.id} is an encoder: it writes no text.",
            "Use a causal model: 'plasmid models ls' shows what each is for.",
        )
    return _loaded(base, dtype=dtype, attn_implementation="sdpa").eval()


def check_whole(base: BaseModel) -> None:
    """Raise what loading would, by names and shapes alone: no weight is read."""
    _loaded(base, device_map="meta")


def _packed(model: Any, base: BaseModel, quantization: Quantization) -> Any:
    """Return *model*, its layers packed if *quantization* says so.

    What transformers loaded are places in a mapped file, of which nothing has been read yet. The weights to
    be packed are read from the file a part at a time, so that they are never whole in memory.
    """
    for layer in packed_layers(base) if quantization == "nf4" else ():
        parent, _, name = layer.path.rpartition(".")
        plain = model.get_submodule(layer.path)
        parts = float_parts(base.path / "model.safetensors", base.header[f"{layer.path}.weight"])
        shape = (layer.outputs, layer.inputs)
        packed = PackedLinear.of(map(torch.from_numpy, parts), shape, plain.bias)
        setattr(model.get_submodule(parent), name, packed)
    return model


def _loaded(base: BaseModel, *, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    import transformers

    known = architecture(base.entry.architecture)
    made: Any = getattr(transformers, AUTO[known.head])
    with quiet(), uncollected():
        model, report = made.from_pretrained(
            base.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            use_kernels=False,  # the default fetches compiled code from a hub, and runs it
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
            **({"add_pooling_layer": False} if known.pooler else {}),
        )
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
def quiet() -> Iterator[None]:
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
