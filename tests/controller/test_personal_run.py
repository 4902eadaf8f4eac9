"""Runs in which sites keep something for themselves: it never leaves, survives restarts, becomes theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.conftest import NAMES, Scene
from controller.test_countersign import fetched
from controller.test_methods_run import UNIT, csv, last_state, recipe
from plasmid.adapters.artifact import read_adapter
from plasmid.bases.store import BaseModel
from plasmid.computations import _factors, api
from plasmid.computations._personal import personal_in, personal_of
from plasmid.gateway.explanation import explain
from plasmid.link.bodies import Bodies
from plasmid.prediction.adapters import adapter_folder
from plasmid.protocol.messages import Signed
from support.federation.in_worker import Workers
from support.federation.virtual_link import VirtualLink
from support.tiny.tiny_task import tiny_table

pytestmark = pytest.mark.usefixtures("at_home")
Make = Callable[..., Scene]
Start = Callable[[Scene], dict[str, Any]]

SITES = NAMES[:3]
ROWS = 40
CANARY = 777.25
"""Half of it is exact in binary, too: it is found in a body of any type of float."""


def personal_run(
    scene: Make, base: BaseModel, method: str = "fedsa", *, unit: bool = False, **sections: dict[str, Any]
) -> tuple[Scene, Workers]:
    """Return a run of three sites with rows of their own, each of which makes its own adapter at the end."""
    document = recipe(base, method, **sections)
    workers = Workers(document, base, {site: tiny_table(ROWS, seed) for seed, site in enumerate(SITES)})
    given: dict[str, Any] = {}
    if unit:
        given = {
            "public_size": ROWS,
            "budgets": {"default": {"unit": "record", "epsilon": 8.0, "delta": 1e-5}},
        }
    made = scene(
        3,
        document,
        admitted=False,
        compute=workers.compute,
        tables=dict.fromkeys(SITES, csv(ROWS)),
        **given,
    )

    def own(link: VirtualLink, site: str, signed: Signed) -> Signed:
        workers.make_own(made, site)
        return signed

    for site in SITES:
        made.link.on(site, "countersigned", own)
    return made, workers


def own_adapter(made: Scene, site: str, base: BaseModel) -> np.ndarray:
    folder = made.federation.gateways[site].personal.adapter(made.federation.run)
    return read_adapter(folder).on(base)[1]


def planted(monkeypatch: pytest.MonkeyPatch, workers: Workers, base: BaseModel) -> None:
    """Have training set everything personal to the canary."""
    own = {spec.name for spec in personal_of(workers.document, base).tensors}
    whole = _factors.schema_of(workers.document, base)
    for session in workers.sessions.values():
        honest = session._engine.train

        def train(*arguments: Any, honest: Any = honest, **how: Any) -> np.ndarray:
            after = _factors.parts(whole, honest(*arguments, **how).copy())
            return _factors.joined(
                whole, {name: np.full_like(x, CANARY) if name in own else x for name, x in after.items()}
            )

        monkeypatch.setattr(session._engine, "train", train)


def test_nothing_personal_is_in_anything_that_is_sent(
    scene: Make, start: Start, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny["esm"]
    made, workers = personal_run(scene, base, adapter={"personal": ["head"]})
    planted(monkeypatch, workers, base)
    said: list[bytes] = []
    honest = VirtualLink._deliver

    def deliver(link: VirtualLink, site: str, signed: Signed) -> None:
        said.append(signed.model_dump_json().encode())
        honest(link, site, signed)

    monkeypatch.setattr(VirtualLink, "_deliver", deliver)
    published: list[bytes] = []
    publish = Bodies.publish

    def keeping(bodies: Bodies, body: bytes) -> str:
        published.append(bytes(body))
        return publish(bodies, body)

    monkeypatch.setattr(Bodies, "publish", keeping)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    # what every site's gateway was handed, before masks: the factors A alone, of which none is near
    assert len(workers.vectors) == 3 * 2
    names = [spec.name for spec in made.job.shape.schema.tensors]
    assert all(name.endswith(_factors.DOWN) for name in names)
    for vector in workers.vectors.values():
        assert vector.size == made.job.shape.schema.size
        assert np.abs(vector).max() < 1.0
    forms = [np.array([CANARY, CANARY], kind).tobytes() for kind in ("<f4", "<f8", ">f4", ">f8")]
    disk = [path for path in made.folder.rglob("*") if path.is_file()]
    theirs = [path for path in disk if path.relative_to(made.folder).parts[0] != "sites"]
    left = [*said, *published, *(path.read_bytes() for path in theirs)]
    assert len(published) >= 5
    assert not [form for form in [*forms, b"777.25"] for body in left if form in body]
    # at home it is all there, and nowhere in the log
    for site in SITES:
        kept = personal_in(workers.document, base, own_adapter(made, site, base))
        assert (kept == CANARY).all()
        assert "777.25" not in str(made.federation.log(site))


def test_each_site_ends_with_its_own_part_over_what_all_have(
    scene: Make, start: Start, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = tiny["esm"]
    made, workers = personal_run(scene, base)
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    fetched(made, shown, tmp_path / "adapter")
    whole = _factors.schema_of(workers.document, base)
    given = api.given_digest(read_adapter(tmp_path / "adapter").on(base)[1])
    assert [made.events(site, "countersigned")[0]["adapter"] for site in SITES] == [given] * 3
    released = _factors.parts(whole, read_adapter(tmp_path / "adapter").on(base)[1])
    owned = [_factors.parts(whole, own_adapter(made, site, base)) for site in SITES]
    for name, value in released.items():
        alike = [np.array_equal(one[name], value) for one in owned]
        assert alike == [not name.endswith(_factors.UP)] * 3, name
    facts = explain(made.federation.home("alpha"), None, made.job.document, made.federation.project)
    told = {fact.name: fact.value for fact in facts}
    assert told["stays at the site"].startswith("B of the adapter: it learns here, is never sent")
    for site in SITES:
        assert workers.began[site, 1] is None
        assert np.array_equal(workers.began[site, 2], workers.kept[site, 1])  # type: ignore[arg-type]
        kept = personal_in(workers.document, base, own_adapter(made, site, base))
        assert np.array_equal(kept, workers.kept[site, 2])
        (entry,) = made.events(site, "personal.adapter")
        assert (entry["run"], entry["steps"], entry["rounds"]) == (made.federation.run, 0, 2)
    # it is found by the run's id at the site, where its card says that it stays
    folder = adapter_folder(f"personal:{made.federation.run}", made.federation.home("alpha"))
    assert "It stays here" in (folder / "README.md").read_text()


def test_steps_after_the_run_are_the_site_s_own(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    base = tiny["esm"]
    made, workers = personal_run(scene, base, "finetune", training={"personal_steps": 3})
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    assert workers.kept == {}  # nothing is personal before the end
    public = api.method(workers.document).adapter(workers.document, base, last_state(made, shown))
    found = [own_adapter(made, site, base) for site in SITES]
    for site, own in zip(SITES, found, strict=True):
        engine = workers.sessions[site]._engine
        assert np.array_equal(own, engine.train(public, steps=3, seed=3))
        assert not np.array_equal(own, public)
    assert not np.array_equal(found[0], found[1])


def test_a_site_of_a_smaller_rank_takes_its_own_steps_in_that_rank(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    base = tiny["esm"]
    adapter = {"sketch_width": 9, "ranks": {"alpha": 1}}
    made, workers = personal_run(scene, base, "sketch", adapter=adapter, training={"personal_steps": 3})
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    public = api.method(workers.document).adapter(workers.document, base, last_state(made, shown))
    whole = _factors.schema_of(workers.document, base)
    for site in SITES:
        own = own_adapter(made, site, base)
        assert not np.array_equal(own, public)
        for name, factor in _factors.parts(whole, own).items():
            if name.endswith(_factors.UP):  # [out, r]: those beyond the first of alpha's are none of its own
                assert factor[:, 1:].any() == (site != "alpha")


def test_a_site_that_restarts_goes_on_with_what_it_had_kept(
    scene: Make, start: Start, tiny: dict[str, BaseModel]
) -> None:
    base = tiny["esm"]
    made, workers = personal_run(scene, base, federation={"spare_attempts": 3})
    tries: list[int] = []

    def die(link: VirtualLink, site: str, signed: Signed) -> None:
        """Its process ends when it has computed round 2, before it says so; it is started again."""
        tries.append(1)
        link.restart(site)

    made.link.on("beta", "contribution", die, round=2)
    shown = start(made)
    assert (shown["state"], shown["error"], tries) == ("SUCCEEDED", None, [1])
    # round 2 was made again, from where round 1 had left it, at the site that forgot and at all
    assert shown["result"]["attempts_used"] == 3
    for site in SITES:
        assert np.array_equal(workers.began[site, 2], workers.kept[site, 1])  # type: ignore[arg-type]


def test_under_a_unit_clip_and_noise_are_over_what_a_site_keeps_too(
    scene: Make, start: Start, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny["esm"]
    made, workers = personal_run(scene, base, unit=True, privacy=UNIT)
    asked: list[Any] = []
    for session in workers.sessions.values():
        honest = session._engine.train
        monkeypatch.setattr(
            session._engine, "train", lambda *a, h=honest, **how: (asked.append(how), h(*a, **how))[1]
        )
    shown = start(made)
    assert (shown["state"], shown["error"]) == ("SUCCEEDED", None)
    assert len(asked) == 6
    for how in asked:
        assert {"A", "B", "head"} <= how["learn"]
        assert how["sampling"].noise_multiplier > 0.3
        assert how["sampling"].clip == 1.0
