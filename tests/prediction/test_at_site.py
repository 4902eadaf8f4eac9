"""`plasmid predict --view`: rows of a view, scored where they are, in files that are the owner's alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.predict import app
from plasmid.core.settings import dump_settings
from plasmid.log.audit_log import AuditLog
from plasmid.prediction.evaluation import predict_file
from plasmid.prediction.job import adapter_digest
from support.hospital.data_site import DataSite
from support.tiny.tiny_adapter import tiny_adapter
from support.tiny.tiny_task import tiny_recipe, tiny_table

pytestmark = pytest.mark.usefixtures("at_home")
ROWS = 50


@pytest.fixture(scope="module")
def adapter(tiny: dict[str, BaseModel], model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("made") / "adapter", tiny["esm"])


@pytest.fixture
def site(tiny: dict[str, BaseModel], tmp_path: Path) -> DataSite:
    """A site whose table has other names than the recipe's columns."""
    site = DataSite.made(tmp_path)
    table = tiny_table(ROWS, seed=2)
    rows = [
        [
            f"P{row:03d}",
            str(table.columns["sequence"][row]),
            str(table.columns["gene"][row] or "NA"),
            str(label),
        ]
        for row, label in enumerate(table.columns["label"])
    ]
    site.csv(["mrn", "heavy", "gene", "label"], rows)
    site.csv(["person", "sequence", "gene", "label"], rows, "../named.csv")
    site.view("tiny", tables={"rows": {"table": "export", "columns": {"person": "mrn", "sequence": "heavy"}}})
    document = tiny_recipe(tiny["esm"]).model_dump(mode="json", exclude_none=True)
    columns = {"person": {"type": "identifier"}, **document["data"]["columns"]}
    holdout = {"share": 0.3, "seed": 1, "by": "patient"}
    document["data"] |= {"columns": columns, "patient": "person", "holdout": holdout}
    (tmp_path / "tiny.yaml").write_bytes(dump_settings(document))
    return site


def predict(site: DataSite, adapter: Path, *more: Any) -> dict[str, Any]:
    """Run the verb on the site's view and return its answer."""
    arguments = [adapter, "--view", site.folder / "tiny.yaml", "--home", site.home.folder, *more]
    found = CliRunner().invoke(app, [*map(str, arguments), "--format", "json"])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    said: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return said


def test_the_rows_of_a_view_are_scored_and_the_scores_stay(site: DataSite, adapter: Path) -> None:
    answer = predict(site, adapter, "--batch-rows", "16")
    assert answer["status"] == "ok", answer["error"]
    out = Path(answer["data"]["out"])
    digest = adapter_digest(adapter)
    assert out == site.home.folder / "predictions" / f"tiny-{digest[:12]}.parquet"
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.parent.stat().st_mode & 0o777 == 0o700
    found = pa.parquet.read_table(out)
    assert found.schema.names == ["person", "no", "yes"]
    named = dict(zip(found.column("person").to_pylist(), found.column("yes").to_pylist(), strict=True))
    expected = predict_file(adapter, site.home.folder / "named.csv").answers.values[:, 1]
    np.testing.assert_allclose([named[f"P{row:03d}"] for row in range(ROWS)], expected, atol=1e-6)
    (entry,) = AuditLog(site.home.audit).entries()
    assert (entry["action"], entry["actor"], entry["result"]) == ("view.opened", "owner", "ok")
    assert entry["facts"]["adapter"] == digest
    assert entry["facts"]["source"] == "export.csv"
    assert entry["facts"]["columns"] == ["gene", "label", "person", "sequence"]


def test_rows_that_are_refused_are_counted_and_nothing_is_written(site: DataSite, adapter: Path) -> None:
    site.csv(["mrn", "heavy", "gene", "label"], [["P1", "ACDCANARYX", "a", "no"], ["P2", "ACD", "a", "no"]])
    error = predict(site, adapter)["error"]
    assert error["code"] == "data.residue_invalid"
    assert "line 2" in error["message"]
    assert "CANARY" not in json.dumps(error)
    assert list((site.home.folder / "predictions").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("usage.predict_out", ["--out", "elsewhere.parquet"]),
        ("usage.predict_column", ["--keep", "mrn"]),
        ("usage.no_site", ["--home", "nowhere"]),
    ],
)
def test_what_a_site_refuses(site: DataSite, adapter: Path, code: str, arguments: list[str]) -> None:
    assert predict(site, adapter, *arguments)["error"]["code"] == code
    assert not AuditLog(site.home.audit).entries()


def test_an_adapter_of_other_columns_is_refused_before_the_view_is_opened(
    site: DataSite, adapter: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in adapter.iterdir():
        text = file.read_bytes()
        (other / file.name).write_bytes(
            text.replace(b'"sequence"', b'"cdr3"') if file.name == "head.json" else text
        )
    error = predict(site, other)["error"]
    assert error["code"] == "data.column_missing"
    assert "cdr3 (protein)" in error["message"]
    assert not AuditLog(site.home.audit).entries()
