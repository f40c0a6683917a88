"""The reference of all commands and options: ``python -m mipo_cli.reference > docs/cli.md``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from mipo_cli.app import COMMANDS
from mipo_cli.options import allowed, default, flag
from mipo_mlx.config import SECTIONS, all_options


def _rows(section: str) -> Iterator[str]:
    for name, (owner, item, kind) in all_options().items():
        if owner == section:
            cells = (
                f"`{flag(name, kind)}`",
                kind.__name__,
                allowed(item).replace("|", ", "),
                default(item),
                item.metadata["help"],
            )
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _usage(name: str) -> str:
    known = inspect.signature(COMMANDS[name]).parameters
    run = known.get("run")
    if run is None:
        words = {"runs": " RUN RUN...", "files": " FILE...", "name": " [NAME]"}
        return f"mipo {name}" + next((word for key, word in words.items() if key in known), "")
    return f"mipo {name} RUN" if run.default is inspect.Parameter.empty else f"mipo {name} [RUN]"


def markdown() -> str:
    """The page as it stands in ``docs/cli.md``."""
    lines = [
        "# Command line",
        "",
        "Made from the declarations in `mipo_mlx/config/`; a test keeps the two equal.",
        "",
        "RUN is a directory. Defaults < what the run was last given < `-c FILE` (TOML) < "
        "`--set KEY=VALUE` < flags.",
        "`--json` prints one JSON object on stdout and all else on stderr. Exit status: 0 done, "
        "1 an error told with a hint, 2 wrong usage, 130 interrupted.",
        "",
        "| command | what it does | options |",
        "|---|---|---|",
    ]
    for name, command in COMMANDS.items():
        doc = inspect.getdoc(command)
        sections = ", ".join(getattr(command, "sections", ())) or "-"
        lines.append(f"| `{_usage(name)}` | {doc} | {sections} |")
    lines += [
        "",
        "All that take RUN also take `-c FILE` and `--set KEY=VALUE`; all take `--json` and "
        "`-h`; those with options of a run show the first ten by groups, and all by `--help-all`. "
        "`mipo contexts` takes `--model`, `--offline` and `--note-tokens`; `mipo generate` also "
        "takes `--dry-run` (what it would cost, after a probe) and `--pilot N` (N pairs, summed "
        "up), which write nothing. `mipo report` takes `--markdown` (the table for pasting); "
        "`mipo compare` and `mipo controls` too, and the latter `--only sft,k4` for some of them; "
        "`mipo bench` takes `--shape`, `--model`, `--precision`, `--work`, `--minutes`, "
        "`--memory-limit` and `--offline`; "
        "`mipo arena` takes `--terminal` and `--export jsonl` or `csv`; `mipo reproduce` takes "
        "`--list`, `--all`, `--dry-run`, `--model`, `--limit N`, `--data DIR`, `--out DIR` and "
        "`--set` ([reproduce.md](reproduce.md)).",
        "",
    ]
    for section, cls in SECTIONS.items():
        lines += [f"## {section}", "", inspect.getdoc(cls) or "", ""]
        lines += ["| option | type | allowed | default | meaning |", "|---|---|---|---|---|"]
        lines += [*_rows(section), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
