"""The learning curves of runs as PNG, for papers: one file per chart, with the curves of all runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opendetr._matplotlib import Figure, png_of
from opendetr.evaluation.run_page import LearningChart, learning_charts
from opendetr.files import write_bytes
from opendetr.pages.charts import thinned

SIZE = (3.4, 2.4)  # inches: the width of a column of a paper
DASHES = ("-", "--", ":")  # of the curves of a chart, where colours are for runs


def write_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> list[Path]:
    """Draw the lines of the `metrics.jsonl` of runs, by the names of the runs; returns the files."""
    charts: dict[str, dict[str, LearningChart]] = {}
    for run, history in histories.items():
        for chart in learning_charts(history, num_classes=2):
            charts.setdefault(chart.name, {})[run] = chart
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in charts]
    for path, of_runs in zip(paths, charts.values()):
        write_bytes(path, png_of(curves_plot(of_runs)))
    return paths


def curves_plot(of_runs: Mapping[str, LearningChart]) -> Figure:
    """One chart of every run: of several runs each has a colour, and its curves have dashes."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    several = len(of_runs) > 1
    for number, (run, chart) in enumerate(of_runs.items()):
        for place, (name, points) in enumerate(chart.curves.items()):
            run = run.lstrip("_").replace("$", r"\$")  # matplotlib hides the first, and reads formulas
            label = f"{run}: {name}" if several and len(chart.curves) > 1 else run if several else name
            look: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": DASHES[place]} if several else {}
            axes.plot(*zip(*thinned(points)) if points else ((), ()), label=label, linewidth=1, **look)
        axes.set_ylim(0, chart.highest)
        axes.set_ylabel(chart.title if len(chart.curves) > 1 else next(iter(chart.curves)), fontsize=7)
    axes.set_xlim(left=0)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if several or len(axes.lines) > 1:
        axes.legend(fontsize=6, frameon=False)
    return figure
