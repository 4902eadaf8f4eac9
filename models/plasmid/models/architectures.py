"""The encoder architectures that adapters can be put on, and where their parts are.

Rules
-----
1. An architecture is known by the ``model_type`` of its ``config.json``.
2. Paths are those of the bare encoder (``transformers.AutoModel``), without a task prefix.
3. Inside a transformer layer every two-dimensional weight belongs to a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from plasmid.core.errors import ModelError

InputKind = Literal["protein", "text"]


@dataclass(frozen=True)
class Architecture:
    """Where an encoder keeps its parts.

    Attributes
    ----------
    model_type
        As ``config.json`` says it.
    encoder_class
        The name of the bare encoder's class, for ``config.json``.
    prefix
        What a checkpoint with a task head puts before the encoder's tensor names.
    layers
        Path of the list of transformer layers.
    embeddings
        Path of the module whose output enters the first layer.
    words
        Path of the table of token embeddings.
    unused
        Prefixes of the encoder's tensors that pooled encodings never use; a checkpoint may lack them.
    pooler
        Whether the class has a pooling layer that can be left out.
    counts_padding
        Whether learned positions start behind the padding token's id, and are fewer by as many.
    """

    model_type: str
    encoder_class: str
    prefix: str
    layers: str = "encoder.layer"
    embeddings: str = "embeddings"
    words: str = "embeddings.word_embeddings"
    unused: tuple[str, ...] = ("pooler.",)
    pooler: bool = True
    counts_padding: bool = False


_KNOWN = {
    known.model_type: known
    for known in (
        Architecture("bert", "BertModel", "bert."),
        Architecture(
            "esm",
            "EsmModel",
            "esm.",
            unused=("pooler.", "contact_head.", "rotary_embeddings."),
            counts_padding=True,
        ),
        Architecture("roberta", "RobertaModel", "roberta.", counts_padding=True),
        Architecture(
            "modernbert",
            "ModernBertModel",
            "model.",
            layers="layers",
            words="embeddings.tok_embeddings",
            unused=(),
            pooler=False,
        ),
        Architecture(
            "llama",
            "LlamaModel",
            "model.",
            layers="layers",
            embeddings="embed_tokens",
            words="embed_tokens",
            unused=(),
            pooler=False,
        ),
    )
}


def architecture(model_type: str) -> Architecture:
    """Return the architecture called *model_type*.

    Raises
    ------
    ModelError
        ``model.architecture_unknown``.
    """
    if model_type not in _KNOWN:
        raise ModelError(
            "model.architecture_unknown",
            f"the architecture {model_type!r} is not supported.",
            f"Supported: {', '.join(sorted(_KNOWN))}.",
        )
    return _KNOWN[model_type]
