"""Diversity within a request: by hand, and what eval keeps against sacrebleu and plain counting."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from mipo_mlx import pipeline
from mipo_mlx.config import resolve
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation import diversity
from mipo_mlx.evaluation.responses import Part
from mipo_mlx.generation.answers import Ask
from mipo_mlx.reporting import narrative
from mipo_mlx.results import SIDES
from mipo_mlx.types import Prompt, Response
from samples import head


def test_equal_and_quite_different_answers() -> None:
    same = diversity.within(["Cook some rice.", "cook  some rice!", "Cook some rice."])
    assert same["distinct_1"] == pytest.approx(1 / 3)
    assert same["distinct_2"] == pytest.approx(1 / 3)
    assert same["different"] == pytest.approx(2 / 3)  # marks count, case and spaces do not
    same = diversity.within(["Cook some rice."] * 3)
    assert same["vendi"] == pytest.approx(1)
    assert same["self_bleu4"] == pytest.approx(100)
    other = diversity.within(["ab cd", "efg hij", "klm"])
    assert other["vendi"] == pytest.approx(3)
    assert other["distinct_1"] == other["different"] == 1
    assert other["self_bleu4"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(diversity.within(["one", "two"])["distinct_2"])


def test_answers_to_one_request_stand_side_by_side() -> None:
    texts = ["a b", "a b", "c d", "e f"]
    answers = [Response(text, (1,), "stop") for text in texts]
    asks = [Ask(None, Prompt(str(n // 2), "?"), n % 2) for n in range(4)]
    found = diversity.columns_of(Part("", "", asks, {"base": answers}), "base", 2)
    assert found["different"].tolist() == [0.5, 1]
    assert found["vendi"] == pytest.approx([1, 2])


def test_greedy_answers_are_not_measured_and_one_is_refused(tmp_path: Path) -> None:
    greedy = diversity.prepare(tmp_path, resolve(flags={"temperature": 0.0}), None)  # type: ignore[arg-type]
    assert greedy is not None
    found = greedy.measure(SimpleNamespace())  # type: ignore[arg-type]
    assert found.metrics == {}
    section = narrative.section(found.findings, found.metrics, found.details)
    assert len(section.lines) == 1 and "Answers are greedy" in section.lines[0]
    assert diversity.prepare(tmp_path, resolve(flags={"diversity_samples": 0}), None) is None  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--diversity-samples: one answer") as caught:
        pipeline.run.run(tmp_path / "run", resolve(flags={"diversity_samples": 1}))
    assert "0 to leave" in caught.value.hint
    assert not (tmp_path / "run").exists()


def trigrams(text: str) -> Counter[str]:
    plain = " ".join(text.casefold().split())
    return Counter(plain[at : at + 3] for at in range(len(plain) - 2))


def vendi_of(texts: list[str]) -> float:
    counts = [trigrams(text) for text in texts]
    cosine = [
        [
            sum(one[g] * other[g] for g in one)
            / math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))
            for other in counts
        ]
        for one in counts
    ]
    shares = np.linalg.eigvals(np.array(cosine)).real / len(texts)
    return math.exp(-sum(share * math.log(share) for share in shares if share > 1e-9))


def test_eval_measures_what_a_recount_of_its_answers_gives(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        **{"max_steps": 2, "learning_rate": 3e-3, "resamples": 100, "eval_contexts": 8},
        **{"candidates": 4, "prompts_per_context": 1, "eval_prompts_per_context": 2},
        **{"diversity_samples": 3, "diversity_prompts": 10, "retention": False, "cad": ""},
        "memorization": False,
        "contexts": head("contexts_heldout.jsonl", 40, tmp_path),
        "prompts": head("prompts_heldout.jsonl", 12, tmp_path),
    }
    run, config = tmp_path / "run", resolve(flags=given)
    report = pipeline.run.run(run, config).to_json()
    rows = [json.loads(line) for line in (run / "diversity.jsonl").read_text().splitlines()]
    groups = [list(some) for _, some in itertools.groupby(
        rows, key=lambda row: (row["context_id"], row["prompt_id"])
    )]  # fmt: skip
    assert [len(some) for some in groups] == [3] * 10
    assert len({some[0]["context_id"] for some in groups}) == 8
    own = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    first = {(row["context_id"], row["prompt_id"]): row for row in own}
    bleu = BLEU(effective_order=True)
    for side in SIDES:
        texts = [[row[side] for row in some] for some in groups]
        for some in groups:  # the first sample is the answer that eval judged
            asked = some[0]["context_id"], some[0]["prompt_id"]
            assert some[0][side] == first[asked][side]
        expected = {
            "self_bleu4": np.mean([
                bleu.sentence_score(some[n], [*some[:n], *some[n + 1 :]]).score
                for some in texts
                for n in range(3)
            ]),
            "vendi": np.mean([vendi_of(some) for some in texts]),
            "different": np.mean([len({t.casefold() for t in some}) / 3 for some in texts]),
        }  # fmt: skip
        for name, value in expected.items():
            assert report["metrics"][f"diversity/within/{name}"][side] == pytest.approx(value)
    section = report["sections"]["diversity"]
    assert "3 answers of each model" in section["about"]
    assert "falls by itself as answers grow specific" in section["about"]
    assert (report["metrics"]["diversity/within/vendi"]["n"]) == 10
