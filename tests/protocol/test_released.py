"""``verify_release``: an honest adapter passes, down to pinned keys; whatever is changed in it is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import PlasmidError, RecipeError
from plasmid.dp.claims import PrivacyFacts, statement
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity, fingerprint
from plasmid.protocol.project import Project
from plasmid.release.attestation import (
    BUNDLE,
    ROUNDS,
    Attestation,
    Release,
    digests,
    pack_bundle,
    read_bundle,
)
from plasmid.release.folder import PROJECT, Trust, read_trust, verify_release
from support.federation.release_world import DP_SGD, SITES, World

pytestmark = pytest.mark.usefixtures("at_home")


def refused(*codes: str) -> pytest.RaisesExc[PlasmidError]:
    """Expect an error with one of these codes."""
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code in codes)


@pytest.fixture(scope="module")
def world(tiny: dict[str, BaseModel]) -> World:
    return World(tiny["bert"], privacy=DP_SGD)


@pytest.fixture(scope="module")
def released(world: World, model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "adapter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        world.fetch(folder)
    return folder


@pytest.fixture
def folder(released: Path, tmp_path: Path) -> Path:
    """A copy of the release, to be damaged."""
    return Path(shutil.copytree(released, tmp_path / "adapter"))


def trust(world: World, **changes: Any) -> Trust:
    keys = {site: identity.public for site, identity in world.identities.items()}
    return Trust(**{"coordinator": world.coordinator.public, "sites": keys} | changes)


# -- honest ----------------------------------------------------------------------------------------


def test_an_honest_release_holds_and_says_by_whose_keys(world: World, released: Path) -> None:
    found = verify_release(released)
    assert (found.run, found.participants, found.countersigned, found.missing) == (
        world.run,
        SITES,
        SITES,
        (),
    )
    assert (found.person, found.pinned, found.server_step) == ("ada", (), "re-run")
    assert found.coordinator == fingerprint(world.coordinator.public)
    assert found.epsilon is not None
    assert 0 < found.epsilon < 8.0
    assert found.files == len(list(released.iterdir())) - 1 == 8
    assert verify_release(released, trust(world)).pinned == (*SITES, "coordinator")
    one = Trust(sites={"beta": fingerprint(world.identities["beta"].public), "stranger": "f" * 64})
    assert verify_release(released, one).pinned == ("beta",)


def test_card_and_provenance_say_what_was_signed(world: World, released: Path) -> None:
    provenance = json.loads((released / "provenance.json").read_text())
    assert provenance["schema"] == "plasmid.provenance/4"
    assert (provenance["participant_count"], provenance["not_countersigned"]) == (3, [])
    assert provenance["countersigned"]["beta"] == {
        "contributed": 2, "steps_rerun": 2, "epsilon": 8, "delta": 1e-05,
    }  # fmt: skip
    assert provenance["aggregation"]["server_step"] == "re-run"
    assert provenance["hardware"] == dict.fromkeys(("coordinator", *SITES), "x86_64")
    facts = PrivacyFacts.from_json(provenance["privacy"])
    card = (released / "README.md").read_text()
    for sentence in statement(facts):
        assert f"\n- {sentence}\n" in card
    assert "- Countersigned by 3 of 3 participants: alpha, beta, gamma. Each says: I took part" in card
    assert "- Every server step was re-run by alpha, beta, gamma.\n" in card
    assert "not re-run" not in card


def test_a_statement_is_in_toto_s(released: Path) -> None:
    line = json.loads((released / BUNDLE).read_text().splitlines()[0])
    assert line["payloadType"] == "application/vnd.in-toto+json"
    payload = json.loads(Envelope.model_validate_json(canonical_json(line)).payload)
    assert set(payload) == {"_type", "subject", "predicateType", "predicate"}
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    names = [subject["name"] for subject in payload["subject"]]
    assert names == sorted(
        ["adapter_config.json", "adapter_model.safetensors", "head.json", "head.safetensors", ROUNDS]
    )
    assert all(set(subject["digest"]) == {"sha256"} for subject in payload["subject"])


def test_a_site_that_was_away_is_missing_and_named(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    made = World(tiny["bert"], words=("alpha", "gamma"))
    made.fetch(tmp_path / "a")
    found = verify_release(tmp_path / "a", trust(made))
    assert (found.countersigned, found.missing, found.epsilon) == (("alpha", "gamma"), ("beta",), None)
    assert found.pinned == ("alpha", "gamma", "coordinator")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "- Countersigned by 2 of 3 participants: alpha, gamma." in card
    assert "- Not countersigned by beta.\n" in card


def test_a_step_without_a_rule_is_said_not_to_be_re_run(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    made = World(tiny["bert"], server={"strategy": "FedAdagrad"})
    made.fetch(tmp_path / "a", rerun=0, server_step="not re-run")
    assert verify_release(tmp_path / "a").server_step == "not re-run"
    assert "- Server step not re-run (FedAdagrad).\n" in (tmp_path / "a" / "README.md").read_text()


def test_a_rehearsal_says_that_it_is_one(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    World(tiny["bert"], rehearsal=True).fetch(tmp_path / "a")
    assert verify_release(tmp_path / "a").privacy[0].startswith("This is a rehearsal:")


def test_what_a_hub_s_client_leaves_is_passed_over(folder: Path) -> None:
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert verify_release(folder).files == 8


# -- changed ---------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)


@pytest.mark.promise("release-as-signed")
@pytest.mark.parametrize("place", [0, 9, 1000, -2])
@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "adapter_config.json", "head.safetensors", "head.json", "README.md",
     "provenance.json", ROUNDS],
)  # fmt: skip
def test_any_changed_byte_of_a_file_is_found(folder: Path, name: str, place: int) -> None:
    flip(folder / name, place)
    with refused("model.release_changed") as caught:
        verify_release(folder)
    assert f"{name} is not as it was released" in caught.value.message


def test_any_changed_byte_of_the_attestations_is_found(folder: Path) -> None:
    kept = (folder / BUNDLE).read_bytes()
    codes = set()
    for place in range(3, len(kept), 701):
        flip(folder / BUNDLE, place)
        with refused("model.release_invalid", "model.release_signature", "model.release_changed") as caught:
            verify_release(folder)
        codes.add(caught.value.code)
        (folder / BUNDLE).write_bytes(kept)
    assert "model.release_invalid" in codes
    assert verify_release(folder)  # the control


def test_files_more_and_fewer_are_named_together(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "more").mkdir()
    (folder / "head.json").unlink()
    with refused("model.release_changed") as caught:
        verify_release(folder)
    for said in ("head.json is missing", "modeling.py is not part", "more is not part of the release"):
        assert said in caught.value.message


def test_an_adapter_without_attestations_is_said_to_have_none(folder: Path) -> None:
    (folder / BUNDLE).unlink()
    with refused("model.release_unsigned"):
        verify_release(folder)


# -- signed anew by somebody without the keys -------------------------------------------------------


def rewrite(folder: Path, change: Callable[[list[Envelope]], list[Envelope]]) -> None:
    lines = [envelope for envelope, _ in read_bundle((folder / BUNDLE).read_bytes())]
    (folder / BUNDLE).write_bytes(pack_bundle(change(lines)))


def release_anew(folder: Path, person: Identity) -> None:
    """Sign the folder as it is now, with what is in its bundle, as *person*."""
    lines = read_bundle((folder / BUNDLE).read_bytes())
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != BUNDLE}
    words = {said.predicate.site: said.digest() for _, said in lines[1:-1]}  # type: ignore[union-attr]
    release = Release(
        run=lines[0][1].predicate.run,
        person="ada",
        released_result=lines[0][1].digest(),
        countersignatures=words,
    )
    envelope = Envelope.of(Attestation.about(digests(files), release)).signed(person)
    (folder / BUNDLE).write_bytes(pack_bundle([*(line for line, _ in lines[:-1]), envelope]))


@pytest.mark.promise("release-as-signed")
@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_no_attestation_can_be_taken_out(folder: Path, place: int) -> None:
    rewrite(folder, lambda lines: lines[:place] + lines[place + 1 :])
    with refused("model.release_signature", "model.release_invalid"):
        verify_release(folder)


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_no_signature_can_be_taken_off(folder: Path, place: int) -> None:
    def strip(lines: list[Envelope]) -> list[Envelope]:
        lines[place] = lines[place].model_copy(update={"signatures": []})
        return lines

    rewrite(folder, strip)
    with refused("model.release_signature"):
        verify_release(folder)


@pytest.mark.promise("release-as-signed")
@pytest.mark.parametrize("place", [0, 1, 4])
def test_nobody_signs_for_another(folder: Path, place: int) -> None:
    def replace(lines: list[Envelope]) -> list[Envelope]:
        bare = lines[place].model_copy(update={"signatures": []})
        lines[place] = bare.signed(Identity.generate("mallory"))
        return lines

    rewrite(folder, replace)
    with refused("model.release_signature"):
        verify_release(folder)


def test_who_is_not_of_the_project_releases_nothing(world: World, folder: Path) -> None:
    (folder / "README.md").write_text("another card")
    release_anew(folder, Identity.generate("ada"))
    with refused("model.release_signature"):
        verify_release(folder)
    release_anew(folder, world.person)  # she may sign, and still not say what the sites have not
    with refused("model.release_claims") as caught:
        verify_release(folder)
    assert "the card's section 'Privacy'" in caught.value.message


# -- signed by whom it may be, and false all the same ------------------------------------------------


@pytest.mark.promise("release-as-signed")
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("README.md", "It trusts no mask and no other site.", "It trusts nobody."),
        ("README.md", "- Countersigned by 3 of 3", "- Countersigned by 9 of 9"),
        ("README.md", "\n## Signatures\n", "\n## Privacy\n\nNothing can leak.\n\n## Signatures\n"),
        ("provenance.json", '"rounds": 2', '"rounds": 3'),
        ("provenance.json", '"epsilon": 8.0', '"epsilon": 0.1'),
        ("provenance.json", '"not_countersigned": []', '"not_countersigned": ["x"]'),
    ],
)
def test_card_and_provenance_cannot_say_something_else(
    world: World, folder: Path, name: str, old: str, new: str
) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    release_anew(folder, world.person)
    with refused("model.release_claims"):
        verify_release(folder)


def test_weights_that_the_sites_have_not_signed_are_no_release(world: World, folder: Path) -> None:
    flip(folder / "adapter_model.safetensors", -1)
    release_anew(folder, world.person)
    with refused("model.release_invalid"):
        verify_release(folder)


def test_another_run_s_history_does_not_fit(world: World, folder: Path) -> None:
    rounds = json.loads((folder / ROUNDS).read_text())
    rounds["rounds"][1]["manifest"]["run"] = "tiny-fedcba9876543210"
    (folder / ROUNDS).write_bytes(canonical_json(rounds))
    release_anew(folder, world.person)
    with refused("model.release_invalid"):
        verify_release(folder)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"run": "tiny-fedcba9876543210"}, "model.release_invalid"),
        ({"recipe": "0" * 64}, "model.release_invalid"),
        ({"rounds": 3}, "model.release_invalid"),
        ({"participants": ["alpha", "beta"]}, "model.release_invalid"),
        ({"project": "0" * 64}, "model.release_invalid"),
    ],
)
def test_a_coordinator_s_result_must_fit_its_history(
    tiny: dict[str, BaseModel], tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    made = World(tiny["bert"], words=(), change=lambda result: result.model_copy(update=change))
    with refused(code):
        made.fetch(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.promise("release-as-signed")
@pytest.mark.parametrize(
    "change",
    [
        {"attempts": 1},
        {"epsilon": 0.5},
        {"min_sites": 4},
        {"protocol": "none"},
        {"survivors": [3]},
        {"steps": "many"},
        {"participants": []},
    ],
)
def test_facts_better_than_what_was_done_are_found(
    tiny: dict[str, BaseModel], tmp_path: Path, change: dict[str, Any]
) -> None:
    made = World(
        tiny["bert"],
        privacy=DP_SGD,
        change=lambda result: result.model_copy(update={"privacy": {**result.privacy, **change}}),
    )
    with refused("model.release_claims"):
        made.fetch(tmp_path / "a")


@pytest.mark.parametrize(
    "changes",
    [{"run": "tiny-fedcba9876543210"}, {"result": "0" * 64}, {"server_step": "not re-run"}],
)
def test_a_countersignature_on_another_result_is_none(
    tiny: dict[str, BaseModel], tmp_path: Path, changes: dict[str, Any]
) -> None:
    with refused("model.release_invalid"):
        World(tiny["bert"]).fetch(tmp_path / "a", **changes)


def test_a_site_that_was_charged_something_else_speaks_against_it(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    with refused("model.release_claims"):
        World(tiny["bert"], privacy=DP_SGD).fetch(tmp_path / "a", epsilon=9.0)


# -- pins ------------------------------------------------------------------------------------------


@pytest.mark.promise("release-as-signed")
def test_a_whole_release_by_other_keys_is_found_by_pins_alone(
    world: World, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    """Sound in itself: the same names, every signature right, by keys that the forger has made."""
    forged = World(tiny["bert"], privacy=DP_SGD)
    forged.fetch(tmp_path / "a")
    assert verify_release(tmp_path / "a").pinned == ()
    with refused("model.release_trust") as caught:
        verify_release(tmp_path / "a", trust(world))
    assert "alpha, beta, gamma, the coordinator" in caught.value.message
    keys = {site: identity.public for site, identity in forged.identities.items()}
    for pins in (
        Trust(sites=keys | {"beta": world.identities["beta"].public}),
        Trust(coordinator=world.coordinator.public, sites=keys),
    ):
        with refused("model.release_trust"):
            verify_release(tmp_path / "a", pins)


def test_a_swapped_site_key_breaks_the_project(world: World, folder: Path) -> None:
    project = world.project
    other = project.sites[1].model_copy(update={"key": Identity.generate("beta").public})
    swapped = Project(**{**dict(project), "sites": [project.sites[0], other, project.sites[2]]})
    (folder / PROJECT).write_bytes(Envelope.of(swapped).wire())
    release_anew(folder, world.person)
    with refused("model.release_signature", "model.release_invalid"):
        verify_release(folder)


def test_a_trust_file_that_pins_nobody_of_the_release_is_no_trust(released: Path) -> None:
    with refused("model.release_trust") as caught:
        verify_release(released, Trust(sites={"delta": "f" * 64}))
    assert "Signed by: alpha, beta, gamma." in caught.value.hint


def test_trust_is_a_small_file_or_a_site_s_peers(world: World, tmp_path: Path) -> None:
    key = world.coordinator.public
    (tmp_path / "trust.yaml").write_text(f"coordinator: {fingerprint(key)}\nsites: {{beta: {key}}}\n")
    assert read_trust(tmp_path / "trust.yaml") == Trust(coordinator=fingerprint(key), sites={"beta": key})
    (tmp_path / "peers.yaml").write_text(
        f"coordinator: '{key}'\nsites:\n- name: beta\n  organisation: B\n  key: '{key}'\n"
    )
    assert read_trust(tmp_path / "peers.yaml") == Trust(coordinator=key, sites={"beta": key})
    (tmp_path / "bad.yaml").write_text("coordinator: nonsense\n")
    with pytest.raises(RecipeError) as caught:
        read_trust(tmp_path / "bad.yaml")
    assert "bad.yaml:1: coordinator" in caught.value.message
