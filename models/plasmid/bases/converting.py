"""A source's files, written anew: what importing keeps, and under which names.

Rules
-----
1. Of an encoder the bare encoder, of a language model its own head, too; float32, a part at a time.
2. Of the tokenizer the known files, without a chat template. The bytes depend on the source alone.
3. AMPLIFY, which comes with code of its own, is written as the stock architecture that computes the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plasmid.bases import amplify
from plasmid.bases.architectures import Architecture, OwnHead, architecture, architecture_name
from plasmid.bases.gguf import read_gguf
from plasmid.bases.gguf_llama import config_of, tokenizer_of, weights_of
from plasmid.bases.residues import residue_tokenizer
from plasmid.bases.sources import Weights, read_json, read_weights, refuse_code
from plasmid.bases.tensors import write_parts

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "added_tokens.json",
)
GENERATION = "generation_config.json"


def convert(source: Path, target: Path, vocabulary: Path | None, *, head: OwnHead) -> dict[str, Any]:
    """Write the model in the folder *source* into *target*, and return the new ``config.json``.

    Parameters
    ----------
    vocabulary
        A list of residues to make the tokenizer of; None takes the folder's tokenizer.
    head
        Which head of its own is kept.

    Raises
    ------
    ModelError
        ``model.refused``, ``model.file_missing``, ``model.architecture_unknown``, ``model.tensors_invalid``.
    """
    foreign = _is_amplify(source)  # of its repository weights are read, and no code
    if not foreign:
        refuse_code(source)
    config, weights = read_json(source / "config.json"), read_weights(source)
    if foreign:
        config, weights = amplify.as_eurobert(config, weights)
    known = architecture(architecture_name(str(config.get("model_type")), head))
    weights = _encoder_only(weights, known)
    shapes = {name: weight.shape for name, weight in weights.items()}
    write_parts(target / "model.safetensors", shapes, lambda name: weights[name].parts())
    settings = {
        key: value
        for key, value in config.items()
        if key not in ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
    }
    settings |= {"architectures": [known.encoder_class], "dtype": "float32"}
    if (
        head == "causal" and (source / GENERATION).is_file()
    ):  # the tokens that end an answer may be said there alone
        ends = read_json(source / GENERATION).get("eos_token_id")
        settings |= {"eos_token_id": ends} if ends is not None else {}
    (target / "config.json").write_text(json.dumps(settings, indent=1, sort_keys=True), "utf-8")
    if vocabulary is not None:
        words = vocabulary.read_text("utf-8").splitlines()
        for name, content in residue_tokenizer(words, settings["max_position_embeddings"]).items():
            (target / name).write_bytes(content)
    else:
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                (target / name).write_bytes(_without_template(source / name))
    return settings


def _is_amplify(source: Path) -> bool:
    path = source / "config.json"
    return path.is_file() and read_json(path).get("model_type") == amplify.MODEL_TYPE


def _without_template(path: Path) -> bytes:
    """Return the contents of a tokenizer's file; a chat template in it, which is a program, stays behind."""
    if path.name != "tokenizer_config.json" or "chat_template" not in read_json(path):
        return path.read_bytes()
    kept = {key: value for key, value in read_json(path).items() if key != "chat_template"}
    return json.dumps(kept, indent=1, sort_keys=True).encode()


def _encoder_only(tensors: Weights, known: Architecture) -> Weights:
    """Keep the encoder's tensors, under the names of the bare encoder, or those of a whole model."""
    tensors = {name: value for name, value in tensors.items() if name.startswith(known.kept)}
    if any(name.startswith(known.prefix) for name in tensors):
        tensors = {
            name.removeprefix(known.prefix): value
            for name, value in tensors.items()
            if name.startswith(known.prefix)
        }
    # Positions are counted by transformers itself; older checkpoints stored them.
    return {name: value for name, value in tensors.items() if not name.endswith("position_ids")}


def convert_gguf(source: Path, target: Path) -> None:
    """Write the Llama in the GGUF file *source* into *target*.

    Raises
    ------
    ModelError
        ``model.refused``, ``model.file_missing``: as :mod:`plasmid.bases.gguf_llama`.
    """
    file = read_gguf(source)
    weights, settings = weights_of(file), config_of(file)
    write_parts(
        target / "model.safetensors",
        {name: weight.shape for name, weight in weights.items()},
        lambda name: weights[name].parts(),
    )
    (target / "config.json").write_text(json.dumps(settings, indent=1, sort_keys=True), "utf-8")
    for name, content in tokenizer_of(file).items():
        (target / name).write_bytes(content)
