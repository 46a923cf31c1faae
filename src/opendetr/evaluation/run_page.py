"""The parts of a run's page: learning curves, average precision, truth beside found, what the data are like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch

from opendetr.boxes import box_iou
from opendetr.data.index import DatasetIndex, Record
from opendetr.data.transforms import Preprocessing
from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.report import MEANING, metric_in_words
from opendetr.images import read_image
from opendetr.labels import LabelMap
from opendetr.pages.boxed_pictures import MOST_NAMES, Thumbnail, legend
from opendetr.pages.charts import histogram, line_chart
from opendetr.pages.page import bar, figure, paragraph, table
from opendetr.structures import Detections

THRESHOLDS = (0.5, 0.25, 0.1)  # of the detections that are shown: the first that one of them reaches
RIGHT = 0.5  # the IoU of a detection that finds an object, as in AP50
SMALL, LARGE = 32, 96  # pixels, side of a square: the limits of COCO's APs, APm and APl


@dataclass(frozen=True)
class ShownPicture:
    """A picture of a split, for a page."""

    position: int  # in the index
    record: Record
    thumbnail: Thumbnail

    @classmethod
    def of(cls, index: DatasetIndex, position: int) -> "ShownPicture":
        """Read the picture; UserError if that is not possible."""
        record = index.records[position]
        return cls(position, record, Thumbnail.of(read_image(record.path), f"held-out-{position}"))


@dataclass(frozen=True)
class LearningChart:
    """Curves over the steps of a run."""

    name: str  # of its file, where it is a picture
    title: str
    curves: dict[str, list[tuple[float, float]]]  # of step and value; some may be empty
    reading: str  # how to read it
    highest: float | None = None  # of the y axis
    unit: float = 1.0  # in which a page with little room for numbers shows the values


def learning_charts(history: Sequence[Mapping[str, Any]], num_classes: int) -> list[LearningChart]:
    """Losses, matching and AP over the steps of a run; `history` are the lines of its metrics.jsonl.

    With one class every matched query names the right one, so that curve is left out.
    """
    steps = [line for line in history if line["kind"] == "step"]
    trained = steps if len(steps) > 1 else [line for line in history if line["kind"] == "epoch"]

    def points(lines: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> list[tuple[float, float]]:
        return [(line["step"], line[key] * scale) for line in lines if line.get(key) is not None]

    losses = {"class": "loss_class", "L1": "loss_l1", "GIoU": "loss_giou"}
    matched = {"IoU": points(trained, "matched_iou")}
    if num_classes > 1:
        matched["right class"] = points(trained, "matched_accuracy", 0.01)
    measured = {name: [(x, max(0.0, y)) for x, y in points(history, f"val_{name}")] for name in ("AP", "AP50")}
    unit = 10.0 ** np.floor(np.log10(max((line["lr"] for line in trained if line.get("lr")), default=1.0)))
    charts = [
        LearningChart(
            "ap", "Average precision on held-out pictures", measured,
            "1 is perfect. AP50 asks for boxes that overlap the true ones by half, AP for ever better ones.", 1.0,
        ),
        LearningChart(
            "loss", "Loss", {"loss": points(trained, "loss")},
            "The sum that training makes smaller, of all decoder layers and helping losses. It should fall; where it "
            "rises for long, the learning rate is too high.",
        ),
        LearningChart(
            "loss-terms", "Loss terms, last decoder layer",
            {name: points(trained, key) for name, key in losses.items()},
            "The three terms of the set loss of the layer that answers, before their weights.",
        ),
        LearningChart(
            "matched", "Matched queries", matched,
            "How well the query that was matched to an object fits it: the overlap of the boxes"
            + (", and the share of queries whose best class is right." if num_classes > 1 else "."),
            1.0,
        ),
        LearningChart(
            "match-stability", "Matched-query stability",
            {"same query as before": points(history, "val_match_stability")},
            "The share of objects on held-out pictures that are matched with the same query as at the evaluation "
            "before. It should rise: while it is low, queries still compete for objects, and learn them in turns. At "
            "the end it rises also because the learning rate falls.", 1.0,
        ),
        LearningChart(
            "learning-rate", "Learning rate", {"learning rate": points(trained, "lr")},
            "Of the transformer and the heads; the backbone's is a fixed share of it (backbone_lr in config.toml). "
            "Much of what a model learns it learns while the rate falls at the end.", unit=unit,
        ),
        LearningChart(
            "speed", "Speed", {"pictures/s": points(trained, "pictures_per_second")},
            "Training pictures per second. It changes with the size of the pictures; where it falls and the size does "
            "not change, something else needs the machine.",
        ),
    ]  # fmt: skip
    of_val = ("ap", "match-stability")  # without evaluations they are left out
    return [chart for chart in charts if chart.name not in of_val or any(chart.curves.values())]


def learning_curves(history: Sequence[Mapping[str, Any]], num_classes: int) -> str:
    """The charts of `learning_charts`, for a page."""
    drawn = ""
    for chart in learning_charts(history, num_classes):
        title = chart.title if chart.unit == 1 else f"{chart.title}, in units of {chart.unit:g}"
        curves = {name: [(x, y / chart.unit) for x, y in points] for name, points in chart.curves.items()}
        drawn += figure(line_chart(title, curves, "step", chart.highest), chart.reading)
    return f"<h3>Learning curves</h3><div class='grid charts'>{drawn}</div>"


def symptoms_in_words(symptoms: Mapping[str, str]) -> str:
    """The sentences on what keeps a run from learning, as a list; empty where there are none."""
    if not symptoms:
        return ""
    items = "".join(f"<li>{escape(sentence[0].upper() + sentence[1:])}.</li>" for sentence in symptoms.values())
    return f"<div class='verdict bad'>What may keep it from learning:<ul>{items}</ul></div>"


def average_precision(metrics: CocoMetrics) -> str:
    """The 12 COCO numbers."""
    rows = [[name, metric_in_words(value), MEANING[name]] for name, value in metrics.summary.items()]
    return table([], rows)


def class_table(splits: Mapping[str, DatasetIndex], label_map: LabelMap, metrics: CocoMetrics | None) -> str:
    """A row per class, the most frequent first: its objects in every split (the first with bars), AP and AP50.

    The splits must have the class indices of `label_map`.
    """
    counts = {name: count_labels(index, label_map.num_classes) for name, index in splits.items()}
    measured = {} if metrics is None else {values["id"]: values for values in metrics.per_class.values()}
    first, *others = counts.values()
    rows = []
    for label in sorted(range(label_map.num_classes), key=lambda label: (-first[label], label)):
        category_id = label_map.category_ids[label]
        if category_id is None:
            continue
        row = [label_map.names[label], bar(int(first[label]), int(first.max()))]
        row += [f"{of_split[label]:,}" for of_split in others]
        if metrics is not None:
            values = measured.get(category_id, {})
            row += [metric_in_words(float(values.get(name, -1))) for name in ("AP", "AP50")]
        rows.append(row)
    header = ["class", *(f"objects in {name}" for name in counts), *(("AP", "AP50") if metrics is not None else ())]
    return table(header, rows, may_scroll=True)


def count_labels(index: DatasetIndex, num_classes: int) -> np.ndarray:
    """How many objects [C] of every class a split has."""
    return np.bincount(index.labels, minlength=num_classes)


def truth_beside_found(
    pictures: Sequence[ShownPicture], found: Mapping[int, Detections], label_map: LabelMap,
    threshold: float | None = None,
) -> str:  # fmt: skip
    """Every picture twice, with its true boxes and with the detections; `found` is by position in the index.

    `threshold` is the least score of detections that are shown; None takes the first of `THRESHOLDS` that one reaches.
    """
    if threshold is None:
        best_score = max((float(one.scores.max()) for one in found.values() if len(one)), default=0.0)
        threshold = next((threshold for threshold in THRESHOLDS if best_score >= threshold), THRESHOLDS[0])
    figures = []
    for shown in pictures:
        record, best = shown.record, None
        if shown.position in found:
            best = found[shown.position].above(threshold)
        few = best is None or max(len(record.labels), len(best)) <= MOST_NAMES
        drawn = shown.thumbnail.boxed(record.boxes_xyxy, record.labels, label_map, with_names=few)
        caption = f"{record.path.name}: {len(record.labels)} true"
        if best is not None:
            right = count_right(best, record)
            boxes, labels, scores = best.boxes_xyxy.numpy(), best.labels.numpy(), best.scores.tolist()
            drawn += shown.thumbnail.boxed(boxes, labels, label_map, scores, with_names=few, is_repeated=True)
            drawn = f"<div class=pair>{drawn}</div>"
            caption += f" (left), {len(best)} found (right): {right} right, {len(best) - right} wrong"
        figures.append(figure(drawn, caption))
    words = (
        f"Found are detections with a score of at least {threshold:.2g}. One is right where it names an object's class "
        f"and overlaps it with an IoU of {RIGHT:g} or more; every object counts once."
        if found else "The true boxes only."
    )  # fmt: skip
    shown_labels = np.unique(np.concatenate([picture.record.labels for picture in pictures])).tolist()
    grid = f"<div class='grid{'' if found else ' small'}'>{''.join(figures)}</div>"
    return f"{paragraph(words)}{legend(shown_labels, label_map)}{grid}"


def count_right(found: Detections, record: Record) -> int:
    """How many detections find an object: from the best score on, each takes the object that it overlaps most."""
    if not len(found) or not len(record.labels):
        return 0
    order = found.scores.argsort(descending=True, stable=True)
    truth = torch.from_numpy(record.boxes_xyxy).float()
    ious = box_iou(found.boxes_xyxy.float()[order][:, None], truth[None])  # [N, T]
    ious[found.labels[order][:, None] != torch.from_numpy(record.labels)[None]] = 0
    right = 0
    for of_detection in ious:
        best = int(of_detection.argmax())
        if of_detection[best] >= RIGHT:
            right += 1
            ious[:, best] = 0
    return right


def distributions(index: DatasetIndex, preprocessing: Preprocessing) -> str:
    """How large the objects of a split are, in its pictures and as the model sees them, and how many a picture has."""
    shapes, shape_of = np.unique(index.sizes[:, ::-1], axis=0, return_inverse=True)
    growth = np.array([np.sqrt(np.divide(preprocessing.shape(*shape), shape).prod()) for shape in shapes.tolist()])
    counts, boxes = index.counts, index.boxes_xyxy
    if not len(boxes):
        return paragraph("No picture has an object.")
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    seen = sides * np.repeat(growth[shape_of.ravel()], counts)
    marks = {float(SMALL): "APm", float(LARGE): "APl"}
    fullest = int(counts.max())
    step = -(-(fullest + 1) // 20)
    per_picture = list(range(0, fullest + step + 1, step))
    charts = [
        figure(
            histogram("Sizes in the pictures", *_by_size(sides), "pixels: square root of the box's area", marks),
            f"APs, APm and APl measure objects below {SMALL} pixels, up to {LARGE}, and above.",
        ),
        figure(
            histogram("Sizes as the model sees them", *_by_size(seen), "pixels: square root of the box's area"),
            f"Pictures are resized to a shorter side of {preprocessing.image_size} pixels. Below about 12 pixels an "
            "object is hard to find: train with larger pictures or predict in tiles.",
        ),
        figure(
            histogram("Objects per picture", per_picture, np.histogram(counts, per_picture)[0].tolist(), "objects"),
            f"{int((counts == 0).sum()):,} of {len(counts):,} pictures have none; the fullest has {fullest:,}.",
        ),
    ]
    return f"<div class='grid charts'>{''.join(charts)}</div>"


def _by_size(sides: np.ndarray) -> tuple[list[float], list[int]]:
    """Edges that grow by the square root of two, and how many sides lie between them."""
    lowest, highest = (2 * float(np.log2(max(0.5, side))) for side in (sides.min(), sides.max()))
    steps = np.arange(int(np.floor(lowest)), int(np.floor(highest)) + 2)
    edges = 2.0 ** (steps / 2)
    edges[0] = min(edges[0], sides.min())
    return [round(edge, 1) for edge in edges.tolist()], np.histogram(sides, edges)[0].tolist()
