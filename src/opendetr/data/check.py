"""Checks of a data set before training: its content, and problems that would stop training later."""

import time
from pathlib import Path

import numpy as np

from opendetr.data.datasets import DatasetIndex, Record, count_objects
from opendetr.errors import UserError
from opendetr.images import QUARTER_TURNS, check_image, exif_orientation
from opendetr.labels import LabelMap
from opendetr.wording import counted

ASKED = 100  # pictures, for the convention of a data set's boxes


def check_pictures(index: DatasetIndex, seconds: float) -> int:
    """Read pictures for at most `seconds`, in their order; returns how many were read.

    Raises:
        UserError: names the first picture that is damaged or does not have the size in its annotation.
    """
    deadline = time.time() + seconds
    for number, record in enumerate(index.records, start=1):
        require_size(record, check_image(record.path), index)
        if time.time() > deadline:
            return number
    return len(index.records)


def require_size(record: Record, size: tuple[int, int], index: DatasetIndex) -> None:
    """Check a picture's width and height against its annotation; UserError if they differ."""
    if size == (record.width, record.height):
        return
    said = f"{record.path} is {size[0]}x{size[1]} pixels"
    stated = f"{index.source} says {record.width}x{record.height}"
    if size == (record.height, record.width) and (orientation := exif_orientation(record.path)) in QUARTER_TURNS:
        raise UserError(
            f"{said} upright, as its EXIF orientation {orientation} turns it, but {stated}, the size before it is "
            f"turned; {_fitting(record, index)}"
        )
    raise UserError(f"{said}, but {stated}; its boxes would be wrong, so correct the annotation file")


def _fitting(record: Record, index: DatasetIndex) -> str:
    """Whether boxes are those of the upright pictures or of the stored ones, and what to do.

    Looks at the pictures of this stated size that EXIF turns, at most `ASKED`. Boxes were clipped to the stated size:
    one that ends at its edge may have reached further, into the upright picture.
    """
    stated = record.width, record.height
    alike = [other for other in index.records if (other.width, other.height) == stated][:ASKED]
    turned = [other for other in (record, *alike) if other is record or _is_turned(other.path)]
    ends = np.concatenate([other.boxes_xyxy[:, 2:] for other in turned])
    if (ends > stated[::-1]).any():
        return "the boxes fit the pictures before they are turned: turn the boxes too, or remove EXIF from the pictures"
    if (ends == stated).any():
        return "the boxes fit the upright pictures: only width and height need correcting, exchange them"
    return "the boxes fit either way: if they were drawn upright, only width and height need correcting, exchange them"


def _is_turned(path: Path) -> bool:
    try:
        return exif_orientation(path) in QUARTER_TURNS
    except UserError:
        return False


def describe(index: DatasetIndex) -> str:
    """Pictures and objects of a split in words."""
    counts = [len(record.labels) for record in index.records]
    empty, least, most = counts.count(0), min(counts), max(counts)
    spread = f"{least} per picture" if least == most else f"{least} to {most} per picture"
    return (
        f"{counted(len(index), 'picture')} ({empty or 'none'} without objects), "
        f"{counted(count_objects(index.records), 'object')} ({spread})"
    )


def describe_classes(label_map: LabelMap, limit: int = 12) -> str:
    """The classes in words, at most `limit` of them, with their raw ids."""
    named = [f"{name} ({number})" for number, name in zip(label_map.category_ids, label_map.names)]
    more = f" and {len(named) - limit} more" if len(named) > limit else ""
    return f"{counted(len(named), 'class', 'classes')} (with id): {', '.join(named[:limit])}{more}"


def warnings(index: DatasetIndex, num_queries: int) -> list[str]:
    """Warnings before training on the split, one sentence each; `num_queries` 0 means not chosen yet."""
    found = []
    if index.dropped_boxes:
        shown = "; ".join(index.dropped_boxes[:3])
        count = len(index.dropped_boxes)
        found.append(f"{counted(count, 'box is', 'boxes are')} left out of training: {shown}.")
    fullest = max(index.records, key=lambda record: len(record.labels))
    if 0 < num_queries < len(fullest.labels):
        crowded = sum(len(record.labels) > num_queries for record in index.records)
        found.append(
            f"{fullest.path} has {len(fullest.labels)} objects and the model only {num_queries} queries "
            f"({counted(crowded, 'such picture')}): some objects can never be found; raise it with "
            f"--set model.num_queries=..."
        )
    if count_objects(index.records) == 0:
        found.append(f"{index.source} has no objects: the model would learn to find nothing.")
    return found
