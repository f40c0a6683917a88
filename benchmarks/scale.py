"""Does a long ``mipo generate`` stay flat? Memory and pace of every tenth of it.

``python benchmarks/scale.py --users 500 --prompts 50``

Users of the synthetic world, the embedded model, the package's prompts. The work of a tenth is an
equal share of its stage's answers (sampling) or prompts (reference log-probs).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx

from mipo_mlx import pipeline, tiny
from mipo_mlx.config import resolve
from mipo_mlx.data import builtin
from mipo_mlx.tiny.world import make_users, write_context

TENTHS = 10


def resident_bytes() -> int:
    """Memory of this process now; its peak so far where the system does not say (macOS)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * 4096
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


class Watch:
    """A progress callback that keeps, for every stage, time and memory at each step."""

    def __init__(self) -> None:
        self.seen: dict[str, array[float]] = {}  # flat, so that keeping it costs next to nothing
        self.totals: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = (done, time.perf_counter(), resident_bytes(), mx.get_active_memory())
        self.seen.setdefault(stage, array("d")).extend(now)
        self.totals[stage] = total

    def tenths(self, stage: str) -> list[dict[str, float]]:
        """Milliseconds for a step and median memory in MiB, by tenths of a stage.

        A tenth lasts until the first step at or past its end is told: steps come in batches.
        """
        flat, total = self.seen[stage], self.totals[stage]
        rows = [flat[start : start + 4] for start in range(0, len(flat), 4)]
        made = []
        for tenth in range(TENTHS):
            low, high = total * tenth / TENTHS, total * (tenth + 1) / TENTHS
            first = next(row for row in rows if row[0] >= low)
            last = next(row for row in rows if row[0] >= high)
            part = [row for row in rows if low <= row[0] <= high]
            made.append(
                {
                    "ms": 1000 * (last[1] - first[1]) / (total / TENTHS),
                    "resident_mib": statistics.median(row[2] for row in part) / 2**20,
                    "active_mib": statistics.median(row[3] for row in part) / 2**20,
                }
            )
        return made


def inputs(folder: Path, users: int, prompts: int) -> dict[str, str]:
    """Files of so many users and prompts."""
    people = make_users(users, 0, held_out=False)
    contexts = folder / "contexts.jsonl"
    rows = [{"id": user.id, "text": write_context(user, 0)} for user in people]
    contexts.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    own = (tiny.SAMPLES_DIR / "prompts_train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in own]
    texts += builtin.PROMPTS.read_text(encoding="utf-8").splitlines()
    asked = folder / "prompts.txt"
    asked.write_text("\n".join(texts[:prompts]), encoding="utf-8")
    return {"contexts": str(contexts), "prompts": str(asked)}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags: dict[str, Any] = {
            **inputs(Path(folder), args.users, args.prompts),
            "prompts_per_context": 0,
            "held_out_users": 0.0,
            "held_out_prompts": 0.0,
        }
        watch = Watch()
        made = pipeline.generate.generate(Path(folder) / "run", resolve(flags=flags), watch)
    stages = {stage: watch.tenths(stage) for stage in watch.seen}
    result = {
        **vars(args),
        "pairs": made["pairs"],
        "responses": made["responses"],
        "seconds": made["seconds"],
        "prompt_tokens": made["prompt_tokens"],
        "last_to_first_tenth": {
            stage: {name: rows[-1][name] / rows[0][name] for name in rows[0]}
            for stage, rows in stages.items()
        },
        "tenths": stages,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
