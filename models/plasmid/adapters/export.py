"""An adapter merged into its base: a model that stock libraries load, without PEFT and without Plasmid.

    model.safetensors, config.json   the encoder with W + ΔW, and the head, as ...ForTokenClassification
    tokenizer files                  the base's
    head.safetensors, head.json      the head as the adapter has it: with covariates; the former not of a
                                     language model, which keeps its own head, and has no modules below
    modules.json, 1_WordWeights/, 2_Pooling/, sentence_bert_config.json   for sentence-transformers
    README.md                        what loads it, and what does not exist in stock form

Rules
-----
1. A head for whole rows is linear on the mean over a row's own tokens, the special ones left out. No stock
   *sequence* classifier computes that (BERT's, ESM's and RoBERTa's read one token through a tanh layer;
   ModernBERT's mean counts special tokens and has a norm behind it). The mean of a linear *token*
   classifier's logits over own tokens is it exactly; a head that is per token is one itself. So that is what
   is exported, where the library's token classifier is one linear layer (:data:`LINEAR`).
2. The same encoder gives sentence-transformers our mean: special tokens get weight 0 before it.
3. W + ΔW is float32, layer by layer; a base of any size is never held whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.adapters.adapter import PEFT_PREFIX, Vector
from plasmid.adapters.artifact import Adapter
from plasmid.adapters.card import section
from plasmid.adapters.files import HeadFile, json_file
from plasmid.adapters.language_card import CLASSES, language_code
from plasmid.bases.architectures import architecture
from plasmid.bases.sources import read_json
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import TensorInfo, float_parts, pack_floats, read_header, write_parts
from plasmid.core.files import folder_atomic

LINEAR = {
    "bert": ("BertForTokenClassification", "bert.", "classifier"),
    "esm": ("EsmForTokenClassification", "esm.", "classifier"),
    "roberta": ("RobertaForTokenClassification", "roberta.", "classifier"),
    "llama": ("LlamaForTokenClassification", "model.", "score"),
}
"""Class, prefix of the encoder's tensors, and name of the head, by architecture."""
_EXAMPLE = {
    "protein": ("ACDEFGHIKLMNPQ", "ACDEFGHIKLMNPQRSTVWY"),
    "nucleotide": ("CAGGTAAGT", "TTTCAG"),
    "molecule": ("CC(=O)Oc1ccccc1C(=O)O", "CCO"),
    "text": ("A hand.", "A tall one."),
}
_BESIDE = ("config.json", "model.safetensors", "plasmid.json")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    auto_class
        The class of transformers that loads encoder and head; None: the head is only beside the encoder.
    """

    folder: Path
    auto_class: str | None
    layers: int


def export_merged(adapter: Adapter, base: BaseModel, folder: Path, *, licence: str, name: str) -> Exported:
    """Write *adapter* merged into *base* to *folder*, replacing what is there.

    Parameters
    ----------
    licence, name
        For the card: what the files may be used under, and what they were made from.

    Raises
    ------
    ModelError
        ``model.adapter_mismatch``: it is not an adapter of *base*.
    StorageError
        *folder* cannot be written; it is then as it was.
    """
    adapter.on(base)
    about = adapter.about
    stock = LINEAR.get(base.entry.architecture)
    with folder_atomic(folder) as new:
        layers = _write_weights(new / "model.safetensors", adapter, base, stock)
        (new / "config.json").write_bytes(json_file(_config(adapter, base, stock)))
        for path in sorted(base.path.iterdir()):
            if path.name not in _BESIDE:
                shutil.copyfile(path, new / path.name)
        (new / "head.json").write_bytes(json_file(about.model_dump(mode="json", exclude_none=True)))
        if about.head.own_head == "none":
            _write_head(new, adapter)
            _write_sentence_modules(new, adapter, base)
        (new / "README.md").write_text(_card(adapter, base, stock, licence, name), "utf-8")
    own = CLASSES.get(about.head.own_head)
    return Exported(folder, own or ("AutoModelForTokenClassification" if stock else None), layers)


def _write_head(folder: Path, adapter: Adapter) -> None:
    names = [name for name in ("head.weight", "head.covariates") if name in adapter.tensors]
    weight = np.concatenate([adapter.tensors[name] for name in names], 1)
    head = {"weight": weight, "bias": adapter.tensors["head.bias"]}
    (folder / "head.safetensors").write_bytes(pack_floats(head))


def _write_weights(path: Path, adapter: Adapter, base: BaseModel, stock: tuple[str, str, str] | None) -> int:
    """Write W + ΔW, and the head where there is a stock place for it; return how many layers were changed."""
    source = base.path / "model.safetensors"
    header = read_header(source)
    prefix = stock[1] if stock else ""
    head: dict[str, Vector] = {}
    if stock:
        head = {
            f"{stock[2]}.weight": adapter.tensors["head.weight"],
            f"{stock[2]}.bias": adapter.tensors["head.bias"],
        }
    shapes = {f"{prefix}{name}": info.shape for name, info in header.items()}
    shapes |= {name: value.shape for name, value in head.items()}
    changed = 0

    def parts(name: str) -> Iterator[Vector]:
        nonlocal changed
        if name in head:
            yield head[name]
            return
        own = name.removeprefix(prefix)
        update = _update(adapter, own.removesuffix(".weight"))
        if update is None:
            yield from float_parts(source, header[own])
        else:
            changed += 1
            yield _whole(source, header[own]) + update

    write_parts(path, shapes, parts)
    return changed


def _whole(source: Path, info: TensorInfo) -> Vector:
    return np.concatenate(list(float_parts(source, info))).reshape(info.shape)


def _update(adapter: Adapter, path: str) -> Vector | None:
    """Return the scale times B A of the layer *path*, None where the adapter has none."""
    down = adapter.tensors.get(f"{PEFT_PREFIX}{path}.lora_A.weight")
    up = adapter.tensors.get(f"{PEFT_PREFIX}{path}.lora_B.weight")
    if down is None or up is None:
        return None
    scale = adapter.about.lora.scale
    return (scale * (up.astype(np.float64) @ down.astype(np.float64))).astype(np.float32)


def _config(adapter: Adapter, base: BaseModel, stock: tuple[str, str, str] | None) -> dict[str, Any]:
    config = read_json(base.path / "config.json")
    if stock is None:
        return config
    labels = dict(enumerate(adapter.about.head.classes or adapter.about.head.columns()))
    return config | {
        "architectures": [stock[0]],
        "id2label": {str(index): label for index, label in labels.items()},
        "label2id": {label: index for index, label in labels.items()},
    }


def _write_sentence_modules(folder: Path, adapter: Adapter, base: BaseModel) -> None:
    """Write what makes sentence-transformers give our mean: encoder, weight 0 for special tokens, mean."""
    words, special = _vocabulary(base)
    width = adapter.tensors["head.weight"].shape[1]
    kinds = {"": "Transformer", "1_WordWeights": "WordWeights", "2_Pooling": "Pooling"}
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2), "utf-8")
    (folder / "sentence_bert_config.json").write_bytes(
        json_file({"max_seq_length": adapter.about.max_length, "do_lower_case": False})
    )
    for name in ("1_WordWeights", "2_Pooling"):
        (folder / name).mkdir()
    weights = {"vocab": words, "word_weights": dict.fromkeys(special, 0.0), "unknown_word_weight": 1.0}
    (folder / "1_WordWeights" / "config.json").write_bytes(json_file(weights))
    table = np.array([[0.0 if word in special else 1.0] for word in words], np.float32)
    (folder / "1_WordWeights" / "model.safetensors").write_bytes(pack_floats({"emb_layer.weight": table}))
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "2_Pooling" / "config.json").write_bytes(json_file(pooling))


def _vocabulary(base: BaseModel) -> tuple[list[str], set[str]]:
    """Return a name for each row of the embeddings, and those that the tokenizer puts around a text."""
    from plasmid.bases.tokenizing import load_tokenizer

    tokenizer = load_tokenizer(base.path)
    words = architecture(base.entry.architecture).words
    rows = base.header[f"{words}.weight"].shape[0]
    found = tokenizer("A", return_special_tokens_mask=True)
    pairs = zip(found["input_ids"], found["special_tokens_mask"], strict=True)
    names = {index: word for word, index in tokenizer.get_vocab().items()}
    listed = [names.get(index, f"<row {index}>") for index in range(rows)]
    return listed, {listed[index] for index, special in pairs if special}


def _card(
    adapter: Adapter, base: BaseModel, stock: tuple[str, str, str] | None, licence: str, name: str
) -> str:
    about = adapter.about
    matter = [f"license: {licence}", "library_name: transformers", f"base_model: plasmid/{base.id}"]
    if stock:
        matter.append("pipeline_tag: token-classification")
    tags = "plasmid, merged" + ", sentence-transformers" * (about.head.own_head == "none")
    parts = [
        "\n".join(["---", *matter, f"tags: [{tags}]", "---", ""]),
        f"# {name}, merged into {base.id}\n",
        (
            f"An adapter of Plasmid inside its base model `{base.id}` {base.revision}: neither PEFT nor "
            f"Plasmid is needed. It reads the column `{about.input}` ({about.kind}) and "
            f"{about.head.says()}.\n"
        ),
        section("Use it", f"In this folder:\n\n```python\n{code(adapter, stock)}\n```"),
        section("What loads it, and with what result", _loads(adapter, stock)),
        section(
            "Where it comes from",
            f"Base digest `{about.base.digest}`; privacy and provenance are the adapter's.{_over(about)}",
        ),
    ]
    return "\n".join(parts)


def _over(about: HeadFile) -> str:
    if about.base.quantization == "none":
        return ""
    return (
        " It was trained over a copy of the base's weights in 4 bits. Merged here are the published weights: "
        "answers differ a little from those of `plasmid predict` with the adapter."
    )


def code(adapter: Adapter, stock: tuple[str, str, str] | None) -> str:
    """Return lines that turn ``texts`` into the adapter's answers with transformers alone."""
    about = adapter.about
    if about.head.own_head != "none":
        return language_code(about, None, _EXAMPLE[about.kind][0])
    example = _EXAMPLE[about.kind]
    reading = '[" ".join(text) for text in texts]' if about.spaced else "texts"
    beside = not stock or about.head.covariate_width > 0
    kind = "AutoModel" if beside else "AutoModelForTokenClassification"
    mean_of = "(model(**tokens).{}.detach() * own).sum(1) / own.sum(1).clamp(1)"
    if about.head.per_token:
        mean_of = "model(**tokens).{}.detach()"
    lines = [
        "import torch, transformers" + (", safetensors.torch" if beside else ""),
        f"texts = {list(example)!r}",
        'read = transformers.AutoTokenizer.from_pretrained(".")',
        f'model = transformers.{kind}.from_pretrained(".").eval()',
        (
            f"tokens = read({reading}, padding=True, truncation=True, max_length={about.max_length}, "
            'return_special_tokens_mask=True, return_tensors="pt")'
        ),
        'own = 1 - tokens.pop("special_tokens_mask")[:, :, None]  # 0 for padding too',
    ]
    if beside:
        lines += [
            'head = safetensors.torch.load_file("head.safetensors")',
            f"mean = {mean_of.format('last_hidden_state')}",
        ]
        if about.head.covariate_width:
            width = about.head.covariate_width
            lines.append(
                f"slots = torch.zeros(len(texts), {width})  # head.json says which covariate is where"
            )
            lines.append("mean = torch.cat([mean, slots], 1)")
        lines.append('logits = mean @ head["weight"].T + head["bias"]')
    else:
        lines.append(f"logits = {mean_of.format('logits')}")
    scale = f" / {about.temperature!r}" if about.temperature is not None else ""
    return "\n".join([*lines, *about.head.code(f"logits{scale}")])


def _loads(adapter: Adapter, stock: tuple[str, str, str] | None) -> str:
    head, covariates = adapter.about.head, adapter.about.head.covariate_width
    if head.own_head != "none":
        return (
            f"- `{CLASSES[head.own_head]}`: the whole model, its logits to 1e-4.\n"
            "- `plasmid models import .`: as an encoder for a classifier, say; with `--causal` or `--masked` "
            "as what it is."
        )
    lines = []
    if stock:
        lines.append(
            f"- `AutoModelForTokenClassification` (`{stock[0]}`): encoder and head. "
            + (
                "Logits of each own token"
                if head.per_token
                else "A row's logits are the mean of its own tokens' logits"
            )
            + (", plus what its covariates add (`head.safetensors`)." if covariates else ", to 1e-5.")
        )
        if head.probabilistic:
            lines.append(
                '- `pipeline("token-classification", model=".")`: the label of each token by itself.'
            )
    lines += [
        "- `AutoModel`: the encoder.",
        '- `SentenceTransformer(".")`: the mean over own tokens, which `head.safetensors` reads, to 1e-5.'
        + (" Put blanks between residues." if adapter.about.spaced else ""),
        (
            '- Not in stock form: `pipeline("text-classification")`. No sequence classifier of transformers '
            "averages a row's own tokens before one linear layer; what it would load has an untrained head."
        ),
        (
            "- Servers of embeddings that read the encoder and average all tokens (TEI, vLLM) count special "
            "tokens, too: their vectors are others, and this head does not belong on them."
        ),
    ]
    if not stock:
        lines.append(
            "- Not in stock form: a token classifier of this architecture, which has layers before its head."
        )
    return "\n".join(lines)
