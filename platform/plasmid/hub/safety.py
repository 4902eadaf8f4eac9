"""What a commit may hold: weights as safetensors, plain settings and text; nothing that runs when loaded.

Rules
-----
1. A file's ending must be on the list; a list of what is dangerous would always be one ending short.
2. The first bytes are looked at, too: a pickle, an archive or a program is refused under any name.
3. In JSON files the keys that make a library run or import a stranger's code are refused: ``auto_map``,
   ``trust_remote_code``, ``custom_pipelines``, kernels by name of a repository, modules that PEFT would
   import; and chat templates, which are programs: those that Plasmid uses ship with it.
4. A safetensors header has caps (:mod:`plasmid.bases.tensors`), no name twice, and metadata of strings.
5. All problems of a commit are collected, then it is refused once. A message names files and keys.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasmid.bases.tensors import MAX_HEADER_BYTES, read_header
from plasmid.core.bounds import parse_json
from plasmid.core.errors import HubError, ModelError

MAX_JSON_BYTES = 16 * 2**20
MAX_TEXT_BYTES = 64 * 2**20
SAMPLE_BYTES = 512
_SHOWN = 10

WEIGHTS = ".safetensors"
_TEXT = frozenset(
    {".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".csv", ".tsv", ".rst", ".bib", ".cff", ".vocab"}
    | {".merges", ".tiktoken", ".pem", ".asc", ".sig", ".dsse", ".intoto", ".fasta"}
)
_OTHER = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".model"})
_NAMES = frozenset(
    {"license", "licence", "copying", "notice", "readme", "changelog", "authors", "citation"}
    | {".gitattributes", ".gitignore"}
)
ENDINGS = tuple(sorted({WEIGHTS} | _TEXT | _OTHER))
_NOT_PARSED = frozenset({"tokenizer.json", "vocab.json"})
"""Their keys are tokens; no library reads settings from them."""

_MAGIC = (
    (rb"\x80[\x00-\x05]", "a pickle"),
    (rb"c?(?:builtins|posix|nt|os|torch|__builtin__)\n|\(dp0\n|\(lp0\n", "a pickle"),
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a zip archive"),
    (rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|\x04\x22\x4d\x18", "an archive"),
    (rb"[\s\S]{257}ustar", "a tar archive"),
    (rb"\x89HDF\r\n", "an HDF5 file"),
    (rb"\x93NUMPY", "a NumPy file"),
    (rb"GGUF", "a GGUF file"),
    (rb"\x7fELF|MZ|\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe|#!|\x00asm", "a program"),
)
_BEGINS = tuple((re.compile(pattern), what) for pattern, what in _MAGIC)
_TEMPLATE = "a chat template is a program; those that Plasmid uses ship with it"
_CODE = "it makes a library run code of the repository"
_WHY = {
    "a pickle can run code": ".bin .pt .pth .pkl .pickle .ckpt .joblib .npy .npz",
    "code is not hosted here": ".py .pyc .so .sh .ipynb .js .dll .exe .bat .html .svg",
    "archives are not unpacked here": ".zip .gz .tar .tgz .bz2 .xz .zst .7z .rar",
    "weights are safetensors here": ".h5 .keras .onnx .gguf .msgpack .tflite .pb",
    _TEMPLATE: ".jinja",
}
_WHY_ENDING = {ending: why for why, endings in _WHY.items() for ending in endings.split()}
_FORBIDDEN_KEYS = {
    **dict.fromkeys(("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate"), _CODE),
    "chat_template": _TEMPLATE,
    "megatron_config": "it makes PEFT import a module by name",
}
_KERNEL_KEY = re.compile(r"_?(?:attn|experts)_implementation(?:_internal)?")
_SHARD = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)


@dataclass(frozen=True)
class Content:
    """A stored file: its *size* in bytes, and how to read bytes *start* to *stop* of it."""

    size: int
    read: Callable[[int, int], bytes]

    @classmethod
    def of(cls, data: bytes) -> Content:
        """Return *data* as content."""
        return cls(len(data), lambda start, stop: data[start:stop])


def refuse(problems: Iterable[str]) -> None:
    """Raise HubError (``hub.unsafe_file``) if there are *problems*; the first ten are named."""
    found = list(problems)
    if not found:
        return
    rest = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    count = "A file is" if len(found) == 1 else f"{len(found)} files are"
    raise HubError(
        "hub.unsafe_file",
        f"{count} refused: {'; '.join(found[:_SHOWN])}{rest}.",
        f"This hub takes {', '.join(ENDINGS)} files; leave the others out, for example with --exclude.",
    )


def name_problem(path: str) -> str | None:
    """Return why a file of this name is not taken, None if it is."""
    name = path.rsplit("/", 1)[-1].lower()
    if name == "chat_template.json":
        return f"{path} ({_TEMPLATE})"
    if name in _NAMES or name.endswith(ENDINGS):
        return None
    ending = "." + name.rsplit(".", 1)[-1] if "." in name else ""
    return f"{path} ({_WHY_ENDING.get(ending, 'an ending that is not on the list')})"


def sample_problem(path: str, sample: bytes) -> str | None:
    """Return why a file that begins with *sample* is not taken, None if it may be."""
    for pattern, what in _BEGINS:
        if pattern.match(sample):
            return f"{path} (its bytes are those of {what})"
    return None


def content_problem(path: str, content: Content) -> str | None:
    """Return why a stored file is not taken under the name *path*, None if it is.

    Parameters
    ----------
    path
        A name that :func:`name_problem` let pass.
    """
    name = path.rsplit("/", 1)[-1].lower()
    if name.endswith(WEIGHTS):
        return _tensors_problem(path, content)
    sample = sample_problem(path, content.read(0, min(content.size, SAMPLE_BYTES)))
    if sample is not None:
        return sample
    if name.endswith(".json") and name not in _NOT_PARSED:
        return _json_problem(path, name, content)
    if content.size > MAX_TEXT_BYTES:
        return f"{path} (more than {MAX_TEXT_BYTES} bytes, and not weights)"
    if name in _NAMES or name.endswith(tuple(_TEXT)):
        return _text_problem(path, content)
    return None


def _text_problem(path: str, content: Content) -> str | None:
    return f"{path} (it is not text)" if b"\x00" in content.read(0, min(content.size, 2**20)) else None


def _json_problem(path: str, name: str, content: Content) -> str | None:
    if content.size > MAX_JSON_BYTES:
        return f"{path} (more than {MAX_JSON_BYTES} bytes)"
    data = content.read(0, content.size)
    try:
        value = parse_json(data)
    except ValueError:
        return f"{path} (it is not JSON, or too much of it)"
    for key, why in _forbidden(value):
        return f"{path} (the key {key}: {why})"
    if name.endswith(".safetensors.index.json"):
        shards = value.get("weight_map") if isinstance(value, dict) else None
        if not isinstance(shards, dict) or not all(
            isinstance(shard, str) and _SHARD.fullmatch(shard) for shard in shards.values()
        ):
            return f"{path} (its weight_map names something else than safetensors files beside it)"
    return None


def _forbidden(value: Any) -> Iterator[tuple[str, str]]:
    """Yield each key that would run or import something, with the reason."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(item for item in one if isinstance(item, dict | list))
        if not isinstance(one, dict):
            continue
        for key, held in one.items():
            if key in _FORBIDDEN_KEYS and held not in (None, False, {}, [], ""):
                yield key, _FORBIDDEN_KEYS[key]
            elif _KERNEL_KEY.fullmatch(key) and "/" in json.dumps(held):
                yield key, "it makes transformers run a kernel of a repository"
            elif key == "megatron_core" and held not in (None, "megatron.core"):
                yield key, _FORBIDDEN_KEYS["megatron_config"]
            elif key == "parent_library" and not _own_library(held):
                yield key, "PEFT would import that module; only transformers and its modules are let through"
            elif isinstance(held, dict | list):
                waiting.append(held)


def _own_library(value: Any) -> bool:
    return value is None or bool(isinstance(value, str) and re.fullmatch(r"transformers(\.\w+)*", value))


def _tensors_problem(path: str, content: Content) -> str | None:
    length = int.from_bytes(content.read(0, min(8, content.size)), "little")
    if content.size < 10 or not 2 <= length <= min(MAX_HEADER_BYTES, content.size - 8):
        return f"{path} (a header of {length} bytes in a file of {content.size})"
    head = content.read(0, 8 + length)
    # The reader wants a file of the whole size; the tensors' bytes, which it does not look at, are a hole.
    with tempfile.TemporaryDirectory(prefix="plasmid-hub-") as folder:
        copy = Path(folder) / "it"
        with copy.open("wb") as file:
            file.write(head)
            file.truncate(content.size)
        try:
            read_header(copy)
        except ModelError as error:
            return f"{path} ({error.message.split(': ', 1)[-1].rstrip('.')})"
    return None
