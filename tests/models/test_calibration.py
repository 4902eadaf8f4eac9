"""A temperature beside an adapter divides its logits, and a file that is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.adapters.artifact import read_head
from plasmid.adapters.calibration import CALIBRATION, calibration_file
from plasmid.adapters.predict import predict
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError
from support.tiny.tiny_adapter import tiny_adapter

FOUND = {"temperature": 2.0, "run": "tiny-1", "rows": "holdout", "count": 120, "auc": None}


@pytest.mark.usefixtures("at_home")
def test_logits_are_divided_by_it(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path / "adapter", tiny["bert"])
    columns: dict[str, Any] = {"sequence": ["CASSLW", "WWWW", "ACDEF"], "gene": ["a", None, "b"]}
    plain = predict(folder, columns)
    plain = getattr(plain, "values", plain)
    (folder / CALIBRATION).write_bytes(calibration_file(FOUND))
    assert read_head(folder).temperature == 2.0
    soft = predict(folder, columns)
    soft = getattr(soft, "values", soft)
    roots = np.sqrt(plain)
    np.testing.assert_allclose(soft, roots / roots.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1]",
        b'{"temperature": 2}',
        json.dumps({"format": "plasmid.calibration/1", **FOUND}).encode(),
        calibration_file(FOUND).replace(b"2.0", b"0.0"),
        calibration_file(FOUND).replace(b"2.0", b"NaN"),
        calibration_file(FOUND).replace(b"tiny-1", b"x" * 70_000),
    ],
)
@pytest.mark.usefixtures("at_home")
def test_a_file_that_is_none_is_refused(tiny: dict[str, BaseModel], tmp_path: Path, text: bytes) -> None:
    folder = tiny_adapter(tmp_path / "adapter", tiny["bert"])
    (folder / CALIBRATION).write_bytes(text)
    with pytest.raises(ModelError) as caught:
        read_head(folder)
    assert caught.value.code == "model.adapter_invalid"
    assert CALIBRATION in caught.value.message
