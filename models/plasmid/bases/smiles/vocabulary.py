"""The tokens of SMILES: a fixed public list, that reads all of OpenSMILES.

Rules
-----
1. A token is what a chemist reads as one sign: ``Cl``, ``Br``, ``@@``, an aromatic ``c``, a bond, a ring's
   digit. Bracket atoms that are frequent in drugs are tokens of their own: ``[nH]``, ``[C@@H]``, ``[N+]``.
2. Any other bracket atom is read in pieces: ``[``, digits, one of 118 elements, ``@``, ``H``, charge, ``]``.
   So no valid SMILES has an unknown token, and the list was gathered from no data.
3. Special tokens are in ``<>``, which no SMILES holds: a cell cannot spell one.
4. One special token stands at either end.
"""

from __future__ import annotations

import json

WORDS_TO_EVERY_MODEL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
PAD, UNKNOWN, FIRST, LAST, MASK = range(5)

ORGANIC = ("Cl", "Br", "B", "C", "N", "O", "P", "S", "F", "I", "b", "c", "n", "o", "p", "s", "*")
WHOLE = (
    *("[nH]", "[C@H]", "[C@@H]", "[C@]", "[C@@]", "[N+]", "[n+]", "[NH+]", "[NH2+]", "[NH3+]", "[nH+]"),
    *(
        "[N-]",
        "[O-]",
        "[S-]",
        "[S+]",
        "[S@]",
        "[S@@]",
        "[P+]",
        "[P@]",
        "[P@@]",
        "[H]",
        "[2H]",
        "[Si]",
        "[Se]",
    ),
    *(
        "[Na+]",
        "[K+]",
        "[Cl-]",
        "[Br-]",
        "[I-]",
        "[B-]",
        "[C-]",
        "[O]",
        "[se]",
        "[O+]",
        "[o+]",
        "[s+]",
        "[CH-]",
    ),
)
SIGNS = ("[", "]", "(", ")", ".", "-", "=", "#", "$", ":", "/", "\\", "%", "@@", "@", "+", "H", *"0123456789")
AROMATIC_TWO = ("se", "as", "te", "si")
_ELEMENTS = (
    "He Li Be Ne Na Mg Al Si Cl Ar Ca Sc Ti Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Zr Nb Mo Tc Ru Rh "
    "Pd Ag Cd In Sn Sb Te Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta Re Os Ir Pt Au Hg Tl "
    "Pb Bi Po At Rn Fr Ra Ac Th Pa Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc "
    "Lv Ts Og"
)
TWO_LETTERS = tuple(_ELEMENTS.split())
ONE_LETTER = ("K", "V", "Y", "W", "U")
STEREO = ("TH", "AL", "SP", "TB", "OH")

VOCABULARY = tuple(
    dict.fromkeys(
        (*WORDS_TO_EVERY_MODEL, *SIGNS, *ORGANIC, *WHOLE, *AROMATIC_TWO, *TWO_LETTERS, *ONE_LETTER, *STEREO)
    )
)

# An element of two letters is one only behind a bracket and an isotope: elsewhere "Sc" is S and aromatic c.
_BEHIND = r"(?<=\[|\[\d|\[\d\d|\[\d\d\d)"


def _pattern() -> str:
    whole = "|".join(_quoted(word) for word in WHOLE)
    elements = _BEHIND + "(?:" + "|".join((*TWO_LETTERS, *AROMATIC_TWO)) + ")"
    stereo = "(?<=@)(?:" + "|".join(STEREO) + ")"
    return f"{whole}|{elements}|{stereo}|Cl|Br|@@|[\\s\\S]"


def _quoted(word: str) -> str:
    return "".join("\\" + letter if letter in "[]+@-" else letter for letter in word)


def tokenizer_files(max_length: int) -> dict[str, bytes]:
    """Return ``tokenizer.json`` and ``tokenizer_config.json`` for models of at most *max_length* tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(VOCABULARY)}, unk_token="<unk>")  # noqa: S106
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_pattern()), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", FIRST), ("</s>", LAST)],
    )
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in WORDS_TO_EVERY_MODEL])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=1, sort_keys=True).encode(),
    }
