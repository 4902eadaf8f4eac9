"""A base is packed while it is read: the memory that it takes is never that of its published weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from plasmid.bases.importer import import_folder
from plasmid.planning.footprint import weight_bytes
from support.tiny.tiny_models import tiny_bert

MIB = 2**20
RUN = """
import re, sys
import torch, transformers
from transformers import BertModel
from plasmid.encoders.loading import load_encoder
from plasmid.bases.store import open_model

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

base = open_model("wide", verify=False)
before = peak()
model = load_encoder(base, quantization=sys.argv[1])
loaded = peak()
with torch.no_grad():
    model(torch.ones(1, 8, dtype=torch.long))
print(before, loaded, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_loading_takes_what_the_packed_weights_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    folder = tiny_bert(tmp_path / "wide")
    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 6,
    }
    config = BertConfig(**json.loads((folder / "config.json").read_text()) | sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    base = import_folder(folder, model_id="wide")
    found = {}
    for quantization in ("none", "nf4"):
        done = subprocess.run(
            [sys.executable, "-c", RUN, quantization], capture_output=True, text=True, timeout=120, check=True
        )
        before, loaded, ran = map(int, done.stdout.split())
        found[quantization] = loaded - before, ran - before
    assert weight_bytes(base, "none") > 280 * MIB > 45 * MIB > weight_bytes(base, "nf4")
    assert found["none"][1] > 270 * MIB
    most = (
        weight_bytes(base, "nf4") + 64 * MIB
    )  # parts while they are packed; then one layer unpacked, of 40 MiB
    assert max(found["nf4"]) < most, found
