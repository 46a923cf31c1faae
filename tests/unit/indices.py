from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opendetr.data.index import USED, DatasetIndex, Objects, Record, Texts, id_array
from opendetr.labels import LabelMap


def indexed(records: Sequence[Record], label_map: LabelMap) -> DatasetIndex:
    """The index of records made by hand."""
    counts = [len(record.labels) for record in records]
    corners = np.concatenate([record.boxes_xyxy for record in records]).astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    objects = Objects(
        np.repeat(np.arange(len(records)), counts), np.concatenate([record.labels for record in records]), boxes,
        boxes[:, 2:].prod(1), np.full(sum(counts), USED), np.arange(sum(counts)),
    )  # fmt: skip
    sizes = np.array([(record.width, record.height) for record in records])
    ids = id_array([record.image_id for record in records])
    paths = Texts(str(record.path) for record in records)
    return DatasetIndex(Path("data.json"), "by hand", label_map, paths, ids, sizes, objects)
