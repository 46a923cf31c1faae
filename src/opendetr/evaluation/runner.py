"""A model over a split: detections of every picture, and their COCO metrics."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from opendetr.data.datasets import DatasetIndex
from opendetr.data.loader import DetectionDataset, collate, group_equal_shapes
from opendetr.data.transforms import Preprocessing
from opendetr.devices import autocast
from opendetr.evaluation.coco import CocoMetrics, evaluate_detections
from opendetr.labels import LabelMap
from opendetr.model.postprocess import postprocess
from opendetr.progress import console, track
from opendetr.scoring import Scoring
from opendetr.structures import Detections


class StoppedError(Exception):
    """The evaluation was asked to stop before it was done."""


def detect_split(
    model: nn.Module,
    scoring: Scoring,
    label_map: LabelMap,
    index: DatasetIndex,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    precision: str = "fp32",
    batch_size: int = 4,
    should_stop: Callable[[], bool] = lambda: False,
    positions: range | None = None,
) -> Iterator[tuple[int, Detections]]:
    """Position in the index and detections of every picture; pictures of one shape come together.

    Args:
        model: on `device`, in eval mode.
        scoring: how the model's classes are scored.
        label_map: the model's classes.
        index: the split.
        preprocessing: the model's.
        device: where the model is.
        precision: `fp32` or `bf16`.
        batch_size: pictures at once, as far as their shapes are equal; the result does not depend on it.
        should_stop: asked before every batch.
        positions: the pictures to look at; all by default. Several processes each take their share.

    Raises:
        StoppedError: `should_stop` said so.
        UserError: a picture cannot be read.
    """
    dataset = DetectionDataset(index, preprocessing.transform())
    order = sorted(
        positions if positions is not None else range(len(index)),
        key=lambda position: (index.records[position].height, index.records[position].width),
    )
    samples = ((position, dataset[position]) for position in order)
    for group in group_equal_shapes(samples, lambda item: tuple(item[1][0].shape), batch_size):
        if should_stop():
            raise StoppedError
        batch, _ = collate([sample for _, sample in group])
        with torch.inference_mode(), autocast(device, precision):
            output = model(batch.to(device).images, None)
        yield from zip((position for position, _ in group), postprocess(output, batch, scoring, label_map))


def evaluate_split(
    model: nn.Module,
    scoring: Scoring,
    label_map: LabelMap,
    index: DatasetIndex,
    preprocessing: Preprocessing,
    **options: Any,
) -> CocoMetrics:
    """COCO metrics of a model on a split; options as in `detect_split`."""
    found = detect_split(model, scoring, label_map, index, preprocessing, **options)
    return metrics_of(index, list(track(found, "evaluating", len(index))))


def metrics_of(index: DatasetIndex, detections: list[tuple[int, Detections]]) -> CocoMetrics:
    """COCO metrics of the detections of a whole split, whatever order they came in."""
    in_order = sorted(detections, key=lambda item: item[0])  # repeated scores are ranked by order: keep it one
    entries = [entry for _, found in in_order for entry in found.to_coco()]
    finite = [entry for entry in entries if all(map(math.isfinite, [entry["score"], *entry["bbox"]]))]
    if len(finite) < len(entries):
        console.print(f"Warning: {len(entries) - len(finite)} detections are not finite numbers and count as missing.")
    return evaluate_detections(index.coco, finite)
