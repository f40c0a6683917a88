"""Every option once: default, unit, range and help text.

The command line, TOML files and docs/cli.md are built from these dataclasses; nothing else declares
a default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mipo_mlx.config.data import DataConfig
from mipo_mlx.config.option import option


@dataclass(frozen=True)
class GenerateConfig:
    """Step 1: contexts x prompts -> preference pairs."""

    negatives: str = option(
        "random",
        "Rejected answers come from another user's context, from no context, from each in its "
        "share, from another prompt of the same user, or from the users nearest in the model's "
        "eyes.",
        choices=("random", "missing", "mixed", "prompt", "hard"),
    )
    num_negatives: int = option(1, "Different rejected answers for each chosen one.", low=1, high=8)
    missing_share: float = option(
        0.5, "With mixed negatives, the share from no context.", low=0.0, high=1.0
    )
    prompts_per_context: int = option(
        -1,
        "Prompts drawn for each context; 0 takes all, -1: 8, or all for a single user.",
        low=-1,
        high=1_000_000,
    )
    samples_per_prompt: int = option(
        1, "Answers sampled for each user and prompt, a pair each.", low=1, high=64
    )
    block_users: int = option(
        0,
        "Users of a block, among whom answers serve as each other's rejected ones; 0: 4, or one "
        "more than --num-negatives.",
        low=0,
        high=64,
    )
    block_prompts: int = option(
        0,
        "Prompts of a block, the same for its users; 0: as many as make a step of --batch-size.",
        low=0,
        high=4096,
    )
    context_template: str = option(
        "told",
        "How a context is put to the model: told, notes, about, bare (its text alone), or a text "
        "of your own with {context} in it.",
    )
    answer_style: str = option(
        "",
        "A sentence at the end of every open request, with and without context alike (such as "
        "'Answer in two or three sentences.').",
    )
    sampling: str = option(
        "",
        "A preset of temperature, top-p and min-p: paper is 0.1, 0.9 and off.",
        choices=("", "paper"),
    )
    temperature: float = option(1.0, "Sampling temperature; 0 is greedy.", low=0.0, high=5.0)
    top_p: float = option(1.0, "Nucleus of sampling; 1 is off.", low=0.01, high=1.0)
    min_p: float = option(
        0.1,
        "Leave out tokens less likely than this share of the likeliest; 0 is off.",
        low=0.0,
        high=1.0,
    )
    max_tokens: int = option(256, "Most new tokens an answer, in tokens.", low=1, high=100_000)
    drop_truncated: bool = option(
        False,
        "Leave out answers cut off at --max-tokens; else they are trained on without an end.",
    )
    generate_batch_size: int = option(
        0,
        "Answers sampled side by side, 0: as memory allows; never changes their text.",
        low=0,
        high=4096,
    )
    memory_limit: float = option(
        0.0,
        "GiB to use, for answers in the making and for training; 0 is 70% of what the device "
        "recommends.",
        low=0.0,
        high=100_000.0,
    )
    max_prompt_tokens: int = option(
        0,
        "Cut contexts from their old end until context and prompt take this many tokens; 0 is off.",
        low=0,
        high=10_000_000,
    )
    enable_thinking: bool = option(False, "Let models that can think do so before they answer.")
    keep_thinking: bool = option(False, "Keep <think> blocks in the answers that are trained on.")
    min_pmi: float = option(
        -1000.0,
        "Drop pairs with a smaller PMI, in nats, which opens blocks; -1000 is off.",
        low=-1000.0,
        high=1000.0,
    )
    length_ratio: float = option(
        0.0, "Pair no answers of which one is this many times longer; 0 is off.", low=0.0, high=1e3
    )
    same_language: bool = option(False, "Drop answers in another language than their prompt.")
    match_lengths: bool = option(
        False, "Drop pairs until chosen and rejected answers are equally long on average."
    )


@dataclass(frozen=True)
class TrainConfig:
    """Step 2: pairs -> LoRA adapter."""

    pairs: str = option(
        "", "Train on this preference JSONL (TRL's form) instead of generated pairs."
    )
    hold_facts: str = option(
        "",
        "File of strings, a line each, that must not be taught: sentences that state one are taken "
        "out of the chosen answers.",
    )
    adapter_path: str = option(
        "", "Go on from this adapter; with it, the model is the reference. Default: a fresh one."
    )
    loss: str = option(
        "sigmoid",
        "DPO's sigmoid; mipo: softmax over all rejected answers of a prompt; ipo; hinge; sft on "
        "chosen answers; infonce over prompts; sami.",
        choices=("sigmoid", "mipo", "ipo", "hinge", "sft", "infonce", "sami"),
    )
    beta: float = option(0.1, "DPO's beta.", low=1e-6, high=100.0)
    label_smoothing: float = option(
        0.0, "Of the sigmoid loss: chance that a pair is the wrong way round.", low=0.0, high=0.5
    )
    length_normalization: bool = option(
        False, "Take log-probs as means over tokens, not as sums, in losses of pairs."
    )
    nll_weight: float = option(
        0.0, "Add this times the chosen answer's mean negative log-prob.", low=0.0, high=1e6
    )
    infonce_temperature: float = option(
        100.0, "Temperature of the infonce loss.", low=1e-6, high=1e6
    )
    learning_rate: float = option(
        0.0,
        "Peak learning rate of AdamW; 0: by the model's size, 1e-4 as measured at 135M parameters, "
        "guesses above.",
        low=0.0,
        high=1.0,
    )
    epochs: int = option(1, "Passes over the pairs.", low=1, high=1000)
    max_steps: int = option(
        0, "Stop after this many optimizer steps; 0 is no limit.", low=0, high=1_000_000_000
    )
    batch_size: int = option(
        16,
        "Pairs a batch, which holds whole blocks: as many as it has room for, at least one.",
        low=1,
        high=4096,
    )
    gradient_accumulation_steps: int = option(
        1, "Batches an optimizer step; the mean is over their pairs.", low=1, high=4096
    )
    micro_batch_size: int = option(
        0,
        "Pairs forwarded at once; 0 chooses by memory and keeps those of a long context together.",
        low=0,
        high=4096,
    )
    gradient_checkpointing: bool = option(
        False,
        "Always make activations again in the backward pass, for less memory; without it, only "
        "where memory is short.",
    )
    prompt_piece: int = option(
        0,
        "Always forward prompts by themselves, this many tokens at a time, and again for the "
        "gradient; their activations are then never kept. 0: only where memory is short.",
        low=0,
        high=1_048_576,
    )
    compile: bool = option(
        True, "On a GPU, round lengths up and compile the step, for at most 16 shapes."
    )
    logits_memory: float = option(0.25, "Most GiB for logits at any time.", low=0.001, high=1000.0)
    warmup: float = option(0.03, "Share of steps with a rising rate.", low=0.0, high=1.0)
    schedule: str = option(
        "cosine", "Rate after warm-up.", choices=("cosine", "linear", "constant")
    )
    weight_decay: float = option(0.0, "AdamW's weight decay.", low=0.0, high=1.0)
    max_grad_norm: float = option(
        1.0, "Clip the gradient's norm to this; 0 is off.", low=0.0, high=1e6
    )
    lora_rank: int = option(8, "LoRA rank.", low=1, high=1024)
    lora_scale: float = option(
        20.0, "LoRA scale, a plain multiplier as in mlx-lm.", low=0.0, high=1e4
    )
    lora_layers: int = option(
        -1, "Blocks with LoRA, counted from the last; -1 is all.", low=-1, high=1000
    )
    lora_modules: str = option(
        "", "Linear layers with LoRA, comma-separated, such as q_proj,v_proj; default: all."
    )
    fine_tune_type: str = option(
        "lora", "LoRA, or weight-decomposed LoRA.", choices=("lora", "dora")
    )
    rslora: bool = option(
        False, "Divide --lora-scale by the square root of the rank (arXiv 2312.03732)."
    )
    validation: float = option(
        0.0, "Share of the users whose pairs validate instead of train.", low=0.0, high=0.9
    )
    eval_every: int = option(
        0, "Optimizer steps between validations; 0 is four times an epoch.", low=0, high=10**9
    )
    patience: int = option(
        0, "Stop after this many validations without a better loss; 0 never.", low=0, high=10**6
    )
    stop_saturated: bool = option(
        True, "Stop when over ten steps accuracy is above 0.99 and the loss below 0.05."
    )
    stop_diverged: bool = option(
        True,
        "Stop when over ten steps the loss is a quarter above that of the first step while the KL "
        "to the reference climbs.",
    )
    kl_budget: float = option(
        0.0,
        "Stop when over ten steps the mean KL to the reference passes this, in nats an answer; "
        "0 is off.",
        low=0.0,
        high=1e6,
    )
    report_to: str = option(
        "",
        "Show metrics elsewhere too: in TensorBoard's files in the run directory, or at Weights & "
        "Biases, which leaves this machine; default: metrics.jsonl alone.",
        choices=("", "tensorboard", "wandb"),
    )
    save_every: int = option(
        50, "Optimizer steps between saves that a stopped run goes on from.", low=1, high=10**9
    )


@dataclass(frozen=True)
class EvalConfig:
    """Step 3: base against adapter on held-out users."""

    eval_prompts_per_context: int = option(
        4, "Held-out prompts asked of each held-out user; 0 takes all.", low=0, high=1_000_000
    )
    eval_contexts: int = option(64, "Most held-out users; 0 takes all.", low=0, high=1_000_000)
    candidates: int = option(
        8, "Contexts an answer is scored against (M), its own included.", low=2, high=1024
    )
    resamples: int = option(
        10_000, "Bootstrap resamples of each interval.", low=100, high=1_000_000
    )
    allow_overlap: bool = option(
        False, "Evaluate on users and prompts that were trained on; the report says how many."
    )
    cad: str = option(
        "1",
        "Weights a of context-aware decoding, comma-separated: a control that needs no training; "
        "empty is off.",
    )
    tasks: str = option(
        "",
        "Problems to measure base and adapter on besides, as NAME=FILE,NAME=FILE: GSM8K, SVAMP, "
        "ARC or MMLU as published, a local file or on the hub.",
    )
    task_limit: int = option(
        200, "Problems drawn from each of --tasks; 0 takes all.", low=0, high=1_000_000
    )
    task_prompts: str = option(
        "ours",
        "How problems of --tasks are worded: our way or the paper's.",
        choices=("ours", "paper"),
    )
    task_max_tokens: int = option(
        512, "Most new tokens an answer to --tasks, which is greedy.", low=1, high=100_000
    )
    retention: bool = option(
        True,
        "Measure whether anything else became worse: answers without context, with irrelevant text "
        "and to unrelated requests; distance from the base, repetition, copying.",
    )
    retention_answers: int = option(
        32, "Most answers of each kind for --retention.", low=2, high=1_000_000
    )
    diversity_samples: int = option(
        4,
        "Answers to each of --diversity-prompts, to see how much they differ; 0 is off.",
        low=0,
        high=64,
    )
    diversity_prompts: int = option(
        16, "Held-out users and prompts with several answers each.", low=1, high=1_000_000
    )
    judge: str = option(
        "",
        "A model that judges the answers of base and adapter: a folder, a hub id or 'embedded'; "
        "best of another family than the model. Default: none.",
    )
    protocol: str = option(
        "pairwise",
        "How --judge is asked: which of two answers suits the user better, in both orders; or as "
        "in the paper, a score from 1 to 5 for each answer alone.",
        choices=("pairwise", "paper"),
    )
    judge_max_tokens: int = option(
        512, "Most new tokens an answer of --judge, which is greedy.", low=1, high=100_000
    )
    memorization: bool = option(
        True, "Measure what the adapter tells of training users where no context is given."
    )
    memorization_contexts: int = option(
        32,
        "Contexts of training users, and of held-out ones, that are scored from their middle on.",
        low=1,
        high=100_000,
    )
    memorization_samples: int = option(
        8, "Answers sampled to each question without a context.", low=1, high=1000
    )


@dataclass(frozen=True)
class RunConfig:
    """All options of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "generate": GenerateConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
}
