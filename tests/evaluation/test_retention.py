"""Retention: columns by hand and by the plain model, and what eval keeps against recounts of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map_with_path
from scipy.stats import binomtest

from mipo_mlx import pipeline
from mipo_mlx.config import resolve
from mipo_mlx.data import builtin
from mipo_mlx.data.readers import read_contexts, read_prompts
from mipo_mlx.evaluation import distractors, responses, retention
from mipo_mlx.evaluation.comparison import Asked, titled_rows
from mipo_mlx.evaluation.questions import Group, Item, Questions
from mipo_mlx.evaluation.responses import Part
from mipo_mlx.evaluation.study import Subject
from mipo_mlx.generation.answers import Ask, encode, sample
from mipo_mlx.grading.ngrams import words
from mipo_mlx.models import lora
from mipo_mlx.models.load import LanguageModel, load_model
from mipo_mlx.reporting.narrative.changes import changes
from mipo_mlx.reporting.narrative.studies import retention as told
from mipo_mlx.results import SIDES, Metric
from mipo_mlx.results.findings import RetentionFindings
from mipo_mlx.tiny import SAMPLES_DIR
from mipo_mlx.types import Context, Prompt, Response
from samples import head

GIVEN = {
    **{"max_steps": 2, "learning_rate": 3e-3, "resamples": 100, "eval_contexts": 8},
    **{"candidates": 4, "prompts_per_context": 1, "eval_prompts_per_context": 2, "cad": ""},
    "memorization": False,
}


def said(text: str, ids: Sequence[int] = (1,)) -> Response:
    return Response(text, tuple(ids), "stop")


def users(count: int) -> list[Context]:
    return read_contexts(SAMPLES_DIR / "contexts_heldout.jsonl")[:count]


def requests(count: int) -> list[Prompt]:
    return read_prompts(SAMPLES_DIR / "prompts_heldout.jsonl")[:count]


class Forgetful:
    """A journal that keeps nothing."""

    def read(self) -> Iterable[tuple[str, Response]]:
        return ()

    def append(self, key: str, response: Response) -> None: ...


def quiet(stage: str, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def subject() -> Subject:
    """The embedded model with an adapter that says other things; four users, two prompts."""
    lm = load_model("embedded")
    lora.attach(lm, rank=4, scale=10.0, num_layers=-1, seed=0)
    rng = np.random.default_rng(5)

    def noisy(path: str, value: mx.array) -> mx.array:
        return mx.array(rng.normal(0, 0.1, value.shape), value.dtype) if "lora_b" in path else value

    lm.model.update(tree_map_with_path(noisy, lm.model.trainable_parameters()))
    config = resolve(flags={"resamples": 100})
    items = [Item(user, prompt) for user in users(4) for prompt in requests(2)]
    inputs: Any = SimpleNamespace(held_contexts=users(4))
    asked = Questions([Group(items)], frozenset(), config.generate, 1, quiet)
    made = Subject(lm, config, inputs, asked, {}, {}, Forget)
    asks = [Ask(item.context, item.prompt) for item in items]
    said = responses.ask_both(made, "", "", asks)
    answers = {
        side: {ask.key: answer for ask, answer in zip(asks, said.answers[side], strict=True)}
        for side in SIDES
    }
    return replace(made, answers=answers)


def Forget(stage: str) -> Forgetful:
    return Forgetful()


def plain_logps(lm: LanguageModel, prompt: Sequence[int], response: Sequence[int]) -> np.ndarray:
    """Of each token of a response, by one forward pass without cache."""
    logits = lm.model(mx.array([[*prompt, *response[:-1]]])).astype(mx.float32)[0]
    logps = nn.log_softmax(logits[len(prompt) - 1 :], axis=-1)
    return np.array(logps)[np.arange(len(response)), list(response)]


def test_tokens_are_scored_by_the_right_model_under_the_right_prompt(subject: Subject) -> None:
    asks = [Ask(item.context, item.prompt) for item in subject.items]
    part = responses.own_answers(subject, asks)
    assert part.name == "context"
    found = retention.token_logps(subject, part)
    for index, ask in enumerate(asks):
        prompt = encode(subject.lm, ask.context, ask.prompt, subject.config.generate)
        for side, who, name in (
            ("base", "base", "base"),
            ("adapter", "adapter", "adapter"),
            ("base", "adapter", "crossed"),
        ):
            ids = subject.answers[who][ask.key].token_ids
            with subject.side(side) as lm:
                np.testing.assert_allclose(
                    found[name][index], plain_logps(lm, prompt, ids), atol=2e-4
                )
    means = [float(np.mean(found["adapter"][0])), float(np.mean(found["crossed"][0]))]
    assert abs(means[0] - means[1]) > 0.05  # the two models do differ


def test_distance_by_hand() -> None:
    logps = {
        "base": [np.log([0.5, 0.5]), np.log([0.25])],
        "adapter": [np.log([0.5, 0.8]), np.log([0.9])],
        "crossed": [np.log([0.25, 0.4]), np.log([0.9])],
    }
    found = retention.distance_columns(logps)
    base, tuned = found["base"], found["adapter"]
    assert tuned["kl_k1"] == pytest.approx([2 * math.log(2), 0])
    assert tuned["kl"] == pytest.approx([2 * (0.5 - 1 + math.log(2)), 0])
    assert tuned["kl_per_token"] == pytest.approx([0.5 - 1 + math.log(2), 0])
    assert np.exp(tuned["log_perplexity"]) == pytest.approx([math.sqrt(10), 1 / 0.9])
    assert np.exp(base["log_perplexity"]) == pytest.approx([2, 4])
    assert all(base[name].tolist() == [0, 0] for name in ("kl", "kl_k1", "kl_per_token"))


def test_texts_by_hand() -> None:
    asks = [Ask(Context("u", "I live in Oslo and play."), Prompt("p", "?"))] * 2
    texts = ["You live in Oslo and play, you live in Oslo and rest.", "Hello."]
    answers = [said(text, range(1, 4)) for text in texts]
    part = Part("context", "", asks, {"base": answers, "adapter": answers})
    found = retention.text_columns(part, "base", frozenset({"Oslo"}))
    assert found["repetition"] == pytest.approx([2 / 9, 0])  # "you/live in oslo and" again
    assert found["longest_repeat"].tolist() == [5, 0]
    assert found["copied"] == pytest.approx([3 / 9, 0])
    assert found["longest_copy"].tolist() == [5, 0]
    assert "fact_rate" not in found
    alone = replace(part, name="alone", asks=[Ask(None, Prompt("p", "?"))] * 2)
    found = retention.text_columns(alone, "base", frozenset({"Oslo"}))
    assert found["fact_rate"].tolist() == [1, 0]
    assert found["length"].tolist() == [3, 3]
    assert "copied" not in found
    assert "fact_rate" not in retention.text_columns(alone, "base", frozenset())


def test_a_paragraph_stands_beside_the_context_under_the_same_name() -> None:
    own = Context("u", "I fish.", {"hobby": "fishing"}, user="me")
    before = distractors.distracted(own, "The tide turns.", before=True)
    after = distractors.distracted(own, "The tide turns.", before=False)
    assert (before.text, after.text) == ("The tide turns.\n\nI fish.", "I fish.\n\nThe tide turns.")
    for made in (before, after):
        assert Ask(made, Prompt("p", "?")).key == Ask(own, Prompt("p", "?")).key
        assert (made.facts, made.owner) == (own.facts, own.owner)
    alone = distractors.distracted(None, "The tide turns.", before=False)
    assert alone.text == "The tide turns."
    assert Ask(alone, Prompt("p", "?"), 2).key == Ask(None, Prompt("p", "?"), 2).key


def test_paragraphs_are_seeded_and_on_both_sides(subject: Subject) -> None:
    asks = [Ask(item.context, item.prompt) for item in subject.items] * 4
    plain, more = distractors.added(subject, asks)
    assert plain == asks
    again = distractors.added(subject, asks)[1]
    assert again == more
    other = replace(subject, config=resolve(flags={"seed": 1, "resamples": 100}))
    assert distractors.added(other, asks)[1] != more
    known = {prompt.text for prompt in read_prompts(builtin.PARAGRAPHS)}
    seen = []
    for ask, changed in zip(asks, more, strict=True):
        assert ask.context is not None
        assert changed.context is not None
        first, last = changed.context.text.split("\n\n")
        assert {first, last} & known
        assert {first, last} - known == {ask.context.text}
        seen.append((first in known, ({first, last} & known).pop()))
    assert 8 < sum(before for before, _ in seen) < 24
    assert len({text for _, text in seen}) == 24


def test_what_does_not_fit_the_window_is_left_out(subject: Subject) -> None:
    asks = [Ask(item.context, item.prompt) for item in subject.items]
    options = subject.config.generate
    sizes = [len(encode(subject.lm, ask.context, ask.prompt, options)) for ask in asks]
    window = sorted(sizes)[4] + options.max_tokens
    small = replace(subject, lm=replace(subject.lm, max_tokens=window))
    assert distractors.fitting(small.lm, asks, options) == [
        size + options.max_tokens <= window for size in sizes
    ]
    assert distractors.added(small, asks) == ([], [])  # any paragraph takes more
    wanted = distractors.unrelated(small, 8)
    room = [
        len(encode(subject.lm, ask.context, ask.prompt, options)) + options.max_tokens <= window
        for ask in wanted
    ]
    assert 0 < sum(room) < 8
    beside, unasked = distractors.measure(
        small, responses.own_answers(small, asks), frozenset({"Oslo"}), 8
    )[1:]
    assert beside.metrics == {} and beside.findings.left_out == 8
    assert unasked.metrics["retention/unrelated/own_fact_rate"].n == sum(room)
    findings = RetentionFindings([], [beside.findings, unasked.findings], 1.0, 1.0, False)
    lines = told(findings, unasked.metrics).lines
    assert "No context has room" in lines[0]
    assert lines[-1].startswith(f"{8 - sum(room)} of 8 unrelated requests did not fit")


def test_unrelated_requests_go_to_every_user_in_turn(subject: Subject) -> None:
    asks = distractors.unrelated(subject, 100)
    assert len(asks) == len({ask.key for ask in asks}) == 24
    assert {ask.prompt.text for ask in asks} == {p.text for p in read_prompts(builtin.NEUTRAL)}
    counts = [sum(a.context.id == u.id for a in asks if a.context) for u in users(4)]
    assert counts == [6] * 4
    assert len(distractors.unrelated(subject, 5)) == 5


def test_log_probs_move_by_what_the_plain_model_says(subject: Subject) -> None:
    asks = [Ask(item.context, item.prompt) for item in subject.items[:3]]
    plain = responses.own_answers(subject, asks)
    _, more = distractors.added(subject, asks)
    found = distractors.shifts(subject, plain, more)
    options = subject.config.generate
    for side in SIDES:
        for index, (ask, other) in enumerate(zip(asks, more, strict=True)):
            ids = subject.answers[side][ask.key].token_ids
            with subject.side(side) as lm:
                sums = [
                    plain_logps(lm, encode(lm, a.context, a.prompt, options), ids).sum()
                    for a in (ask, other)
                ]
            moved = abs(sums[1] - sums[0]) / len(ids)
            assert found[side]["logp_shift"][index] == pytest.approx(moved, abs=1e-4)
    assert found["base"]["logp_shift"].max() > 1e-3


def test_spread_takes_one_of_each_user_in_turn_and_other_prompts() -> None:
    asked = [Item(user, prompt) for user in users(3) for prompt in requests(4)]
    found = responses.spread([*asked, *asked[:2]], 100)
    assert sorted(item.key for item in found) == sorted(item.key for item in asked)
    for start in range(0, 12, 3):
        assert [item.cluster for item in found[start : start + 3]] == [u.id for u in users(3)]
    assert len({item.prompt.id for item in found[:3]}) == 3
    assert responses.spread(asked, 5) == found[:5]
    assert responses.spread([], 5) == []


FIGURES = {"up": Metric("rise", "it rises", "nats", 1), "flat": Metric("level", "", "nats", 0)}


def test_rows_and_sentences() -> None:
    items = [Item(user, prompt) for user in users(6) for prompt in requests(2)]
    base = {"up": np.arange(12.0), "flat": np.arange(12.0)}
    shift = np.tile([0.9, 1.1, 1.0], 4)
    tuned = {"up": base["up"] + shift, "flat": base["flat"] + np.tile([1, -1], 6)}
    base["up"][0] = np.nan
    config = resolve(flags={"resamples": 200})
    sides = {"base": base, "adapter": tuned}
    asked = Asked("x", "there", items)
    found = titled_rows(asked, sides, {**FIGURES, "no": FIGURES["up"]}, config)
    assert list(found) == ["x/up", "x/flat"]
    row = found["x/up"]
    assert (row.n, row.users, row.resampled) == (11, 6, "users")
    assert row.base == pytest.approx(6)
    assert row.delta == pytest.approx(shift[1:].mean())
    assert (row.title, row.about, row.better) == ("rise, there", "it rises", 1)
    one, two = changes("out there", "there", list(found.values()))
    assert one.startswith("Out there: rise rose, 6 -> 7.01 nats (95% interval of the difference +")
    assert one.endswith("n = 6 users).")
    assert two == "Out there: no difference seen in level, at n = 6 users."
    same = replace(found["x/flat"], resampled="answers")
    assert changes("so", "there", [replace(same, title="rise, there"), same]) == [
        "So: no difference seen in rise or level, at n = 12 answers."
    ]
    assert changes("so", "there", []) == []


def test_unchanged_answers_of_one_user_are_told_of_that_user() -> None:
    asks = [Ask(users(1)[0], Prompt(f"p{n}", "?")) for n in range(30)]
    base = [said(f"answer {n}") for n in range(30)]
    tuned = [said("another"), said("another"), *base[2:]]
    found = retention.distance(Part("context", "", asks, {"base": base, "adapter": tuned}))
    assert (found.n, found.unchanged) == (30, 28)
    plain = binomtest(28, 30).proportion_ci(method="wilson")
    assert found.unchanged_ci95 == pytest.approx((plain.low, plain.high))


def small(folder: Path) -> dict[str, Any]:
    """Inputs of 32 and 8 users, 9 and 3 prompts."""
    return {
        **GIVEN,
        "contexts": head("contexts_heldout.jsonl", 40, folder),
        "prompts": head("prompts_heldout.jsonl", 12, folder),
        "held_out_prompts": 0.25,
    }


def run_of(folder: Path, **more: Any) -> tuple[Path, dict[str, Any], Any]:
    run, config = folder / "run", resolve(flags={**small(folder), **more})
    pipeline.run.run(run, config)
    return run, json.loads((run / "eval.json").read_text()), config


def recounted(rows: Sequence[Mapping[str, str]], part: str, side: str) -> list[str]:
    return [row[side] for row in rows if row["part"] == part]


def states(text: str, values: Iterable[str]) -> bool:
    """By words of the text, not by patterns."""
    return bool({value.casefold() for value in values} & set(words(text)))


def test_eval_measures_what_a_recount_of_its_answers_gives(tmp_path: Path) -> None:
    run, results, config = run_of(tmp_path)
    metrics, section = results["metrics"], results["sections"]["retention"]
    rows = [json.loads(line) for line in (run / "retention.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == {"alone", "paragraph", "distracted", "unrelated"}
    facts = {user.id: dict(user.facts) for user in users(40)}
    known = {value.casefold() for own in facts.values() for value in own.values()}
    for side in SIDES:
        alone, aside = (recounted(rows, part, side) for part in ("alone", "paragraph"))
        for part, texts in (("alone", alone), ("paragraph", aside)):
            made_up = np.mean([states(text, known) for text in texts])
            assert metrics[f"retention/{part}/fact_rate"][side] == pytest.approx(made_up)
        unasked = [row for row in rows if row["part"] == "unrelated"]
        told = np.mean([states(row[side], facts[row["context_id"]].values()) for row in unasked])
        assert metrics["retention/unrelated/own_fact_rate"][side] == pytest.approx(told)
        own = {(row["context_id"], row["prompt_id"]): row[side] for row in answers}
        changes, unmoved = [], []
        for row in (row for row in rows if row["part"] == "distracted"):
            before = own[row["context_id"], row["prompt_id"]]
            unmoved.append(before == row[side])
            mine = {value.casefold() for value in facts[row["context_id"]].values()}
            own_only = [
                states(text, mine) and not states(text, known - mine)
                for text in (before, row[side])
            ]
            changes.append(own_only[1] - own_only[0])
        name = "retention/distracted"
        assert metrics[f"{name}/own_context_change"][side] == pytest.approx(np.mean(changes))
        assert metrics[f"{name}/unmoved"][side] == pytest.approx(np.mean(unmoved))
    own_kept = section["details"]["context"]
    assert len(own_kept["base"]["kl"]) == metrics["retention/context/kl"]["n"] == 16
    perplexity = math.exp(np.mean(own_kept["adapter"]["log_perplexity"]))
    assert section["tables"][0]["body"][1][4] == f"{perplexity:.3g}"
    assert set(section["metrics"]) <= set(metrics)
    assert all(metrics[name]["title"] for name in section["metrics"])
    lm = load_model("embedded")  # what the base said is what the model without adapter says
    asks = [Ask(None, prompt) for prompt in requests(12) if prompt.id in
            {row["prompt_id"] for row in rows if row["part"] == "alone"}]  # fmt: skip
    fresh = sample(lm, asks, config.generate, config.data.seed + 1, quiet)
    kept = {row["prompt_id"]: row["base"] for row in reversed(rows) if row["part"] == "alone"}
    assert kept == {ask.prompt.id: fresh[ask.key].text for ask in asks}


def test_an_interrupted_eval_goes_on_with_the_same_answers(tmp_path: Path) -> None:
    config = resolve(flags={**small(tmp_path), "eval_contexts": 4, "candidates": 2})
    run = tmp_path / "run"
    pipeline.generate.generate(run, config)
    pipeline.train.train(run, config)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "adapter: to one request":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.evaluate.evaluate(run, config, stop)
    assert not (run / "eval.json").exists()
    started: dict[str, tuple[int, int]] = {}

    def watch(stage: str, done: int, total: int) -> None:
        started.setdefault(stage, (done, total))

    pipeline.evaluate.evaluate(run, config, watch)
    sampled = [
        "without context",
        "with a paragraph for a context",
        "with a paragraph beside the context",
        "to unrelated requests",
    ]
    for side in SIDES:
        for stage in sampled:
            done, total = started[f"{side}: {stage}"]
            assert done == total > 0
    done, total = started["adapter: to one request"]
    assert done < total
    resumed = (run / "eval.json").read_bytes()
    (run / "eval.json").unlink()
    pipeline.evaluate.evaluate(run, config)
    assert (run / "eval.json").read_bytes() == resumed
    assert not list(run.glob("answers-*.jsonl"))


def test_without_users_there_is_one_part_and_the_paragraph(tmp_path: Path) -> None:
    problems = head("problems_train.jsonl", 24, tmp_path)
    given = {"objective": "prompt", "contexts": "", "prompts": problems, "min_pmi": -1000.0}
    _, results, _ = run_of(tmp_path, **given)
    names = {tuple(name.split("/")[1:]) for name in results["sections"]["retention"]["metrics"]}
    assert {part for part, _ in names} == {"alone", "paragraph"}
    assert ("alone", "kl") in names
    assert ("alone", "self_bleu4") not in names  # the main table has it
    assert results["metrics"]["retention/alone/kl"]["resampled"] == "prompts"


def test_contexts_without_facts_are_told_of_and_studies_can_be_left_out(tmp_path: Path) -> None:
    notes = tmp_path / "users.jsonl"
    texts = [json.dumps({"id": user.id, "text": user.text}) for user in users(8)]
    notes.write_text("\n".join(texts), encoding="utf-8")
    prompts = head("prompts_train.jsonl", 8, tmp_path)
    more = {"contexts": str(notes), "prompts": prompts, "min_pmi": -1000.0, "top_p": 0.9}
    run, results, _ = run_of(tmp_path, **more, diversity_samples=0, memorization=False)
    section = results["sections"]["retention"]
    assert list(results["sections"]) == ["retention"]
    assert not [name for name in section["metrics"] if "fact" in name or "own_context" in name]
    assert "retention/unrelated/copied" in section["metrics"]
    assert "The contexts name no facts" in section["lines"][-1]
    assert "temperature 1 and top-p 0.9" in section["lines"][-2]
    assert len(section["tables"]) == 1
    given = {**small(tmp_path), **more, "retention": False, "diversity_samples": 0}
    given["memorization"] = False
    without = resolve(flags=given)
    assert pipeline.evaluate.evaluate(run, without).sections == {}
