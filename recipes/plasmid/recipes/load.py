"""A recipe's name or file becomes one resolved document.

Rules
-----
1. Defaults of the schema < the file < ``--set path=value`` < ``--seed``.
2. Every problem is collected and told with file, line and path; then one error is raised.
3. The base model's revision and digest are filled in from the catalogue of models (they stay empty for one
   that is described alone, which can be planned and not run), a vocabulary given
   as ``{file: genes.txt}`` and the Python of a bundle are read in, each file once: the resolved document
   needs no other file to be understood, or run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from plasmid.bases import catalogue as models
from plasmid.core.errors import ModelError, RecipeError
from plasmid.core.problems import describe, did_you_mean, plain_path, without_echoes
from plasmid.core.yaml12 import Lines, Yaml12Error, parse_yaml
from plasmid.recipes import catalogue, source
from plasmid.recipes.bundle import BundleRecipe, bundle_contradictions
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.origins import origins
from plasmid.recipes.python import PACKAGE
from plasmid.recipes.schema import Recipe, contradictions
from plasmid.recipes.trees import TreesRecipe, trees_contradictions

_KINDS = {
    "none": "an encoder",
    "causal": "a causal language model",
    "masked": "a language model with its head for masked tokens (plasmid models import --masked)",
}
Location = tuple[str | int, ...]
Parsed = Recipe | BundleRecipe | TreesRecipe
Kind = TypeVar("Kind", Recipe, BundleRecipe, TreesRecipe)
_MAX_VOCABULARY_BYTES = 1_000_000


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with every default, flag and lookup in it.

    Attributes
    ----------
    parsed
        The recipe, of whatever computation.
    path
        The file that it was read from.
    origins
        Where each value comes from, by its dotted path (:mod:`plasmid.recipes.origins`).
    """

    parsed: Parsed
    path: Path
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def recipe(self) -> Recipe:
        """The recipe, if it fine-tunes a model. Raises RecipeError (``recipe.no_model``)."""
        if isinstance(self.parsed, Recipe):
            return self.parsed
        raise RecipeError(
            "recipe.no_model",
            f"the recipe {self.parsed.name} fine-tunes no base model.",
            "Run it with plasmid run, or name a recipe that fine-tunes one.",
        )

    @property
    def over_table(self) -> Recipe | TreesRecipe:
        """The recipe, if its rows can be asked about by column. Raises RecipeError (``recipe.no_model``)."""
        return self.parsed if isinstance(self.parsed, TreesRecipe) else self.recipe

    @property
    def folder(self) -> Path:
        """The folder that holds the recipe's demonstration data. Never sent anywhere."""
        return self.path.parent

    @property
    def files(self) -> dict[str, str]:
        """The text of its Python by file name; empty without a bundle."""
        bundle = getattr(self.parsed, "bundle", None)
        return dict(bundle.files) if bundle else {}

    @property
    def package(self) -> str:
        """The package that its Python is, as it runs."""
        bundle = getattr(self.parsed, "bundle", None)
        return str(bundle.package) if bundle else PACKAGE

    @property
    def document(self) -> dict[str, Any]:
        """The resolved document, JSON values only."""
        return self.parsed.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """The digest that sites approve."""
        return recipe_digest(self.document, self.parsed.computation)


class _Problems:
    """The problems found so far, each with its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = Lines()
        self.flags: dict[Location, str] = {}
        self.found: list[str] = []

    def add(self, path: Location, what: str) -> None:
        flag = next(
            (self.flags[path[:size]] for size in range(len(path), 0, -1) if path[:size] in self.flags), ""
        )
        place = flag or f"{self.path}:{self.lines.find(path)}"
        text = f"{place}: {dotted(path)}: {what}"
        if text not in self.found:
            self.found.append(text)

    def raise_if_any(self) -> None:
        if self.found:
            count = f"{len(self.found)} problems" if len(self.found) > 1 else "a problem"
            raise RecipeError(
                "recipe.invalid",
                "\n  ".join([f"the recipe has {count}:", *self.found]),
                "Correct it and check it with: plasmid recipes check FILE.",
            )


def dotted(path: Location) -> str:
    """Return *path* as ``a.b[0].c``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "(the whole file)"


def load_recipe(
    name_or_path: str | Path, *, overrides: Mapping[str, str] | None = None, seed: int | None = None
) -> ResolvedRecipe:
    """Return the recipe that *name_or_path* names, resolved.

    Parameters
    ----------
    name_or_path
        A name of the catalogue, a recipe's YAML file, or a folder that holds ``recipe.yaml``.
    overrides
        ``{"adapter.lora.rank": "4"}``: dotted path to a YAML 1.2 value.
    seed
        Replaces the recipe's seed; None keeps it.

    Raises
    ------
    RecipeError
        ``recipe.unknown``: no such name or file; ``recipe.invalid``: every problem found, each with
        file, line and path.
    """
    path = find_recipe(name_or_path)
    problems = _Problems(path)
    document = _read(path, problems)
    for key, value in (overrides or {}).items():
        _override(document, key, value, problems)
    if seed is not None:
        document["seed"] = seed
        problems.flags[("seed",)] = "--seed"
    _inline_vocabularies(document, path.parent, problems)
    _inline_code(document, path.parent, problems)
    parsed: Parsed
    match document.get("computation"):
        case "bundle":
            parsed = _validate(BundleRecipe, document, problems)
        case "trees":
            parsed = _validate(TreesRecipe, document, problems)
        case _:
            parsed = _fill_model(_validate(Recipe, document, problems), problems)
    problems.raise_if_any()
    found = origins(parsed.model_dump(mode="json"), document, problems.flags)
    return ResolvedRecipe(parsed, path, found)


def find_recipe(name_or_path: str | Path) -> Path:
    """Return the YAML file that *name_or_path* means.

    Raises
    ------
    RecipeError
        ``recipe.unknown``, with the closest name.
    """
    text = str(name_or_path)
    if text in catalogue.ls():
        return catalogue.get(text)
    path = Path(text).expanduser()
    looks_like_path = isinstance(name_or_path, Path) or "/" in text or path.suffix in (".yaml", ".yml")
    try:
        if path.is_dir() and (path / "recipe.yaml").is_file():
            return path / "recipe.yaml"
        if looks_like_path and path.is_file():
            return path
    except (OSError, ValueError):
        pass
    raise RecipeError(
        "recipe.unknown",
        f"there is no recipe {text[:200]!r}{did_you_mean(text, catalogue.ls())}.",
        f"Give a recipe's file, or one of: {', '.join(catalogue.ls())}.",
    )


def _read(path: Path, problems: _Problems) -> dict[str, Any]:
    try:
        value, problems.lines = parse_yaml(path.read_bytes().decode("utf-8-sig"))
    except Yaml12Error as problem:
        where = f"{path}:{problem.line}" if problem.line else str(path)
        problems.found.append(f"{where}: {problem.what}")
    except UnicodeDecodeError:
        problems.found.append(f"{path}: is not UTF-8 text")
    except OSError as error:
        problems.found.append(f"{path}: cannot be read ({error.strerror})")
    else:
        if isinstance(value, dict):
            return value
        problems.found.append(f"{path}:1: a recipe is a map of keys to values")
    problems.raise_if_any()
    raise AssertionError


def _override(document: dict[str, Any], key: str, text: str, problems: _Problems) -> None:
    path: Location = tuple(key.split("."))
    problems.flags[path] = f"--set {key}"
    try:
        value, _ = parse_yaml(text)
    except Yaml12Error as problem:
        problems.add(path, f"is not a YAML value: {problem.what}")
        return
    place: Any = document
    for part in path[:-1]:
        place = place.setdefault(part, {}) if isinstance(place, dict) else None
    if isinstance(place, dict):
        place[str(path[-1])] = value
    else:
        problems.add(path, "leads through a value that is not a map")


def _inline_vocabularies(document: dict[str, Any], folder: Path, problems: _Problems) -> None:
    data = document.get("data")
    columns = data.get("columns") if isinstance(data, dict) else None
    for name, column in columns.items() if isinstance(columns, dict) else ():
        source = column.get("vocabulary") if isinstance(column, dict) else None
        if isinstance(source, dict) and set(source) == {"file"} and isinstance(source["file"], str):
            path: Location = ("data", "columns", name, "vocabulary")
            column["vocabulary"] = _vocabulary(folder, source["file"], path, problems)


def _vocabulary(folder: Path, name: str, path: Location, problems: _Problems) -> list[str]:
    try:
        file = (folder / name).resolve()
        if not file.is_relative_to(folder.resolve()):
            problems.add(path, f"the file {name!r} lies outside the recipe's folder")
        elif file.stat().st_size > _MAX_VOCABULARY_BYTES:
            problems.add(path, f"the file {name!r} is longer than {_MAX_VOCABULARY_BYTES} bytes")
        else:
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
            return [line for line in lines if line and not line.startswith("#")]
    except (OSError, ValueError):
        problems.add(path, f"the file {name!r} cannot be read as UTF-8 text")
    return ["(unread)"]


def _inline_code(document: dict[str, Any], folder: Path, problems: _Problems) -> None:
    bundle = document.get("bundle")
    if not isinstance(bundle, dict):
        return
    if "files" in bundle:
        problems.add(("bundle", "files"), f"is read from the folder {source.FOLDER}, and not written here")
    files, found = source.read_bundle(folder)
    entry, half = bundle.get("entry"), bundle.get("half")
    found += [f"{folder / source.FOLDER}/{what}" for what in source.code_problems(files, entry, half)]
    problems.found += found
    bundle["files"] = files or {f"{entry}.py": "(unread)"}


def _validate(kind: type[Kind], document: dict[str, Any], problems: _Problems) -> Kind:
    try:
        return kind.model_validate(document)
    except ValidationError as invalid:
        errors = without_echoes(invalid.errors(include_url=False))
    for error in errors:
        for place, what in describe(kind, error):
            problems.add(place, what)
    unknown = [plain_path(kind, error["loc"]) for error in errors if error["type"] == "extra_forbidden"]
    for place, what in _CONTRADICTIONS[kind](_sound_sections(kind, document, unknown)):
        problems.add(place, what)
    _check_base(document, problems)
    problems.raise_if_any()
    raise AssertionError


_CONTRADICTIONS: dict[type[Parsed], Callable[[Mapping[str, Any]], Iterator[tuple[Location, str]]]] = {
    Recipe: contradictions,
    BundleRecipe: bundle_contradictions,
    TreesRecipe: trees_contradictions,
}


def _sound_sections(kind: type[Parsed], document: dict[str, Any], unknown: list[Location]) -> dict[str, Any]:
    """Return the sections of *document* that are valid once the keys at *unknown* are left out."""
    sections: dict[str, Any] = {}
    for name, known in kind.model_fields.items():
        if name in document:
            kept = _without(document[name], [path[1:] for path in unknown if path[:1] == (name,)])
            try:
                adapter: TypeAdapter[Any] = TypeAdapter(known.annotation or object)
                sections[name] = adapter.validate_python(kept)
            except ValidationError:
                continue
    return sections


def _without(value: Any, unknown: list[Location]) -> Any:
    if not isinstance(value, dict) or not unknown:
        return value
    return {
        key: _without(item, [path[1:] for path in unknown if path[0] == key and len(path) > 1])
        for key, item in value.items()
        if (key,) not in unknown
    }


def _check_base(document: dict[str, Any], problems: _Problems) -> None:
    model = document.get("model")
    base = model.get("base") if isinstance(model, dict) else None
    if isinstance(base, str):
        _entry(base, problems)


def _entry(base: str, problems: _Problems) -> models.Entry | models.Described | None:
    try:
        return models.about(base)
    except ModelError as error:
        problems.add(("model", "base"), str(error))
        return None


def _fill_model(recipe: Recipe, problems: _Problems) -> Recipe:
    entry = _entry(recipe.model.base, problems)
    if entry is None:
        return recipe
    if entry.input != recipe.input_kind:
        problems.add(
            ("data", "input"), f"is a {recipe.input_kind} column, but {entry.id} reads {entry.input} input"
        )
    if entry.own_head != recipe.task.own_head:
        problems.add(
            ("model", "base"),
            f"{entry.id} is {_KINDS[entry.own_head]}; task.kind {recipe.task.kind} needs "
            f"{_KINDS[recipe.task.own_head]}",
        )
    elif entry.causal and entry.chat_template is None:
        problems.add(("model", "base"), f"{entry.id} has no chat template, so where would an answer begin?")
    if isinstance(entry, models.Described):  # no weights were seen: there is nothing to pin
        return recipe
    revision = recipe.model.revision or entry.revision
    digest = recipe.model.digest
    if digest is None and revision == entry.revision:
        digest = entry.digest
    model = recipe.model.model_copy(update={"revision": revision, "digest": digest})
    return recipe.model_copy(update={"model": model})
