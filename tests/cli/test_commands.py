"""What the ``mipo`` command promises: exit codes, streams, JSON, help, and options that arrive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mipo_mlx
from mipo_cli.app import COMMANDS, app
from mipo_cli.help import FIRST, GROUPS
from mipo_cli.options import flag
from mipo_cli.reference import markdown
from mipo_cli.render import Bars, show_report
from mipo_mlx import __version__, pipeline, tiny
from mipo_mlx.config import RunConfig, all_options, resolve, to_dict
from mipo_mlx.generation.inputs import read_inputs
from mipo_mlx.models.load import load_model
from mipo_mlx.reporting.evidence import Plots, provenance
from mipo_mlx.reporting.summary import Report, summarise
from mipo_mlx.results import EvalResult, Example, MetricRow

DOCS = Path(__file__).parents[2] / "docs"


def mipo(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mipo_cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def small(folder: Path) -> list[str]:
    """Options of a run that takes a second or two."""
    words = ["--max-steps", "1", "--set", "eval_contexts=4", "--resamples", "100"]
    for kind in ("contexts", "prompts"):
        rows = (tiny.SAMPLES_DIR / f"{kind}_train.jsonl").read_text().splitlines()[:6]
        (folder / f"{kind}.jsonl").write_text("\n".join(rows))
        words += [f"--{kind}", str(folder / f"{kind}.jsonl")]
    return words


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_needs_no_mlx(words: list[str]) -> None:
    code = (
        "import sys; from mipo_cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "slow = {'mlx.core', 'mlx_lm', 'transformers', 'sacrebleu', 'matplotlib'}\n"
        "slow &= set(sys.modules)\n"
        "sys.exit(code or (5 if slow else 0))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout
    assert result.stderr == ""


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    used = f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}"
    assert result.output.strip() == f"mipo {__version__} ({used})"


def test_help_shows_the_first_options_by_groups_and_all_on_request() -> None:
    few = CliRunner().invoke(app, ["run", "-h"], terminal_width=80)
    lines = few.output.splitlines()
    assert few.exit_code == 0 and len(lines) <= 50  # a screen
    for name in FIRST:
        assert f"--{name.replace('_', '-')}" in few.output
    assert "--lora-rank" not in few.output
    titles = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == [GROUPS[name] for name in ("data", "generate", "train", "eval", "")]
    every = CliRunner().invoke(app, ["run", "--help-all"], terminal_width=80).output
    for name in all_options():
        assert f"--{name.replace('_', '-')}" in every
    assert f"{len(all_options()) - len(FIRST)} more options" in few.output


def test_the_shell_can_complete_commands() -> None:
    given = {"_MIPO_COMPLETE": "complete_bash", "COMP_WORDS": "mipo gen", "COMP_CWORD": "1"}
    result = CliRunner().invoke(app, [], prog_name="mipo", env=given)
    assert result.output.split() == ["generate"]


def test_the_reference_of_the_library_is_up_to_date() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    made = subprocess.run(  # apart, where nothing wraps functions for the checks of tests
        [sys.executable, "-m", "mipo_cli.api_reference"], capture_output=True, text=True, check=True
    )
    assert text == made.stdout, "make docs"
    for name in mipo_mlx.__all__:
        assert f"## {name}\n" in text


def test_the_reference_is_up_to_date_and_names_every_option() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert text == markdown(), "make docs"
    for name in all_options():
        assert f"`--{name.replace('_', '-')}" in text


@pytest.mark.parametrize("name", sorted(all_options()))
def test_every_option_reaches_the_configuration(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[RunConfig] = []

    def catch(run: Path, config: RunConfig, progress: Any) -> Report:
        seen.append(config)
        return summary()

    monkeypatch.setattr(pipeline.run, "run", catch)
    section, item, kind = all_options()[name]
    value: Any
    if kind is bool:
        value = not item.default
        words = [flag(name, kind).split("/")[0 if value else 1]]
    else:
        if item.metadata["choices"]:
            value = next(c for c in item.metadata["choices"] if c != item.default)
        elif kind is str:
            value = "elsewhere"
        else:
            bounds = (item.metadata["low"], item.metadata["high"])
            default = to_dict(resolve())[section][name]  # with the embedded model's own
            value = kind(bounds[bounds[1] != default])
        words = [flag(name, kind), str(value)]
    result = CliRunner().invoke(app, ["run", str(tmp_path / "run"), "--json", *words])
    assert result.exit_code == 0, result.output
    assert to_dict(seen[0])[section][name] == value
    assert to_dict(resolve())[section][name] != value


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["generate"], 2, "Missing argument"),
        (["run", "r", "--sead", "1"], 2, "No such option"),
        (["run", "r", "--seed", "one"], 2, "Invalid value"),
        (["run", "r", "--beta", "-1"], 1, "beta must be in 1e-06 to 100"),
        (["run", "r", "--objective", "both"], 1, "must be one of context, prompt"),
        (["run", "r", "--set", "betta=1"], 1, "did you mean 'beta'?"),
        (["run", "r", "-c", "absent.toml"], 1, "absent.toml: cannot be read"),
        (["run", "r", "--contexts", "absent.jsonl"], 1, "absent.jsonl: no such file"),
        (["run", "r", "--model", "./absent/model/x"], 1, "not a model folder"),
        (["train", "r"], 1, "run 'mipo generate r' first"),
    ],
)
def test_mistakes_end_with_a_message_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    from mipo_cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mipo", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    streams = capsys.readouterr()
    assert caught.value.code == code
    assert message in streams.err
    assert code == 2 or streams.err.startswith("error: ")
    assert "Traceback" not in streams.err
    assert streams.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(28, "No space left on device", "x"), 1, "error: x: No space left on device"),
        (ZeroDivisionError(), 1, "internal error: ZeroDivisionError"),
        (
            RuntimeError(
                "[METAL] Command buffer execution failed: Impacting Interactivity "
                "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
            ),
            1,
            "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1",
        ),
        (
            RuntimeError(
                "[METAL] Command buffer execution failed: Insufficient Memory "
                "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
            ),
            1,
            "error: The device ran out of memory",
        ),
        (RuntimeError("[malloc] Unable to allocate 9 bytes."), 1, "hint: take a smaller"),
        (MemoryError(), 1, "error: The device ran out of memory"),
        (RuntimeError("[matmul] shapes differ"), 1, "internal error: RuntimeError"),
    ],
)
def test_faults_of_the_world_become_exit_codes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: BaseException,
    code: int,
    message: str,
) -> None:
    from mipo_cli.app import main

    def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(pipeline.run, "run", fail)
    monkeypatch.setattr(sys, "argv", ["mipo", "run", str(tmp_path / "r")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert message in capsys.readouterr().err


def test_json_is_one_object_on_stdout_for_every_command(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    words = small(tmp_path)
    result = mipo("run", run, "--json", *words)
    assert result.returncode == 0, result.stderr
    assert "information/pmi" in json.loads(result.stdout)["metrics"]
    # The later commands find the run's own options again.
    for name in ("generate", "train", "eval", "report"):
        again = CliRunner().invoke(app, [name, run, "--json"])
        assert again.exit_code == 0, again.output
        found = json.loads(again.stdout)
        assert found.get("unchanged") or "metrics" in found, name


def summary() -> Report:
    share = MetricRow(0.5, 0.75, 0.25, (0.2, 0.3), 1e-4, 256, "share of answers")
    config = resolve()
    result = EvalResult(
        metrics={
            "personalization/own_context_rate": share,
            "control/swapped_context_gap": replace(share, unit="nats"),
        },
        changed=1,
        answers=2,
        examples=[Example("ada", {}, "Why [b]?", "So.", "Thus " * 30)],
        held_out="users",
    )
    report = summarise(result, Plots(), provenance({}, config), config)
    costs = {"peak_memory_bytes": 2**30, "seconds": 12.0}
    return replace(report, verdict="It rose.", length_ratio=1.1, run="runs/a", **costs)


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1", "TERM": "xterm", "FORCE_COLOR": ""}])
def test_a_report_fits_sixty_columns_and_has_no_colour_codes_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
) -> None:
    for name, value in {"COLUMNS": "60", **environment}.items():
        monkeypatch.setenv(name, value)
    show_report(summary())
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 60
    assert "\x1b[" not in text
    for part in (
        "own context rate",
        "50.0%",
        "75.0%",
        "+20.0 to +30.0",
        "Why [b]?",
        "1.10 times",
        "rose",
    ):
        assert part in text, part


def test_progress_tells_rate_and_time_at_a_terminal_and_one_line_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import io

    from rich.console import Console

    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for terminal in (True, False):
        stream = io.StringIO()
        bars = Bars(Console(file=stream, force_terminal=terminal, width=60))
        for done in range(11):
            now[0] += 1.0
            bars("sample", done, 10)
        quick = Bars(Console(file=stream, force_terminal=False))
        quick("quick", 0, 1)
        quick("quick", 1, 1)
        assert "sample: 10 in 10.0 s" in stream.getvalue()
        assert "quick" not in stream.getvalue()
        assert bool(bars.tasks) == terminal
        if terminal:
            assert bars.progress.tasks[0].fields["rate"] == "1.0/s"


def test_a_long_stage_tells_where_it_stands_every_half_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import io

    from rich.console import Console

    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    bars = Bars(Console(file=stream, force_terminal=False, width=60))
    for done in range(101):
        bars("train, loss 0.5", done, 100)
        now[0] += 1.0
    lines = stream.getvalue().splitlines()
    assert lines == [
        "train: 30 of 100 in 30 s, about 70 s left loss 0.5",
        "train: 60 of 100 in 60 s, about 40 s left loss 0.5",
        "train: 90 of 100 in 90 s, about 10 s left loss 0.5",
        "train: 100 in 100.0 s loss 0.5",
    ]


def test_contexts_counts_tokens_shows_no_text_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small(tmp_path)
    (tmp_path / "note.md").write_text("A secret word.\n\nA second line.", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    words = ["contexts", "contexts.jsonl", "note.md"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["users"] == summary["different_texts"] == 7
    tokenizer = load_model("embedded").tokenizer
    (note,) = (row for row in summary["contexts"] if row["id"] == "note")
    text = "A secret word.\n\nA second line."
    assert note["tokens"] == len(tokenizer.encode(text, add_special_tokens=False))
    assert note["characters"] == len(text)
    assert summary["tokens"] == sum(row["tokens"] for row in summary["contexts"])
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "7 contexts of 7 users, 7 different" in shown.stdout
    assert "secret" not in shown.stdout
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "long.txt").write_text("word " * 3000, encoding="utf-8")
    assert "do not fit" in CliRunner().invoke(app, ["contexts", "long.txt"]).stdout


def test_without_prompts_own_contexts_are_asked_everyday_ones(tmp_path: Path) -> None:
    small(tmp_path)
    inputs = read_inputs(resolve(flags={"contexts": str(tmp_path / "contexts.jsonl")}).data)
    asked = [prompt.text for prompt in inputs.train_prompts + inputs.held_prompts]
    assert len(asked) == len(set(asked)) == 200
    assert "What could I cook tonight?" in asked
    sample = {prompt.text for prompt in read_inputs(resolve().data).train_prompts}
    assert not sample & set(asked)


def test_doctor_says_what_fits_writes_nothing_and_fails_where_nothing_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small(tmp_path)
    words = ["doctor", "--contexts", "contexts.jsonl", "--prompts", "prompts.jsonl"]
    before = sorted(tmp_path.iterdir())
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["machine"]["versions"]["mipo-mlx"] == __version__
    assert told["training"]["fits"] and told["training"]["weights_here"]
    assert told["training"]["longest_prompt_tokens"] > 20
    shown = CliRunner().invoke(app, words)
    assert "it fits" in shown.stdout and "predicted_peak_bytes" in shown.stdout
    tight = CliRunner().invoke(app, [*words, "--memory-limit", "0.001"])
    assert tight.exit_code == 1
    assert "it does not fit" in tight.stdout and "advice" in tight.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_the_plan_stands_on_stderr_before_training(tmp_path: Path) -> None:
    words = small(tmp_path)
    assert mipo("generate", str(tmp_path / "run"), *words[-4:]).returncode == 0
    result = mipo("train", str(tmp_path / "run"), "--max-steps", "1", "--json")
    assert result.returncode == 0, result.stderr
    assert "plan: " in result.stderr and "predicted peak" in result.stderr
    assert json.loads(result.stdout)["predicted_peak_bytes"] > 0
