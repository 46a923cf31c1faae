"""Results as tables in the terminal."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from opendetr.checkpoints.description import USUAL_THRESHOLD
from opendetr.data.data_check import by_severity
from opendetr.data.findings import Finding, Severity
from opendetr.data.index import DatasetIndex
from opendetr.data.source import DataSource
from opendetr.evaluation.analysis import AnalysedMetrics
from opendetr.evaluation.coco import CocoMetrics
from opendetr.progress import console, print_command
from opendetr.wording import counted, one_line

MEANING = {
    "AP": "mean over IoU 0.50 to 0.95", "AP50": "at IoU 0.50", "AP75": "at IoU 0.75",
    "APs": "small, below 32x32 pixels", "APm": "medium", "APl": "large, above 96x96 pixels",
    "AR1": "recall, 1 detection per picture and class", "AR10": "recall, 10 detections",
    "AR100": "recall, 100 detections", "ARs": "recall, small", "ARm": "recall, medium", "ARl": "recall, large",
}  # fmt: skip


def print_metrics(metrics: CocoMetrics) -> None:
    """The 12 COCO numbers, AP and AP50 with their intervals where those are known, then AP per class."""
    summary = Table(
        show_header=False, title="COCO box metrics: all scores, at most 100 detections per picture and class"
    )
    intervals = metrics.analysis.intervals if isinstance(metrics, AnalysedMetrics) else {}
    for name, value in metrics.summary.items():
        bounds = f"; 95 %: {' to '.join(map(metric_in_words, intervals[name]))}" if name in intervals else ""
        summary.add_row(name, metric_in_words(value), f"{MEANING[name]}{bounds}")
    per_class = Table("class", "id", "AP", "AP50")
    for name, values in metrics.per_class.items():
        per_class.add_row(name, str(values["id"]), metric_in_words(values["AP"]), metric_in_words(values["AP50"]))
    console.print(summary, per_class)


def print_classes(index: DatasetIndex) -> None:
    """What a split has: its classes with their objects and sizes, the most frequent first, and its pictures."""
    title = "Objects by class; sides in pixels (square root of the area)"
    table = Table(
        "class", "id", "objects", "pictures", "least", "median", "most", title=title, box=SIMPLE_HEAD,
        collapse_padding=True, pad_edge=False,
    )  # fmt: skip
    for column in table.columns[2:]:
        column.justify = "right"
    classes = index.label_map.num_classes
    labels, boxes = index.labels, index.boxes_xyxy
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    objects = np.bincount(labels, minlength=classes)
    of_each = np.split(sides[labels.argsort()], objects.cumsum()[:-1])  # the sides of every class
    pictures = np.repeat(np.arange(len(index)), index.counts)
    showing = np.bincount(np.unique(np.stack([pictures, labels]), axis=1)[1], minlength=classes)
    for label in sorted(range(classes), key=lambda label: -objects[label]):
        name, number = one_line(index.label_map.names[label]), index.label_map.category_ids[label]
        spread = np.quantile(of_each[label], (0, 0.5, 1)) if objects[label] else ()
        counts = f"{objects[label]:,}", f"{showing[label]:,}"
        table.add_row(name, str(number), *counts, *(f"{side:.0f}" for side in spread))
    console.print(table)
    shapes = Counter(map(tuple, index.sizes.tolist()))
    (width, height), often = shapes.most_common(1)[0]
    others = f" ({often:,}) and {counted(len(shapes) - 1, 'other size')}" if len(shapes) > 1 else ""
    console.print(
        f"{counted(len(index), 'picture')} of {width}x{height}{others}; {index.counts.min()} to {index.counts.max()} "
        f"objects in a picture, the median is {np.median(index.counts):g}."
    )


STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: None}


def print_findings(found: Sequence[Finding]) -> None:
    """Findings about a data set: notes first, errors last, where they are seen."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in reversed(by_severity(found)):
        word = "PROBLEM" if finding.is_problem else str(finding.severity)
        table.add_row(word, f"{finding.sentence.removesuffix('.')}.", style=STYLES[finding.severity])
    console.print(table)


def print_verdict(found: Sequence[Finding], data: DataSource) -> None:
    """Whether a data set can be trained on, and what is next."""
    if problems := sum(finding.is_problem for finding in found):
        must = counted(problems, "problem must be solved", "problems must be solved")
        console.print(f"Verdict: {must} before training.", style="bold red")
        return
    console.print("Verdict: no problem was found. Next:", style="bold")
    print_command("opendetr", "train", *data.as_options(), "--minutes", 30)


def print_info(facts: dict[str, Any]) -> None:
    """The facts of `api.info` as a table."""
    rows = {
        "model": facts["source"],
        **(_of_graph(facts) if "certificate" in facts else _of_model(facts)),
        "classes": f"{len(facts['classes'])}: {', '.join(map(one_line, facts['classes']))}",
        "thresholds": _thresholds(facts),
        "preprocessing": ", ".join(f"{name} {value}" for name, value in facts["preprocessing"].items()),
    }
    table = Table("", "", show_header=False)
    for row in rows.items():
        table.add_row(*row)
    console.print(table)


def _thresholds(facts: dict[str, Any]) -> str:
    """The model's own by class, or the one that it has without."""
    own = facts.get("thresholds")
    if not own:
        return f"{USUAL_THRESHOLD} (none of its own)"
    return ", ".join(f"{one_line(name)}: {score:.2f}" for name, score in zip(facts["classes"], own))


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
        "GFLOPs": f"{facts['gflops']:.1f} at {height}x{width}: {facts['gflops_remark']}",
        "trained on": f"{origin.get('train_split', '?')} of {origin.get('data', '?')}",
        "backbone weights": str(origin.get("backbone_weights", "?")),
    }
    if val := origin.get("val", {}):
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # table 1's columns
        rows["on val"] = ", ".join(f"{name} {metric_in_words(val[name])}" for name in names)
    return rows


def metric_in_words(value: float) -> str:
    """An AP or AR to three digits; a dash where it is undefined."""
    return "-" if value < 0 else f"{value:.3f}"
