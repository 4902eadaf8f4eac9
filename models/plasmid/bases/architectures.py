"""The architectures that adapters can be put on, and where their parts are: encoders, and language models.

Rules
-----
1. An architecture is known by the ``model_type`` of its ``config.json``.
2. Paths are those of the bare encoder (``transformers.AutoModel``), without a task prefix. Where the model
   keeps its own head they are those of the whole (``AutoModelForCausalLM``, ``AutoModelForMaskedLM``), and
   its name here ends in ``-causal`` or ``-masked``.
3. Inside a transformer layer every two-dimensional weight belongs to a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from plasmid.core.errors import ModelError

InputKind = Literal["protein", "nucleotide", "molecule", "text"]
OwnHead = Literal["none", "causal", "masked"]
"""Which head of its own a model keeps: none, the next token's, or that of masked tokens."""
AUTO: dict[OwnHead, str] = {
    "none": "AutoModel",
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
}
"""The class of transformers that makes a model with that head of its own."""


@dataclass(frozen=True)
class Architecture:
    """Where a model keeps its parts.

    Attributes
    ----------
    model_type
        As ``config.json`` says it.
    encoder_class
        The name of the bare encoder's class, or of the whole model's, for ``config.json``.
    prefix
        What a checkpoint with a task head puts before the encoder's tensor names; "" keeps the head.
    kept
        Prefixes of what is kept of a checkpoint, where that is not all.
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
    head
        What it keeps of its own.
    body, readout
        Path of the bare encoder within a model with a head, and those of the modules that make logits of the
        encoder's output, in order; empty without a head.
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
    head: OwnHead = "none"
    body: str = ""
    readout: tuple[str, ...] = ()
    kept: tuple[str, ...] = ("",)

    @property
    def name(self) -> str:
        """What a catalogue entry calls it."""
        return architecture_name(self.model_type, self.head)


def architecture_name(model_type: str, head: OwnHead) -> str:
    """Return the name of the architecture of *model_type* that keeps *head*."""
    return model_type if head == "none" else f"{model_type}-{head}"


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
        head="causal",
        body=body,
        readout=("lm_head",),
    )


def _masked(bare: Architecture, made: str, *readout: str) -> Architecture:
    body = bare.prefix.rstrip(".")
    return replace(
        bare,
        encoder_class=made,
        prefix="",
        layers=f"{body}.{bare.layers}",
        embeddings=f"{body}.{bare.embeddings}",
        words=f"{body}.{bare.words}",
        unused=tuple(f"{body}.{name}" for name in bare.unused),
        pooler=False,
        head="masked",
        body=body,
        readout=readout,
        kept=(bare.prefix, *(f"{name}." for name in readout)),
    )


_ENCODERS = {
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
        *(
            Architecture(
                model_type,
                made,
                "model.",
                layers="layers",
                embeddings="embed_tokens",
                words="embed_tokens",
                unused=(),
                pooler=False,
            )
            for model_type, made in (("llama", "LlamaModel"), ("eurobert", "EuroBertModel"))
        ),
    )
}


_KNOWN = {
    known.name: known
    for known in (
        *_ENCODERS.values(),
        _masked(_ENCODERS["bert"], "BertForMaskedLM", "cls.predictions"),
        _masked(_ENCODERS["esm"], "EsmForMaskedLM", "lm_head"),
        _masked(_ENCODERS["roberta"], "RobertaForMaskedLM", "lm_head"),
        _masked(_ENCODERS["modernbert"], "ModernBertForMaskedLM", "head", "decoder"),
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
