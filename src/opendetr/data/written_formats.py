"""Data sets as files of COCO, YOLO, Pascal VOC and CSV: numbers at full precision, whole ones without a fraction."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import yaml

from opendetr.data.formats.split_files import natural_order
from opendetr.data.index import OF_OBJECTS, USED, DatasetIndex, Unused
from opendetr.files import write_lines, write_text
from opendetr.options import DataFormat

WHOLE = 2**53  # from which on a float may not be written as a whole number
_NOT_IN_TEXTS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")  # of XML, and of a line


@dataclass(frozen=True)
class SplitToWrite:
    """A split, and how its pictures and classes are called where it is written."""

    name: str
    index: DatasetIndex
    file_names: Sequence[str]  # [N] of the pictures
    class_names: Sequence[str | int]  # [C] of the classes, or their numbers
    is_written: np.ndarray  # [M] whether the format can hold the object

    def objects_of_pictures(self) -> Iterator[list[int]]:
        """The numbers of the written objects of every picture."""
        numbers = np.flatnonzero(self.is_written)
        starts = np.searchsorted(self.index.objects.pictures[numbers], np.arange(len(self.index) + 1))
        return (numbers[start:end].tolist() for start, end in pairwise(starts))


class WrittenFormat(NamedTuple):
    """How a format is written, and what it holds."""

    layout: str  # its name, as its reader says it
    pictures: str  # the folder of the pictures of a split
    write: Callable[[Path, Sequence[SplitToWrite], Sequence[str]], None]  # all_names: of the classes
    objects: frozenset[str]  # the reasons why objects are not used in training with which it holds them
    boxes_read: Callable[[np.ndarray, np.ndarray], np.ndarray]  # boxes as they are read again, of boxes and sizes [M]
    names_only: bool = False  # classes are their names, sorted, and those without objects are not there
    holds_ids: bool = False
    is_sorted: bool = False  # pictures are sorted by their names


def number(value: float) -> float | int:
    """A whole number as such, any other as it is: its text is the shortest that means the same float64."""
    is_whole = value.is_integer() and abs(value) < WHOLE and (value != 0 or np.copysign(1, value) > 0)
    return int(value) if is_whole else value


def plain_text(text: str) -> str:
    """A text in one line, without what XML cannot hold and without space around it."""
    return _NOT_IN_TEXTS.sub(" ", text).strip()


def _write_coco(folder: Path, splits: Sequence[SplitToWrite], all_names: Sequence[str]) -> None:
    (folder / "annotations").mkdir()
    for split in splits:
        write_lines(folder / "annotations" / f"{split.name}.json", coco_file_lines(split))


def coco_file_lines(split: SplitToWrite) -> Iterator[str]:
    """The lines of a split's COCO file, with all objects that have a box."""
    index, objects = split.index, split.index.objects
    ids, sizes = index.image_ids.tolist(), index.sizes.tolist()
    yield '{"images": ['
    yield from _separated(
        {"id": image_id, "file_name": name, "width": width, "height": height}
        for image_id, name, (width, height) in zip(ids, split.file_names, sizes)
    )
    yield '],\n"annotations": ['
    rows = zip(
        objects.ids.tolist(), objects.pictures.tolist(), objects.labels.tolist(), objects.boxes_xywh.tolist(),
        objects.areas.tolist(), objects.is_crowd.tolist(),
    )  # fmt: skip
    yield from _separated(
        {
            "id": own_id, "image_id": ids[picture], "category_id": index.label_map.category_ids[label],
            "bbox": list(map(number, box)), "area": number(area) if 0 < area < np.inf else None, "iscrowd": int(crowd),
        }
        for own_id, picture, label, box, area, crowd in rows
    )  # fmt: skip
    yield f'],\n"categories": {dumps(index.label_map.to_json())}}}'


def _separated(entries: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    for position, entry in enumerate(entries):
        yield ("," if position else "") + dumps(entry, allow_nan=False)


def _write_yolo(folder: Path, splits: Sequence[SplitToWrite], all_names: Sequence[str]) -> None:
    for split in splits:
        labels = folder / "labels" / split.name
        labels.mkdir(parents=True)
        objects, sizes = split.index.objects, split.index.sizes
        shares = _shares(objects.boxes_xywh, sizes[objects.pictures]).tolist()
        for name, numbers in zip(split.file_names, split.objects_of_pictures()):
            lines = [[split.class_names[objects.labels[one]], *map(number, shares[one])] for one in numbers]
            text = "".join(" ".join(map(repr, line)) + "\n" for line in lines)
            (labels / f"{Path(name).stem}.txt").write_text(text, encoding="utf-8")
    content = {split.name: f"images/{split.name}" for split in splits} | {"names": dict(enumerate(all_names))}
    write_text(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _shares(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Centre, width and height [M, 4] in shares of the pictures' sides."""
    centres = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2
    shares: np.ndarray = np.concatenate([centres, boxes_xywh[:, 2:]], axis=1) / np.tile(sizes, 2)
    return shares


def _of_shares(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    shares = _shares(boxes_xywh, sizes)
    corners = shares[:, :2] - shares[:, 2:] / 2
    boxes: np.ndarray = np.concatenate([corners, shares[:, 2:]], axis=1) * np.tile(sizes, 2)
    return boxes


def _of_corners(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    start = boxes_xywh[:, :2]
    boxes: np.ndarray = np.concatenate([start, (start + boxes_xywh[:, 2:]) - start], axis=1)
    return boxes


def _corners(split: SplitToWrite) -> list[list[float | int]]:
    """xmin, ymin, xmax, ymax of all objects."""
    boxes = split.index.objects.boxes_xywh
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return [list(map(number, row)) for row in corners.tolist()]


def _write_voc(folder: Path, splits: Sequence[SplitToWrite], all_names: Sequence[str]) -> None:
    (folder / "Annotations").mkdir()
    for split in splits:
        stems = [Path(name).stem for name in split.file_names]
        write_lines(folder / "ImageSets" / "Main" / f"{split.name}.txt", stems)
        corners, crowds = _corners(split), split.index.objects.is_crowd
        labels, sizes = split.index.objects.labels, split.index.sizes.tolist()
        for stem, name, (width, height), numbers in zip(stems, split.file_names, sizes, split.objects_of_pictures()):
            lines = [
                "<annotation>", "\t<folder>JPEGImages</folder>", f"\t<filename>{escape(name)}</filename>",
                f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
                "\t<segmented>0</segmented>",
            ]  # fmt: skip
            for one in numbers:
                box = "".join(
                    f"<{tag}>{value!r}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners[one])
                )
                lines += [
                    "\t<object>", f"\t\t<name>{escape(str(split.class_names[labels[one]]))}</name>",
                    "\t\t<pose>Unspecified</pose><truncated>0</truncated>",
                    f"\t\t<difficult>{int(crowds[one])}</difficult>", f"\t\t<bndbox>{box}</bndbox>", "\t</object>",
                ]  # fmt: skip
            text = "\n".join([*lines, "</annotation>", ""])
            (folder / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")


def _write_csv(folder: Path, splits: Sequence[SplitToWrite], all_names: Sequence[str]) -> None:
    for split in splits:
        corners, labels = _corners(split), split.index.objects.labels
        with (folder / f"{split.name}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
            rows = zip(split.file_names, split.index.sizes.tolist(), split.objects_of_pictures())
            for name, size, numbers in rows:
                for one in numbers:
                    table.writerow([name, *size, split.class_names[labels[one]], *corners[one]])
                if not numbers:  # a picture without objects
                    table.writerow([name, *size, *[""] * 5])


CROWD = frozenset({Unused.CROWD})
WRITTEN_FORMATS: Mapping[DataFormat, WrittenFormat] = {
    "coco": WrittenFormat("COCO", "images", _write_coco, frozenset(Unused), lambda boxes, _: boxes, holds_ids=True),
    "yolo": WrittenFormat("YOLO", "images/{split}", _write_yolo, frozenset(), _of_shares, is_sorted=True),
    "voc": WrittenFormat("Pascal VOC", "JPEGImages", _write_voc, CROWD, _of_corners, names_only=True),
    "csv": WrittenFormat("CSV", "images", _write_csv, frozenset(), _of_corners, names_only=True),
}


def is_held(index: DatasetIndex, format: WrittenFormat) -> np.ndarray:
    """[M] whether the format holds an object, as what it is."""
    objects = index.objects
    held = np.isin(objects.reasons, [USED, *map(OF_OBJECTS.index, format.objects)])
    if format.names_only:  # corners do not tell a crowd without an area from one with exchanged corners
        held &= (objects.boxes_xywh[:, 2:] > 0).all(1)
    return held


def written_class_names(names: Sequence[str], format: WrittenFormat) -> list[str | int]:
    """What the classes are called in files: numbers, or names that are all different."""
    if not format.names_only:
        return list(range(len(names)))
    found: list[str | int] = []
    for name in names:
        plain = plain_text(name) or "unnamed"
        same = [f"{plain} {again}" if again > 1 else plain for again in range(1, len(found) + 2)]
        found.append(next(one for one in same if one not in found))
    return found


def not_held(split: SplitToWrite, format: WrittenFormat) -> dict[tuple[str, str], int]:
    """What of a split the format cannot hold, in words (singular, plural), and how many entries that concerns."""
    index, objects = split.index, split.index.objects
    count = len(index)
    order = (
        sorted(range(count), key=lambda at: natural_order(split.file_names[at])) if format.is_sorted else range(count)
    )
    names = index.label_map.names
    used = set(objects.labels[split.is_written].tolist())
    by_name = (
        sorted(used, key=lambda label: str(split.class_names[label])) if format.names_only else list(range(len(names)))
    )
    first = 1 if format.names_only else 0
    read = format.boxes_read(objects.boxes_xywh, index.sizes[objects.pictures])
    found = {
        ("object that is not used in training", "objects that are not used in training"): int((~split.is_written).sum())
    }
    if not format.holds_ids:
        found |= {
            ("id of a picture", "ids of pictures"): _different(
                index.image_ids[list(order)].tolist(), range(1, count + 1)
            ),
            ("id of an object", "ids of objects"): _different(objects.ids.tolist(), range(1, len(objects) + 1)),
            ("id of a class", "ids of classes"): _different(
                [index.label_map.category_ids[label] for label in by_name], range(first, first + len(by_name))
            ),
            ("place of a picture in the order", "places of pictures in their order"): _different(order, range(count)),
            ("place of a class in the order", "places of classes in their order"): _different(by_name, sorted(by_name)),
            ("class without objects", "classes without objects"): len(names) - len(by_name),
            ("area that is not the box's", "areas that are not the box's"): int(
                (objects.areas != objects.boxes_xywh[:, 2:].prod(1)).sum()
            ),
        }
    if format.names_only:
        found[("name of a class", "names of classes")] = _different(split.class_names, names)
    found[("box's last digits", "boxes' last digits")] = int(
        ((read != objects.boxes_xywh).any(1) & split.is_written).sum()
    )
    return {what: times for what, times in found.items() if times}


def _different(one: Sequence[Any], other: Sequence[Any]) -> int:
    return sum(bool(a != b) for a, b in zip(one, other))
