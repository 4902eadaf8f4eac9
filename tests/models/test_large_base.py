"""A base of some gigabytes is imported, pushed and fetched in the memory of a small one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plasmid.bases.tensors import write_parts
from plasmid.hub.settings import HubSettings
from support.hub.hub_server import served_apart
from support.tiny.tiny_models import tiny_bert

GIB = 2**30
RUN = """
import json, resource, sys
from pathlib import Path
from plasmid.hubclient.bases import fetch_base, push_base
from plasmid.hubclient.client import find_hub
from plasmid.bases.importer import import_folder
what, given = sys.argv[1:]
if what == "push":
    base = import_folder(Path(given), model_id="large")
    push_base(find_hub(), base, "plasmid/large", licence="MIT")
else:
    base = fetch_base(find_hub(), "plasmid/large", revision=given)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
size = (base.path / "model.safetensors").stat().st_size
print(json.dumps({"peak": peak, "digest": base.digest, "revision": base.revision, "size": size}))
"""


def _large(folder: Path) -> Path:
    """Write a BERT of 2.2 GiB whose weights are zeros: a file with a hole."""
    import torch
    from transformers import BertConfig, BertModel

    tiny_bert(folder)
    wide = {
        "hidden_size": 2048,
        "num_hidden_layers": 12,
        "intermediate_size": 8192,
        "num_attention_heads": 16,
    }
    config = json.loads((folder / "config.json").read_text()) | wide
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = BertModel(BertConfig(**config), add_pooling_layer=False)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if "_ids" not in name}
    write_parts(folder / "model.safetensors", shapes, lambda _: [])
    values = sum(value.numel() for name, value in model.state_dict().items() if name in shapes)
    size = (folder / "model.safetensors").stat().st_size + 4 * values
    os.truncate(folder / "model.safetensors", size)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_gibibytes_pass_through_a_hub_in_small_memory(tmp_path: Path) -> None:
    source = _large(tmp_path / "source")
    assert (source / "model.safetensors").stat().st_size > 2 * GIB
    folder = tmp_path / "hub"
    database = f"sqlite:///{folder / 'hub.db'}"
    with HubSettings(folder=folder, database_url=database, blobs_url=str(folder / "blobs")).open() as hub:
        hub.accounts.create_user("plasmid")
        token = hub.accounts.create_token("plasmid", "test", scope="admin")[1]
    paths = [str(Path(__file__).parents[2] / root) for root in ("models", "recipes", "node")]

    def run(what: str, given: str) -> dict[str, object]:
        told = {"HF_ENDPOINT": url, "HF_TOKEN": token, "PLASMID_HOME": str(tmp_path / what)}
        told |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "HF_HOME": str(tmp_path / "hf"),
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", RUN, what, given],
            env=os.environ | told,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return found

    with served_apart(folder) as (url, _):
        pushed = run("push", str(source))
        fetched = run("fetch", str(pushed["revision"]))
    assert fetched["digest"] == pushed["digest"]
    assert fetched["size"] == pushed["size"]
    for name, found in (("push", pushed), ("fetch", fetched)):
        print(f"{name}: {int(found['peak']) / 2**20:.0f} MiB at most")  # type: ignore[call-overload]
        assert int(found["peak"]) < GIB  # type: ignore[call-overload]
