"""Results as tables in the terminal, and as a report in one HTML file that needs no network."""

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.page import as_png, figure, page, table
from opendetr.files import write_text
from opendetr.progress import console

MEANING = {
    "AP": "mean over IoU 0.50 to 0.95", "AP50": "at IoU 0.50", "AP75": "at IoU 0.75",
    "APs": "small, below 32x32 pixels", "APm": "medium", "APl": "large, above 96x96 pixels",
    "AR1": "recall, 1 detection per picture and class", "AR10": "recall, 10 detections",
    "AR100": "recall, 100 detections", "ARs": "recall, small", "ARm": "recall, medium", "ARl": "recall, large",
}  # fmt: skip


def print_metrics(metrics: CocoMetrics) -> None:
    """The 12 COCO numbers, then AP per class."""
    summary = Table("", "", "", title="COCO box metrics: all scores, at most 100 detections per picture and class")
    for row in _summary(metrics):
        summary.add_row(*row)
    per_class = Table("class", "id", "AP", "AP50")
    for name, values in metrics.per_class.items():
        per_class.add_row(name, f"{values['id']:g}", metric_in_words(values["AP"]), metric_in_words(values["AP50"]))
    console.print(summary, per_class)


def print_findings(found: Sequence[tuple[bool, str]]) -> None:
    """The doctor's findings: problems, then notes."""
    for is_problem, sentence in found:
        console.print(f"{'PROBLEM' if is_problem else 'note':>8}  {sentence}.", style="red" if is_problem else None)


def print_info(facts: dict[str, Any]) -> None:
    """The facts of `api.info` as a table."""
    rows = {
        "model": facts["source"],
        **(_of_graph(facts) if "certificate" in facts else _of_model(facts)),
        "classes": f"{len(facts['classes'])}: {', '.join(facts['classes'])}",
        "preprocessing": ", ".join(f"{name} {value}" for name, value in facts["preprocessing"].items()),
    }
    table = Table("", "", show_header=False)
    for row in rows.items():
        table.add_row(*row)
    console.print(table)


def _of_graph(facts: dict[str, Any]) -> dict[str, str]:
    """The rows of exported files alone."""
    certificate = facts["certificate"]
    compared = f"{certificate['engine']} against {certificate['against']} on {certificate['pictures']}"
    return {
        "made from": f"{facts['model']}, by opendetr {facts['opendetr']}; its parameters and cost are not known",
        "precision": facts["precision"],
        **facts["inputs"],
        "certificate": f"{compared}, {certificate['date']}",
    }


def _of_model(facts: dict[str, Any]) -> dict[str, str]:
    """The rows of models alone."""
    model, origin = facts["config"]["model"], facts["origin"]
    height, width = facts["gflops_at"]
    layers = f"{model['num_encoder_layers']} + {model['num_decoder_layers']} layers"
    rows = {
        "backbone": f"{model['backbone']}, stride {model['output_stride']}",
        "transformer": f"{layers}, {model['embed_dim']} wide, {model['num_queries']} queries",
        "parameters": f"{facts['parameters'] / 1e6:.1f} M",
        "GFLOPs": f"{facts['gflops']:.1f} at {height}x{width} (multiply-adds, as in the paper's table 1)",
        "trained on": f"{origin.get('train_split', '?')} of {origin.get('data', '?')}",
        "backbone weights": str(origin.get("backbone_weights", "?")),
    }
    if val := origin.get("val", {}):
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # table 1's columns
        rows["on val"] = ", ".join(f"{name} {metric_in_words(val[name])}" for name in names)
    return rows


@dataclass(frozen=True)
class RunReport:
    """One run in a report."""

    title: str
    summary: str  # a sentence or two about the numbers
    history: Sequence[dict[str, Any]]  # the lines of metrics.jsonl
    metrics: CocoMetrics  # on held-out pictures
    pictures: Sequence[tuple[str, Image.Image]]  # caption and picture of each
    attention: str = ""  # HTML: the attention of the model in one of them


def write_report(path: Path, title: str, runs: Sequence[RunReport], machine: str, commands: Sequence[str]) -> None:
    """Write learning curves, AP tables and pictures of runs as one self-contained HTML file.

    It ends with the next commands to run and a description of the machine.
    """
    text = html.escape("\n".join(commands))
    closing = f"<h2>Your own pictures</h2><pre>{text}</pre><p class=small>{html.escape(machine)}</p>"
    write_text(path, page(title, "".join(map(_section, runs)) + closing))


def _section(run: RunReport) -> str:
    per_class = run.metrics.per_class.items()
    classes = [[name, metric_in_words(values["AP"]), metric_in_words(values["AP50"])] for name, values in per_class]
    figures = "".join(figure(as_png(image), caption) for caption, image in run.pictures)
    return (
        f"<h2>{html.escape(run.title)}</h2><p>{html.escape(run.summary)}</p>"
        f"<h3>Learning curves</h3>{_curves(run.history)}<h3>Average precision on held-out pictures</h3>"
        f"<div class=side>{table([], _summary(run.metrics))}{table(['class', 'AP', 'AP50'], classes)}</div>"
        f"<h3>Held-out pictures, detections with a score of at least 0.5</h3><div class=grid>{figures}</div>"
        f"{run.attention}"
    )


def _curves(history: Sequence[dict[str, Any]]) -> str:
    """Loss, matching and AP over the minutes of the run, as SVG; AP has a point whenever val was measured."""
    from opendetr._matplotlib import Figure, matplotlib

    steps = [line for line in history if line["kind"] == "step"]
    trained = steps if len(steps) > 1 else [line for line in history if line["kind"] == "epoch"]
    panels = [
        ("Loss of the last decoder layer", trained, {"class": "loss_class", "L1": "loss_l1", "GIoU": "loss_giou"}),
        ("Matched queries", trained, {"IoU": "matched_iou", "accuracy / 100": "matched_accuracy"}),
        ("Average precision on val", history, {"AP": "val_AP", "AP50": "val_AP50"}),
    ]
    panels = [panel for panel in panels if any(key in line for line in panel[1] for key in panel[2].values())]
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        drawn = Figure(figsize=(11 * len(panels) / 3, 3.1), layout="constrained")
        for axes, (title, lines, curves) in zip(drawn.subplots(1, len(panels)), panels):
            for label, key in curves.items():
                points = [(line["seconds"] / 60, line[key]) for line in lines if line.get(key) is not None]
                scale = 0.01 if key == "matched_accuracy" else 1
                axes.plot([x for x, _ in points], [y * scale for _, y in points], label=label, marker=".", markersize=4)
            axes.set(title=title, xlabel="minutes", ylim=(0, None) if "Loss" in title else (0, 1))
            axes.legend(frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        drawn.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _summary(metrics: CocoMetrics) -> list[list[str]]:
    return [[name, metric_in_words(value), MEANING[name]] for name, value in metrics.summary.items()]


def metric_in_words(value: float) -> str:
    """An AP or AR to three digits; a dash where it is undefined."""
    return "-" if value < 0 else f"{value:.3f}"
