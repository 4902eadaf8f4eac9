"""Lines of Python that do with stock libraries what an adapter does whose base answers with its own head.

Rules
-----
1. They run as they stand in the adapter's folder, or in that of a merged model, and need transformers alone,
   and PEFT for the former.
2. They give the answers of ``plasmid predict``; of masked tokens, the guesses at one mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plasmid.bases import catalogue
from plasmid.language.chat_templates import chat_template
from plasmid.tasks.causal import CausalHead

if TYPE_CHECKING:
    from plasmid.adapters.files import HeadFile

CLASSES = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM"}
"""Of transformers, by the head of the base's own."""


def language_code(about: HeadFile, base: str | None, example: str) -> str:
    """Return the lines.

    Parameters
    ----------
    base
        The base model's name on the hub; None: the adapter is merged into the model in this folder.
    example
        A made-up input.
    """
    made = CLASSES[about.head.own_head]
    lines = ["import peft, torch, transformers" if base else "import torch, transformers"]
    if base is not None:
        lines += [
            f'base = "{base}"  # on the hub; or the folder that "plasmid models show {about.base.id}" prints',
            f'model = peft.PeftModel.from_pretrained(transformers.{made}.from_pretrained(base), ".").eval()',
            "read = transformers.AutoTokenizer.from_pretrained(base)",
        ]
    else:
        lines += [
            f'model = transformers.{made}.from_pretrained(".").eval()',
            'read = transformers.AutoTokenizer.from_pretrained(".")',
        ]
    asked = _answered(about, example) if about.head.own_head == "causal" else _guessed(about, example)
    return "\n".join([*lines, *asked])


def _answered(about: HeadFile, example: str) -> Iterator[str]:
    head = about.head
    assert isinstance(head, CausalHead), "only these answer in words"
    name = catalogue.get(about.base.id).chat_template
    assert name is not None, "it was trained with one"
    template = chat_template(name)
    said = [{"role": "system", "content": head.instruction}] if head.instruction else []
    yield f"messages = {[*said, {'role': 'user', 'content': example}]!r}"
    yield f"template = {template.jinja()!r}"
    yield (
        "text = read.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, "
        "tokenize=False)"
    )
    yield 'tokens = read(text, add_special_tokens=False, return_tensors="pt")'
    yield f"ends = read.convert_tokens_to_ids([{template.end!r}, read.eos_token or {template.end!r}])"
    yield (
        "said = model.generate(**tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0], "
        f"max_new_tokens={head.most})"
    )
    yield 'print(read.decode(said[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))'


def _guessed(about: HeadFile, example: str) -> Iterator[str]:
    text = " ".join(example) if about.spaced else example
    yield f'tokens = read({text!r}, return_tensors="pt")'
    yield 'tokens["input_ids"][0, 3] = read.mask_token_id'
    yield "likely = model(**tokens).logits[0, 3].softmax(-1).topk(5)"
    yield "print(dict(zip(read.convert_ids_to_tokens(likely.indices.tolist()), likely.values.tolist())))"
