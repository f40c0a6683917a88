"""Small random models of mlx-lm's architectures: which path each takes, and how far it is off.

``python benchmarks/architectures.py`` writes ``docs/architectures.md``;
``--only llama qwen3_5 --precision fp32`` prints what it finds of some. The models, the plain pass
that they are compared with, and what passes stand in ``tests/lm/zoo.toml`` and
``tests/lm/against_plain.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lm import against_plain, zoo  # noqa: E402
from lm.against_plain import CASES, EXACT, FURTHER, PRECISIONS, TIE, Found  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
HEADINGS = {
    "fp32": "fp32",
    "bf16": "bf16, adapter in fp32",
    "4 bits": "4 bits in groups of 32, computed in bf16, adapter in fp32",
}


def cell(found: Found, name: str) -> str:
    """A case as the table shows it; failures are bold."""
    case = found.cases.get(name)
    if case is None:
        return "-"
    if case.note:
        text = case.note.partition(":")[0]
    elif found.precision == "fp32":
        text = f"{case.ours:.0e}" if case.ours else "0"
    else:
        text = f"{case.ratio:.2f} ({case.plain:.1g})"
    failed = any(line.startswith(f"{name}:") for line in found.failures())
    return f"**{text}**" if failed else text


def table(found: Sequence[Found]) -> list[str]:
    """Lines of Markdown: one architecture each, of one precision."""
    lines = [
        "| architecture | path | " + " | ".join(CASES) + " |",
        "|---" * (len(CASES) + 2) + "|",
    ]
    for each in found:
        cells = [cell(each, name) for name in CASES]
        lines.append(f"| {each.name} | {each.path or '**error**'} | {' | '.join(cells)} |")
    return lines


def told(found: Sequence[Found], precision: str) -> list[str]:
    """What was given up and why, and what is wrong, an architecture a line."""
    lines = []
    for each in found:
        if each.path == against_plain.NO_CPU:
            continue
        notes = [f"{name}: {case.note}" for name, case in each.cases.items() if ":" in case.note]
        if each.why or notes:
            why = [each.why] if each.why else []
            lines.append(f"- {each.name}: " + "; ".join([*why, *notes]))
    wrong = [f"- {each.name}: {line}" for each in found for line in each.failures()]
    return [
        f"### Given up or refused in {precision}",
        "",
        *(lines or ["Nothing."]),
        "",
        f"### Wrong in {precision}",
        "",
        *(wrong or ["Nothing."]),
        "",
    ]


def summary(found: Sequence[Found]) -> list[str]:
    """How many took which path, how far gradients are off at most, and how many are wrong."""
    lines = [
        "| precision | compared | paths | gradients, at most | wrong |",
        "|---|---|---|---|---|",
    ]
    for precision in PRECISIONS:
        mine = [each for each in found if each.precision == precision]
        compared = [each for each in mine if each.cases]
        if not mine:
            continue
        paths = Counter(each.path or "error" for each in mine).most_common()
        shown = "; ".join(f"{path}: {count}" for path, count in paths)
        cases = [each.cases[name] for each in mine for name in CASES[1:4] if name in each.cases]
        figures = [c.ours if precision == "fp32" else c.ratio for c in cases if not c.note]
        most = max(figures, default=0.0)
        text = f"{most:.0e}" if precision == "fp32" else f"{most:.2f}"
        wrong = sum(bool(each.failures()) for each in mine)
        lines.append(f"| {precision} | {len(compared)} | {shown} | {text} | {wrong} |")
    return lines


def page(found: Sequence[Found]) -> str:
    """``docs/architectures.md``."""
    lines = [
        "# Architectures",
        "",
        f"Small random models of the modules of mlx-lm {version('mlx-lm')}, on MLX "
        f"{version('mlx')}, written by `python benchmarks/architectures.py`. Each is made a folder "
        "as `mlx_lm.convert` leaves it, opened, given a LoRA adapter on every linear layer, and "
        "compared with its own forward pass, one whole sequence at a time. "
        "Prompts have 1 to 22 tokens, responses 1 to 9; 6 prompts with K = 1 and 2 with K = 3; "
        "windows and chunks of 6 tokens; prompts in pieces of 5; several batches each.",
        "",
        "*Path*: a prompt is forwarded once for all that follows it (shared), with each response "
        "(unshared), or the model is refused. On a CPU, MLX has mixtures of experts in "
        "bf16 only where they are quantized. *Loss*: of rows. *Gradient*: of the adapter, whole; "
        "with blocks checkpointed; with prompts forwarded by themselves in pieces. *Scoring*: "
        "log-probs of response tokens. *Sampling*: greedy answers of 7 tokens, how far a token is "
        "below the likeliest of the plain pass, in nats.",
        "",
        f"In fp32 the figure is the distance from the plain pass, in relative L2: {EXACT:.0e} "
        f"passes, and {TIE:.0e} nats for sampling. In bf16 and 4 bits it is the distance from the "
        "same weights computed in fp32, over the plain pass's own distance from that, which stands "
        f"in brackets: {FURTHER} passes. For sampling the plain distance is twice its largest "
        "error of a logit.",
        "",
        *summary(found),
        "",
    ]
    for precision in PRECISIONS:
        mine = [each for each in found if each.precision == precision]
        if mine:
            lines += [f"## {HEADINGS[precision]}", "", *table(mine), "", *told(mine, precision)]
    lines += ["## Left out", ""]
    lines += [f"- {name}: {why}" for name, why in zoo.LEFT_OUT.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all, or some, and write or print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=zoo.NAMES, metavar="NAME")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS)
    parser.add_argument("--output", type=Path, help="where to write the page")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()  # the C++ compiler would take minutes
    found: list[Found] = []
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # what was found out before does not count
    for precision in args.precision or PRECISIONS:
        for name in args.only or zoo.NAMES:
            with tempfile.TemporaryDirectory() as folder:
                found.append(against_plain.examine(name, precision, Path(folder)))
            each = found[-1]
            failures = "; ".join(each.failures()) or "right"
            print(f"{precision} {name}: {each.path or 'error'}: {failures}", flush=True)
    output = args.output or (None if args.only or args.precision else PAGE)
    text = page(found)
    if output:
        output.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
