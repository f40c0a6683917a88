"""What stands beside the plots and tables of the page."""

from __future__ import annotations

FOREST = (
    "Differences, with 95% intervals",
    "Adapter less base, of paired answers. Filled square: a change was seen, for the interval is "
    "clear of zero (dotted line) and Holm's p, where there is one, at most 0.05. Open circle: "
    "none. Metrics of one unit share an axis; the table above holds the numbers.",
)
HISTOGRAMS = {
    "pmi": (
        "PMI before and after",
        "Held-out answers by their pointwise mutual information with their own context, each "
        "answer scored by the model that wrote it. Farther right, the answer tells more of whom it "
        "was written for.",
    ),
    "answer_tokens": (
        "Length of held-out answers",
        "A gain that comes with longer answers may be length alone.",
    ),
    "pair_tokens": (
        "Length of the answers trained on",
        "Where chosen answers are longer than rejected ones, training may teach length.",
    ),
}


def training(steps_per_point: int) -> str:
    """Of the curves of training."""
    if steps_per_point > 1:
        return (
            f"Means over the pairs of {steps_per_point} optimizer steps each, before their updates."
        )
    return "Means over the pairs of each optimizer step, before its update."
