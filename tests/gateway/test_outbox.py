"""The outbox is the log's releases and refusals, and what contribute records of a release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.site import app
from plasmid.gateway.contribution_entry import clip_fraction
from plasmid.log.audit_log import AuditLog
from plasmid.owner.outbox import read_outbox
from plasmid.recipes.schema import Recipe
from plasmid.secagg.samples import body_root
from support.federation.attacks import as_csv, private
from support.federation.in_memory import SITES, Federation
from support.federation.owner_site import RUN, make_site, make_used_site
from support.tiny.tiny_task import tiny_recipe, tiny_table


@pytest.mark.promise("log-covers")
def test_a_release_is_recorded_with_all_that_the_owner_asks(
    tmp_path: Path, tiny: dict[str, BaseModel], at_home: None
) -> None:
    federation = Federation(
        tmp_path,
        document=Recipe.model_validate(tiny_recipe(tiny["esm"]).model_dump(mode="json")),
        tables={site: as_csv(tiny_table(12, seed)) for seed, site in enumerate(SITES)},
    )
    federation.set_up()
    manifest = federation.manifest()
    clip = federation.document.privacy.update_clip
    vector = np.zeros(manifest.length, np.float32)
    vector[:2] = 3 * clip, 4 * clip
    answer = federation.gateways["alpha"].contribute(manifest, lambda _: vector)
    (release,) = read_outbox(federation.gateways["alpha"].audit.entries()).released
    assert (release.run, release.round, release.epoch, release.slot) == (federation.run, 1, 1, 0)
    assert (release.body, release.body_bytes) == (body_root(answer.body), len(answer.body))
    assert release.norm == pytest.approx(5 * clip)
    assert release.norm_after == pytest.approx(clip, rel=1e-6)
    assert release.clip_fraction == pytest.approx(0.8, rel=1e-6)
    schema = federation.gateways["alpha"].run(federation.run).shape.schema
    assert release.tensors == [f"{spec.name} {list(spec.shape)}" for spec in schema.tensors]
    assert release.roster == sorted(SITES)
    assert release.coordinator == federation.coordinator.public
    assert release.project == federation.gateways["alpha"].run(federation.run).project.digest()
    assert release.manifest == manifest.digest()
    assert (release.masked, release.epsilon, release.epsilon_spent) == (True, None, None)
    assert release.isolation == answer.contribution.payload["isolation"]


def test_under_a_unit_it_says_what_was_spent_and_no_norm_of_a_short_sum(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    federation.gateways["alpha"].contribute(federation.manifest(), lambda _: np.array([0.5, 0.25, 1.0]))
    (release,) = read_outbox(federation.gateways["alpha"].audit.entries()).released
    assert (release.population, release.epsilon, release.epsilon_spent) == ("default", 1.0, 1.0)
    assert (release.norm, release.norm_after, release.clip_fraction) == (None, None, None)


def test_the_part_that_the_clip_took_is_a_fraction() -> None:
    assert clip_fraction(2.5, 1.0) == pytest.approx(0.6)
    assert clip_fraction(1.0, 1.0) == 0.0
    assert clip_fraction(0.0, 0.0) == 0.0


def test_the_log_gives_releases_and_refusals_by_run(tmp_path: Path) -> None:
    home, _ = make_used_site(tmp_path / "site")
    outbox = read_outbox(AuditLog(home.audit).entries())
    assert [release.round for release in outbox.released] == [1, 2, 3]
    assert outbox.body_bytes == 3 * 136_016
    assert [(refusal.rule, refusal.run) for refusal in outbox.refused] == [
        ("policy.digest_not_allowed", "mean-fedcba9876543210")
    ]
    of_run = read_outbox(AuditLog(home.audit).entries(), run=RUN)
    assert (len(of_run.released), of_run.refused) == (3, ())


def test_the_verb_lists_what_left_in_both_formats(tmp_path: Path) -> None:
    home, _ = make_used_site(tmp_path / "site")
    said = CliRunner().invoke(app, ["outbox", "--home", str(home.folder), "--format", "json"])
    data = json.loads(said.stdout.splitlines()[-1])["data"]
    assert [row["round"] for row in data["released"]] == [1, 2, 3]
    assert data["bytes"] == 3 * 136_016
    assert data["refused"][0]["rule"] == "policy.digest_not_allowed"
    text = CliRunner().invoke(app, ["outbox", "--home", str(home.folder), "--run", RUN]).stdout
    assert "3 bodies, 408,048 bytes" in text
    assert "layer.0.query.A [8, 512]" in text
    assert "60.0% clipped" in text


def test_an_empty_outbox_says_so(tmp_path: Path) -> None:
    home, _ = make_site(tmp_path / "site")
    said = CliRunner().invoke(app, ["outbox", "--home", str(home.folder)])
    assert (said.exit_code, said.stdout) == (0, "Nothing has left this site.\n")
