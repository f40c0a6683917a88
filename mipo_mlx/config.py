"""Every option once: default, unit, range and help text. TOML in and out.

Precedence: defaults < the embedded model's preset < TOML file < ``--set`` and flags.
The command line is built from these dataclasses; nothing else declares a default.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from mipo_mlx.errors import ConfigError


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Declare one option with its default, help text and allowed values (bounds inclusive)."""
    return field(
        default=default,
        metadata={"help": help, "choices": choices, "low": low, "high": high},
    )


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
    temperature: float = option(1.0, "Sampling temperature; 0 is greedy.", low=0.0, high=5.0)
    top_p: float = option(1.0, "Nucleus of sampling; 1 is off.", low=0.01, high=1.0)
    max_tokens: int = option(256, "Most new tokens an answer, in tokens.", low=1, high=100_000)
    generate_batch_size: int = option(
        0,
        "Answers sampled side by side, 0: as memory allows; never changes their text.",
        low=0,
        high=4096,
    )
    memory_limit: float = option(
        0.0,
        "GiB for answers in the making; 0 is 70% of what the device recommends.",
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
        -1000.0, "Drop pairs with a smaller PMI, in nats; -1000 is off.", low=-1000.0, high=1000.0
    )
    length_ratio: float = option(
        0.0, "Drop pairs with one answer this many times longer; 0 is off.", low=0.0, high=1000.0
    )
    same_language: bool = option(
        False, "Drop pairs with an answer in another language than its prompt."
    )
    match_lengths: bool = option(
        False, "Drop pairs until chosen and rejected answers are equally long on average."
    )


@dataclass(frozen=True)
class TrainConfig:
    """Step 2: pairs -> LoRA adapter."""

    pairs: str = option(
        "", "Train on this preference JSONL (TRL's form) instead of generated pairs."
    )
    beta: float = option(0.1, "DPO's beta.", low=1e-6, high=100.0)
    learning_rate: float = option(1e-5, "Peak learning rate of AdamW.", low=0.0, high=1.0)
    epochs: int = option(1, "Passes over the pairs.", low=1, high=1000)
    max_steps: int = option(
        0, "Stop after this many optimizer steps; 0 is no limit.", low=0, high=1_000_000_000
    )
    batch_size: int = option(4, "Pairs an optimizer step.", low=1, high=4096)
    warmup: float = option(0.03, "Share of steps with a rising rate.", low=0.0, high=1.0)
    schedule: str = option("cosine", "Rate after warm-up.", choices=("cosine", "constant"))
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

# What suits the embedded 1M model; a default layer of its own, below TOML and flags.
EMBEDDED_PRESET: dict[str, Any] = {
    "max_tokens": 48,
    "min_pmi": 0.5,
    "beta": 1.0,
    "learning_rate": 3e-4,
    "batch_size": 16,
    "epochs": 2,
}

# Missing-context negatives reward any fact at all, and soon break copying: a gentler layer then.
EMBEDDED_MISSING: dict[str, Any] = {"learning_rate": 2e-5, "epochs": 1}


def options() -> dict[str, tuple[str, dataclasses.Field[Any], type[Any]]]:
    """All options by name: ``name -> (section, field, type)``. Names are unique across sections."""
    table = {}
    for section, cls in SECTIONS.items():
        hints = get_type_hints(cls)
        for item in dataclasses.fields(cls):
            table[item.name] = (section, item, hints[item.name])
    return table


def _checked(name: str, value: Any, source: str) -> Any:
    """Value of the declared type and range, or a ConfigError that names its source."""
    _, item, kind = options()[name]
    meta = item.metadata
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{source}: {name} must be {kind.__name__}, not {value!r}.", meta["help"])
    if meta["choices"] and value not in meta["choices"]:
        raise ConfigError(
            f"{source}: {name} must be one of {', '.join(meta['choices'])}, not {value!r}.",
            meta["help"],
        )
    low, high = meta["low"], meta["high"]
    if low is not None and not low <= value <= high:
        raise ConfigError(
            f"{source}: {name} must be in {low:g} to {high:g}, not {value}.", meta["help"]
        )
    return value


def _known(name: str, source: str) -> str:
    table = options()
    if name in table:
        return name
    close = difflib.get_close_matches(name, list(table), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"options: {', '.join(sorted(table))}"
    raise ConfigError(f"{source}: unknown option {name!r}.", hint)


def read_toml(path: Path) -> dict[str, Any]:
    """Options of a TOML file, flat or under ``[data] [generate] [train] [eval]``.

    Raises:
        ConfigError: the file is missing, is no TOML, or holds an unknown or ill-typed option;
            all faults of the file are told at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).", "check -c") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.", "see docs/cli.md") from error
    flat: dict[str, Any] = {}
    faults: list[ConfigError] = []
    for key, value in raw.items():
        items = value.items() if key in SECTIONS and isinstance(value, dict) else [(key, value)]
        for name, item in items:
            where = f"{path}:{_line_of(text, name)}"
            try:
                known = _known(name, where)
                flat[known] = _checked(known, item, where)
            except ConfigError as error:
                faults.append(error)
    if faults:
        raise ConfigError(
            "\n".join(fault.message for fault in faults), "; ".join(fault.hint for fault in faults)
        )
    return flat


def _line_of(text: str, name: str) -> int:
    """Line (from 1) on which a key stands in TOML text; 1 when it cannot be found."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.split("=")[0].strip().strip('"') == name or line.strip().startswith(f"[{name}"):
            return number
    return 1


def parse_set(assignment: str) -> tuple[str, Any]:
    """One ``--set key=value``; the value is read as the option's type."""
    name, equals, text = assignment.partition("=")
    name = name.strip().rpartition(".")[2].replace("-", "_")
    if not equals:
        raise ConfigError(f"--set {assignment}: no '='.", "write --set key=value")
    _, item, kind = options()[_known(name, "--set")]
    try:
        value: Any = text if kind is str else json.loads(text.strip())
    except json.JSONDecodeError as error:
        message = f"--set {name}: must be {kind.__name__}, not {text!r}."
        raise ConfigError(message, item.metadata["help"]) from error
    return name, _checked(name, value, "--set")


def resolve(
    toml: Mapping[str, Any] | None = None, flags: Mapping[str, Any] | None = None
) -> RunConfig:
    """One configuration from its layers; None among ``flags`` means "not given".

    Raises:
        ConfigError: an unknown name, a wrong type or a value out of range.
    """
    given = dict(toml or {})
    given.update({key: value for key, value in (flags or {}).items() if value is not None})
    model = given.get("model", DataConfig.model)
    layers = dict(EMBEDDED_PRESET) if model == "embedded" else {}
    if model == "embedded" and given.get("negatives") == "missing":
        layers.update(EMBEDDED_MISSING)
    layers.update(
        {_known(key, "option"): _checked(key, value, "option") for key, value in given.items()}
    )
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    table = options()
    for key, value in layers.items():
        sections[table[key][0]][key] = value
    return RunConfig(**{name: cls(**sections[name]) for name, cls in SECTIONS.items()})


def to_dict(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Nested plain dict of a configuration, by section."""
    return dataclasses.asdict(config)


def to_toml(config: RunConfig) -> str:
    """The configuration as TOML that ``read_toml`` reads back to the same values."""
    lines: list[str] = []
    for section, values in to_dict(config).items():
        lines.append(f"[{section}]")
        lines.extend(
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
        )
        lines.append("")
    return "\n".join(lines)
