"""Tasks that the base's own head answers: against loops written out over stock models, row by row, cached."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plasmid.adapters.adapter import Vector, initial_state, lora_modules, target_regex
from plasmid.adapters.causal_adapter import is_causal
from plasmid.adapters.files import hub_name
from plasmid.adapters.predict import Predictor
from plasmid.bases.store import BaseModel
from plasmid.bases.tokenizing import Tokenizer
from plasmid.language.causal import CausalModel, Sampling
from plasmid.language.chat_templates import Message
from plasmid.language.prompts import Prompts
from plasmid.prediction.evaluation import evaluate_file, write_release
from plasmid.tasks.masked_lm import masked
from plasmid.worker import engine as engine_module
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from plasmid.worker.order import order
from support.tiny.tiny_language import ALL, INSTRUCTION, language_bases, language_recipe, language_table

Bases = dict[tuple[str, str], BaseModel]
both = pytest.mark.parametrize(("kind", "name"), [("causal", "llama"), ("masked-lm", "bert")])


@pytest.fixture(scope="module")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def bases(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bases:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(state_folder))
        return language_bases(tmp_path_factory.mktemp("sources"))


@pytest.fixture(autouse=True)
def at_home(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(state_folder))


def _started(engine: Engine) -> Vector:
    """A state at which no gradient is zero by construction."""
    noise = np.random.default_rng(1).standard_normal(engine.schema.size).astype(np.float32)
    return initial_state(engine.schema, 0) + np.float32(0.1) * noise


class _Stock:
    """The library's own model with PEFT's factors, asked one row at a time."""

    def __init__(self, base: BaseModel, kind: str) -> None:
        import transformers
        from peft import LoraConfig, get_peft_model

        made: Any = (
            transformers.AutoModelForCausalLM if kind == "causal" else transformers.AutoModelForMaskedLM
        )
        self.kind, self.base, self.lora = kind, base, language_recipe(base, kind).adapter.lora
        model = made.from_pretrained(base.path, local_files_only=True)
        targets = target_regex(base, lora_modules(base, self.lora))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            settings: Any = {"r": self.lora.rank, "lora_alpha": self.lora.alpha, "target_modules": targets}
            self.model = get_peft_model(model, LoraConfig(**settings)).eval()
        named = {
            name.replace(".default.weight", ".weight"): parameter
            for name, parameter in self.model.named_parameters()
            if ".lora_" in name
        }
        self.named = named

    def set_state(self, engine: Engine, state: Vector) -> None:
        with torch.no_grad():
            for name, value in engine.schema.unflatten(state).items():
                self.named[name].copy_(torch.from_numpy(value))

    def loss(self, row: dict[str, Any], seed: int) -> torch.Tensor:
        if self.kind == "causal":
            prompts = Prompts(self.base)
            said = [Message("system", INSTRUCTION), Message("user", row["sequence"])]
            prompt, answer = prompts.chat(said), prompts.answer(row["label"])
            log_p = self.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            each = [-log_p[len(prompt) - 1 + place, token] for place, token in enumerate(answer)]
            return torch.stack(each).mean()
        reader = Tokenizer(self.base)
        (tokens,) = reader.encode([row["sequence"]], 32)
        ids = np.array(tokens.ids)
        others = np.array(reader.ordinary_ids)
        found, targets = masked(ids[1:-1], seed, mask=reader.mask_id, others=others)
        shown = np.concatenate([ids[:1], found, ids[-1:]])
        log_p = self.model(torch.from_numpy(shown[None])).logits[0].log_softmax(-1)
        each = [-log_p[1 + at, targets[at]] for at in np.flatnonzero(targets != -100)]
        return torch.stack(each).mean()


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_three_steps_equal_a_loop_over_the_stock_model(kind: str, name: str, bases: Bases) -> None:
    base, table = bases[kind, name], language_table(kind, 24)
    engine = Engine(language_recipe(base, kind), base, table, device="cpu")
    assert all(tensor.name.endswith(("lora_A.weight", "lora_B.weight")) for tensor in engine.schema.tensors)
    start = _started(engine)
    found = engine.train(start, steps=3, seed=5)
    stock = _Stock(base, kind)
    stock.set_state(engine, start)
    optimizer = torch.optim.AdamW(stock.named.values(), lr=2e-2, weight_decay=0.0)
    for step, chosen in enumerate(order(24, 16, 3, seed=5), 1):
        losses = [stock.loss(table.record(int(row)), 5 * 2**32 + step) for row in chosen]
        torch.stack(losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    wanted = engine.schema.flatten({name: value.detach().numpy() for name, value in stock.named.items()})
    assert np.abs(found - start).max() > 0.03
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # AdamW divides by what may be small
    assert np.abs(found - wanted).mean() < 1e-5


@both
def test_gradients_of_rows_are_those_of_each_row_alone(kind: str, name: str, bases: Bases) -> None:
    base, table = bases[kind, name], language_table(kind, 20, seed=3)
    engine = Engine(language_recipe(base, kind), base, table, device="cpu")
    clip = 1.0 if kind == "causal" else 2.0
    everyone = UnitSampling("record", clip=clip, rate=1.0, expected=20.0, noise_multiplier=0.0)
    state = _started(engine)
    found = engine.gradient_sum(state, sampling=everyone, seed=9)
    stock = _Stock(base, kind)
    stock.set_state(engine, state)
    total, clipped = np.zeros(engine.schema.size), 0
    for row in range(20):
        stock.model.zero_grad()
        stock.loss(table.record(row), 9 * 2**32).backward()
        gradient = engine.schema.flatten({name: value.grad.numpy() for name, value in stock.named.items()})
        norm = float(np.linalg.norm(gradient))
        clipped += norm > clip
        total += gradient * min(1.0, clip / norm)
    assert clipped > 3
    np.testing.assert_allclose(found, total, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_cached_or_not_an_answer_teaches_the_same(
    name: str, bases: Bases, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, recipe = bases["causal", name], language_recipe(bases["causal", name], "causal")
    cached = Engine(recipe, base, language_table("causal"), device="cpu")
    start = initial_state(cached.schema, 0)
    state = cached.train(start, steps=3, seed=0)
    assert cached._rows is not None
    assert cached._rows.hidden is not None
    monkeypatch.setattr(engine_module, "MAX_CACHE_BYTES", 0)
    whole = Engine(recipe, base, language_table("causal"), device="cpu")
    np.testing.assert_allclose(whole.train(start, steps=3, seed=0), state, atol=2e-4)


def test_masks_are_anew_each_step_and_nothing_is_cached(bases: Bases) -> None:
    base = bases["masked-lm", "bert"]
    engine = Engine(language_recipe(base, "masked-lm"), base, language_table("masked-lm"), device="cpu")
    start = _started(engine)
    once, again = (engine.train(start, steps=2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(engine.train(start, steps=2, seed=4) - once).max() > 0
    assert engine._rows is not None
    assert engine._rows.hidden is None


def test_of_a_row_15_in_100_are_chosen_and_most_are_masked() -> None:
    ids, others = np.arange(5, 25).repeat(500), np.arange(5, 25)
    found, targets = masked(ids, 1, mask=4, others=others)
    chosen = targets != -100
    assert chosen.sum() == 1500
    np.testing.assert_array_equal(targets[chosen], ids[chosen])
    np.testing.assert_array_equal(found[~chosen], ids[~chosen])
    assert abs((found[chosen] == 4).mean() - 0.8) < 0.03
    kept = (found[chosen] == ids[chosen]).mean()
    assert abs(kept - 0.105) < 0.03, "one in ten stays, and one in twenty of the others is the same again"
    assert (masked(ids, 2, mask=4, others=others)[1] != targets).any()
    short, target = masked(ids[:2], 0, mask=4, others=others)
    assert (target != -100).sum() == 1, "at least one"
    assert masked(ids[:0], 0, mask=4, others=others)[0].size == short[:0].size


@both
def test_it_learns_with_and_without_a_privacy_unit(kind: str, name: str, bases: Bases) -> None:
    base = bases[kind, name]
    recipe, unseen = language_recipe(base, kind), language_table(kind, 40, seed=9)
    sampling = UnitSampling("record", clip=1.0, rate=16 / 48, expected=16.0, noise_multiplier=0.02)
    scores = []
    for private in (None, sampling):
        engine = Engine(recipe, base, language_table(kind), device="cpu")
        before = engine.score(initial_state(engine.schema, 0), unseen.columns)
        state = engine.train(initial_state(engine.schema, 0), steps=60, seed=0, sampling=private)
        scores.append(engine.score(state, unseen.columns))
    if kind == "causal":
        assert before == 0.0
        assert min(scores) > 0.7, scores
    else:
        assert max(scores) < before - 0.5, (before, scores)


def test_stock_peft_loads_it_and_serving_answers_alike(bases: Bases, tmp_path: Path) -> None:
    import peft
    import transformers

    base = bases["causal", "llama"]
    recipe, table = language_recipe(base, "causal"), language_table("causal")
    engine = Engine(recipe, base, table, device="cpu")
    state = engine.train(initial_state(engine.schema, 0), steps=40, seed=0)
    folder = tmp_path / "adapter"
    write_release(folder, recipe, base, state, provenance={"rounds": 1})
    assert not (folder / "head.safetensors").exists()
    assert is_causal(folder)
    made: Any = transformers.AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        stock = peft.PeftModel.from_pretrained(made.from_pretrained(base.path), str(folder)).eval()
    assert type(stock).__name__ == "PeftModelForCausalLM"

    prompts = Prompts(base)
    ids = prompts.chat([Message("system", INSTRUCTION), Message("user", "abba")])
    ours = Predictor.load(folder, device="cpu")
    with torch.no_grad():
        wanted = stock(torch.tensor([ids])).logits
        np.testing.assert_allclose(ours._model.encoder(torch.tensor([ids])).logits, wanted, atol=2e-4)
    unseen = language_table("causal", 6, seed=9).columns
    answers = [ours.about.head.brief(row) for row in ours.predict(unseen).answers]
    assert {"lo", "hi"} <= set(answers)

    served = CausalModel.load(base)
    for text, wanted_text in zip(unseen["sequence"], answers, strict=True):
        ids, told = prompts.chat([Message("system", INSTRUCTION), Message("user", str(text))]), list[str]()
        served.write(ids, served.read(folder), Sampling(most=6, temperature=0.0), tell=told.append)
        assert "".join(told).strip() == wanted_text

    rows = tmp_path / "rows.csv"
    rows.write_text("sequence,label\n" + "".join(f"{text},hi\n" for text in unseen["sequence"]))
    found = evaluate_file(folder, rows)
    assert (found.metric, found.rows) == ("exact-match", 6)
    assert found.value == pytest.approx(answers.count("hi") / 6)
    assert (ours.about.base.id, hub_name(base.id)) == (base.id, "plasmid/tiny-causal-llama")
