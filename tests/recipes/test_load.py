"""Loading: every problem at once, with file, line, path and a suggestion; flags over file over defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.bases import catalogue as models
from plasmid.core.errors import RecipeError
from plasmid.recipes import catalogue
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Recipe
from plasmid.recipes.sites import materialise_eval, materialise_sites


def edited(tmp_path: Path, *edits: tuple[str, str]) -> Path:
    """Return a copy of tcr-covid's folder's recipe with *edits*."""
    source = catalogue.get("tcr-covid")
    text = source.read_text()
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    for name in ("v_gene.txt", "j_gene.txt"):
        (tmp_path / name).write_text((source.parent / name).read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def problems(error: RecipeError) -> list[str]:
    return [line.strip() for line in error.message.splitlines()[1:]]


@pytest.mark.parametrize("name", catalogue.ls())
def test_every_shipped_recipe_resolves_and_has_its_data_source_and_terms(name: str, tmp_path: Path) -> None:
    resolved = load_recipe(name)
    recipe = resolved.parsed
    assert recipe.name == name
    if isinstance(recipe, Recipe):
        entry = models.about(recipe.model.base)
        pinned = (entry.revision, entry.digest) if isinstance(entry, models.Entry) else (None, None)
        assert (recipe.model.revision, recipe.model.digest) == pinned
    assert f"plasmid run {name}" in resolved.path.read_text().split("\n\n")[0]
    source = (resolved.folder / "SOURCE.md").read_text()
    assert "**Source.**" in source
    assert "**Terms.**" in source
    if recipe.data.split is None:  # its opening says which script makes the tables
        assert f"plasmid run {name} --sites DIR" in resolved.path.read_text().split("\n\n")[0]
        assert list(resolved.folder.glob("*.py"))
        return
    assert len(materialise_sites(resolved, tmp_path)) >= recipe.federation.min_sites
    test = materialise_eval(resolved, tmp_path)
    if test is None:  # each site has a head of its own, and judges it on rows of its own
        assert resolved.recipe.adapter.personal
        assert recipe.data.holdout is not None
        return
    assert test.is_file()


def test_a_folder_may_hold_further_recipes_over_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    for name in ("a/recipe.yaml", "a/a-dp.yaml", "b/recipe.yaml", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert catalogue.ls() == ["a", "a-dp", "b"]
    assert catalogue.get("a-dp") == tmp_path / "a" / "a-dp.yaml"
    with pytest.raises(RecipeError, match="'recipe'"):
        catalogue.get("recipe")


def test_the_figures_of_tcr_covid() -> None:
    recipe = load_recipe("tcr-covid").recipe
    assert (recipe.training.lora_lr, recipe.training.head_lr, recipe.training.covariate_lr) == (
        3e-3,
        1e-2,
        3e-2,
    )
    assert (recipe.rounds, recipe.training.steps, recipe.training.batch) == (50, 3, 32)
    assert recipe.max_length == 42
    assert recipe.head().covariate_width == 77 + 1 + 14 + 1 + 20 + 20**2 + 20**3
    assert recipe.task.classes == ("0", "1")
    assert recipe.privacy.protect == "masked"
    assert recipe.federation.min_sites == 3


def test_every_problem_is_told_at_once_with_line_path_and_suggestion(tmp_path: Path) -> None:
    path = edited(
        tmp_path,
        ("    rank: 8\n", "    rnak: 8\n"),
        ("lora_lr: 3e-3", "lora_lr: fast"),
        ("min_sites: 3 ", "min_sites: 2 "),
        ("base: antiberty", "base: antibery"),
        ("type: protein", "type: protien"),
        ("metric: auc", "metric: aucc"),
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.code == "recipe.invalid"
    found = problems(caught.value)
    text = path.read_text().splitlines()

    def line(fragment: str) -> int:
        return next(number for number, content in enumerate(text, 1) if fragment in content)

    expected = {
        "adapter.lora.rnak": (line("rnak"), "unknown key (did you mean 'rank'?)"),
        "adapter.lora.rank": (line("lora:"), "is missing"),
        "training.lora_lr": (line("lora_lr:"), "should be a valid number, not 'fast'"),
        "federation.min_sites": (line("min_sites"), "masked sums need at least 3 sites"),
        "model.base": (line("base:"), "Did you mean antiberty?"),
        "data.columns.cdr3.type": (line("type: protien"), "(did you mean 'protein'?)"),
        "task.metric": (line("metric:"), "(did you mean 'auc'?)"),
    }
    assert len(found) == len(expected), found
    for key, (number, what) in expected.items():
        hits = [problem for problem in found if problem.startswith(f"{path}:{number}: {key}: ")]
        assert len(hits) == 1, (key, number, found)
        assert what in hits[0]


@pytest.mark.parametrize(
    ("old", "new", "path", "what"),
    [
        (
            "input: cdr3",
            "input: v_gene",
            "data.input",
            "of type category, input needs protein or nucleotide or molecule or text",
        ),
        ("  label: label\n", "  label: lable\n", "data.label", "'lable', which data.columns does not hold"),
        (
            "covariates: [v_gene, j_gene, cdr3]",
            "covariates: [v_gene, j_gene]",
            "adapter.kmers",
            "no covariate is one",
        ),
        (
            "covariates: [v_gene, j_gene, cdr3]",
            "covariates: [cdr3, sex, sex]",
            "adapter.covariates[2]",
            "listed twice",
        ),
        ('labels: ["0", "1"]', 'labels: ["0", "1", "2"]', "task.metric", "auc needs exactly 2 labels"),
        ('labels: ["0", "1"]', 'labels: [0, "1"]', "task.labels[0]", "valid string, not 0"),
        ("bounds: [0, 120]", "bounds: [120, 0]", "data.columns.age", "low < high"),
        (
            "colluding_organisations: 1",
            "colluding_organisations: 2",
            "federation.colluding_organisations",
            "must be at least 2 less than min_sites",
        ),
        ("base: antiberty", "base: minilm", "data.input", "minilm reads text input"),
        (
            "{file: j_gene.txt}",
            "{file: ../j_gene.txt}",
            "data.columns.j_gene.vocabulary",
            "outside the recipe's folder",
        ),
        ("{file: j_gene.txt}", "{file: gone.txt}", "data.columns.j_gene.vocabulary", "cannot be read"),
        ("update_clip: 10", "update_clip: .inf", "privacy.update_clip", "finite"),
        ("seed: 0", "seed: true", "seed", "valid integer, not True"),
    ],
)
def test_one_problem(tmp_path: Path, old: str, new: str, path: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(edited(tmp_path, (old, new)))
    found = problems(caught.value)
    assert len(found) == 1, found
    assert f": {path}: " in found[0]
    assert what in found[0]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [1\nb: 2", ":2: "),
        ("a: 1\nb: 2\na: 3", ":3: the key 'a' is given twice"),
        ("a: &x 1\nb: *x", ":1: anchors and aliases"),
        ("a: !!python/name:os.system x", ":1: the tag"),
        ("1: x", ":1: a key must be a string"),
        ("- 1", ":1: a recipe is a map"),
        ("", ":1: a recipe is a map"),
        ("a: " + "[" * 1500, "nested too deeply"),
        ("a: \x07", "characters that YAML does not allow"),
        ("x" * 1_000_001, "longer than 1000000 characters"),
    ],
)
def test_strange_yaml(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.code == "recipe.invalid"
    assert what in caught.value.message


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["tcr-covd", "gone.yaml", "/", "a\0b", "x" * 5000])
def test_an_unknown_recipe(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    assert caught.value.code == "recipe.unknown"
    assert ("did you mean 'tcr-covid'" in caught.value.message) == (name == "tcr-covd")
    assert "tcr-covid" in caught.value.hint


def test_flags_go_over_the_file_and_are_yaml_1_2(tmp_path: Path) -> None:
    flags = {
        "training.lora_lr": "1e-4",
        "adapter.lora.targets": "[query, key, value]",
        "adapter.lora.layers": "null",
        "federation.server.options.server_learning_rate": "0.9",
        "release.license": "NO",
    }
    recipe = load_recipe("tcr-covid", overrides=flags, seed=7).recipe
    assert recipe.training.lora_lr == 1e-4
    assert recipe.adapter.lora.targets == ["query", "key", "value"]
    assert recipe.adapter.lora.layers is None
    assert recipe.federation.server.options == {"server_momentum": 0.5, "server_learning_rate": 0.9}
    assert recipe.release.license == "NO"
    assert recipe.seed == 7


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        (
            "training.stepps",
            "3",
            "--set training.stepps: training.stepps: unknown key (did you mean 'steps'?)",
        ),
        ("training.steps", "3.5", "--set training.steps: training.steps: should be a valid integer"),
        ("training.steps.x", "3", "leads through a value that is not a map"),
        ("training.steps", "[", "is not a YAML value"),
        ("", "1", "unknown key"),
    ],
)
def test_a_flag_that_is_wrong(key: str, value: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("tcr-covid", overrides={key: value})
    assert what in caught.value.message


def test_a_seed_that_is_wrong() -> None:
    with pytest.raises(RecipeError, match="--seed: seed: "):
        load_recipe("tcr-covid", seed=-1)
