"""The reference of the library: ``python -m mipo_cli.api_reference > docs/api.md``."""

from __future__ import annotations

import inspect
import re
import sys

import mipo_mlx


def _signature(thing: object) -> str:
    """Without the noise of modules in annotations."""
    text = str(inspect.signature(thing))  # type: ignore[arg-type]
    text = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", text)
    return re.sub(r"'([^']*)'", r"\1", re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text))


def markdown() -> str:
    """The page as it stands in ``docs/api.md``."""
    lines = [
        "# Library",
        "",
        "Made from docstrings; a test keeps the two equal. All names are those of "
        "`import mipo_mlx as mipo`.",
        "",
    ]
    for name in mipo_mlx.__all__:
        thing = getattr(mipo_mlx, name)
        lines += [f"## {name}", "", "```", f"{name}{_signature(thing)}", "```", ""]
        lines += ["```text", inspect.getdoc(thing) or "", "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
