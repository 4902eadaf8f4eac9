"""Texts to token ids, with the one check that matters: no valid input becomes [UNK].

Rules
-----
1. A tokenizer is loaded from the model's own folder, offline, running nobody's code.
2. At load the 20 residues (or nucleotides, a molecule, or an English sentence) must give known tokens, one
   each for residues.
3. Every encoded sequence and molecule is checked again; the error names rows, never letters.
4. ``max_length`` counts tokens, special ones included. Which those are is the tokenizer's own word: one at
   either end, only the first, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasmid.bases.architectures import InputKind
from plasmid.bases.residues import AMINO_ACIDS
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError

MEASURED_TEXTS = 1024
"""How many are tokenized at a time."""
SENTENCE = "An anomaly of the hand and of 12 other parts."
_TRIED: dict[InputKind, str] = {
    "text": SENTENCE,
    "nucleotide": "ACGTTGCANN",
    "molecule": "C[C@@H](N)C(=O)Oc1ccc(Cl)nc1/C=C/Br",
}
_UNREAD: dict[InputKind, str] = {
    "protein": "amino-acid residues",
    "nucleotide": "A, C, G, T or N",
    "molecule": "a plain SMILES",
    "text": "plain English words",
}
_STRANGE: dict[InputKind, tuple[str, str]] = {
    "protein": ("sequences hold letters that are not residues", AMINO_ACIDS),
    "nucleotide": ("sequences hold letters that are not nucleotides", "A, C, G, T and N"),
    "molecule": ("SMILES hold other signs", "OpenSMILES"),
}


def load_tokenizer(folder: Path) -> Any:
    """Return the ``transformers`` tokenizer of the model in *folder*.

    Raises
    ------
    ModelError
        ``model.tokenizer_invalid``: its files cannot be read.
    """
    from transformers import AutoTokenizer

    try:  # the tokenizers library raises bare Exception
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            "model.tokenizer_invalid",
            f"the tokenizer in {folder} cannot be loaded ({type(error).__name__}).",
            "The folder needs tokenizer.json, or vocab.txt and tokenizer_config.json.",
        ) from error


def reads(tokenizer: Any, kind: InputKind, *, spaced: bool) -> bool:
    """True when *tokenizer* knows every residue as one token of its own, or all of what else is tried."""
    if kind != "protein":
        return tokenizer.unk_token_id not in _content(tokenizer, _TRIED[kind])
    ids = _content(tokenizer, " ".join(AMINO_ACIDS) if spaced else AMINO_ACIDS)
    return len(set(ids)) == len(ids) == len(AMINO_ACIDS) and tokenizer.unk_token_id not in ids


def _content(tokenizer: Any, text: str) -> list[int]:
    found = tokenizer(text, return_special_tokens_mask=True)
    pairs = zip(found["input_ids"], found["special_tokens_mask"], strict=True)
    return [token for token, special in pairs if not special]


@dataclass(frozen=True)
class Encoded:
    """The tokens of one text.

    Attributes
    ----------
    ids
        Token ids, special tokens included.
    special
        1 for a special token that the tokenizer put there, 0 for what is the text's own; as long as *ids*.
    """

    ids: list[int]
    special: list[int]


class Tokenizer:
    """The tokenizer of one base model, checked.

    Raises
    ------
    ModelError
        ``model.tokenizer_invalid``: it cannot be read, or has no padding token;
        ``model.tokenizer_unknown``: valid input becomes [UNK].
    """

    def __init__(self, base: BaseModel) -> None:
        self._tokenizer = load_tokenizer(base.path)
        if self._tokenizer.pad_token_id is None:
            raise ModelError(
                "model.tokenizer_invalid",
                f"the tokenizer of {base.id} has no padding token.",
                'Add one to its tokenizer_config.json, for example "pad_token": "</s>", and import it again.',
            )
        self._kind = base.entry.input
        self._spaced = base.entry.spaced
        if not reads(self._tokenizer, self._kind, spaced=self._spaced):
            what = _UNREAD[self._kind]
            raise ModelError(
                "model.tokenizer_unknown",
                f"the tokenizer of {base.id} maps {what} to [UNK].",
                "Its files don't fit this version of transformers or this kind of input; "
                "import a folder with a tokenizer.json.",
            )

    @property
    def pad_id(self) -> int:
        """The id that fills a batch."""
        return int(self._tokenizer.pad_token_id)

    @property
    def mask_id(self) -> int:
        """The id that stands for a masked token.

        Raises
        ------
        ModelError
            ``model.tokenizer_invalid``: there is none.
        """
        found = self._tokenizer.mask_token_id
        if found is None:
            raise ModelError(
                "model.tokenizer_invalid",
                "the tokenizer has no token for what is masked.",
                "Use a base model that was trained to guess masked tokens.",
            )
        return int(found)

    @property
    def ordinary_ids(self) -> list[int]:
        """The ids of all tokens but the special ones, ascending."""
        return sorted(set(self._tokenizer.get_vocab().values()) - set(self._tokenizer.all_special_ids))

    def encode(self, texts: Sequence[str], max_length: int, *, first: int = 0) -> list[Encoded]:
        """Return the tokens of each text, cut to *max_length*, special tokens included.

        Parameters
        ----------
        first
            The number of the first text, from 0, for messages.

        Raises
        ------
        ModelError
            ``model.tokenizer_unknown``: a sequence or molecule holds a letter that the model does not know.
        """
        if not texts:
            return []
        prepared = [" ".join(text) for text in texts] if self._spaced else list(texts)
        found = self._tokenizer(
            prepared,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_special_tokens_mask=True,
        )
        if self._kind != "text":
            unknown = self._tokenizer.unk_token_id
            strange = [row for row, ids in enumerate(found["input_ids"]) if unknown in ids]
            if strange:
                what, known = _STRANGE[self._kind]
                raise ModelError(
                    "model.tokenizer_unknown",
                    f"{len(strange)} {what}, first in row {first + strange[0] + 1}.",
                    f"The model reads {known}.",
                )
        return [
            Encoded(ids, special)
            for ids, special in zip(found["input_ids"], found["special_tokens_mask"], strict=True)
        ]

    def measure(self, texts: Sequence[str], max_length: int) -> tuple[int, int]:
        """Return how many of *texts* take more than *max_length* tokens, and how many hold an unknown one."""
        prepared = [" ".join(text) for text in texts] if self._spaced else list(texts)
        longer = unknown = 0
        for start in range(0, len(prepared), MEASURED_TEXTS):
            found = self._tokenizer(prepared[start : start + MEASURED_TEXTS], truncation=False, padding=False)
            longer += sum(len(ids) > max_length for ids in found["input_ids"])
            unknown += sum(self._tokenizer.unk_token_id in ids for ids in found["input_ids"])
        return longer, unknown
