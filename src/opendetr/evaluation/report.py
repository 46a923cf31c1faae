"""Results as tables in the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from opendetr.evaluation.coco import CocoMetrics
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


def _summary(metrics: CocoMetrics) -> list[list[str]]:
    return [[name, metric_in_words(value), MEANING[name]] for name, value in metrics.summary.items()]


def metric_in_words(value: float) -> str:
    """An AP or AR to three digits; a dash where it is undefined."""
    return "-" if value < 0 else f"{value:.3f}"
