"""Pictures and objects of a split, gathered entry by entry: for formats with many small files, or a line per object."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from opendetr.data.index import LeftOut, Unused
from opendetr.data.raw import LARGEST, RawSplit
from opendetr.errors import UserError
from opendetr.labels import LabelMap
from opendetr.locations import FilePath
from opendetr.raw_values import raw_number

NO_SIZE = (0.0, 0.0)  # of a picture whose size is not stated


class Place(NamedTuple):
    """A line of a text file; a text only where a sentence names it."""

    file: FilePath
    number: int  # from 1
    line: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {shown(self.line)}"


class SplitBuilder:
    """What a reader finds, in its order; objects have names of classes until all are known.

    Args:
        source: the annotation file or folder.
        folders: where its pictures may be, the likeliest first.
    """

    def __init__(self, source: FilePath, folders: Sequence[FilePath]) -> None:
        self.source, self.folders = source, folders
        self.file_names: list[str] = []
        self.sizes: list[tuple[float, float]] = []
        self.pictures: list[int] = []
        self.class_names: list[str] = []
        self.boxes_xywh: list[tuple[float, float, float, float]] = []
        self.crowds: list[bool] = []
        self.left_out: list[LeftOut] = []
        self.repairs: Counter[str] = Counter()
        self.notes: list[str] = []

    def add_picture(self, name: str, size: tuple[float, float] = NO_SIZE) -> int:
        """Add a picture; returns its position."""
        self.file_names.append(name)
        self.sizes.append(size)
        return len(self.file_names) - 1

    def leave_out(self, kind: str, reason: Unused, sentence: str) -> None:
        """Note an entry that is not used."""
        self.left_out.append(LeftOut(kind, reason, sentence))

    def add_object(
        self, picture: int, class_name: str, box_xywh: Sequence[float] | None, where: str | Place, crowd: bool = False
    ) -> None:
        """Add an object, or note why it is none.

        Args:
            picture: the position of its picture.
            class_name: of its class; an empty text is none.
            box_xywh: four numbers, or None where there are none.
            where: the file and the line or entry, for sentences.
            crowd: whether it is a crowd or difficult.
        """
        if not class_name:
            self.leave_out("object", Unused.NO_CATEGORY, f"{where} names no class")
        elif box_xywh is None or not all(abs(value) < LARGEST for value in box_xywh):  # nan is not below either
            self.leave_out("object", Unused.NO_BOX, f"{where} is {Unused.NO_BOX}")
        else:
            x, y, width, height = box_xywh
            self.pictures.append(picture)
            self.class_names.append(class_name)
            self.boxes_xywh.append((x, y, width, height))
            self.crowds.append(crowd)

    def between(self, corners: Sequence[float] | None) -> tuple[float, float, float, float] | None:
        """The box x, y, width, height between two corners x, y, x, y in any order."""
        if corners is None:
            return None
        x1, y1, x2, y2 = corners
        if x1 > x2 or y1 > y2:
            self.repairs["box whose corners are exchanged"] += 1
            x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        return x1, y1, x2 - x1, y2 - y1

    def require_some(self) -> None:
        """UserError where there is no picture, or there are objects and none can be used."""
        if not self.file_names:
            first = f"; the first fault: {self.left_out[0].sentence}" if self.left_out else ""
            raise UserError(f"{self.source} lists no picture; at least one is needed{first}")
        of_objects = [one.sentence for one in self.left_out if one.kind == "object"]
        if of_objects and not self.pictures:
            raise UserError(f"{self.source}: not one object can be used: {of_objects[0]}")

    def split(
        self,
        label_map: LabelMap,
        *,
        class_names: Sequence[str] | None = None,
        is_relative: bool = False,
        states_sizes: bool = True,
    ) -> RawSplit:
        """The split; `class_names` are what objects call the classes of `label_map`, where these are not its names.

        Raises:
            UserError: there is no picture, or there are objects and none can be used.
        """
        self.require_some()
        index_of = {name: index for index, name in enumerate(class_names or label_map.names)}
        return RawSplit(
            self.source, label_map, self.file_names, self.folders, range(1, len(self.file_names) + 1),
            np.array(self.sizes, dtype=np.float64).reshape(-1, 2), np.array(self.pictures, dtype=np.int64),
            np.array([index_of[name] for name in self.class_names], dtype=np.int64),
            np.array(self.boxes_xywh, dtype=np.float64).reshape(-1, 4), np.full(len(self.pictures), np.nan),
            np.array(self.crowds, dtype=bool), range(1, len(self.pictures) + 1), is_relative=is_relative,
            states_sizes=states_sizes, left_out=self.left_out, repairs=self.repairs, notes=self.notes,
            classes_by_name=len(set(label_map.names)) == label_map.num_classes,
        )  # fmt: skip


def split_by_names(
    entries: SplitBuilder, others: Iterable[SplitBuilder], *, is_relative: bool = False, states_sizes: bool = True
) -> RawSplit:
    """A split whose classes are the names in it and in the other splits of its data set, sorted; ids count from 1.

    Raises:
        UserError: as of `SplitBuilder.split`, or no object names a class.
    """
    names = sorted({name for one in (entries, *others) for name in one.class_names})
    if not names:
        entries.require_some()
        raise UserError(f"{entries.source} has no object, and nothing else names a class; there is nothing to learn")
    label_map = LabelMap(tuple(range(1, len(names) + 1)), tuple(names))
    return entries.split(label_map, is_relative=is_relative, states_sizes=states_sizes)


def numbers(texts: Iterable[object]) -> list[float] | None:
    """Finite numbers; None where one is none."""
    try:
        return [raw_number(text) for text in texts]
    except ValueError:
        return None


def size_of(width: object, height: object) -> tuple[float, float]:
    """A stated size; `NO_SIZE` where it is none."""
    size = numbers([width, height])
    stated = size is not None and all(1 <= side < LARGEST for side in size)
    return (size[0], size[1]) if size is not None and stated else NO_SIZE


def span(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float, float] | None:
    """The box x, y, width, height of points; None where there are fewer than two, or not as many xs as ys."""
    if len(xs) != len(ys) or len(xs) < 2:
        return None
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def circle(centre_x: float, centre_y: float, radius_x: float, radius_y: float) -> tuple[float, float, float, float]:
    """The box x, y, width, height of a circle or an ellipse."""
    return centre_x - radius_x, centre_y - radius_y, 2 * radius_x, 2 * radius_y


def shown(entry: object) -> str:
    """An entry in a sentence, cut where it is long."""
    text = entry if isinstance(entry, str) else repr(entry)
    text = re.sub(r"\s+", " ", text[:200]).strip()
    return f"'{text}'" if len(text) <= 80 else f"'{text[:77]}...'"
