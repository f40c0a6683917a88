"""What a run reads, split into what it trains on and what it is judged on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mipo_mlx import tiny
from mipo_mlx.config import DataConfig
from mipo_mlx.data import builtin
from mipo_mlx.data.canaries import Canaries, draw, plant
from mipo_mlx.data.chunking import split_notes
from mipo_mlx.data.hub import local_file
from mipo_mlx.data.readers import read_contexts, read_prompts
from mipo_mlx.data.split import alike, overlap, split
from mipo_mlx.errors import DataError
from mipo_mlx.models.load import load_tokenizer
from mipo_mlx.types import Context, Prompt

FEWEST_USERS_TO_SPLIT = 5
T = TypeVar("T", Context, Prompt)
EVAL_FOILS = 0.25  # of the package's invented users are for eval alone


@dataclass(frozen=True)
class Inputs:
    """Contexts and prompts for training and for eval.

    Attributes:
        train_contexts: users whose pairs are made.
        held_contexts: users of eval.
        foils: invented users of the package whose contexts are the wrong ones of training, where
            fewer than two users are given.
        eval_foils: likewise in eval; others than in training.
        train_prompts: prompts of pairs.
        held_prompts: prompts of eval.
        held_out: what is kept from training: "users and prompts", "prompts" or "nothing".
        digest: sha256 over all texts.
        canaries: what is planted in ``train_contexts``, and its controls.
    """

    train_contexts: list[Context]
    held_contexts: list[Context]
    foils: list[Context]
    eval_foils: list[Context]
    train_prompts: list[Prompt]
    held_prompts: list[Prompt]
    held_out: str
    digest: str
    canaries: Canaries = field(default_factory=Canaries)


def _digest(*groups: Sequence[Context] | Sequence[Prompt]) -> str:
    sha = hashlib.sha256()
    for group in groups:
        for item in group:
            ties = [item.language, item.user] if isinstance(item, Context) else [item.context_id]
            sha.update("\x1f".join([item.id, item.text, *ties, "\x1e"]).encode())
        sha.update(b"\x1d")
    return sha.hexdigest()


def _contexts(config: DataConfig) -> tuple[list[Context], list[Context], bool]:
    if config.objective == "prompt":
        return [], [], True
    if not config.contexts:
        return (
            read_contexts(tiny.SAMPLES_DIR / "contexts_train.jsonl"),
            read_contexts(tiny.SAMPLES_DIR / "contexts_heldout.jsonl"),
            True,
        )
    found = read_contexts(local_file(config.contexts, offline=config.offline))
    users = found
    if len(found) == 1 and config.note_tokens:
        tokenizer, _ = load_tokenizer(config.model, offline=config.offline)
        users = in_parts(found, config.note_tokens, tokenizer)
    users = _drawn(users, [user.owner for user in users], config.user_limit, config.seed)
    owners = {user.owner: user.owner for user in users}
    if len(owners) < FEWEST_USERS_TO_SPLIT or not config.held_out_users:
        return users, users, False
    group = alike((user.owner, user.text) for user in users)
    owners = {name: name for name in owners if group[name] == name}
    if len(owners) < 2:
        return users, users, False
    held = set(split(owners, config.held_out_users, config.seed)[1])
    return (
        [user for user in users if group[user.owner] not in held],
        [user for user in users if group[user.owner] in held],
        True,
    )


def _drawn(items: list[T], names: Sequence[str], limit: int, seed: int) -> list[T]:
    """Items of so many names (0: all), a seeded draw, in their order."""
    different = sorted(set(names))
    if not 0 < limit < len(different):
        return items
    kept = set(random.Random(f"{seed}:limit").sample(different, limit))
    return [item for item, name in zip(items, names, strict=True) if name in kept]


def in_parts(users: list[Context], note_tokens: int, tokenizer: Any) -> list[Context]:
    """The notes of one user, if they are long, as several contexts of that user; others whole."""
    if len(users) != 1:
        return users

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    return split_notes(users[0], note_tokens, count)


def _foils(
    train_users: Sequence[Context], held_users: Sequence[Context], config: DataConfig
) -> tuple[list[Context], list[Context]]:
    """Invented users for training and, others, for eval: each where it has fewer than two users.

    They count as speaking the language of the given one.
    """
    if config.objective == "prompt":
        return [], []
    halves = split(
        {foil.id: foil for foil in read_contexts(builtin.FOILS)}, EVAL_FOILS, config.seed
    )
    made = []
    for users, half in zip((train_users, held_users), halves, strict=True):
        alone = len({user.owner for user in users}) < 2
        language = users[0].language if users else ""
        made.append([replace(foil, language=language) for foil in half] if alone else [])
    return made[0], made[1]


def _owned(prompts: Sequence[Prompt], users: Sequence[Context]) -> list[Prompt]:
    """Prompts of these users, and those of nobody in particular."""
    known = {name for user in users for name in (user.id, user.owner)}
    return [prompt for prompt in prompts if not prompt.context_id or prompt.context_id in known]


def _unseen(held: list[Prompt], trained: Sequence[Prompt]) -> list[Prompt]:
    """Held-out prompts but for those whose text another user's have in training: a greeting, say.

    All of them where none would be left: then they are not held out.
    """
    seen = set(_shared(held, trained))
    return [prompt for place, prompt in enumerate(held) if place not in seen] or held


def _shared(
    held: Sequence[Context] | Sequence[Prompt], trained: Sequence[Context] | Sequence[Prompt]
) -> list[int]:
    """Places of held-out items with a text of training."""
    return overlap([item.text for item in held], (item.text for item in trained))


def _check_owners(prompts: Sequence[Prompt], users: Sequence[Context]) -> None:
    known = {name for user in users for name in (user.id, user.owner)}
    for prompt in prompts:
        if prompt.context_id and prompt.context_id not in known:
            raise DataError(
                f"{prompt.source}: prompt {prompt.id!r} belongs to context {prompt.context_id!r}, "
                "which is not there.",
                "give the contexts and prompts of one data set, or leave 'context_id' out",
            )


def _prompts(config: DataConfig) -> tuple[list[Prompt], list[Prompt]]:
    if config.prompts:
        path = local_file(config.prompts, offline=config.offline)
        prompts = read_prompts(path, config.problem_prompts)
    elif config.contexts:
        prompts = read_prompts(builtin.PROMPTS)
    else:
        name = "prompts" if config.objective == "context" else "problems"
        return (
            read_prompts(tiny.SAMPLES_DIR / f"{name}_train.jsonl"),
            read_prompts(tiny.SAMPLES_DIR / f"{name}_heldout.jsonl"),
        )
    owned = [prompt for prompt in prompts if prompt.context_id]  # they go with their users
    shared = [prompt for prompt in prompts if not prompt.context_id]
    shared = _drawn(shared, [prompt.id for prompt in shared], config.prompt_limit, config.seed)
    free = {prompt.id: prompt for prompt in shared}
    prompts = [prompt for prompt in prompts if prompt.context_id or prompt.id in free]
    group = alike((prompt.id, prompt.text) for prompt in free.values())
    single = {name: name for name in free if group[name] == name}
    if len(single) < 2 or not config.held_out_prompts:
        return prompts, prompts
    held = set(split(single, config.held_out_prompts, config.seed)[1])
    return (
        [prompt for prompt in free.values() if group[prompt.id] not in held] + owned,
        [prompt for prompt in free.values() if group[prompt.id] in held] + owned,
    )


def read_inputs(config: DataConfig) -> Inputs:
    """Read and split all inputs of a run.

    Raises:
        DataError: a file cannot be used; the message names file, line and fault.
    """
    for name, given in (("contexts", config.contexts), ("canaries", config.canaries)):
        if config.objective == "prompt" and given:
            raise DataError(
                f"--{name} has no use with --objective prompt.",
                f"leave --{name} out, or take --objective context",
            )
    train_users, held_users, users_held = _contexts(config)
    train_prompts, held_prompts = _prompts(config)
    if config.objective == "context":
        if not config.user_limit:  # else prompts of users who were not drawn are no fault
            _check_owners(train_prompts + held_prompts, train_users + held_users)
        train_prompts = _owned(train_prompts, train_users)
        held_prompts = _owned(held_prompts, held_users)
    held_prompts = _unseen(held_prompts, train_prompts)
    canaries = draw(train_users, config.canaries, config.seed)
    train_users = plant(train_users, canaries.planted)
    if not users_held:  # the same people, who are asked as they were trained on
        held_users = plant(held_users, canaries.planted)
    foils, eval_foils = _foils(train_users, held_users, config)
    parts = [
        *(["users"] if users_held and config.objective == "context" else []),
        *(["prompts"] if not _shared(held_prompts, train_prompts) else []),
    ]
    return Inputs(
        train_contexts=train_users,
        held_contexts=held_users,
        foils=foils,
        eval_foils=eval_foils,
        train_prompts=train_prompts,
        held_prompts=held_prompts,
        held_out=" and ".join(parts) or "nothing",
        digest=_digest(train_users, held_users, foils, train_prompts, held_prompts),
        canaries=canaries,
    )
