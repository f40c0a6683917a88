"""What ``mipo train --hold-facts`` does: some strings are not taught."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.scrub import read_held, scrub_pairs
from mipo_mlx.errors import ConfigError, DataError
from mipo_mlx.training.objectives import objective_of
from mipo_mlx.types import PreferencePair

log = logging.getLogger("mipo_mlx")


def held_facts(config: TrainConfig) -> list[str]:
    """Strings of ``--hold-facts``, normalised; none without it.

    Raises:
        ConfigError: the loss teaches rejected answers too.
        DataError: the file cannot be used.
    """
    if not config.hold_facts:
        return []
    if objective_of(config).crossed:
        raise ConfigError(
            f"--hold-facts: --loss {config.loss} teaches rejected answers too, and these stay as "
            "they are.",
            "take another --loss",
        )
    return read_held(Path(config.hold_facts))


def withhold(
    pairs: Sequence[PreferencePair], held: Sequence[str], source: str
) -> tuple[list[PreferencePair], dict[str, Any]]:
    """Pairs whose chosen answers state none of these strings, and what the summary says of it.

    Args:
        pairs: read.
        held: as ``held_facts`` returns them; without any, pairs stay as they are.
        source: their file, for messages.

    Raises:
        DataError: no pair is left.
    """
    if not held:
        return list(pairs), {}
    made = scrub_pairs(pairs, held)
    if not made.pairs:
        raise DataError(
            f"{source}: no pair is left of {len(pairs)}, for no chosen answer says anything else "
            "than these strings.",
            "list fewer strings, or have longer answers",
        )
    line = f"{made.changed} chosen responses scrubbed, {made.dropped} pairs dropped"
    log.info("%s", line)
    return made.pairs, {"hold_facts": line}
