"""One split of a data set: its pictures and true objects in flat arrays, and what of its source is not used, and why.

Nothing is decoded here. The arrays are made once; loader processes that are forked share them, for no Python object
per picture or object is touched when one is read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import overload

import numpy as np

from opendetr.errors import UserError
from opendetr.labels import LabelMap
from opendetr.locations import FilePath, file_path
from opendetr.raw_values import RawId


class Unused(StrEnum):
    """Why an entry of a data set is not used in training."""

    CROWD = "marked as a crowd or as difficult"
    EMPTY = "without width or height"
    OUTSIDE = "outside its picture"
    NO_BOX = "without a box of four finite numbers"
    NO_PICTURE = "of a picture that is not listed"
    NO_CATEGORY = "of a category that is not listed"
    NOT_ASKED = "of a class that --classes leaves out"
    UNREADABLE = "that cannot be used as it is written"
    MISSING_FILE = "whose file does not exist"
    BROKEN_FILE = "whose file cannot be read"
    LISTED_TWICE = "listed twice"
    NOT_LISTED = "on disk but not listed"


USED = -1  # in `Objects.reasons`
OF_OBJECTS = tuple(Unused)  # their place is the number in `Objects.reasons`


@dataclass(frozen=True)
class LeftOut:
    """An entry of a data set that is not used."""

    kind: str  # picture or object
    reason: Unused
    sentence: str  # names the file and the entry


class Objects:
    """The true objects of a split that have a box, of M in all, grouped by picture, as their source states them.

    Training uses those whose reason is `USED`, clipped to their pictures; COCO's evaluation counts all of them.

    Args:
        pictures: [M] positions of their pictures, ascending.
        labels: [M] class indices; -1 of objects whose class is not asked for.
        boxes_xywh: [M, 4] x, y, width, height in pixels of the picture; float64, finite.
        areas: [M] in square pixels, positive where the box has an area.
        reasons: [M] `USED`, or the place in `OF_OBJECTS` of the reason why training leaves it out.
        ids: of the annotations.
    """

    def __init__(
        self, pictures: np.ndarray, labels: np.ndarray, boxes_xywh: np.ndarray, areas: np.ndarray, reasons: np.ndarray,
        ids: np.ndarray,
    ) -> None:  # fmt: skip
        self.pictures, self.labels = pictures.astype(np.int32), labels.astype(np.int32)
        self.boxes_xywh, self.areas = boxes_xywh.astype(np.float64), areas.astype(np.float64)
        self.reasons, self.ids = reasons.astype(np.int8), ids

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_crowd(self) -> np.ndarray:
        """[M] whether it is a region with many objects, which evaluation ignores."""
        is_crowd: np.ndarray = self.reasons == OF_OBJECTS.index(Unused.CROWD)
        return is_crowd

    def at(self, chosen: np.ndarray, pictures: np.ndarray | None = None) -> "Objects":
        """Some of the objects, by mask or by number; `pictures` are their pictures' new positions."""
        return Objects(
            self.pictures[chosen] if pictures is None else pictures, self.labels[chosen], self.boxes_xywh[chosen],
            self.areas[chosen], self.reasons[chosen], self.ids[chosen],
        )  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One picture and the true objects that training uses."""

    image_id: RawId
    path: FilePath
    width: int
    height: int
    labels: np.ndarray  # [T] class index
    boxes_xyxy: np.ndarray  # [T, 4] pixels, clipped to the picture, never empty


class Texts(Sequence[str]):
    """Texts in one array of bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self.ends = np.cumsum([0, *map(len, encoded)])
        self.content = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self[number] for number in range(*position.indices(len(self)))]
        start, end = self.ends[position], self.ends[position + 1]
        return self.content[start:end].tobytes().decode("utf-8", "surrogateescape")


def id_array(ids: Sequence[RawId]) -> np.ndarray:
    """Ids as an array of 64-bit numbers, or of Python objects where some are texts or larger."""
    try:
        return np.array(ids, dtype=np.int64) if all(type(one) is int for one in ids) else _objects(ids)
    except OverflowError:
        return _objects(ids)


def _objects(ids: Sequence[RawId]) -> np.ndarray:
    array = np.empty(len(ids), dtype=object)
    array[:] = ids
    return array


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """One split of a data set, of N pictures."""

    source: FilePath  # the annotation file or folder
    layout: str  # the name of its format
    label_map: LabelMap
    paths: Texts  # of the pictures' files
    image_ids: np.ndarray  # [N] RawId
    sizes: np.ndarray  # [N, 2] width, height in pixels
    objects: Objects
    left_out: tuple[LeftOut, ...] = ()  # entries that are not in `objects` or not in `paths`
    repairs: dict[str, int] = field(default_factory=dict)  # what was put right, in words, and how often
    notes: tuple[str, ...] = ()  # what the whole split shows, a sentence each
    classes_by_name: bool = False  # sets were joined, or classes renamed: the raw ids say nothing beyond this split

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def records(self) -> "Records":
        """The pictures with the objects that training uses, made as they are asked for."""
        return Records(self)

    @cached_property
    def _used(self) -> np.ndarray:
        return np.flatnonzero(self.objects.reasons == USED)

    @cached_property
    def labels(self) -> np.ndarray:
        """[T of all pictures] class indices of the objects that training uses, picture by picture."""
        labels: np.ndarray = self.objects.labels[self._used].astype(np.int64)
        return labels

    @cached_property
    def boxes_xyxy(self) -> np.ndarray:
        """[T of all pictures, 4] their boxes in pixels, clipped to the pictures; float32."""
        boxes, sizes = self.objects.boxes_xywh[self._used], self.sizes[self.objects.pictures[self._used]]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        clipped: np.ndarray = np.clip(corners, 0, np.tile(sizes, 2)).astype(np.float32)
        return clipped

    @cached_property
    def counts(self) -> np.ndarray:
        """[N] how many objects of a picture training uses."""
        return np.bincount(self.objects.pictures[self._used], minlength=len(self))

    @cached_property
    def starts(self) -> np.ndarray:
        """[N + 1] where the objects of a picture begin in `labels` and `boxes_xyxy`."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    def under(self, label_map: LabelMap) -> "DatasetIndex":
        """The same split with the class indices of a model; UserError if the model lacks one of its categories."""
        if label_map == self.label_map:
            return self
        known = self.with_ids_of(label_map)
        label_map.require_same_categories(known.label_map, str(self.source))
        new = [-1 if raw is None else label_map.index_of[raw] for raw in known.label_map.category_ids]
        return known.with_labels(label_map, np.array(new))

    def with_ids_of(self, label_map: LabelMap) -> "DatasetIndex":
        """The same split; where names alone say which class is which, with the raw ids that `label_map` has for them.

        Raises:
            UserError: a name is not in `label_map`.
        """
        own = self.label_map
        if not self.classes_by_name or label_map == own:
            return self
        id_of = {name: raw for raw, name in zip(label_map.category_ids, label_map.names) if raw is not None}
        if lacking := [name for name in own.names if name not in id_of]:
            raise UserError(
                f"{self.source}: class '{lacking[0]}' is not among the classes that the model is trained on "
                f"({label_map.describe()}); name it as there by --rename, or leave it out by --classes"
            )
        return replace(self, label_map=LabelMap(tuple(id_of[name] for name in own.names), own.names))

    def with_labels(self, label_map: LabelMap, new_indices: np.ndarray) -> "DatasetIndex":
        """The same split with other classes; `new_indices` [C] holds the new index of every class, -1 for none."""
        one = self.objects
        labels = np.where(one.labels < 0, -1, new_indices[one.labels]) if len(one) else one.labels
        objects = Objects(one.pictures, labels, one.boxes_xywh, one.areas, one.reasons, one.ids)
        return replace(self, label_map=label_map, objects=objects)

    def subset(self, positions: Sequence[int]) -> "DatasetIndex":
        """The index of some of the pictures, in the order of `positions`."""
        starts = np.searchsorted(self.objects.pictures, np.arange(len(self) + 1))
        chosen = [np.arange(starts[position], starts[position + 1]) for position in positions]
        pictures = np.repeat(np.arange(len(positions)), [len(one) for one in chosen])
        objects = self.objects.at(np.concatenate([np.empty(0, np.int64), *chosen]), pictures)
        paths, at = Texts(self.paths[position] for position in positions), np.array(positions, dtype=np.int64)
        return replace(
            self, paths=paths, image_ids=self.image_ids[at], sizes=self.sizes[at], objects=objects, left_out=(),
            repairs={}, notes=(),
        )  # fmt: skip


def index_of_records(records: Sequence[Record], label_map: LabelMap, source: FilePath) -> DatasetIndex:
    """The index of pictures and objects that were made by hand; no file is looked at."""
    counts = [len(record.labels) for record in records]
    corners = np.concatenate([record.boxes_xyxy for record in records]).astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    objects = Objects(
        np.repeat(np.arange(len(records)), counts), np.concatenate([record.labels for record in records]), boxes,
        boxes[:, 2:].prod(1), np.full(sum(counts), USED), np.arange(sum(counts)),
    )  # fmt: skip
    return DatasetIndex(
        source, "by hand", label_map, Texts(str(record.path) for record in records),
        id_array([record.image_id for record in records]),
        np.array([(record.width, record.height) for record in records]), objects,
    )  # fmt: skip


class Records(Sequence[Record]):
    """The pictures of an index, each made when it is asked for."""

    def __init__(self, index: DatasetIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, position: int) -> Record: ...
    @overload
    def __getitem__(self, position: slice) -> list[Record]: ...
    def __getitem__(self, position: int | slice) -> Record | list[Record]:
        index = self._index
        if isinstance(position, slice):
            return [self[number] for number in range(*position.indices(len(self)))]
        position = range(len(self))[position]
        own = slice(index.starts[position], index.starts[position + 1])
        (width, height), raw = index.sizes[position].tolist(), index.image_ids[position]
        image_id = raw.item() if isinstance(raw, np.generic) else raw
        path = file_path(index.paths[position])
        return Record(image_id, path, width, height, index.labels[own], index.boxes_xyxy[own])

    def __iter__(self) -> Iterator[Record]:
        return (self[position] for position in range(len(self)))
