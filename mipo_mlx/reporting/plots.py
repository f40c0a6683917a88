"""Numbers of a report -> inline SVG whose text is text and whose colours are the page's.

Widths suit a telephone: a plot is drawn about as wide as the narrowest screen and scaled up. What
colours tell is told by dashes, fillings and words too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mipo_mlx.reporting.evidence import Curves, Histogram
from mipo_mlx.reporting.format import (
    change,
    number,
    scale,
    signed,
    typographic,
    unit_of_difference,
)
from mipo_mlx.results import MetricRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that nothing else has, one for each CSS variable that takes its place.
INK, MUTED, BASE, ADAPTER = "#000001", "#000002", "#000003", "#000004"
VARIABLES = {INK: "--ink", MUTED: "--muted", BASE: "--base", ADAPTER: "--adapter"}
WIDTH, RIGHT = 4.7, 0.15  # inches of 72 units; of a plot, and free at its right side
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mipo",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
}
LOOKS: Sequence[Mapping[str, Any]] = (
    {"color": BASE, "linestyle": (0, (4, 2)), "linewidth": 1.6},
    {"color": ADAPTER, "linestyle": "-", "linewidth": 1.8},
)


def _shown(value: float) -> str:
    return typographic(number(value))


def _difference(value: float, unit: str) -> str:
    return typographic(signed(value, unit))


@contextmanager
def _figure(
    heights: Sequence[float], *, left: float, above: float, below: float, bottom: float = 0.0
) -> Iterator[tuple[Figure, list[Axes]]]:
    """An empty figure with panels below each other; no setting of the user's has a say in it.

    Lengths are inches: of each panel, of the space left of, above and below each, and of what is
    left free below the last. They are given, for to find them by drawing would take twice the time.
    """
    import matplotlib
    from matplotlib.figure import Figure as NewFigure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        total = sum(heights) + len(heights) * (above + below) + bottom
        figure = NewFigure(figsize=(WIDTH, total))
        width = (WIDTH - left - RIGHT) / WIDTH
        panels, place = [], total
        for height in heights:
            place -= above + height
            box = (left / WIDTH, place / total, width, height / total)
            panels.append(figure.add_axes(box))
            place -= below
        yield figure, panels


def _style(text: str) -> str:
    """A style of matplotlib's with the page's font and colours."""
    text = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;]*", r"font-size: \2", text)
    text = re.sub(r"font-family: [^;]*;? ?", "", text)
    return re.sub("#00000[1-4]", lambda match: f"var({VARIABLES[match[0]]})", text)


def _svg(figure: Figure, name: str, title: str, about: str) -> str:
    """A figure as an ``svg`` element of a page: no outside names, ids of its own, title first."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    ids: dict[str, str] = {}

    def own(match: re.Match[str]) -> str:
        return match[1] + ids.setdefault(match[2], f"{name}-{len(ids)}")

    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            key = key.rpartition("}")[2]
            value = _style(value) if key == "style" else value
            pattern = {"id": "()(.+)", "href": "(#)(.+)"}.get(key, r"(url\(#)([^)]+)")
            element.attrib[key] = re.sub(pattern, own, value)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update(
        {"class": "plot", "viewBox": box, "role": "img"}
        | {"aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-desc"}
    )
    for place, (tag, text) in enumerate((("title", title), ("desc", about))):
        label = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        label.text = text
        root.insert(place, label)
    return ElementTree.tostring(root, encoding="unicode")


def _interval(axes: Axes, place: float, name: str, row: MetricRow) -> None:
    """One metric's difference and interval, with its name and numbers above."""
    from matplotlib.transforms import blended_transform_factory

    factor = scale(row.unit)
    low, high = (factor * value for value in row.ci95)
    delta = factor * row.delta
    clear = change(row) != "none seen"
    colour = ADAPTER if clear else MUTED
    place += 0.1
    axes.plot([0, 0], [place - 0.2, place + 0.45], color=MUTED, linestyle=":", linewidth=1.4)
    axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot([low, high], [place, place], color=colour, marker="|", linestyle="none")
    axes.plot(
        [delta], [place], color=colour, marker="s" if clear else "o", linestyle="none",
        markerfacecolor=colour if clear else "none", markersize=6.5,
    )  # fmt: skip
    side = blended_transform_factory(axes.transAxes, axes.transData)
    ends = [_difference(end, row.unit) for end in row.ci95]
    numbers = f"{_difference(row.delta, row.unit)} [{ends[0]}, {ends[1]}]"
    axes.text(0, place - 0.42, name, transform=side, va="center", ha="left")
    axes.text(1, place - 0.42, numbers, transform=side, va="center", ha="right")


def forest(metrics: Mapping[str, MetricRow], names: Mapping[str, str]) -> str:
    """Differences of all metrics with their intervals; those of one unit share an axis.

    Args:
        metrics: rows; such as are not finite are left out by the caller.
        names: how the page calls them.
    """
    units: dict[str, list[str]] = {}
    for name, row in metrics.items():
        units.setdefault(unit_of_difference(row.unit), []).append(name)
    heights = [0.42 * len(group) for group in units.values()]
    with _figure(heights, left=0.15, above=0.08, below=0.52) as (figure, panels):
        for axes, (unit, group) in zip(panels, units.items(), strict=True):
            for place, name in enumerate(group):
                _interval(axes, place, names[name], metrics[name])
            low, high = axes.get_xlim()
            axes.set_xlim(min(low, -0.02 * (high - low)), max(high, 0.02 * (high - low)))
            axes.set_ylim(len(group) - 0.65, -0.65)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_xlabel(f"difference in {unit}")
        listed = "; ".join(
            f"{names[name]} {_difference(row.delta, row.unit)}" for name, row in metrics.items()
        )
        about = (
            "Adapter less base with 95% intervals, a dotted line at zero. A filled square: a "
            f"change was seen. An open circle: none. Differences: {listed}."
        )
        return _svg(figure, "forest", "Differences of all metrics", about)


def histogram(numbers: Histogram, name: str, title: str) -> str:
    """Counts of two columns in common bins: the first dashed, the second solid and filled.

    Args:
        numbers: of ``evidence.histogram``.
        name: starts the ids.
        title: what is counted.
    """
    from matplotlib.ticker import MaxNLocator

    with _figure([1.8], left=0.65, above=0.35, below=0.5) as (figure, (axes,)):
        about = []
        for (side, counts), look in zip(numbers.counts.items(), LOOKS, strict=True):
            mean = numbers.means.get(side)
            label = side if mean is None else f"{side}, mean {_shown(mean)}"
            about.append(label)
            if look["linestyle"] == "-":
                axes.stairs(counts, numbers.edges, fill=True, color=look["color"], alpha=0.22)
            axes.stairs(counts, numbers.edges, label=label, **look)
            if mean is not None:
                axes.axvline(mean, ymax=0.06, **look)
        axes.set_xlabel(numbers.unit)
        axes.set_ylabel("answers")
        axes.set_ylim(0, None)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
        edges = numbers.edges
        bins = f"{len(edges) - 1} bins from {edges[0]:g} to {edges[-1]:g} {numbers.unit}"
        return _svg(figure, name, title, f"Histogram in {bins}: {'; '.join(about)}.")


PANELS = (
    ("loss", ("eval_loss", "loss")),
    ("accuracy of rewards, share of pairs", ("rewards/accuracies",)),
    ("reward margin, beta times nats", ("rewards/margins",)),
    ("KL to the reference, nats an answer", ("kl",)),
)


def curves(numbers: Curves) -> str:
    """Training metrics by step, a panel each; validation dashed, with dots."""
    panels = [(title, [n for n in names if n in numbers.values]) for title, names in PANELS]
    panels = [panel for panel in panels if panel[1]]
    about = []
    heights = [0.85] * len(panels)
    with _figure(heights, left=0.55, above=0.3, below=0.1, bottom=0.42) as (figure, rows):
        for axes, (title, found) in zip(rows, panels, strict=True):
            for name in found:
                held = name.startswith("eval_")
                points = [
                    (step, value)
                    for step, value in zip(numbers.step, numbers.values[name], strict=True)
                    if value is not None
                ]
                look = {**LOOKS[not held], "marker": "o" if held or len(points) == 1 else ""}
                label = "validation" if held else "training"
                axes.plot(*zip(*points, strict=True), label=label, markersize=3.5, **look)
                about.append(f"{title}, {label}: {_shown(points[0][1])} to {_shown(points[-1][1])}")
            axes.set_title(title, loc="left")
            if len(found) > 1:
                axes.legend()
            if axes is not rows[-1]:
                axes.sharex(rows[-1])
                axes.tick_params(labelbottom=False)
        rows[-1].set_xlabel("optimizer step")
        return _svg(figure, "curves", "Training, first step to last", "; ".join(about) + ".")
