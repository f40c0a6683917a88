"""Order, sides, votes kept, undo, and what the votes say."""

from __future__ import annotations

import csv
import io
import json
import stat
from dataclasses import asdict
from pathlib import Path

import pytest
import scipy.stats

from arena_runs import better, make_run, row, write_rows
from mipo_mlx import pipeline
from mipo_mlx.config import resolve
from mipo_mlx.errors import ConfigError, DataError, MipoError
from mipo_mlx.evaluation.human_votes import Arena, open_arena
from mipo_mlx.tiny import SAMPLES_DIR
from samples import QUIET


def rows(count: int) -> list[dict[str, str]]:
    return [row(number) for number in range(count)]


def vote_all(arena: Arena, start: str = "Tuned") -> None:
    while duel := arena.current:
        arena.vote(duel.id, better(arena.answers(duel), start))


def ids(arena: Arena) -> list[str]:
    return [duel.prompt_id for duel in arena.duels]


def test_order_and_sides_are_drawn_by_the_seed_each_duel_for_itself(tmp_path: Path) -> None:
    few = open_arena(make_run(tmp_path / "few", rows(150)), 0)
    many = open_arena(make_run(tmp_path / "many", reversed(rows(300))), 0)
    other = open_arena(tmp_path / "many", 1)
    assert sorted(ids(many)) == sorted(ids(other)) == sorted(f"prompt-{n}" for n in range(300))
    assert ids(many) != ids(other)
    assert [name for name in ids(many) if name in set(ids(few))] == ids(few)
    sides = {duel.id: many.first(duel) for duel in many.duels}
    assert all(sides[duel.id] == few.first(duel) for duel in few.duels)
    for arena in (many, other):
        count = sum(arena.first(duel) == "base" for duel in arena.duels)
        assert scipy.stats.binomtest(count, 300).pvalue > 1e-3
    assert any(sides[duel.id] != other.first(duel) for duel in other.duels)
    places = [ids(many).index(f"prompt-{n}") for n in range(300)]
    assert abs(scipy.stats.spearmanr(range(300), places).statistic) < 0.2


@pytest.mark.parametrize(("start", "winner"), [("Tuned", "adapter"), ("Plain", "base")])
def test_a_voter_who_always_likes_one_model_is_seen_through_the_sides(
    tmp_path: Path, start: str, winner: str
) -> None:
    arena = open_arena(make_run(tmp_path / "run", rows(40)), 0)
    vote_all(arena, start)
    found = asdict(arena.summary())
    assert {vote.winner for vote in arena.votes.values()} == {winner}
    assert found["win_rate"]["rate"] == float(winner == "adapter")
    # nothing varies, so each of the three users counts as one vote
    low, high = scipy.stats.binomtest(3 * (winner == "adapter"), 3).proportion_ci(method="wilson")
    assert found["win_rate"]["ci95"] == pytest.approx((low, high))
    assert 5 < found["sides"]["first"] < 35


def test_figures_of_a_handful_of_votes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [*rows(10), row(10, adapter=" Plain words 10.\n")])
    said = ["adapter"] * 5 + ["tie"] * 3 + ["base"] * 2
    judged = ["adapter", "base"] * 5
    arena = open_arena(run, 0)
    names = {f"prompt-{n}": winner for n, winner in enumerate(said)}
    verdicts = [
        {"context_id": f"user-{n % 3}", "prompt_id": f"prompt-{n}", "winner": winner}
        for n, winner in enumerate(judged)
    ]
    write_rows(run / "judge.jsonl", verdicts[:8])
    arena = open_arena(run, 0)
    while duel := arena.current:
        winner = names[duel.prompt_id]
        choice = {"tie": "0", arena.first(duel): "1"}.get(winner, "2")
        arena.vote(duel.id, choice)
    found = asdict(arena.summary())
    assert [found[name] for name in ("wins", "ties", "losses")] == [5, 3, 2]
    assert (found["votes"], found["of"], found["same_answers"], found["users"]) == (10, 10, 1, 3)
    assert found["win_rate"]["rate"] == pytest.approx(0.65)
    assert found["win_rate_without_ties"]["rate"] == pytest.approx(5 / 7)
    assert found["win_rate_without_ties"]["n"] == 7
    low, high = found["win_rate"]["ci95"]
    assert low < 0.65 < high and high - low > 0.3
    firsts = sum(
        vote.winner == arena.first(vote.duel)
        for vote in arena.votes.values()
        if vote.winner != "tie"
    )
    assert found["sides"] == {
        "first": firsts,
        "second": 7 - firsts,
        "p": pytest.approx(scipy.stats.binomtest(firsts, 7).pvalue),
    }
    # prompts 0 to 7: equal where both say adapter, 0, 2 and 4; by chance 5/8 * 4/8
    assert found["judge"]["rate"] == pytest.approx(3 / 8)
    assert found["judge"]["kappa"] == pytest.approx((3 / 8 - 5 / 16) / (1 - 5 / 16))


def test_undo_takes_back_the_last_vote_once_and_a_double_click_votes_once(tmp_path: Path) -> None:
    arena = open_arena(make_run(tmp_path / "run", rows(4)), 0)
    first, second = arena.duels[:2]
    arena.vote(first.id, "1")
    arena.vote(first.id, "2")
    assert len(arena.votes) == 1 and arena.votes[first.id].winner == arena.first(first)
    arena.vote(second.id, "0")
    arena.undo(first.id)  # not the last one
    assert list(arena.votes) == [first.id, second.id]
    arena.undo(second.id)
    arena.undo(second.id)
    assert list(arena.votes) == [first.id] and arena.current == second
    arena.undo(first.id)
    assert arena.last is None and arena.current == first
    for duel, choice in (("absent", "1"), (first.id, "3"), (first.id, "")):
        with pytest.raises(ValueError, match="no such"):
            arena.vote(duel, choice)
    assert open_arena(tmp_path / "run", 0).votes == {}


def test_votes_outlive_the_process_a_cut_line_and_another_eval(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows(6))
    arena = open_arena(run, 0)
    for _ in range(4):
        assert arena.current
        arena.vote(arena.current.id, better(arena.answers(arena.current)))
    arena.undo(list(arena.votes)[-1])
    again = open_arena(run, 0)
    assert again.votes == arena.votes and again.current == arena.current
    assert stat.S_IMODE((run / "votes.jsonl").stat().st_mode) == 0o600
    assert open_arena(run, 7).votes == arena.votes  # other sides, the same winners

    with (run / "votes.jsonl").open("a") as file:
        file.write('{"duel": "cut sh')
    assert open_arena(run, 0).votes == arena.votes

    lost = arena.duels[0]
    changed = [
        row(number, adapter="Other words.") if f"prompt-{number}" == lost.prompt_id else row(number)
        for number in range(6)
    ]
    after = open_arena(make_run(run, changed), 0)
    assert set(after.votes) == set(arena.votes) - {lost.id}
    assert open_arena(make_run(run, rows(6)), 0).votes == arena.votes

    lines = (run / "votes.jsonl").read_text().splitlines()
    lines[1] = lines[1].replace("adapter", "base")
    (run / "votes.jsonl").write_text("\n".join(lines) + "\n")
    kept = open_arena(run, 0).votes  # but for the forged one
    assert len(kept) == len(arena.votes) - 1 and kept.items() <= arena.votes.items()
    assert '"base"' in (run / "votes.jsonl.unreadable").read_text()


def test_an_export_holds_ids_and_winners_and_no_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row(n, context_id=f'a "{n}", b') for n in range(5)])
    arena = open_arena(run, 0)
    vote_all(arena)
    lines = [json.loads(line) for line in arena.export("jsonl").splitlines()]
    table = list(csv.DictReader(io.StringIO(arena.export("csv"), newline="")))
    assert lines == table
    assert [line["prompt_id"] for line in lines] == ids(arena)
    for line, duel in zip(lines, arena.duels, strict=True):
        assert line == {
            "context_id": duel.context_id,
            "prompt_id": duel.prompt_id,
            "first": arena.first(duel),
            "winner": "adapter",
            "judge": "",
        }
    for format in ("jsonl", "csv"):
        for text in ("words", "Question", "town"):
            assert text not in arena.export(format)
    assert "words" not in (run / "votes.jsonl").read_text()


def test_without_context_the_prompt_is_the_unit(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row(n, context_id="", user="", context="") for n in range(5)])
    arena = open_arena(run, 0)
    vote_all(arena)
    assert arena.summary().users == 5


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ("no eval", ConfigError, r"eval\.json: nothing to compare.*\n.*run 'mipo eval"),
        ("no answers", ConfigError, r"answers\.jsonl: eval kept no answers"),
        ("empty", ConfigError, r"answers\.jsonl: eval kept no answers"),
        ("same", ConfigError, r"the same answers to all 2 prompts"),
        ("missing", DataError, r"answers\.jsonl:2: 'adapter' must be a string, and is missing"),
        ("number", DataError, r"answers\.jsonl:1: 'base' must be a string, not a number"),
        ("broken", DataError, r"answers\.jsonl:1: not valid JSON"),
        ("twice", DataError, r"answers\.jsonl:2: id '\w{16}' stands on line 1 too"),
        ("judge", DataError, r"judge\.jsonl:1: 'winner' must be base, adapter or tie"),
    ],
)
def test_faults_are_told_with_their_place_and_leave_no_votes(
    tmp_path: Path, change: str, kind: type[MipoError], message: str
) -> None:
    run = make_run(tmp_path / "run", rows(2))
    path = run / "answers.jsonl"
    if change == "no eval":
        (run / "eval.json").unlink()
    elif change == "no answers":
        path.unlink()
    elif change == "judge":
        verdict = {"context_id": "user-0", "prompt_id": "prompt-0", "winner": "both"}
        write_rows(run / "judge.jsonl", [verdict])
    else:
        short = {name: value for name, value in row(1).items() if name != "adapter"}
        content: dict[str, list[object]] = {
            "empty": [],
            "same": [row(0, adapter="Plain words 0."), row(1, adapter="Plain words 1.")],
            "missing": [row(0), short],
            "number": [{**row(0), "base": 3}],
            "broken": [],
            "twice": [row(0), row(0)],
        }
        write_rows(path, content[change])
        if change == "broken":
            path.write_text("{'a': 1}\n")
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        open_arena(run, 0)
    assert caught.value.hint
    assert not (run / "votes.jsonl").exists()


def test_eval_keeps_both_answers_to_everything_it_asked(tmp_path: Path) -> None:
    options: dict[str, object] = {"prompts_per_context": 1, "max_steps": 2, "resamples": 100}
    options |= QUIET
    for kind in ("contexts", "prompts"):
        lines = (SAMPLES_DIR / f"{kind}_train.jsonl").read_text().splitlines()[:10]
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(lines))
        options[kind] = str(tmp_path / f"{kind}.jsonl")
    config = resolve(flags={**options, "learning_rate": 0.01})
    run = tmp_path / "run"
    summary = pipeline.run.run(run, config).to_json()
    found = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    given = {
        kind: {
            each["id"]: each["text"]
            for each in map(json.loads, (tmp_path / f"{kind}.jsonl").read_text().splitlines())
        }
        for kind in ("contexts", "prompts")
    }
    assert len(found) == summary["answers"] == 4
    assert len({(each["context_id"], each["prompt_id"]) for each in found}) == 4
    for each in found:
        assert each["context"] == given["contexts"][each["context_id"]]
        assert each["prompt"] == given["prompts"][each["prompt_id"]]
    assert sum(each["base"] != each["adapter"] for each in found) == summary["changed"] > 0
    for example in summary["examples"]:
        names = ("context_id", "prompt", "base", "adapter")
        assert [example[n] for n in names] in [[each[n] for n in names] for each in found]
    before = (run / "answers.jsonl").read_bytes()
    (run / "answers.jsonl").unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["steps"]["eval"]["outputs"]["answers.jsonl"]  # a run of before there was an arena
    (run / "manifest.json").write_text(json.dumps(manifest))
    pipeline.evaluate.evaluate(run, config)
    assert (run / "answers.jsonl").read_bytes() == before
    assert open_arena(run, 0).summary().of == summary["changed"]
