"""Hard negatives: for each user, the others whose contexts the model tells apart least.

Each user answers a few prompts; each answer is scored under the contexts of some candidates. The
smaller the PMI of the answer against a candidate's context, the nearer the candidate. Candidates
are a seeded draw, so the cost grows with the users, not with their square.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mipo_mlx.config import GenerateConfig
from mipo_mlx.generation.answers import AnswerJournal, Ask, encode, sample
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.reference import group_of
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.types import Context, Progress, Prompt

PROBES = 2  # prompts that each user answers
CANDIDATES = 16  # others that each is compared with


def candidates(
    contexts: Sequence[Context], foils: Sequence[Context], count: int, seed: int
) -> dict[str, list[Context]]:
    """By id, contexts of others, a context a user, of the same language and with other texts.

    At least ``count`` of them, or all there are; ``foils`` are candidates, and have none.
    """
    found = {}
    for user in contexts:
        rng = random.Random(f"{seed}:{user.id}:candidates")
        peers = {c.text: c for c in [*contexts, *foils] if c.language == user.language}
        peers.pop(user.text, None)
        others = list({c.owner: c for c in peers.values() if c.owner != user.owner}.values())
        found[user.id] = rng.sample(others, min(max(count, CANDIDATES), len(others)))
    return found


def nearest_users(
    lm: LanguageModel,
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    config: GenerateConfig,
    *,
    seed: int,
    on_progress: Progress,
    journal: AnswerJournal | None = None,
    foils: Sequence[Context] = (),
) -> dict[str, list[str]]:
    """By id of a user, ids of the candidates, the nearest first.

    Args:
        lm: the base model.
        contexts: users, at least two with different texts.
        prompts: ``PROBES`` of them are asked of every user.
        config: of sampling.
        seed: of prompts, candidates and answers.
        on_progress: told of every answer and score.
        journal: keeps the answers, which serve the pairs as well.
        foils: further candidates, who answer nothing.
    """
    rng = random.Random(f"{seed}:probes")
    asked = rng.sample(list(prompts), min(PROBES, len(prompts)))
    wanted = [Ask(user, prompt) for user in contexts for prompt in asked]
    stage = "probe users"
    answers = sample(lm, wanted, config, seed, on_progress, stage, journal)
    others = candidates(contexts, foils, config.num_negatives, seed)
    everybody = [*contexts, *foils]
    readers: dict[str, list[Context]] = {user.id: [] for user in everybody}
    for user in contexts:  # who reads whose answers
        for other in others[user.id]:
            readers[other.id].append(user)
    rows, owners = [], []
    for reader in everybody:
        for prompt in asked:
            writers = [w for w in readers[reader.id] if answers[Ask(w, prompt).key].token_ids]
            if writers:
                said = tuple(answers[Ask(writer, prompt).key].token_ids for writer in writers)
                rows.append(Row(encode(lm, reader, prompt, config), said, group_of(reader.id)))
                owners.append((reader, writers))
    likely: dict[tuple[str, str], float] = {}
    stage = "compare users"
    on_progress(stage, 0, len(rows))
    for done, (values, (reader, writers)) in enumerate(
        zip(score(lm, rows), owners, strict=True), 1
    ):
        for writer, value in zip(writers, values, strict=True):
            pair = (writer.id, reader.id)
            likely[pair] = likely.get(pair, 0.0) + value
        on_progress(stage, done, len(rows))
    return {
        user.id: [
            other.id
            for other in sorted(others[user.id], key=lambda o: (-likely[user.id, o.id], o.id))
        ]
        for user in contexts
    }
