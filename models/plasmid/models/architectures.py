"""The architectures that adapters can be put on, and where their parts are: encoders, and causal models.

Rules
-----
1. An architecture is known by the ``model_type`` of its ``config.json``.
2. Paths are those of the bare encoder (``transformers.AutoModel``), without a task prefix. A causal model's
   are those of the model with its head (``AutoModelForCausalLM``), and its name here ends in ``-causal``.
3. Inside a transformer layer every two-dimensional weight belongs to a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from plasmid.core.errors import ModelError

InputKind = Literal["protein", "text"]


@dataclass(frozen=True)
class Architecture:
    """Where a model keeps its parts.

    Attributes
    ----------
    model_type
        As ``config.json`` says it.
    encoder_class
        The name of the bare encoder's class, or of the causal model's, for ``config.json``.
    prefix
        What a checkpoint with a task head puts before the encoder's tensor names; "" keeps the head.
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
    causal: bool = False

    @property
    def name(self) -> str:
        """What a catalogue entry calls it."""
        return causal_name(self.model_type) if self.causal else self.model_type


def causal_name(model_type: str) -> str:
    """Return the name of the causal architecture of *model_type*."""
    return f"{model_type}-causal"


def _causal(model_type: str, made: str, body: str = "model", words: str = "embed_tokens") -> Architecture:
    return Architecture(
        model_type,
        made,
        "",
        layers=f"{body}.layers",
        embeddings=f"{body}.{words}",
        words=f"{body}.{words}",
        unused=(),
        pooler=False,
        causal=True,
    )


_KNOWN = {
    known.name: known
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
        _causal("llama", "LlamaForCausalLM"),
        _causal("mistral", "MistralForCausalLM"),
        _causal("qwen2", "Qwen2ForCausalLM"),
        _causal("gpt_neox", "GPTNeoXForCausalLM", "gpt_neox", "embed_in"),
    )
}


def architecture(name: str) -> Architecture:
    """Return the architecture called *name*.

    Raises
    ------
    ModelError
        ``model.architecture_unknown``.
    """
    if name not in _KNOWN:
        raise ModelError(
            "model.architecture_unknown",
            f"the architecture {name!r} is not supported.",
            f"Supported: {', '.join(sorted(_KNOWN))}.",
        )
    return _KNOWN[name]
