"""Randomly initialised models of test size in the Hugging Face layout, as a user would have them on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, EsmConfig, EsmForMaskedLM, PreTrainedModel

from plasmid.models.residues import AMINO_ACIDS, residue_tokenizer

BERT_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS]
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
