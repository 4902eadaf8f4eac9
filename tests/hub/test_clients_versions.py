"""Other versions of the Hugging Face client, each in an environment of its own: the table of docs/hub.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hub.hub_matrix import OTHERS, environment_of, hubs, run_verbs, table
from support.hub.hub_server import LiveHub
from support.hub.hub_verb_names import NAMES

ABSENT = {
    "0.30.2": {
        "large file with hf_xet is told HF_HUB_DISABLE_XET=1",
        "hf cache verify",
        "ModelCard.validate, push_to_hub",
        "push_to_hub of a model and a tokenizer",
        "AutoModel, AutoTokenizer from_pretrained",
        "push_to_hub of a PEFT model",
        "PeftConfig, PeftModel from_pretrained",
    },
    "1": {"ModelCard.validate, push_to_hub"},
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveHub, LiveHub]]:
    """The hubs that the verbs ask for."""
    with hubs(tmp_path_factory.mktemp("hubs")) as two:
        yield two


@pytest.mark.slow
@pytest.mark.parametrize("requirement", OTHERS)
def test_every_verb_that_a_version_has_works(
    requirement: str, both: tuple[LiveHub, LiveHub], tmp_path: Path
) -> None:
    found = run_verbs(environment_of(requirement, tmp_path / "client"), *both, tmp_path / "run")
    absent = ABSENT[found["version"] if found["version"] in ABSENT else found["version"].split(".")[0]]
    assert found["outcomes"] == {name: "absent" if name in absent else "ok" for name in NAMES}
    assert table([found]).count("| yes |") == len(NAMES) - len(absent)
