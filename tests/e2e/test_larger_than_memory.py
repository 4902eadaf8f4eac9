"""A table larger than memory trains: the reader and the worker hold no more of it than a gigabyte."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plasmid.bases.store import ensure_model
from plasmid.computations import finetune
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.open_view import open_view
from plasmid.gateway.session import WorkerSession
from plasmid.gateway.views import slice_of
from plasmid.isolation.launcher import LocalLauncher
from plasmid.recipes.schema import Recipe
from support.tiny.tiny_task import tiny_recipe

GIB = 2**30
SIZE = int(float(os.environ.get("PLASMID_LARGE_GB", "10")) * 1e9)
ROW = 1000
GROUP = 100_000


class Peak:
    """The most memory of a process's children, in bytes; what is mapped from files is not theirs alone."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def watching(self) -> Iterator[Peak]:
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.1):
                self.bytes = max(self.bytes, sum(map(anonymous, psutil.Process().children(recursive=True))))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()


def anonymous(process: psutil.Process) -> int:
    try:
        text = (Path("/proc") / str(process.pid) / "status").read_text()
    except OSError:
        return 0
    values = [line.split()[1] for line in text.splitlines() if line.startswith(("RssAnon:", "RssShmem:"))]
    return 1024 * sum(map(int, values))


def write(path: Path, size: int) -> int:
    """Write about *size* bytes of texts that do not compress, and return the number of rows."""
    random = np.random.default_rng(0)
    schema = pa.schema([("note", pa.string()), ("label", pa.string())])
    groups = max(1, size // (ROW * GROUP))
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=["label"]) as out:
        for _ in range(groups):
            letters = random.integers(97, 123, GROUP * ROW, np.uint8)
            letters[random.random(letters.size, np.float32) < 0.15] = 32
            offsets = np.arange(0, (GROUP + 1) * ROW, ROW, np.int32)
            notes = pa.StringArray.from_buffers(GROUP, pa.py_buffer(offsets), pa.py_buffer(letters))
            labels = pa.array(np.where(random.random(GROUP) < 0.5, "no", "yes"))
            out.write_table(pa.Table.from_arrays([notes, labels], schema=schema), row_group_size=GROUP)
    return groups * GROUP


def recipe_of() -> Recipe:
    base = ensure_model("minilm", revision=None, digest=None)
    values = tiny_recipe(base, steps=5).model_dump(mode="json")
    values["adapter"]["covariates"] = []
    values["data"] |= {
        "input": "note",
        "max_rows": 100_000_000,
        "columns": {"note": {"type": "text", "max_length": 64}, "label": {"type": "label"}},
    }
    return Recipe.model_validate(values)


def trained(home: SiteHome, recipe: Recipe) -> tuple[int, int, int, float]:
    """Open the view and train two rounds; return rows, peak of the reader and of the worker, seconds."""
    base = ensure_model("minilm", revision=None, digest=None)
    begun = time.monotonic()
    with Peak().watching() as reader:
        opened = open_view(home, slice_of(home, recipe), recipe)
    read = time.monotonic() - begun
    launcher = LocalLauncher("none")
    session = WorkerSession(launcher, home.folder / "worker.log", read=[base.path], notice=print)
    try:
        with Peak().watching() as worker:
            session.open(recipe.model_dump(mode="json"), base, opened.descriptor)
            shape = finetune.shape(recipe, base)
            state = finetune.initial(recipe, shape)
            for round_ in range(2):
                state = state + session.compute(
                    state,
                    order={"phase": "train", "round": 1, "seed": round_, "sampling": None},
                    length=state.size,
                    dtype=state.dtype,
                    progress=lambda *_: None,
                )
        assert np.isfinite(state).all()
        return opened.rows, reader.bytes, worker.bytes, read
    finally:
        session.end()
        opened.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_table_of_ten_gigabytes_trains_within_one_gigabyte(tmp_path: Path) -> None:
    recipe, found = recipe_of(), {}
    for name, size in (("small", ROW * GROUP), ("large", SIZE)):
        folder = tmp_path / name
        folder.mkdir()
        rows = write(folder / "table.parquet", size)
        home = SiteHome(folder / "site")
        home.folder.mkdir()
        home.write_config(SiteConfig(name="alpha", organisation="A", data=str(folder / "table.parquet")))
        found[name] = trained(home, recipe)
        assert found[name][0] == rows
        (folder / "table.parquet").unlink()
        print(f"{name}: {rows:,} rows; reader {found[name][1] / GIB:.2f} GiB in {found[name][3]:.0f} s; "
              f"worker {found[name][2] / GIB:.2f} GiB")  # fmt: skip
    assert found["large"][1] < GIB, "the reader"
    assert found["large"][2] - found["small"][2] < GIB, "the worker, above what it takes for a small table"
