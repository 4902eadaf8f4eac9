"""What several folders of tests share: a state folder with two tiny imported models."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from plasmid.models.store import BaseModel

# The same examples on every machine, however slow; no folder of earlier failures.
settings.register_profile("plasmid", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("plasmid")


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder that holds the tiny models."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def tiny(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    """The tiny models by architecture."""
    from plasmid.models.importer import import_folder
    from tiny_models import tiny_bert, tiny_esm

    source = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        return {
            "bert": import_folder(tiny_bert(source / "bert"), model_id="tiny-bert"),
            "esm": import_folder(tiny_esm(source / "esm"), model_id="tiny-esm"),
        }


@pytest.fixture(scope="session")
def zoo(
    tiny: dict[str, BaseModel], model_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, BaseModel]:
    """Tiny models of every architecture, by its name."""
    from plasmid.models.importer import import_folder
    from tiny_models import tiny_llama, tiny_modernbert, tiny_roberta

    source = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        return tiny | {
            "roberta": import_folder(tiny_roberta(source / "roberta"), model_id="tiny-roberta"),
            "modernbert": import_folder(tiny_modernbert(source / "modernbert"), model_id="tiny-modernbert"),
            "llama": import_folder(tiny_llama(source / "llama"), model_id="tiny-llama"),
        }


@pytest.fixture
def at_home(model_home: Path, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folder with the tiny models the state folder."""
    monkeypatch.setenv("PLASMID_HOME", str(model_home))
