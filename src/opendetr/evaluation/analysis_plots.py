"""The folder of `val --output`: the page of an evaluation, its numbers, and each figure as a PNG for papers."""

from pathlib import Path
from typing import Any

import numpy as np

from opendetr._matplotlib import Figure, png_of
from opendetr.evaluation.analysis import AnalysedMetrics, Analysis
from opendetr.evaluation.analysis_page import analysis_figures, shown_classes, value_with_interval
from opendetr.evaluation.judged import RECALLS
from opendetr.evaluation.run_page import average_precision
from opendetr.evaluation.thresholds import GRID
from opendetr.files import write_bytes, write_json, write_text
from opendetr.pages.page import page, paragraph

SIDE = 3.4  # inches: the width of a column of a paper
MOST_NUMBERS = 30  # classes of a confusion matrix with numbers in its cells


def write_evaluation(metrics: AnalysedMetrics, folder: Path, about: str) -> Path:
    """Write `val.html`, `val.json` and the figures as PNG; returns the page. `about` says what was measured on what."""
    folder.mkdir(parents=True, exist_ok=True)
    analysis = metrics.analysis
    figures = {
        "precision-recall": precision_recall_plot(analysis), "f1": f1_plot(analysis),
        "confusion": confusion_plot(analysis), "calibration": calibration_plot(analysis),
        "class-ap": class_ap_plot(metrics),
    }  # fmt: skip
    for name, figure in figures.items():
        write_bytes(folder / f"{name}.png", png_of(figure))
    write_json(folder / "val.json", metrics.to_json())
    values = ", ".join(value_with_interval(metrics, name) for name in ("AP", "AP50"))
    text = (
        f"{paragraph(f'{about} {values}.')}"
        f"<h2>Average precision</h2>{average_precision(metrics)}<h2>Detections</h2>{analysis_figures(metrics)}"
    )
    write_text(folder / "val.html", page("Evaluation", text))
    return folder / "val.html"


def precision_recall_plot(analysis: Analysis) -> Figure:
    """Precision over recall at an IoU of 0.5, of all classes (black) and the most frequent ones."""
    figure, axes = _square("recall", "precision")
    for one in (*shown_classes(analysis), analysis.overall):
        if one.precision:
            label = f"{one.name} {np.mean(one.precision):.3f}"
            axes.plot(RECALLS, one.precision, label=label, **_look(one is analysis.overall))
    axes.legend(fontsize=6, frameon=False, title="AP50", title_fontsize=6)
    return figure


def f1_plot(analysis: Analysis) -> Figure:
    """F1 over the threshold, of all classes (black) and the most frequent ones; a dot at the best threshold."""
    figure, axes = _square("score threshold", "F1 at an IoU of 0.5")
    for one in (*shown_classes(analysis), analysis.overall):
        (line,) = axes.plot(GRID, one.f1, label=one.name, **_look(one is analysis.overall))
        if one.best is not None:
            axes.plot(one.best.threshold, one.best.f1, "o", color=line.get_color(), markersize=3)
    axes.legend(fontsize=6, frameon=False)
    return figure


def confusion_plot(analysis: Analysis) -> Figure:
    """The confusion matrix; the colour is the share of the row, the numbers are counts."""
    matrix = np.array(analysis.confusion)
    names = [*(one.name for one in analysis.classes), "background"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = max(SIDE, 0.3 * min(len(names), 60))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 7 if len(names) <= MOST_NUMBERS else 4
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel(f"found, score at least {analysis.threshold:.2f}", fontsize=8)
    axes.set_ylabel("true", fontsize=8)
    if len(names) <= MOST_NUMBERS:
        for row, column in np.ndindex(*matrix.shape):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=6, color=ink)
    return figure


def calibration_plot(analysis: Analysis) -> Figure:
    """The share of detections that is right over their score."""
    found = analysis.calibration
    figure, axes = _square("mean score", "share that is right")
    axes.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1)
    axes.plot([one.score for one in found.bins], [one.right for one in found.bins], "o-", color="black", markersize=3)
    if found.error is not None:
        axes.set_title(f"expected calibration error {found.error:.3f}", fontsize=8)
    return figure


def class_ap_plot(metrics: AnalysedMetrics) -> Figure:
    """AP and AP50 of every class that has objects, the highest AP at the top; without objects an empty plot."""
    measured = {name: values for name, values in metrics.per_class.items() if values["AP"] >= 0}
    names = sorted(measured, key=lambda name: measured[name]["AP"])
    figure = Figure(figsize=(SIDE, max(0.7 * SIDE, 0.18 * len(names))), layout="constrained")
    axes = figure.subplots()
    for name, width, colour in (("AP50", 0.8, "0.8"), ("AP", 0.5, "#1f77b4")):
        axes.barh(range(len(names)), [measured[of][name] for of in names], width, color=colour, label=name)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlim(0, 1)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, frameon=False, loc="lower right")
    return figure


def _look(is_overall: bool) -> dict[str, Any]:
    return {"color": "black", "linewidth": 2} if is_overall else {"linewidth": 1}


def _square(x_label: str, y_label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(SIDE, SIDE), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(y_label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
