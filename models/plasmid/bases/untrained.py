"""Makes the weights of ``untrained-dna``: a small BERT for DNA at its random start, that has read nothing.

    python -m plasmid.bases.untrained FOLDER

Rules
-----
1. No pre-trained model of DNA comes in a wheel. One that was pre-trained by us learned less than this one
   with the same adapter, so this one ships, and says what it is (decision 61).
2. The numbers follow from :data:`SEED` and torch's generator; what ships is what this command made once.
3. The folder is in the Hugging Face layout: the bare encoder alone, float16. One letter is one token.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from plasmid.bases.residues import residue_tokenizer

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "C", "G", "T", "N")
HIDDEN, LAYERS, MAX_TOKENS = 128, 2, 128
SEED = 0


def untrained() -> Any:
    """Return the encoder."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    made: Any = BertModel(
        BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HIDDEN // 32,
            intermediate_size=4 * HIDDEN,
            max_position_embeddings=MAX_TOKENS,
            type_vocab_size=1,
        ),
        add_pooling_layer=False,
    )
    return made


def write(folder: Path) -> None:
    """Write the encoder and its tokenizer into *folder*, which is made."""
    untrained().half().save_pretrained(folder)
    for name, content in residue_tokenizer(list(VOCABULARY), MAX_TOKENS).items():
        (folder / name).write_bytes(content)


def main(arguments: list[str]) -> int:
    """Write the folder that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m plasmid.bases.untrained")
    parser.add_argument("folder", type=Path)
    write(parser.parse_args(arguments).folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
