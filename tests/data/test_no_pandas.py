"""The reader does without pandas, which pyarrow would import wherever it is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

READS = """
import sys
from plasmid.data.reader import NoPandas
if sys.argv[1] == "without":
    sys.meta_path.insert(0, NoPandas())
import duckdb
import pyarrow as pa
cells = pa.table({"a": pa.array(["x", "y"], pa.string())})
rows = duckdb.connect().sql("SELECT a FROM cells ORDER BY a DESC").to_arrow_reader(10).read_all()
print(rows.column("a").to_pylist(), "pandas" in sys.modules)
"""


@pytest.mark.parametrize(("how", "imported"), [("without", False), ("with", True)])
def test_arrow_and_duckdb_work_without_it(how: str, imported: bool) -> None:
    """The control: with it, a list of texts is enough to have it imported."""
    pytest.importorskip("pandas")
    done = subprocess.run(
        [sys.executable, "-c", READS, how], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == f"['y', 'x'] {imported}\n"
