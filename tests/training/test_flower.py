"""A stock Flower ClientApp as a recipe's half: Flower's own result; whatever it does wrong is one error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from threading import Thread
from typing import Any

import numpy as np
import pytest

from plasmid.computations import api
from plasmid.core.errors import SiteFailed
from plasmid.data.table import Table
from plasmid.gateway.session import WorkerSession
from plasmid.isolation.launcher import LocalLauncher, available
from plasmid.protocol.body import pack
from plasmid.recipes.bundle import BundleRecipe
from plasmid.recipes.load import load_recipe
from plasmid.release.server_step import rule_of
from plasmid.strategies.server import optimiser_of
from plasmid.worker.bundle import forget
from plasmid.worker.worker import Session
from support.federation.attacks import refusal
from support.federation.bundle_recipes import OUTPUT, RECORD, by_worker, order, session, write_recipe
from support.federation.flower_apps import MODERN, OLDER, by_flower, flower_recipe

CANARY = "CANARY-4711"
ROWS = {"alpha": [160.0, 171.25, None], "beta": [150.0, 190.5, None], "delta": [140.0, None, 167.0]}
"""As many that are there at each site: Flower weighs by that number."""


def table(heights: list[float | None]) -> Table:
    groups = [CANARY, None, 'a "b", c']
    return Table({"height": list(heights), "group": groups[: len(heights)]}, len(heights))


@pytest.fixture(autouse=True)
def _no_bundle_stays() -> Iterator[None]:
    yield
    forget()


def computed(
    document: BundleRecipe, heights: list[float | None] = ROWS["alpha"], *, rounds: tuple[int, ...] = (1,)
) -> list[np.ndarray]:
    """Return the vectors that one worker makes of the first state in some rounds, in this process."""
    at = session(document, table(heights))
    try:
        return [
            at.compute(({**order(document), "round": round_}, first_state(document))) for round_ in rounds
        ]
    finally:
        at.close()


def first_state(document: BundleRecipe) -> Any:
    shape = api.load("bundle").shape(document, None)
    return pack("state", api.load("bundle").initial(document, shape))


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("FedAvg", {}), ("FedAdam", {"eta": 0.05}), ("FedAvgM", {"server_momentum": 0.5})],
)
def test_the_same_file_gives_in_flower_what_it_gives_here(
    strategy: str, options: dict[str, Any], tmp_path: Path
) -> None:
    server = {"rounds": 4, "server": {"strategy": strategy, "options": options}}
    document = flower_recipe(MODERN, federation=server)
    tables = []
    for site, heights in ROWS.items():
        tables.append(tmp_path / f"{site}.csv")
        tables[-1].write_text("\n".join(["height", *(str(height or "") for height in heights)]))
    (tmp_path / "client_app.py").write_text(dedent(MODERN))
    expected = by_flower(document, tmp_path / "client_app.py", tables, strategy, **options)
    computation: Any = api.load("bundle")
    shape = computation.shape(document, None)
    optimiser = optimiser_of(document, shape.state)
    rule = rule_of(document, shape.state)
    assert rule is not None
    state = rerun = first = computation.initial(document, shape)
    sites: list[Session] = [session(document, table(heights)) for heights in ROWS.values()]
    for round_ in range(1, 5):
        vectors = [
            site.compute(({**order(document), "round": round_}, pack("state", state))) for site in sites
        ]
        assert np.abs(vectors).max() < document.bundle.bound  # so that no bound has a part in it
        averaged = computation.advance(document, shape, state, api.Sum(np.sum(vectors, axis=0), 3, round_))
        before, state = state, optimiser.step(round_, state, averaged)
        rerun = rule[0].step(round_, before, averaged)
        assert rerun == pytest.approx(state, abs=1e-12)  # so that sites can re-run it without flwr
    for site in sites:
        site.close()
    assert np.abs(expected - first).max() > 0.1
    assert state == pytest.approx(expected, abs=1e-12)


def test_an_older_client_is_called_through_its_app() -> None:
    tensors = {"10": [1], "9": [2]}
    document = flower_recipe(OLDER, tensors=tensors, initial={"9": 1.0, "10": 5.0})
    assert [name for name, _ in document.bundle.ordered] == ["9", "10"]
    (vector,) = computed(document, [100.0, 300.0], rounds=(2,))
    assert vector == pytest.approx([0.4, 0.4, 0.4])


def test_the_page_s_example_is_a_recipe_that_runs(tmp_path: Path) -> None:
    section = (
        (Path(__file__).parents[2] / "docs" / "bundles.md").read_text().partition("## A Flower ClientApp")[2]
    )
    code, text = (section.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("python", "yaml"))
    document: Any = load_recipe(write_recipe(tmp_path / "level", text, client_app=code)).parsed
    at = session(document, Table({"age": [40.0, 60.0]}, 2))
    assert at.compute((order(document), first_state(document))) == pytest.approx([0.25])
    at.close()


GIVEN = """
    from flwr.app import ArrayRecord, Array, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from acme.rest import told

    app = ClientApp()

    @app.train()
    def train(msg, context):
        told(msg, context)
        arrays = {name: Array(array.numpy() + 1) for name, array in msg.content["arrays"].items()}
        return Message(RecordDict({"whatever": ArrayRecord(arrays)}), reply_to=msg)
"""
TOLD = """
    from pathlib import Path

    SEEN, GONE = [], []

    def told(msg, context):
        config = dict(msg.content["config"])
        given = msg.content["arrays"].items()
        arrays = {name: (array.dtype, array.numpy().tolist()) for name, array in given}
        SEEN.append((msg.metadata.message_type, config, arrays, dict(context.run_config)))
        path = Path(context.node_config.pop("data-path"))
        names = [entry.name for entry in path.parent.iterdir()]
        SEEN.append((path.read_text(), path.is_symlink(), names, context.node_config))
        GONE.append(path)
"""


def test_what_an_app_is_given() -> None:
    """Modules import one another by the package's name, as Flower's templates do."""
    document = flower_recipe(
        GIVEN, package="acme", files={"rest.py": dedent(TOLD)}, dtype="float32", bound=1, settings={"lr": 0.5}
    )
    at = session(document, table(ROWS["delta"]))
    import acme.rest  # type: ignore[import-not-found]

    for _ in range(2):
        assert at.compute((order(document), first_state(document))).tolist() == [1.0] * 3
    (message, rows) = acme.rest.SEEN[:2]
    assert acme.rest.SEEN[2:] == [message, rows]
    arrays = {"level": ("float32", [0.0]), "slope": ("float32", [0.5, -0.25])}
    assert message == ("train", {"lr": 0.5, "server-round": 1}, arrays, {"lr": 0.5})
    text, *link, config = rows
    assert link == [True, ["rows.csv"]]
    assert [path.parent.exists() for path in acme.rest.GONE] == [False, False]
    assert text.startswith("height,group\n")
    assert sorted(text.splitlines()[1:]) == [",", "140.0,CANARY-4711", '167.0,"a ""b"", c"']
    assert config == {"partition-id": 0, "num-partitions": 1}
    at.close()


ECHO = """
    from pathlib import Path

    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.supercore import log

    app = ClientApp()

    class Secret(Exception):
        pass

    @app.train()
    def train(msg, context):
        rows = Path(context.node_config["data-path"]).read_text()
        level, slope = np.zeros(1), np.zeros(2)
        def answer(**arrays):
            record = ArrayRecord({{name: Array(value) for name, value in arrays.items()}})
            return Message(RecordDict({{"arrays": record}}), reply_to=msg)
        {line}
"""
WRONG = (
    "return answer(level=level)",
    "return answer(level=level, slope=slope, extra=slope)",
    "return answer(level=level, Slope=slope)",
    "return answer(level=slope, slope=level)",
    "return answer(level=level, slope=slope.reshape(2, 1))",
    "return answer(level=level, slope=slope * np.nan)",
    "return answer(level=level, slope=slope - np.inf)",
    "return answer(level=level, slope=slope * 1j)",
    "return answer(level=level, slope=np.array(['a', 'b']))",
    "return Message(RecordDict(), reply_to=msg)",
    "return Message(RecordDict({'a': ArrayRecord([level]), 'b': ArrayRecord([slope])}), reply_to=msg)",
    "return Message(Error(0, rows), reply_to=msg)",
    "return msg.content['arrays']",
    "return None",
    "raise ValueError(rows)",
    "raise Secret(rows)",
    "raise SystemExit(rows)",
    "print(rows); log(40, rows); level / slope.astype(int)[5]",
)


def test_a_unit_is_that_of_the_whole_vector() -> None:
    for unit in ("record", "site"):
        document = flower_recipe(MODERN, privacy=OUTPUT | {"unit": unit})
        assert api.load("bundle").shape(document, None).norm == OUTPUT["update_clip"]
        assert np.abs(computed(document)[0]).max() > 0.1
    with pytest.raises(ValueError, match="sections contradict"):
        flower_recipe(MODERN, privacy=RECORD)


@pytest.mark.parametrize("line", WRONG)
def test_an_app_that_does_something_else_fails_without_its_words(
    line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    document = flower_recipe(ECHO.format(line=line))
    with refusal("run.bundle") as caught:
        computed(document)
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err + str(caught.value)
    assert said.err.startswith("bundle: ")
    private = flower_recipe(ECHO.format(line=line), privacy=OUTPUT)
    assert computed(private)[0].tolist() == [0.0] * 3


@pytest.mark.parametrize("text", ["app = len", "app = None", "from flwr.clientapp import ClientApp as app"])
def test_what_is_no_app_is_no_app(text: str) -> None:
    with refusal("run.bundle"):
        session(flower_recipe(text), table(ROWS["alpha"]))


def test_what_an_app_keeps_is_new_in_every_round(capfd: pytest.CaptureFixture[str]) -> None:
    line = """
        kept = len(context.state)
        context.state["mine"] = ConfigRecord({{"cell": rows}})
        return answer(level=level + kept, slope=slope)
"""
    document = flower_recipe(ECHO.replace("        {line}\n", line).format(), initial={})
    assert [vector.tolist() for vector in computed(document, rounds=(1, 2))] == [[0.0] * 3] * 2
    told = "bundle: what its app puts into Context.state is new in every round, and not kept\n"
    assert capfd.readouterr().err == told


def test_a_package_that_is_in_use_is_nobody_s(capfd: pytest.CaptureFixture[str]) -> None:
    with refusal("run.bundle"):
        session(flower_recipe(MODERN, package="numpy"), table(ROWS["alpha"]))
    assert "its package numpy, called like one that is in use" in capfd.readouterr().err
    assert np.zeros(1).sum() == 0


@pytest.mark.parametrize("level", ["best", "none"])
def test_in_a_worker_that_is_locked_in(level: Any, tmp_path: Path) -> None:
    """Nothing that flwr does when it is imported and called is refused there, and the rows can be read."""
    noticed: list[Any] = []
    document = flower_recipe(MODERN, initial={})
    at = WorkerSession(LocalLauncher(available(level)), tmp_path / "worker.log", notice=noticed.append)
    try:
        vector = by_worker(at, document, table(ROWS["alpha"]))
    finally:
        at.end()
    (expected,) = computed(flower_recipe(MODERN, initial={}))
    assert vector == pytest.approx(expected, abs=1e-15)
    assert (noticed, (tmp_path / "worker.log").read_text()) == ([], "")


def test_an_app_that_never_ends_ends_with_its_run(tmp_path: Path) -> None:
    document = flower_recipe(ECHO.format(line="\n        while True: pass"))
    at = WorkerSession(LocalLauncher(available("best")), tmp_path / "worker.log", notice=lambda _: None)
    codes: list[str] = []

    def wait() -> None:
        try:
            by_worker(at, document, table(ROWS["alpha"]))
        except SiteFailed as error:
            codes.append(error.code)

    waiting = Thread(target=wait)
    waiting.start()
    waiting.join(4.0)
    assert waiting.is_alive()
    began = time.monotonic()
    at.end()
    waiting.join()
    assert (codes, time.monotonic() - began < 8.0) == (["site.worker_died"], True)
