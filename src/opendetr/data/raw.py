"""What the reader of a format hands on: columns as the source has them, before pictures and boxes are checked."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from opendetr.data.index import LeftOut
from opendetr.labels import LabelMap
from opendetr.locations import FilePath
from opendetr.raw_values import RawId

LARGEST = 1e9  # pixels: a larger number is a fault


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read where its files do not say it."""

    voc_origin: int = 0  # the number of the first pixel in Pascal VOC's coordinates: 0 takes them as they are written


@dataclass
class RawSplit:
    """A split as its source states it: N pictures, M objects."""

    source: FilePath  # the annotation file or folder
    label_map: LabelMap
    file_names: Sequence[str]  # [N] as written
    folders: Sequence[FilePath]  # in which these files may be, the likeliest first
    image_ids: Sequence[RawId]  # [N]
    sizes: np.ndarray  # [N, 2] width, height in pixels; 0 where they are not stated
    pictures: np.ndarray  # [M] positions of the objects' pictures
    labels: np.ndarray  # [M] class indices
    boxes_xywh: np.ndarray  # [M, 4] in pixels, or where `is_relative` in shares of the picture's sides
    areas: np.ndarray  # [M] in square pixels; nan where they are not stated
    crowds: np.ndarray  # [M] whether it is a crowd, or difficult
    ids: Sequence[RawId]  # [M]
    is_relative: bool | np.ndarray = False  # of all objects, or [M]
    states_sizes: bool = True  # whether the format has a place for them
    classes_by_name: bool = False  # the format has no ids of classes: their names alone say which is which
    left_out: list[LeftOut] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)  # what the whole split shows, a sentence each


class FoundSplit(NamedTuple):
    """A split that a format finds in a data set's folder."""

    name: str  # train, val, test or another
    own_name: str  # as it is written there: train2017, valid
    source: FilePath  # its annotation file or folder
    layout: str  # the format, in words
    read: Callable[[], RawSplit]
