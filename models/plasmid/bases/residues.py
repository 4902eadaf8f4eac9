"""A tokenizer of amino-acid residues for models that ship a vocabulary but no tokenizer files.

It reads "CASS" and "C A S S" alike: blanks are dropped, every character is a token. The files are
those that ``transformers.AutoTokenizer`` reads; their bytes depend on the vocabulary alone.
"""

from __future__ import annotations

import json

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def residue_tokenizer(vocabulary: list[str], max_tokens: int) -> dict[str, bytes]:
    """Return the tokenizer's files by name.

    Parameters
    ----------
    vocabulary
        The tokens in the order of their ids, the five special ones of BERT among them.
    max_tokens
        The longest input of the model, special tokens included.
    """
    ids = {token: index for index, token in enumerate(vocabulary)}
    added = [
        {
            "id": ids[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in sorted(_SPECIAL.values(), key=ids.__getitem__)
    ]
    first, last = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
    split = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, split]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}, last],
            "pair": [
                first,
                {"Sequence": {"id": "A", "type_id": 0}},
                last,
                {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
            ],
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "[UNK]"},
    }
    settings = {
        **_SPECIAL,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": json.dumps(tokenizer, indent=1).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=1).encode(),
    }
