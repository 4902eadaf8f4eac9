"""What a causal model comes as: a GGUF file, and an adapter that PEFT has saved."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.registry import maker, scratch
from fuzz.runner import Target
from plasmid.adapters.causal_adapter import CONFIG, read_causal_config
from plasmid.bases.gguf import read_gguf
from plasmid.bases.gguf_llama import config_of, tokenizer_of, weights_of
from plasmid.core.canonical import canonical_json
from support.tiny.tiny_gguf import tiny_llama_gguf


@maker
def _gguf() -> Iterator[Target]:
    path = scratch() / "fuzz.gguf"
    whole = tiny_llama_gguf(path)[0].read_bytes()

    def file(data: bytes) -> None:
        path.write_bytes(data)
        found = read_gguf(path)
        config_of(found)
        tokenizer_of(found)
        for weight in weights_of(found).values():
            assert sum(part.size for part in weight.parts()) == weight.size

    yield Target("GGUF file", [whole], file, structured=False, cost=10)


@maker
def _adapter() -> Iterator[Target]:
    folder = scratch() / "causal"
    folder.mkdir()
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "plasmid/tiny",
        "revision": "1",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "use_dora": False,
    }

    def config(data: bytes) -> None:
        (folder / CONFIG).write_bytes(data)
        read_causal_config(folder)

    yield Target("causal adapter's adapter_config.json", [canonical_json(settings)], config, cost=4)
