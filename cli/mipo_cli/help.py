"""``--help`` by groups: the options that people need first; ``--help-all`` has all of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mipo_mlx.config import all_options

GROUPS = {
    "data": "What is read",
    "generate": "Answers and pairs",
    "train": "Training",
    "eval": "Evaluation",
    "": "This command",
}
FIRST = (  # of the options of a configuration, the ten that --help shows
    "model",
    "contexts",
    "prompts",
    "seed",
    "offline",
    "max_tokens",
    "memory_limit",
    "learning_rate",
    "epochs",
    "judge",
)
ALL = "mipo.help_all"  # set in a context's ``meta`` while everything is shown


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit()


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", callback=_show_all, is_eager=True, help="Show all options."),
]


class Grouped(TyperCommand):
    """A command whose help lists options by the step that they belong to."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section a group; of a configuration's options those of ``FIRST`` alone."""
        parameters = self.get_params(ctx)
        few = any(parameter.name == "help_all" for parameter in parameters)
        few = few and not ctx.meta.get(ALL)
        table = all_options()
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
        left_out = 0
        for parameter in parameters:
            record = parameter.get_help_record(ctx)
            if record is None or getattr(parameter, "param_type_name", "") == "argument":
                continue
            known = table.get(parameter.name or "")
            if few and known and parameter.name not in FIRST:
                left_out += 1
                continue
            groups[known[0] if known else ""].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(GROUPS[name]):
                    formatter.write_dl(records)
        if left_out:
            formatter.write_paragraph()
            formatter.write_text(
                f"{left_out} more options: {ctx.command_path} --help-all, or docs/cli.md"
            )
