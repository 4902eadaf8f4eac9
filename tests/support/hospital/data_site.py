"""A site's folder and recipes on disk, and `plasmid data` about them, as its owner runs it."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from plasmid.cli.verbs.data import app
from plasmid.core.settings import dump_settings
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.sentences import public
from support.hospital.hospital_world import COHORT, COLUMNS

CANARY = "Ms-Confidential"

_REST: dict[str, Any] = {
    "adapter": {
        "lora": {"rank": 4, "alpha": 8, "targets": ["query", "value"], "layers": 2},
        "covariates": [],
    },
    "training": {"steps": 4, "batch": 16, "lora_lr": 0.005, "head_lr": 0.01, "covariate_lr": 0.05},
    "federation": {"rounds": 2},
    "privacy": {},
    "release": {"license": "MIT", "data": "Made up.", "intended_use": "Tests.", "limitations": "Everything."},
}

RECEPTORS: dict[str, Any] = {
    "name": "receptors",
    "title": "Which receptors bind",
    "model": {"base": "antiberty"},
    "task": {"kind": "classification", "labels": ["no", "yes"], "metric": "auc"},
    "data": {
        "input": "cdr3",
        "label": "label",
        "columns": {
            "cdr3": {"type": "protein", "max_length": 40},
            "sex": {"type": "category", "vocabulary": ["F", "M"], "missing": "allowed"},
            "weight": {
                "type": "number",
                "bounds": [1, 300],
                "unit": "kg",
                "missing": "allowed",
                "required": False,
            },
            "label": {"type": "label"},
        },
    },
    **_REST,
}

STAYS: dict[str, Any] = {
    "name": "stays",
    "title": "Which patients come back",
    "model": {"base": "minilm"},
    "task": {"kind": "classification", "labels": ["no", "yes"], "metric": "auc"},
    "data": {"input": "note", "label": "label", "patient": "patient", "columns": COLUMNS, "cohort": COHORT},
    **_REST,
}


def receptor_rows(count: int = 60) -> list[list[str]]:
    """Return rows of RECEPTORS: cdr3, sex, weight, label."""
    letters = "ACDEFGHIKLMNPQRSTVWY"
    return [
        [
            "CASS" + letters[row % 20] + letters[row // 20 % 20] + "F",
            "FM"[row % 2],
            str(50 + row % 40),
            ("no", "yes")[row % 2],
        ]
        for row in range(count)
    ]


@dataclass
class DataSite:
    """The site in a folder of its own, beside the recipes' files."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> DataSite:
        """Make the site."""
        site = cls(folder)
        (site.home.folder / "data").mkdir(parents=True)
        site.home.write_config(SiteConfig(name="hospital-a", organisation="Hospital A", public_size=100))
        return site

    @property
    def home(self) -> SiteHome:
        """The site's folder."""
        return SiteHome(self.folder / "site")

    def recipe(self, document: dict[str, Any], **data: Any) -> str:
        """Write a recipe, *data* replacing keys of its data, and return its path."""
        path = self.folder / f"{document['name']}.yaml"
        path.write_bytes(dump_settings({**document, "data": {**document["data"], **data}}))
        return str(path)

    def csv(self, header: list[str], rows: list[list[str]], name: str = "export.csv") -> Path:
        """Write a table into the data folder."""
        path = self.home.folder / "data" / name
        path.write_text("".join(",".join(one) + "\n" for one in [header, *rows]), encoding="utf-8")
        return path

    def view(self, name: str, **settings: Any) -> None:
        """Write a view's file."""
        self.home.views.mkdir(exist_ok=True)
        (self.home.views / f"{name}.yaml").write_bytes(dump_settings(settings))

    def connection(self, **settings: Any) -> None:
        """Write the connection ``here``."""
        self.home.connections.write_bytes(dump_settings({"connections": {"here": settings}}))

    def run(self, *arguments: str) -> Result:
        """Run `plasmid data` and return what it said; it shows no canary and ends with 0 or 1."""
        result = CliRunner().invoke(app, [*arguments, "--home", str(self.home.folder)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert CANARY not in result.output
        assert result.exit_code in (0, 1)
        return result

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run `plasmid data` and return its JSON answer."""
        result = self.run(*arguments, "--format", "json")
        answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        assert (answer["status"] == "ok") is (result.exit_code == 0)
        assert CANARY not in json.dumps(answer)
        return answer

    def refused(self, code: str, *arguments: str) -> dict[str, Any]:
        """Run `plasmid data`, which fails with *code*; return its answer."""
        answer = self.json(*arguments)
        assert answer["status"] == "error", answer
        assert answer["error"]["code"] == code, answer["error"]
        return answer


def leaves(error: Exception) -> tuple[str, str]:
    """Return what may leave a site of *error*, which neither shows nor holds a canary."""
    assert CANARY not in "".join(traceback.format_exception(error))
    return public(error)
