"""A judge of two answers: stub judges of known habits, whole evals, faults, interruptions."""

from __future__ import annotations

import json
import math
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from lm.archs import randomize_lora, write
from mipo_mlx import pipeline
from mipo_mlx.config import resolve
from mipo_mlx.errors import ConfigError, MipoError, ModelError
from mipo_mlx.evaluation import llm_judge
from mipo_mlx.evaluation.human_votes import open_arena
from mipo_mlx.evaluation.questions import Item
from mipo_mlx.evaluation.win_rates import Duel, Ruling, Said, Setting, findings, measured
from mipo_mlx.generation.answers import Ask
from mipo_mlx.generation.inputs import read_inputs
from mipo_mlx.grading import judge_prompts
from mipo_mlx.models import lora
from mipo_mlx.models.load import load_model, locate
from mipo_mlx.pipeline import evaluate
from mipo_mlx.reporting import narrative
from mipo_mlx.results import MetricRow, Table
from mipo_mlx.stats.bootstrap import paired_bootstrap
from mipo_mlx.tiny import SAMPLES_DIR
from mipo_mlx.types import Context, Prompt, Response
from samples import QUIET

SHOWN = re.compile(
    r"\[Answer A\]\n(.*)\n\[End of answer A\]\n\n\[Answer B\]\n(.*)\n\[End", re.DOTALL
)


def duels(answers: Sequence[tuple[str, str]], each: int = 4) -> list[Duel]:
    """Duels of users with ``each`` prompts; ``answers`` are those of base and adapter."""
    return [
        Duel(
            Item(
                Context(f"user-{n // each}", f"Town {n // each}."), Prompt(f"prompt-{n}", f"{n}?")
            ),
            *pair,
        )
        for n, pair in enumerate(answers)
    ]


def stub(verdict: Callable[[str, str], str], finish: str = "stop") -> llm_judge.Say:
    """A judge who is shown answers A and B and says one thing."""

    def say(asks: Sequence[Ask]) -> Mapping[str, Response]:
        answers = {}
        for ask in asks:
            shown = SHOWN.search(ask.prompt.text)
            assert shown
            answers[ask.key] = Response(verdict(*shown.groups()), (1,), finish)
        return answers

    return say


def prefers(good: Callable[[str, str], float]) -> llm_judge.Say:
    """One who takes A where ``good`` is above 0, B below, else a tie."""

    def verdict(a: str, b: str) -> str:
        score = good(a, b)
        return f"So.\nVerdict: {'tie' if not score else 'A' if score > 0 else 'B'}"

    return stub(verdict)


def setting(protocol: str = "pairwise", **more: Any) -> Setting:
    return Setting("some/judge", protocol, resamples=500, seed=0, **more)


@dataclass(frozen=True)
class Told:
    """A judge's section with its rows."""

    lines: Sequence[str]
    tables: Sequence[Table]
    details: dict[str, Any]
    metrics: Mapping[str, MetricRow]


def told(made: Sequence[Duel], say: llm_judge.Say, protocol: str = "pairwise") -> Told:
    found = measured(made, llm_judge.rule(made, protocol, say), setting(protocol))
    section = narrative.section(found.findings, found.metrics, found.details)
    return Told(section.lines, section.tables, section.details, found.metrics)


def words(count: int, start: str) -> str:
    return " ".join([start] + ["word"] * count)


KNOWN = [("base", "tuned")] * 30 + [("base!", "tuned!")] * 4 + [("tuned", "base")] * 6
KNOWN = [KNOWN[7 * n % 40] for n in range(40)]  # spread over the users


def taste(a: str, b: str) -> float:
    """Likes what starts with "tuned"; what ends in "!" is all the same."""
    return 0 if a.endswith("!") else a.startswith("tuned") - b.startswith("tuned")


def test_a_judge_who_always_says_a_tells_nothing_and_is_seen() -> None:
    section = told(duels(KNOWN), stub(lambda a, b: "Verdict: A"))
    found = section.details
    assert (found["wins"], found["ties"], found["losses"], found["inconsistent"]) == (0, 40, 0, 40)
    assert found["win_rate"] == 0.5 and found["length_controlled"] is None
    position = found["position"]
    assert (position["a_share"], position["a_twice"], position["b_twice"]) == (1.0, 40, 0)
    assert position["p"] == pytest.approx(scipy.stats.binomtest(40, 40).pvalue)
    assert position["orders_agree"] == 0
    text = " ".join(section.lines)
    assert "40 are ties, 40 since its two orders disagreed" in text
    assert "It prefers one place" in text and "Win rate, ties as half: 50.0%" in text


def test_a_judge_who_always_knows_gives_the_rate_and_its_interval() -> None:
    section = told(duels(KNOWN), prefers(taste))
    found = section.details
    assert (found["wins"], found["ties"], found["losses"]) == (30, 4, 6)
    assert (found["inconsistent"], found["failed"], found["asked"]) == (0, 0, 40)
    assert found["win_rate"] == pytest.approx(32 / 40)
    assert found["sign_p"] == pytest.approx(scipy.stats.binomtest(30, 36).pvalue)
    scores = np.array([0.5 if "!" in base else base == "base" for base, _ in KNOWN], float)
    assert scores.sum() == 32
    users = [str(n // 4) for n in range(40)]
    whole = paired_bootstrap(np.full(40, 0.5), scores, clusters=users, resamples=500, seed=0)
    assert found["win_rate"] == pytest.approx(0.5 + whole.delta)
    assert found["ci95"] == pytest.approx([0.5 + whole.low, 0.5 + whole.high])
    assert 0.5 < found["ci95"][0] < 0.8 < found["ci95"][1] < 1
    row = section.metrics["judge/wins"]
    assert (row.base, row.adapter) == pytest.approx((6 / 40, 30 / 40))
    assert row.delta == pytest.approx(24 / 40) and (row.n, row.users) == (40, 10)
    assert found["position"]["a_share"] == 0.5 and found["position"]["kappa"] == pytest.approx(1)
    assert "It prefers" not in " ".join(section.lines)
    (table,) = section.tables
    assert table.body == [["pairwise, ties as half", "30", "4", "6", "0", "0", "80.0%"]]


def test_a_judge_of_length_is_exposed_by_the_rate_at_equal_length() -> None:
    rng = np.random.default_rng(2)
    sizes = np.maximum(1, np.round(rng.normal([30, 45], [12, 12], (160, 2)))).astype(int)
    made = duels([(words(a, "base"), words(b, "tuned")) for a, b in sizes])
    section = told(made, prefers(lambda a, b: len(a) - len(b)))
    found, control = section.details, section.details["length_controlled"]
    longer = float(np.mean((sizes[:, 1] + 0.2 > sizes[:, 0]) * 1.0))  # "tuned" has a letter more
    assert found["win_rate"] == pytest.approx(longer) and longer > 0.75
    assert found["ci95"][0] > 0.65
    assert control["low"] < 0.5 < control["high"] and abs(control["rate"] - 0.5) < 0.15
    assert control["lean_low"] > 0
    assert "it leans to longer answers" in " ".join(section.lines)
    assert not control["extrapolated"] and "a guess" not in " ".join(section.lines)


def test_a_rate_at_equal_length_beyond_all_lengths_is_called_a_guess() -> None:
    answers = [(words(n, "base"), words(2 * n, "tuned")) for n in range(3, 43)]
    section = told(duels(answers), prefers(lambda a, b: taste(a, b) * (len(a + b) % 2 - 0.5)))
    assert section.details["length_controlled"]["extrapolated"]
    assert "that rate is a guess" in " ".join(section.lines)


def test_rubbish_is_counted_and_not_scored() -> None:
    section = told(duels(KNOWN), stub(lambda a, b: "I like both answers."))
    found = section.details
    assert (found["failed"], found["judged"], found["win_rate"]) == (40, 0, None)
    assert found["faults"] == {judge_prompts.NOTHING: 80}
    assert section.metrics == {}
    assert section.lines[0] == "some/judge could judge none of 40 duels."
    assert section.lines[-1] == "Raise --judge-max-tokens, or take another judge."
    cut = told(duels(KNOWN), stub(lambda a, b: "Verdict: A", finish="length"))
    assert cut.details["faults"] == {judge_prompts.CUT_OFF: 80}


def test_one_order_that_fails_takes_the_duel_out_of_every_rate() -> None:
    def half(a: str, b: str) -> str:  # cannot speak where the losers' answer stands first
        return "[[A]]" if a.startswith("tuned") else "?" if "!" not in a else "[[C]]"

    section = told(duels(KNOWN), stub(half))
    found = section.details
    # the four with "!": adapter first says A, base first says tie
    assert (found["wins"], found["losses"], found["failed"]) == (0, 0, 36)
    assert (found["ties"], found["inconsistent"], found["judged"]) == (4, 4, 4)
    assert found["position"]["n"] == 4 and section.metrics["judge/wins"].n == 4
    text = " ".join(section.lines)
    assert "judged 4 of 40 duels" in text
    assert "36 of 40 duels are not scored" in text and "So many that the rest" in text


def test_what_a_judge_does_not_answer_was_too_long() -> None:
    whole = prefers(taste)

    def short(asks: Sequence[Ask]) -> Mapping[str, Response]:
        return {key: said for key, said in whole(asks).items() if "\x1f7/base_first" not in key}

    found = told(duels(KNOWN), short).details
    assert found["faults"] == {judge_prompts.TOO_LONG: 1}
    assert (found["failed"], found["wins"]) == (1, 29)


def test_equal_answers_are_ties_and_nobody_is_asked() -> None:
    asked: list[Ask] = []

    def say(asks: Sequence[Ask]) -> Mapping[str, Response]:
        asked.extend(asks)
        return {ask.key: Response("Verdict: A", (1,), "stop") for ask in asks}

    same = duels([("a", "a \n"), ("b", "c"), ("d", "d")])
    found = told(same, say).details
    assert [found[name] for name in ("duels", "asked", "same_answers", "ties")] == [3, 1, 2, 3]
    assert [ask.prompt.id for ask in asked] == ["1/adapter_first", "1/base_first"]
    nothing = told(same[::2], say)
    assert nothing.details["win_rate"] is None and nothing.metrics == {}
    assert nothing.lines == ["All answers were the same: nothing to judge."]


def test_the_judge_is_shown_user_request_and_both_orders() -> None:
    (duel,) = duels([("by base", "by adapter")])
    found = llm_judge.questions(duel, 5, "pairwise")
    assert found["adapter_first"].prompt.text == judge_prompts.ask_pair(
        "0?", "by adapter", "by base"
    )
    assert found["base_first"].prompt.text == judge_prompts.ask_pair("0?", "by base", "by adapter")
    for ask in found.values():
        assert ask.context and ask.context.id == "user-0"
        assert ask.context.text == judge_prompts.instructions("pairwise", "Town 0.")
    alone = Duel(Item(None, Prompt("p", "Why?")), "x", "y")
    ask = llm_judge.questions(alone, 0, "pairwise")["base_first"]
    assert ask.context and ask.context.text.endswith(judge_prompts.NOBODY)
    assert (
        len({a.key for n in (0, 1) for a in llm_judge.questions(duel, n, "pairwise").values()}) == 4
    )


def scores(said: str) -> llm_judge.Say:
    """A judge who gives the score that an answer ends with."""

    def say(asks: Sequence[Ask]) -> Mapping[str, Response]:
        found = {}
        for ask in asks:
            number = ask.prompt.text.split("\n[End of answer]")[0][-1]
            found[ask.key] = Response(said.format(number), (1,), "stop")
        return found

    return say


def test_the_papers_rule_counts_ties_as_wins_of_both() -> None:
    answers = (
        [("base 3", "tuned 4")] * 3 + [("base 2", "tuned 2")] * 5 + [("base 5", "tuned 1")] * 2
    )
    section = told(duels(answers, each=2), scores("Score: {}"), "paper")
    found = section.details
    assert (found["wins"], found["ties"], found["losses"]) == (3, 5, 2)
    assert found["win_rate"] == pytest.approx(0.55)
    assert found["paper_win_rate"] == pytest.approx(0.8)
    assert found["paper_win_rate_of_base"] == pytest.approx(0.7)
    row = section.metrics["judge/score"]
    assert row.base == pytest.approx((9 + 10 + 10) / 10)
    assert row.adapter == pytest.approx((12 + 10 + 2) / 10)
    assert "position" not in found
    assert section.tables[0].body == [
        ["paper, ties as half", "3", "5", "2", "-", "0", "55.0%"],
        ["the paper's, ties as wins", "8", "0", "2", "-", "0", "80.0%"],
    ]
    assert "the adapter wins 80.0%; by the same rule the base wins 70.0%" in " ".join(section.lines)
    failed = told(duels(answers), scores("{} of 5"), "paper")
    assert failed.details["failed"] == 10 and failed.metrics == {}


def test_equal_answers_get_one_score() -> None:
    made = duels([("the same 4", "the same 4"), ("base 1", "tuned 2")])
    asked = [llm_judge.questions(duel, n, "paper") for n, duel in enumerate(made)]
    assert asked[0]["base"].key == asked[0]["adapter"].key
    assert asked[1]["base"].key != asked[1]["adapter"].key
    found = told(made, scores("Score: {}"), "paper").details
    assert (found["ties"], found["wins"]) == (1, 1)


def test_kappa_and_agreement_of_both_orders_by_hand() -> None:
    def said(first: str, second: str) -> Ruling:
        both = {"adapter_first": Said(first, "", first), "base_first": Said(second, "", second)}
        return Ruling(judge_prompts.settle(first, second), both)

    pairs = [("A", "B")] * 5 + [("B", "A")] * 2 + [("A", "A")] * 2 + [("tie", "B")]
    made = duels([("x", "y")] * 10, each=1)
    found = findings(made, [said(*pair) for pair in pairs], setting())[0].to_json()
    position = found["position"]
    # winners: adapter x5 agree, base x2 agree, adapter against base x2, tie against adapter
    chance = (7 * 6 + 2 * 4 + 1 * 0) / 100
    assert position["orders_agree"] == 0.7
    assert position["kappa"] == pytest.approx((0.7 - chance) / (1 - chance))
    assert position["a_share"] == pytest.approx((5 + 2 + 4) / 19) and position["clear"] == 19
    assert (found["wins"], found["losses"], found["ties"], found["inconsistent"]) == (5, 2, 3, 3)
    assert found["win_rate"] == pytest.approx(0.65)
    # all answers are equally long
    assert found["length_controlled"]["rate"] == pytest.approx(0.65, abs=1e-3)


CONFIG = {
    "resamples": 100,
    "eval_contexts": 4,
    "candidates": 2,
    "eval_prompts_per_context": 1,
    "max_tokens": 16,
    "judge_max_tokens": 12,
    "judge": "embedded",
    **QUIET,
}


def trained(run: Path) -> Path:
    """A run with an adapter that changes answers."""
    lm = load_model("embedded")
    shape = lora.attach(lm, rank=4, scale=10.0, num_layers=-1, seed=0)
    randomize_lora(lm.model)
    lora.save(lm, run / "adapter", shape, extra={})
    return run


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_judge_is_the_last_study() -> None:
    assert evaluate.STUDIES[-1] is llm_judge.prepare


def test_a_whole_eval_with_the_embedded_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy: list[weakref.ref[Any]] = []

    def load_policy(*words: Any, **more: Any) -> Any:
        lm = load_model(*words, **more)
        policy.append(weakref.ref(lm.model))
        return lm

    def load_judge(*words: Any, **more: Any) -> Any:
        assert policy and policy[0]() is None  # its memory is the judge's now
        return load_model(*words, **more)

    monkeypatch.setattr(evaluate, "open_model", load_policy)
    monkeypatch.setattr(llm_judge, "open_model", load_judge)
    run = trained(tmp_path / "run")
    results = pipeline.evaluate.evaluate(run, resolve(flags=CONFIG)).to_json()
    section = results["sections"]["judge"]
    found = section["details"]
    assert found["duels"] == 4 and found["asked"] >= 3
    assert found["failed"] + found["judged"] == 4
    assert (found["wording"], found["judge"]) == (judge_prompts.version("pairwise"), "embedded")
    assert "own base model" in section["lines"][0]
    assert "not scored" in " ".join(section["lines"])
    kept = rows(run / "judge.jsonl")
    assert len(kept) == 4 and sum(row["winner"] == "failed" for row in kept) == found["failed"]
    for row in kept:
        for name in () if row["same_answers"] else ("adapter_first", "base_first"):
            assert row[name]["text"] or row[name]["fault"]
    pipeline.report.report(run, resolve(flags=CONFIG))
    for name in ("report.md", "report.html"):
        assert "A judge&#39;s verdict" in (text := (run / name).read_text()) or (
            "A judge's verdict" in text
        )


def test_a_judge_of_another_family_with_random_weights(tmp_path: Path) -> None:
    folder = write(tmp_path / "judge", "qwen2")
    model = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**model, "max_position_embeddings": 8192}))
    run = trained(tmp_path / "run")
    given = {**CONFIG, "eval_contexts": 2, "eval_prompts_per_context": 1, "judge": str(folder)}
    for protocol in judge_prompts.PROTOCOLS:
        config = resolve(flags={**given, "protocol": protocol})
        results = pipeline.evaluate.evaluate(run, config).to_json()
        section = results["sections"]["judge"]
        found = section["details"]
        assert found["failed"] == found["asked"] > 0 and found["win_rate"] is None
        assert set(found["faults"]) <= {judge_prompts.CUT_OFF, judge_prompts.NOTHING}
        assert section["lines"][0].startswith("judge could judge none of")
        assert "own family" not in " ".join(section["lines"])
        assert all(row["protocol"] == protocol for row in rows(run / "judge.jsonl"))
        assert not [name for name in results["metrics"] if name.startswith("judge/")]


def test_an_interrupted_judge_goes_on_where_it_was(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    config = resolve(flags={**CONFIG, "generate_batch_size": 2})
    seen: list[tuple[str, int, int]] = []

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "judge: pairwise" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.evaluate.evaluate(run, config, stop)
    assert not (run / "eval.json").exists() and not (run / "judge.jsonl").exists()
    pipeline.evaluate.evaluate(run, config, lambda *at: seen.append(at))
    started = {}
    for stage, done, total in seen:
        started.setdefault(stage, (done, total))
    assert started["judge: pairwise"][0] == 3 and started["judge: pairwise"][1] >= 6
    assert started["adapter: sample answers"] == (4, 4)
    assert not list(run.glob("answers-*"))
    again = trained(tmp_path / "again")
    pipeline.evaluate.evaluate(again, config)
    assert (again / "judge.jsonl").read_bytes() == (run / "judge.jsonl").read_bytes()


def test_the_arena_tells_how_far_a_person_agrees_with_the_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled(lm: Any, wanted: Sequence[Ask], *more: Any) -> Mapping[str, Response]:
        if not wanted or "[Answer A]" not in wanted[0].prompt.text:
            raise AssertionError("only the judge is asked here")
        whole = prefers(lambda a, b: (a > b) - (a < b))(wanted)
        return {k: v for k, v in whole.items() if not k.startswith("heldout-user000")}

    monkeypatch.setattr(llm_judge, "sample", sampled)
    run = trained(tmp_path / "run")
    pipeline.evaluate.evaluate(run, resolve(flags=CONFIG))
    kept = {(row["context_id"], row["prompt_id"]): row for row in rows(run / "judge.jsonl")}
    assert {row["winner"] for key, row in kept.items() if "user000" in key[0]} == {"failed"}
    arena = open_arena(run, 0)
    while duel := arena.current:  # a voter of the same taste
        a, b = arena.answers(duel)
        arena.vote(duel.id, "1" if a > b else "2")
        row = kept[duel.context_id, duel.prompt_id]
        assert row["duel"] == duel.id
        assert arena.verdict(duel) == ("" if row["winner"] == "failed" else row["winner"])
    found = arena.summary().judge
    assert found and found.rate == 1.0
    assert found.n == sum(r["winner"] != "failed" and not r["same_answers"] for r in kept.values())
    assert 0 < found.n < len(arena.duels)
    summary = pipeline.report.report(run, resolve(flags=CONFIG))
    assert summary.metrics["judge/wins"].n == sum(
        row["winner"] != "failed" for row in kept.values()
    )
    assert "was judged by a model alone" in " ".join(summary.limits)
    assert "Duels won, by the judge" in (run / "report.html").read_text(encoding="utf-8")
    # verdicts on answers that have changed since do not count
    answers = rows(run / "answers.jsonl")
    for row in answers:
        row["adapter"] += " Indeed."
    (run / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    changed = open_arena(run, 0)
    assert all(changed.verdict(duel) == "" for duel in changed.duels)


def test_too_long_duels_are_counted_beside_those_that_fit(tmp_path: Path) -> None:
    lines = (SAMPLES_DIR / "contexts_heldout.jsonl").read_text().splitlines()[:6]
    users = [json.loads(line) for line in lines]
    users[0]["text"] += " I like tea." * 150
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(user) + "\n" for user in users))
    given = {
        "contexts": str(tmp_path / "c.jsonl"),
        "held_out_users": 0.0,
        "eval_prompts_per_context": 1,
        "prompts": str(SAMPLES_DIR / "prompts_heldout.jsonl"),
    }
    run = trained(tmp_path / "run")
    config = resolve(flags={**CONFIG, **given})
    found = pipeline.evaluate.evaluate(run, config).sections["judge"].details
    assert found["faults"][judge_prompts.TOO_LONG] == 2
    assert found["duels"] == 4


@pytest.mark.parametrize(
    ("flags", "kind", "message"),
    [
        ({"judge": "", "protocol": "paper"}, ConfigError, "--protocol paper has no use without"),
        ({"protocol": "paper", "objective": "prompt"}, ConfigError, "there are no users"),
        ({"judge": "./absent/judge/x"}, ModelError, "--judge: ./absent/judge/x: not a model"),
        ({"judge": "{folder}"}, ModelError, "--judge: .*no config.json"),
        ({"judge_max_tokens": 900}, ConfigError, "pass its window of 1024"),
        ({"judge": "owner/name", "offline": True}, ModelError, "--judge: .*--offline is set"),
    ],
)
def test_faults_are_told_before_anything_is_made(
    tmp_path: Path, flags: dict[str, Any], kind: type[MipoError], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"{folder}": tmp_path / "empty"}
    flags = {name: str(names.get(value, value)) if name == "judge" else value
             for name, value in flags.items()}  # fmt: skip
    run = tmp_path / "run"
    with pytest.raises(kind, match=message) as caught:
        pipeline.run.run(run, resolve(flags={"judge": "embedded", **flags}))
    assert caught.value.hint
    assert not run.exists()


def test_without_a_judge_there_is_no_study(tmp_path: Path) -> None:
    config = resolve()
    assert llm_judge.prepare(tmp_path, config, read_inputs(config.data)) is None


def test_kin_are_told_by_weights_and_by_architecture(tmp_path: Path) -> None:
    policy = load_model("embedded")
    assert llm_judge.kinship(policy, locate("embedded"), policy.fingerprint) == ("base", ())

    def of(kind: str) -> tuple[str, tuple[str, ...]]:
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        return llm_judge.kinship(policy, folder, "another")

    for kin in ("llama", "llama4", "llama4_text"):
        assert of(kin) == ("family", tuple(sorted({"llama", kin})))
    for other in ("qwen3", "gemma3_text", "mistral3", "nollama"):
        assert of(other) == ("", ())


def test_kin_are_warned_of() -> None:
    for kinship, kinds, words in (
        ("base", (), "own base model"),
        ("family", ("llama", "llama4"), "own family (llama, llama4)"),
    ):
        found, _ = findings([], [], setting(kinship=kinship, kinds=kinds))
        assert words in narrative.section(found, {}, {}).lines[0]


def test_another_judge_or_wording_is_another_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(flags=CONFIG)
    inputs = read_inputs(config.data)
    first = llm_judge.prepare(tmp_path, config, inputs)
    config = resolve(flags={**CONFIG, "protocol": "paper"})
    second = llm_judge.prepare(tmp_path, config, inputs)
    assert first and second
    assert load_model("embedded").fingerprint in first.digest
    digests = {first.digest, second.digest}
    monkeypatch.setattr(judge_prompts, "VERSION", 99)
    assert len(digests | {first.digest}) == 3
    assert first.generate.temperature == 0 and first.generate.max_tokens == 12
    assert math.isclose(config.generate.temperature, 1.0)
