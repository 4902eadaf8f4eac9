"""transformers and peft."""

from __future__ import annotations

import importlib.util

from hub_frame import MINE, TOKEN, VERSION, Absent, api, verb


def libraries():
    if VERSION < (1, 31) or importlib.util.find_spec("transformers") is None:
        raise Absent  # transformers 5 needs a later client


@verb("push_to_hub of a model and a tokenizer")
def _():
    libraries()
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = BertModel(config)
    model.push_to_hub(f"{MINE}-base", token=TOKEN)
    fast.push_to_hub(f"{MINE}-base", token=TOKEN)


@verb("AutoModel, AutoTokenizer from_pretrained")
def _():
    libraries()
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(f"{MINE}-base")
    assert model.config.hidden_size == 16
    tokenizer = AutoTokenizer.from_pretrained(f"{MINE}-base")
    assert tokenizer("A")["input_ids"] == [5]


@verb("push_to_hub of a PEFT model")
def _():
    libraries()
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    base = AutoModel.from_pretrained(f"{MINE}-base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    adapted.push_to_hub(f"{MINE}-adapter", token=TOKEN)
    assert "adapter_model.safetensors" in api.list_repo_files(f"{MINE}-adapter")


@verb("PeftConfig, PeftModel from_pretrained")
def _():
    libraries()
    from peft import PeftConfig, PeftModel
    from transformers import AutoModel

    config = PeftConfig.from_pretrained(f"{MINE}-adapter")
    assert config.base_model_name_or_path == f"{MINE}-base"
    base = AutoModel.from_pretrained(config.base_model_name_or_path)
    adapted = PeftModel.from_pretrained(base, f"{MINE}-adapter")
    norms = [float(value.detach().norm()) for name, value in adapted.named_parameters() if "lora_B" in name]
    assert len(norms) == 1
    assert norms[0] > 0
