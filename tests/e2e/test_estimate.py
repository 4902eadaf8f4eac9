"""An estimate against what then happens: bytes on the wire, memory of a worker and, slow, seconds."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from plasmid.bases.importer import import_folder
from plasmid.client.embedded import Embedded
from plasmid.planning.estimate import Estimate, estimate
from plasmid.planning.probe import peak_bytes
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import load_recipe
from plasmid.recipes.sites import materialise_sites
from support.tiny.tiny_models import tiny_bert
from support.tiny.tiny_task import tiny_recipe, tiny_table


class Counter:
    """A relay in front of the coordinator that counts what one site sends and receives."""

    def __init__(self, port: int) -> None:
        self.up = self.down = 0
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                site, _ = self._server.accept()
                coordinator = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            for source, sink, way in ((site, coordinator, "up"), (coordinator, site, "down")):
                threading.Thread(target=self._pass_on, args=(source, sink, way), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while data := source.recv(65_536):
                setattr(self, way, getattr(self, way) + len(data))
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()

    def close(self) -> None:
        self._server.close()


class Counted(Embedded):
    """An embedded federation whose sites dial through counters."""

    counters: dict[str, Counter]

    def _prepare_site(self, name: str, url: str, coordinator_key: str) -> Any:
        counter = self.counters[name] = Counter(int(url.rsplit(":", 1)[1]))
        return super()._prepare_site(name, f"https://localhost:{counter.port}", coordinator_key)


@dataclass
class Happened:
    """Bytes of a run by direction, the mean over sites; the largest worker; seconds from start to end."""

    up: float
    down: float
    peak_bytes: int
    run_s: float
    federation_s: float


def happens(document: dict[str, Any], tables: Mapping[str, Path], home: Path) -> Happened:
    began, done, peak = time.monotonic(), threading.Event(), [0]

    def weigh() -> None:
        while not done.wait(0.2):
            for process in psutil.process_iter(["cmdline", "environ"]):
                said = " ".join(process.info["cmdline"] or ())
                if "plasmid.worker.worker" in said and (process.info["environ"] or {}).get(
                    "PLASMID_HOME"
                ) == str(home):
                    peak[0] = max(peak[0], peak_bytes(process.pid) or 0)

    with Counted(tables, policies={}) as embedded:
        started = time.monotonic()
        threading.Thread(target=weigh, daemon=True).start()
        embedded.allow(document, recipe_digest(document, document["computation"]))
        run = embedded.coordinator.start(document, sites=embedded.sites, project=embedded.project)
        run.wait()
        ended = time.monotonic()
        done.set()
        counters = embedded.counters.values()
        return Happened(
            sum(one.up for one in counters) / len(counters),
            sum(one.down for one in counters) / len(counters),
            peak[0],
            ended - started,
            started - began,
        )


def compare(found: Estimate, happened: Happened) -> dict[str, float]:
    """Return estimated by happened, for each figure."""
    told, seconds = found.traffic.as_json(), found.seconds
    assert seconds is not None
    assert found.probe is not None
    assert found.probe.peak_bytes is not None
    return {
        "up": told["up_total"] / happened.up,
        "down": told["down_total"] / happened.down,
        "memory": found.probe.peak_bytes / happened.peak_bytes,
        "run": seconds["run"] / happened.run_s,
        "start": seconds["federation"] / happened.federation_s,
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Counted.counters = {}
    return tmp_path / "home"


@pytest.mark.slow
def test_a_tiny_model_takes_the_bytes_and_the_memory_that_were_estimated(home: Path, tmp_path: Path) -> None:
    base = import_folder(tiny_bert(tmp_path / "bert"), model_id="tiny-bert")
    recipe = tiny_recipe(base)
    values = recipe.model_dump(mode="json")
    values["adapter"]["lora"] |= {"rank": 32, "targets": ["all-linear"], "layers": 3}
    values["federation"]["rounds"] = 6
    document = parse_document(values).model_dump(mode="json")
    tables = {}
    for number, name in enumerate(("alpha", "beta", "gamma")):
        columns = tiny_table(64, seed=number).columns
        lines = zip(*(columns[one] for one in ("sequence", "gene", "label")), strict=True)
        text = ["sequence,gene,label", *(",".join(str(cell or "NA") for cell in line) for line in lines)]
        tables[name] = tmp_path / f"{name}.csv"
        tables[name].write_text("\n".join([*text, ""]))
    found = estimate(parse_document(document), tables, home=home)
    ratios = compare(found, happens(document, tables, home))
    assert ratios["up"] == pytest.approx(1.0, abs=0.10), ratios
    assert ratios["down"] == pytest.approx(1.0, abs=0.10), ratios
    assert ratios["memory"] == pytest.approx(1.0, abs=0.25), ratios
    assert 0.3 < ratios["run"] < 3.0, ratios  # other tests run beside: the slow test is about time


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tcr-covid", "phenotype"])
def test_a_real_recipe_takes_what_was_estimated(name: str, home: Path, tmp_path: Path) -> None:
    """Its seconds, too; of a machine with nothing else to do."""
    resolved = load_recipe(name, overrides={"federation.rounds": "4" if name == "phenotype" else "16"})
    tables = materialise_sites(resolved, tmp_path)
    found = estimate(resolved.parsed, tables, home=home)
    happened = happens(resolved.document, tables, home)
    ratios = compare(found, happened)
    print(name, found.as_json(), happened, ratios)
    assert ratios["up"] == pytest.approx(1.0, abs=0.10), ratios
    assert ratios["down"] == pytest.approx(1.0, abs=0.10), ratios
    assert ratios["memory"] == pytest.approx(1.0, abs=0.25), ratios
    if os.getloadavg()[0] < 2 * len(os.sched_getaffinity(0)) + len(tables):
        assert ratios["run"] == pytest.approx(1.0, abs=0.30), ratios
