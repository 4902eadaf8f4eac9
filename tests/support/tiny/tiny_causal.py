"""Tiny causal models with a byte-level tokenizer that knows the marks of a chat; PEFT adapters for them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from plasmid.bases.store import BaseModel

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = sorted(ByteLevel.alphabet())
WORDS = 3 + 256
CONTEXT = 96
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}
KINDS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
}


def tiny_causal(folder: Path, kind: str = "llama", *, seed: int = 0) -> Path:
    """Write a causal model of 2 layers of 32 that reads bytes and ChatML's marks, and return *folder*."""
    torch.manual_seed(seed)
    model: PreTrainedModel = KINDS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    words = {word: index for index, word in enumerate([*MARKS, *BYTES])}
    tokenizer = Tokenizer(BPE(words, [], unk_token=None))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKS[0], "pad_token": MARKS[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def stock_adapter(folder: Path, base: BaseModel, *, seed: int = 0, **settings: Any) -> Path:
    """Write an adapter of *base* with random factors as PEFT itself saves it, and return *folder*."""
    stock_model(base, seed=seed, **settings).save_pretrained(folder, save_embedding_layers=False)
    return folder


def stock_model(base: BaseModel, *, seed: int = 0, **settings: Any) -> Any:
    """Return PEFT's own model of *base* with random factors, in eval mode."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base.path, local_files_only=True)
    usual: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        adapted = get_peft_model(model, LoraConfig(**usual | settings))
    config = adapted.peft_config["default"]
    config.base_model_name_or_path, config.revision = f"plasmid/{base.id}", base.revision
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0.0, 0.3)
    return adapted.eval()
