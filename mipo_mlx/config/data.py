"""Options of what a run reads; the others stand in ``options.py``."""

from __future__ import annotations

from dataclasses import dataclass

from mipo_mlx.config.option import option


@dataclass(frozen=True)
class DataConfig:
    """What the run reads."""

    model: str = option(
        "embedded", "Model folder, hub id, or 'embedded' for the tiny one in the package."
    )
    contexts: str = option(
        "",
        "Contexts: JSONL, JSON, CSV, a text file, a folder of notes or a public data set; "
        "default: the sample.",
    )
    prompts: str = option(
        "",
        "Prompts: JSONL, JSON, CSV or a text file, a line each; default: 200 everyday prompts with "
        "contexts of your own, else the sample.",
    )
    note_tokens: int = option(
        2048,
        "Longer notes of a single user are split at headings into contexts of this many tokens; "
        "0 never splits.",
        low=0,
        high=10_000_000,
    )
    objective: str = option(
        "context",
        "Raise I(response; context | prompt), or I(prompt; response).",
        choices=("context", "prompt"),
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=2**32 - 1)
    offline: bool = option(False, "Refuse the network, the model download included.")
    held_out_users: float = option(
        0.2, "Share of your users kept from training for eval.", low=0.0, high=0.9
    )
    held_out_prompts: float = option(
        0.2, "Share of your prompts kept from training for eval.", low=0.0, high=0.9
    )
    user_limit: int = option(
        0, "Most of your users that are read at all, a seeded draw; 0 takes all.", low=0, high=10**9
    )
    prompt_limit: int = option(
        0,
        "Most of your prompts that are read at all, a seeded draw, but for those that belong to "
        "one user; 0 takes all.",
        low=0,
        high=10**9,
    )
    problem_prompts: str = option(
        "ours",
        "How problems of a public data set among --prompts are worded: our way or the paper's.",
        choices=("ours", "paper"),
    )
    canaries: int = option(
        0,
        "Invented secrets planted in the contexts of training users, a sentence each; eval tells "
        "whether the adapter gives them away.",
        low=0,
        high=3000,
    )
