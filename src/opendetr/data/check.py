"""Checks of a data set before training: its content, and problems that would stop training later."""

import time

from opendetr.data.datasets import DatasetIndex, Record, count_objects
from opendetr.errors import UserError
from opendetr.images import check_image
from opendetr.labels import LabelMap
from opendetr.wording import counted


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
    if size != (record.width, record.height):
        raise UserError(
            f"{record.path} is {size[0]}x{size[1]} pixels, but {index.source} says {record.width}x{record.height}; "
            f"its boxes would be wrong, so correct the annotation file"
        )


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
