"""Randomly initialised models of test size in the Hugging Face layout, as a user would have them on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    EsmConfig,
    EsmForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from plasmid.bases.residues import AMINO_ACIDS, residue_tokenizer

BERT_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS]
ROBERTA_VOCABULARY = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *AMINO_ACIDS, "[MASK]"]
LLAMA_VOCABULARY = ["<unk>", "<s>", "</s>", *AMINO_ACIDS]
ESM_VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *AMINO_ACIDS, "<mask>"]
LAYERS = 3


def _save(folder: Path, model: PreTrainedModel) -> None:
    # The default start makes nearly constant outputs; a wider one makes every layer matter.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)


def tiny_bert(folder: Path, *, seed: int = 0) -> Path:
    """Write a BERT of 3 layers of 32 with a residue tokenizer, task head included, and return *folder*."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(BERT_VOCABULARY),
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    _save(folder, BertForMaskedLM(config))
    for name, content in residue_tokenizer(BERT_VOCABULARY, 64).items():
        (folder / name).write_bytes(content)
    return folder


def tiny_esm(folder: Path, *, seed: int = 0) -> Path:
    """Write an ESM-2 of 3 layers of 32 with its own tokenizer's vocabulary, and return *folder*."""
    torch.manual_seed(seed)
    config = EsmConfig(
        vocab_size=len(ESM_VOCABULARY),
        mask_token_id=ESM_VOCABULARY.index("<mask>"),
        pad_token_id=ESM_VOCABULARY.index("<pad>"),
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=66,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    _save(folder, EsmForMaskedLM(config))
    (folder / "vocab.txt").write_text("\n".join(ESM_VOCABULARY), "utf-8")
    settings = {
        "tokenizer_class": "EsmTokenizer",
        "cls_token": "<cls>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def tiny_roberta(folder: Path, *, seed: int = 0) -> Path:
    """Write a RoBERTa of 3 layers of 32, its positions behind its padding token, and return *folder*."""
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(ROBERTA_VOCABULARY),
        pad_token_id=ROBERTA_VOCABULARY.index("[PAD]"),
        bos_token_id=ROBERTA_VOCABULARY.index("[CLS]"),
        eos_token_id=ROBERTA_VOCABULARY.index("[SEP]"),
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    _save(folder, RobertaForMaskedLM(config))
    for name, content in residue_tokenizer(ROBERTA_VOCABULARY, 64).items():
        (folder / name).write_bytes(content)
    return folder


def tiny_modernbert(folder: Path, *, seed: int = 0) -> Path:
    """Write a ModernBERT of 3 layers of 32, of which two look 4 tokens around them, and return *folder*."""
    torch.manual_seed(seed)
    config = ModernBertConfig(
        vocab_size=len(BERT_VOCABULARY),
        pad_token_id=0,
        cls_token_id=2,
        bos_token_id=2,
        sep_token_id=3,
        eos_token_id=3,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        local_attention=8,
    )
    _save(folder, ModernBertForMaskedLM(config))
    for name, content in residue_tokenizer(BERT_VOCABULARY, 64).items():
        (folder / name).write_bytes(content)
    return folder


def tiny_llama(folder: Path, *, seed: int = 0, first: bool = True) -> Path:
    """Write a Llama of 3 layers of 32 and return *folder*.

    Its tokenizer puts one special token before a text (*first*) or none, and never one behind it.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(LLAMA_VOCABULARY),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    _save(folder, LlamaForCausalLM(config))
    ids = {token: index for index, token in enumerate(LLAMA_VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    if first:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


AMPLIFY_VOCABULARY = ["<pad>", "<unk>", "<mask>", "<bos>", "<eos>", "|", *AMINO_ACIDS]


def tiny_amplify(folder: Path, *, seed: int = 0) -> Path:
    """Write an AMPLIFY of 3 layers of 32 as its authors keep it, with code of its own, and return *folder*.

    Two thirds of ``intermediate_size`` 44 are 29, raised to 32.
    """
    folder.mkdir()
    torch.manual_seed(seed)
    hidden, inner = 32, 32
    shapes = {"encoder.weight": (len(AMPLIFY_VOCABULARY), hidden), "decoder.weight": (26, hidden)}
    for layer in range(LAYERS):
        name = f"transformer_encoder.{layer}"
        shapes |= {f"{name}.{part}.weight": (hidden, hidden) for part in ("q", "k", "v", "wo")}
        shapes |= {f"{name}.ffn.w12.weight": (2 * inner, hidden), f"{name}.ffn.w3.weight": (hidden, inner)}
    tensors = {name: torch.normal(0.0, 0.3, shape) for name, shape in shapes.items()}
    norms = [
        f"transformer_encoder.{layer}.{at}_norm" for layer in range(LAYERS) for at in ("attention", "ffn")
    ]
    tensors |= {f"{name}.weight": torch.rand(hidden) + 0.5 for name in (*norms, "layer_norm_2")}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "AMPLIFY",
        "auto_map": {"AutoConfig": "amplify.AMPLIFYConfig", "AutoModel": "amplify.AMPLIFY"},
        "vocab_size": len(AMPLIFY_VOCABULARY),
        "hidden_size": hidden,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 44,
        "hidden_act": "SwiGLU",
        "norm_eps": 1e-5,
        "max_length": 64,
        "pad_token_id": 0,
        "bos_token_id": 3,
        "eos_token_id": 4,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "amplify.py").write_text("raise SystemExit('code of a model was run')\n", "utf-8")
    tokenizer = Tokenizer(
        WordLevel({token: at for at, token in enumerate(AMPLIFY_VOCABULARY)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 3), ("<eos>", 4)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder
