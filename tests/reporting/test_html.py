"""The report's page, read back by an HTML parser: its numbers and words, and what it may not do."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mlx.core as mx
import numpy as np
import pytest
from typer.testing import CliRunner

from mipo_mlx import pipeline
from mipo_mlx.config import resolve
from mipo_mlx.errors import MipoError
from mipo_mlx.grading.facts import grade, stated
from mipo_mlx.reporting import evidence, html, plots
from mipo_mlx.reporting.summary import Report, summarise
from mipo_mlx.results import EvalResult, Example, MetricRow
from samples import head

VOID = {"meta", "link", "img", "br", "hr", "input", "base", "embed", "source"}
HOSTILE = (
    "</style><script>alert(1)</script><img src=\"http://e.vil/x\" onerror='alert(2)'>"
    "{{ 7*7 }}&amp;$x_1$"
)


class Node:
    """An element with its attributes, children and text."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: Node | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Node | str] = []

    def all(self, tag: str = "") -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if not tag or child.tag == tag:
                    yield child
                yield from child.all(tag)

    def kind(self, name: str) -> list[Node]:
        return [node for node in self.all() if name in node.attributes.get("class", "").split()]

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


class Reader(HTMLParser):
    """A tree; an element that ends out of turn is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self.here = Node("", {}, None)
        self.feed(text)
        self.close()
        assert self.here is self.root, f"<{self.here.tag}> is never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        node = Node(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(node)
        if tag not in VOID:
            self.here = node

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"</{tag}> inside <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)


def read(html: str) -> Node:
    return Reader(html).root


def row(base: float, adapter: float, low: float, high: float, unit: str = "nats") -> MetricRow:
    delta = adapter - base
    return MetricRow(base, adapter, delta, (low, high), 0.01, 40, unit)


def results(**more: Any) -> EvalResult:
    rng = np.random.default_rng(3)
    before, after = rng.normal(1, 1, 40), rng.normal(2, 0.5, 40)
    made = EvalResult(
        metrics={
            "personalization/own_context_rate": row(0.575, 0.95, 0.25, 0.5, "share of answers"),
            "personalization/wrong_fact_rate": row(0.0, 0.025, -0.01, 0.075, "share of answers"),
            "information/pmi": row(before.mean(), after.mean(), 0.61234, 1.3),
            "length/response_tokens": row(1234.5, 1200.25, -60.0, -10.5, "tokens"),
        },
        items={
            "information/pmi": {"base": before.tolist(), "adapter": after.tolist()},
            "length/response_tokens": {"base": [3.0, 4.0, 4.0], "adapter": [4.0, 9.0, 5.0]},
        },
        held_out="users and prompts",
        changed=1,
        answers=40,
        examples=[
            Example(
                context_id="ada",
                facts={"food": "quiche", "town": "Turin"},
                prompt="What to eat?",
                base="Try bread.",
                adapter="In Turin, eat Quiche; quiches are plenty.",
            )
        ],
    )
    return replace(made, **more)


def with_rows(found: EvalResult, **rows: MetricRow) -> EvalResult:
    return replace(found, metrics={**found.metrics, **rows})


STEPS: dict[str, Any] = {
    "train": {
        "inputs": {"model": "ab" * 32, "pairs": "cd" * 32, "seed": 7, "beta": 0.25, "epochs": 1},
        "outputs": {"adapter/adapters.safetensors": "ef" * 32},
        "stats": {"seconds": 90.0, "peak_memory_bytes": 3 * 2**29, "pairs": 12},
    },
    "eval": {
        "inputs": {"model": "ab" * 32, "adapter": "ef" * 32, "data": "09" * 32},
        "outputs": {},
        "stats": {"seconds": 3.0, "peak_memory_bytes": 2**20},
    },
}
LINES = [
    {"step": n, "loss": 0.69 / n, "rewards/margins": 0.1 * n, "rewards/accuracies": 0.5}
    | ({"eval_loss": 0.7} if n % 3 == 0 else {})
    for n in range(1, 8)
]


def summary(found: EvalResult, **more: Any) -> Report:
    config = resolve(flags=more.pop("flags", {}))
    numbers = evidence.plots(found.items, more.pop("lines", LINES), more.pop("pairs", [(3, 4)]))
    origin = evidence.provenance(more.pop("steps", STEPS), config)
    return replace(summarise(found, numbers, origin, config), **more)


@pytest.fixture(scope="module")
def tree() -> Node:
    return read(html.render(summary(results())))


def test_nothing_comes_from_outside_and_nothing_runs(tree: Node) -> None:
    for node in tree.all():
        assert node.tag not in (
            "script",
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "form",
            "base",
        )
        for name, value in node.attributes.items():
            assert not name.startswith(("on", "xmlns", "src")), (node.tag, name)
            if name == "href":
                assert value.startswith("#")
            assert "//" not in value and "javascript:" not in value, (node.tag, name, value)
            assert set(re.findall(r"url\(.", value)) <= {"url(#"}
    (style,) = tree.all("style")
    assert not re.search(r"url\(|@import|//", style.text)
    (policy,) = (m for m in tree.all("meta") if "http-equiv" in m.attributes)
    assert policy.attributes["http-equiv"] == "Content-Security-Policy"
    assert policy.attributes["content"].split("; ")[0] == "default-src 'none'"
    assert "unsafe-eval" not in policy.attributes["content"]


def test_ids_are_unique_and_every_reference_finds_its_own(tree: Node) -> None:
    ids = [node.attributes["id"] for node in tree.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    wanted = []
    for node in tree.all():
        for name, value in node.attributes.items():
            wanted += re.findall(r"url\(#([^)]+)\)", value)
            wanted += [value[1:]] if name == "href" else []
            wanted += value.split() if name in ("aria-labelledby", "aria-describedby") else []
    assert len(wanted) > 20
    assert set(wanted) <= set(ids)


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace(",", "").rstrip("%"))


def test_every_number_of_the_table_is_that_of_report_json() -> None:
    found = summary(results())
    stored = json.loads(json.dumps(found.to_json()))["metrics"]
    (table,) = read(html.render(found)).kind("headline")
    rows = {
        node.attributes["data-metric"]: node
        for node in table.all("tr")
        if "data-metric" in node.attributes
    }
    assert list(rows) == list(stored)
    for name, node in rows.items():
        want = stored[name]
        low, high = want["ci95"]
        wanted = {
            **{k: want[k] for k in ("base", "adapter", "delta", "n")},
            "low": low,
            "high": high,
        }
        cells = {cell.attributes["class"]: cell for cell in node.all("data")}
        assert set(cells) == {*wanted, "p"}
        for kind, value in wanted.items():
            assert float(cells[kind].attributes["value"]) == value
            share = want["unit"].startswith("share") and kind != "n"
            factor = 100 if share else 1
            assert number(cells[kind].text) == pytest.approx(factor * value, rel=5e-3, abs=0.051)
            assert cells[kind].text.endswith("%") == (share and kind in ("base", "adapter"))
            if kind in ("delta", "low", "high"):
                assert cells[kind].text.startswith("+") == (value > 0)
    words = {name: node.text for name, node in rows.items()}
    assert "rose, better" in words["personalization/own_context_rate"]
    assert "none seen" in words["personalization/wrong_fact_rate"]
    assert "fell" in words["length/response_tokens"]
    assert "better" not in words["length/response_tokens"].split("longer nor shorter is better")[1]


def test_more_keys_of_a_row_are_shown() -> None:
    whole = results()
    more = replace(
        whole.metrics["information/pmi"],
        **{"base_ci95": (0.5, 1.5), "adapter_ci95": (1.75, 2.25), "p": 0.01, "p_holm": 0.0625},
        **{"users": 17, "effective_n": 21.5, "mcnemar_p": 0.25},
    )
    found = summary(with_rows(whole, **{"information/pmi": more}))
    (table,) = read(html.render(found)).kind("headline")
    (node,) = (n for n in table.all("tr") if n.attributes.get("data-metric") == "information/pmi")
    assert "none seen" in node.text  # the interval is clear of zero, Holm's p is not small
    for text in (
        "McNemar p = 0.25",
        "[0.5, 1.5]",
        "[1.75, 2.25]",
        "p = 0.062 (Holm)",
        "17 users",
        "effective n 21.5",
    ):
        assert text in node.text


@pytest.mark.parametrize("unit", ["nats", "share of answers"])
def test_text_of_others_stays_text(unit: str) -> None:
    example = replace(
        *results().examples,
        **{"prompt": HOSTILE, "base": HOSTILE, "context_id": HOSTILE},
        facts={HOSTILE: "alert(1)", "town": HOSTILE},
    )
    found = with_rows(
        results(held_out=HOSTILE, examples=[example]),
        **{HOSTILE: row(0.5, 0.75, 0.1, 0.3, unit), "odd/unit": row(0.5, 0.75, 0.1, 0.3, HOSTILE)},
    )
    made = summary(found, verdict=HOSTILE, flags={"model": HOSTILE, "contexts": HOSTILE})
    tree = read(html.render(made))
    assert not [n for n in tree.all() if n.tag in ("script", "img")]
    assert not [n for n in tree.all() for name in n.attributes if name.startswith(("on", "src"))]
    (verdict,) = tree.kind("verdict")
    assert verdict.text == HOSTILE
    (answer,) = tree.kind("answer")
    assert next(answer.all("h3")).text == HOSTILE
    assert answer.kind("text")[0].text == HOSTILE
    assert HOSTILE in next(tree.all("title")).text


def test_facts_of_the_user_are_marked_and_told(tree: Node) -> None:
    (answer,) = tree.kind("answer")
    base, adapter = answer.kind("text")
    assert base.text == "Try bread."
    assert adapter.text == "In Turin, eat Quiche; quiches are plenty."
    assert list(base.all("mark")) == []
    assert [m.text for m in adapter.all("mark")] == ["Turin", "Quiche"]
    told = [p.text for p in answer.kind("quiet") if p.text.startswith("States")]
    assert told == ["States: none of the facts.", "States: town, food."]


@pytest.mark.parametrize(
    ("text", "facts", "places"),
    [
        ("", {"a": "x"}, []),
        ("x", {"a": ""}, []),
        ("A labrador puppy", {"a": "labrador", "b": "labrador puppy"}, [(2, 16, "b")]),
        ("tea, TEA; steak", {"drink": "tea"}, [(0, 3, "drink"), (5, 8, "drink")]),
        ("new york city", {"a": "New York", "b": "York City"}, [(0, 8, "a")]),
    ],
)
def test_places_of_facts(
    text: str, facts: dict[str, str], places: list[tuple[int, int, str]]
) -> None:
    assert stated(text, facts) == places
    if all(facts.values()):
        assert bool(places) == grade(text, facts, []).own


def test_a_page_of_one_metric_and_no_training() -> None:
    rows = {"reasoning/accuracy": row(0.5, 0.5, -0.1, 0.1, "share of answers")}
    found = results(items={}, examples=[], metrics=rows)
    tree = read(html.render(summary(found, lines=[], pairs=[], steps={})))
    assert [f.attributes["id"] for f in tree.all("figure")] == ["figure-forest"]
    assert "No answers were kept." in tree.text


def test_a_page_without_any_metric() -> None:
    found = results(items={}, metrics={})
    tree = read(html.render(summary(found, lines=[], pairs=[], steps={})))
    assert list(tree.all("svg")) == []
    assert "Nothing was measured." in tree.text


def test_what_is_not_a_number_is_a_dash_and_is_not_drawn() -> None:
    nan = math.nan
    items = {"information/pmi": {"base": [nan, nan], "adapter": [1.0, math.inf]}}
    found = with_rows(results(items=items), **{"information/pmi": row(nan, 1.0, nan, nan)})
    lines = [{"step": 1, "loss": nan, "kl": nan}, {"step": 2, "loss": 0.5, "kl": nan}]
    page = html.render(summary(found, lines=lines))
    assert not re.search(r"\b(nan|inf)\b", page, re.IGNORECASE)
    figures = {f.attributes["id"]: f for f in read(page).all("figure")}
    assert "PMI" not in figures["figure-forest"].text
    (table,) = figures["figure-pmi"].all("table")
    assert [cell.text for cell in table.all("td")] == ["0", "1"]


def test_a_screen_reader_gets_a_name_and_a_table_for_every_plot(tree: Node) -> None:
    found = list(tree.all("figure"))
    assert len(found) == 5
    for figure in found:
        (svg,) = figure.all("svg")
        assert svg.attributes["role"] == "img"
        tags = [child.tag for child in svg.children if isinstance(child, Node)]
        assert tags[:2] == ["title", "desc"]
        assert re.search(r"\d", next(svg.all("desc")).text)
        assert next(svg.all("text"))  # text is text
        tables = list(figure.all("table"))
        assert len(tables) == (0 if figure.attributes["id"] == "figure-forest" else 1)
    (html,) = tree.all("html")
    assert html.attributes["lang"] == "en"
    levels = [int(node.tag[1]) for node in tree.all() if re.fullmatch(r"h\d", node.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for table in tree.all("table"):
        assert all(cell.attributes.get("scope") in ("row", "col") for cell in table.all("th"))
        assert next(table.all("caption"), None) or table.parent.attributes["aria-label"]


def test_plots_take_all_colours_from_the_page(tree: Node) -> None:
    for svg in tree.all("svg"):
        styles = ";".join(node.attributes.get("style", "") for node in svg.all())
        used = set(re.findall(r"(?:fill|stroke): ([^;]+)", styles))
        assert used <= {"none", *(f"var({name})" for name in plots.VARIABLES.values())}
        assert all("fill: var(" in text.attributes["style"] for text in svg.all("text"))


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    digits = "".join(2 * c for c in colour) if len(colour) == 3 else colour
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_contrast_is_enough_in_light_and_in_dark() -> None:
    css = files("mipo_mlx.reporting").joinpath("templates/report.html").read_text("utf-8")
    themes = re.findall(r":root \{([^}]*)\}", css)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]+)", theme))
        pairs = [
            (c, ground) for c in ("ink", "muted", "base", "adapter") for ground in ("paper", "soft")
        ]
        for front, ground in [*pairs, ("on-mark", "mark")]:
            light, dark = sorted((luminance(colours[n]) for n in (front, ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, ground)


def lines_of(svg: str) -> list[tuple[float, float]]:
    """Left and right end of every horizontal line of two points."""
    found = []
    for path in ElementTree.fromstring(svg).iter("path"):
        match = re.fullmatch(
            r"\s*M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s*", path.attrib.get("d", "")
        )
        if match and "var(--adapter)" in path.attrib.get("style", "") and match[2] == match[4]:
            found.append((float(match[1]), float(match[3])))
    return found


def test_intervals_are_drawn_to_scale() -> None:
    metrics = {"a": row(0, 2.0, 1.0, 3.0), "b": row(0, 4.5, 4.0, 8.0)}
    (left, right), (low, high) = lines_of(plots.forest(metrics, {"a": "A", "b": "B"}))
    unit = (right - left) / 2.0  # nats 1 to 3
    assert high - low == pytest.approx(4 * unit, rel=1e-4)
    assert low - left == pytest.approx(3 * unit, rel=1e-4)


def test_plots_are_the_same_bytes_again_whatever_the_users_settings() -> None:
    import matplotlib

    numbers = summary(results())
    first = html.render(numbers)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert html.render(numbers) == first
        assert matplotlib.rcParams["font.size"] == 30
    assert len(first.encode()) < 2**20


@pytest.mark.parametrize("whole", [False, True])
def test_histograms_count_what_numpy_counts(whole: bool) -> None:
    rng = np.random.default_rng(0)
    draw: Callable[[int], Any] = (
        (lambda n: rng.integers(3, 90, n)) if whole else (lambda n: rng.normal(2, 5, n))
    )
    columns = {"base": draw(300).tolist(), "adapter": draw(200).tolist()}
    made = evidence.histogram(columns, "nats", whole=whole)
    assert made is not None
    assert 8 <= len(made.edges) - 1 <= 22
    for name, values in columns.items():
        assert sum(made.counts[name]) == len(values)
        assert made.counts[name] == np.histogram(values, made.edges)[0].tolist()
        assert made.means[name] == pytest.approx(np.mean(values))
    if whole:
        assert all(edge % 1 == 0.5 for edge in made.edges)


def test_a_value_on_an_edge_is_of_the_bin_above_it() -> None:
    made = evidence.histogram({"base": np.arange(0, 20, 0.5).tolist()}, "nats")
    assert made is not None
    assert made.edges == list(range(21))
    assert made.counts["base"] == [2] * 20


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e9, 1e9 + 1], [-3e-9]])
def test_histograms_of_one_value_have_a_bin_for_it(values: list[float]) -> None:
    made = evidence.histogram({"base": values}, "nats")
    assert made is not None
    assert sum(made.counts["base"]) == len(values)
    assert all(low < high for low, high in itertools.pairwise(made.edges))
    assert evidence.histogram({"base": [math.nan], "adapter": []}, "nats") is None


def test_curves_are_means_of_neighbouring_steps() -> None:
    lines = [{"step": n, "loss": float(n), "kl": None} for n in range(1, 251)]
    lines[-1]["eval_loss"] = 0.25
    made = evidence.curves(lines)
    assert made is not None
    assert made.steps_per_point == 3
    assert made.step == [*range(3, 250, 3), 250]
    assert made.values["loss"] == [*(float(n) for n in range(2, 249, 3)), 250.0]
    assert made.values["eval_loss"] == [None] * 83 + [0.25]
    assert "kl" not in made.values
    assert evidence.curves([]) is None


def test_origins_and_limits_are_told() -> None:
    made = summary(results(), flags={"negatives": "missing", "model": "some/model"})
    text = read(html.render(made)).text
    for part in ("ab" * 32, "cd" * 32, "ef" * 32, "09" * 32, "1.50", "1.50 GiB", "some/model"):
        assert part in text
    assert made.provenance.seed == 7
    assert made.provenance.options["beta"] == 0.25
    assert made.provenance.options["negatives"] == "missing"
    assert "epochs" not in made.provenance.options  # the default
    told = " ".join(made.limits)
    assert "2.08 nats" in told  # log 8
    assert "saw no context" in told
    assert "again after this evaluation" not in told
    assert "invented world" not in told
    assert "The smallest n is 40" in told
    tokens = replace(results().metrics["length/response_tokens"], adapter=2469.0)
    longer = with_rows(results(held_out="nothing"), **{"length/response_tokens": tokens})
    steps = {**STEPS, "eval": {**STEPS["eval"], "inputs": {"adapter": "00" * 32}}}
    told = " ".join(summary(longer, steps=steps).limits)
    assert "again after this evaluation" in told
    assert "2.00 times as long" in told
    assert "Nothing was held out" in told
    assert "invented world" in told


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small run on the embedded model."""
    folder = tmp_path_factory.mktemp("page")
    flags = {
        "contexts": head("contexts_train.jsonl", 10, folder),
        "prompts": head("prompts_train.jsonl", 10, folder),
        "prompts_per_context": 3,
        "max_steps": 2,
        "eval_prompts_per_context": 2,
        "resamples": 200,
    }
    pipeline.run.run(folder / "run", resolve(flags=flags))
    return folder / "run"


def test_a_run_ends_with_a_page_of_its_own_numbers(run: Path) -> None:
    found = json.loads((run / "eval.json").read_text())
    made = json.loads((run / "report.json").read_text())
    assert html.render(Report.from_json(made)) == (run / "report.html").read_text(encoding="utf-8")
    details = {name: section["details"] for name, section in found["sections"].items()}
    told = {
        metric
        for name, section in made["sections"].items()
        if name not in ("retention", "diversity")  # whose details hold a value an item
        for metric in section["metrics"]
    }
    for name, metric in made["metrics"].items():
        if name in told:
            continue
        for side in ("base", "adapter"):
            if name in found["items"]:
                values = found["items"][name][side]
            else:  # of a study
                study, part, figure = name.split("/")
                values = (details[study] if study == "diversity" else details[study][part])[side]
                values = [value for value in values[figure] if value is not None]
            assert np.mean(values) == pytest.approx(metric[side], rel=1e-5)
            assert len(values) == metric["n"]
    tree = read((run / "report.html").read_text(encoding="utf-8"))
    figures = {figure.attributes["id"]: figure for figure in tree.all("figure")}
    assert "answer length" in figures["figure-forest"].text  # what the table beside it holds,
    assert "Vendi score" not in figures["figure-forest"].text  # sections have their own tables
    assert "Vendi score, to one request" in tree.text
    first, second = made["plots"]["training"]["loss"]
    assert first == pytest.approx(math.log(2), abs=1e-5)
    pairs = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
    tokens = made["plots"]["pair_tokens"]
    assert sum(tokens["counts"]["chosen"]) == len(pairs)
    assert tokens["means"]["rejected"] == pytest.approx(
        np.mean([len(pair["rejected_token_ids"]) for pair in pairs])
    )
    for example in found["examples"]:
        assert example["facts"]
    assert made["provenance"]["machine"]["versions"]["mlx"] == mx.__version__
    assert [step["step"] for step in made["provenance"]["steps"]] == ["generate", "train", "eval"]
    assert second < first + 1


def test_markdown_for_pasting_is_all_that_is_printed(run: Path) -> None:
    from mipo_cli.app import app

    result = CliRunner().invoke(app, ["report", str(run), "--markdown"])
    assert result.exit_code == 0, result.output
    assert result.stdout == (run / "report.md").read_text(encoding="utf-8")
    assert "| information/pmi |" in result.stdout
    both = CliRunner().invoke(app, ["report", str(run), "--markdown", "--json"])
    assert both.exit_code == 2


def test_a_report_without_metrics_or_with_broken_ones(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "eval.json").write_bytes((run / "eval.json").read_bytes())
    pipeline.report.report(copy, resolve())
    figures = [f.attributes["id"] for f in read((copy / "report.html").read_text()).all("figure")]
    assert figures == ["figure-forest", "figure-pmi", "figure-answer_tokens"]
    (copy / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n{"step": 2,\n')
    with pytest.raises(MipoError, match=r"metrics\.jsonl:2: not what 'mipo train' wrote") as caught:
        pipeline.report.report(copy, resolve())
    assert caught.value.hint
