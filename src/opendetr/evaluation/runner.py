"""Detections of a model in every picture of a split, and their COCO metrics."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from opendetr.checkpoints.adapt import labels_on
from opendetr.checkpoints.description import Description
from opendetr.checkpoints.origin import Origin
from opendetr.data.check import check_pictures
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import DetectionDataset
from opendetr.engines.detecting import Prepared, detect
from opendetr.engines.engine import Engine
from opendetr.errors import UserError
from opendetr.evaluation.analysis import AnalysedMetrics, analyse
from opendetr.evaluation.coco import CocoMetrics, FoundArrays, TruthArrays, evaluate_arrays, truth_of
from opendetr.progress import show_progress, warn
from opendetr.structures import Detections, DetrOutput
from opendetr.wording import counted


class StoppedError(Exception):
    """The evaluation was stopped before its end."""


def detect_split(
    engine: Engine,
    description: Description,
    index: DatasetIndex,
    *,
    batch_size: int = 4,
    should_stop: Callable[[], bool] = lambda: False,
    positions: range | None = None,
    broken: Callable[[str], None] | None = None,
    observe: Callable[[Sequence[int], DetrOutput], None] = lambda positions, output: None,
) -> Iterator[tuple[int, Detections]]:
    """Position in the index and detections of every picture; pictures of one shape are batched together.

    Args:
        engine: runs the model.
        description: of the model.
        index: the split.
        batch_size: most pictures of equal shape in a batch; the result does not depend on it.
        should_stop: called before every batch.
        positions: the pictures to detect in, for a process that has a share; None for all.
        broken: called with the sentence on a picture that cannot be used, which is passed over; None raises it.
        observe: called with the positions of the pictures of every batch and the model's output.

    Raises:
        StoppedError: `should_stop` returned True.
        UserError: a picture cannot be used, and `broken` is None.
    """
    dataset = DetectionDataset(
        index, description.preprocessing.transform(), white_level=description.preprocessing.white_level
    )
    shapes = index.sizes[:, ::-1].tolist()  # height, width
    order = sorted(range(len(index)) if positions is None else positions, key=shapes.__getitem__)

    def pictures() -> Iterator[Prepared]:
        for position in order:
            try:
                image, _, record = dataset[position]
            except UserError as error:
                if broken is None:
                    raise
                broken(str(error))
            else:
                yield Prepared(position, image, (record.height, record.width), record.image_id)

    def stop_if_asked() -> None:
        if should_stop():
            raise StoppedError

    yield from detect(engine, description, pictures(), batch_size, stop_if_asked, observe)


def evaluate_split(engine: Engine, description: Description, index: DatasetIndex, **options: Any) -> CocoMetrics:
    """COCO metrics of a model on a split; options as in `detect_split`; pictures that cannot be used are said."""
    return metrics_of(index, _detect_all(engine, description, index, **options))


def _detect_all(
    engine: Engine, description: Description, index: DatasetIndex, **options: Any
) -> list[tuple[int, Detections]]:
    """The detections in a split, with a bar; pictures that cannot be used are said."""
    broken: list[str] = []
    found = detect_split(engine, description, index, broken=broken.append, **options)
    detections = list(show_progress(found, "evaluating", len(index)))
    say_broken(broken)
    return detections


def say_broken(broken: Sequence[str]) -> None:
    """Say which pictures could not be used in an evaluation."""
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        warn(f"{counted(len(broken), 'picture')} could not be used, their objects count as missed: {broken[0]}{more}.")


def evaluate_data(
    engine: Engine, description: Description, origin: Origin, index: DatasetIndex, *, batch_size: int,
    strict: bool = False,
) -> AnalysedMetrics:  # fmt: skip
    """COCO metrics and analysis on data that may name the model's classes, where those were only assumed (`origin`).

    Raises:
        UserError: the data have a category that the model does not know, or most pictures cannot be used, or with
            `strict` one.
    """
    index = index.with_ids_of(description.label_map)
    labels = labels_on(description.label_map, origin, index.label_map, str(index.source))
    check_pictures(index, seconds=math.inf if strict else 5.0, strict=strict)
    described = replace(description, label_map=labels)
    return analyse_detections(index, _detect_all(engine, described, index, batch_size=batch_size))


def metrics_of(index: DatasetIndex, detections: Sequence[tuple[int, Detections]]) -> CocoMetrics:
    """COCO metrics of the detections of a whole split, each with the position of its picture, in any order.

    Detections of categories that the split does not have count for nothing; that some are not finite is said.
    """
    return evaluate_arrays(*arrays_of(index, detections))


def analyse_detections(index: DatasetIndex, detections: Sequence[tuple[int, Detections]]) -> AnalysedMetrics:
    """As `metrics_of`, with the analysis of the same detections; no picture is read."""
    return analyse(*arrays_of(index, detections))


def arrays_of(index: DatasetIndex, detections: Sequence[tuple[int, Detections]]) -> tuple[TruthArrays, FoundArrays]:
    """The objects of a split, and its detections that are finite numbers; that there are others is said."""
    truth = truth_of(index)
    label_of = {category_id: label for label, category_id in enumerate(truth.category_ids)}
    pictures, labels, boxes, scores = [], [], [], []
    for position, found in sorted(detections, key=lambda item: item[0]):
        for entry in found.to_coco():
            if (label := label_of.get(entry["category_id"])) is not None:
                pictures.append(position)
                labels.append(label)
                boxes.append(entry["bbox"])
                scores.append(entry["score"])
    arrays = FoundArrays(
        np.array(pictures, dtype=np.int64), np.array(labels, dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64),
    )  # fmt: skip
    is_finite = np.isfinite(arrays.boxes_xywh).all(1) & np.isfinite(arrays.scores)
    if not is_finite.all():
        warn(f"{(~is_finite).sum()} detections are not finite numbers and count as missing.")
        arrays = FoundArrays(*(getattr(arrays, field.name)[is_finite] for field in fields(arrays)))
    return truth, arrays
