"""`opendetr.json` beside a converted data set: what its format cannot hold, such as ids and the order of pictures.

Label files count for more: an object's note is used as long as its class and its box are those of the label file.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from opendetr.data.raw import RawSplit
from opendetr.data.written_formats import SplitToWrite
from opendetr.errors import UserError, first_line
from opendetr.files import write_text
from opendetr.labels import LabelMap
from opendetr.locations import FilePath
from opendetr.raw_values import RawId, next_free

NOTES = "opendetr.json"
VERSION = 1
TOLERANCE = 1e-6  # of a picture's side, by which a box in a label file may differ from the noted one


@dataclass(frozen=True)
class _Notes:
    """The N pictures and M objects of a split as they were before the conversion."""

    files: Sequence[str]  # [N] names of the pictures' files
    image_ids: Sequence[RawId]  # [N]
    sizes: np.ndarray  # [N, 2] width, height
    starts: np.ndarray  # [N + 1] where the objects of a picture begin
    labels: np.ndarray  # [M]
    boxes_xywh: np.ndarray  # [M, 4] in pixels
    areas: np.ndarray  # [M]
    crowds: np.ndarray  # [M]
    is_written: np.ndarray  # [M] whether the label file has it
    ids: Sequence[RawId]  # [M]

    @classmethod
    def of(cls, entries: Sequence[dict[str, Any]]) -> "_Notes":
        """The notes of the pictures in a file."""
        rows = [row for entry in entries for row in entry["objects"]]
        labels, x, y, width, height, areas, crowds, written, ids = zip(*rows, strict=True) if rows else [()] * 9
        return cls(
            [entry["file"] for entry in entries], [entry["id"] for entry in entries],
            np.array([entry["size"] for entry in entries], dtype=np.float64).reshape(-1, 2),
            np.cumsum([0, *(len(entry["objects"]) for entry in entries)]), np.array(labels, dtype=np.int64),
            np.array([x, y, width, height], dtype=np.float64).T.reshape(-1, 4), np.array(areas, dtype=np.float64),
            np.array(crowds, dtype=bool), np.array(written, dtype=bool), ids,
        )  # fmt: skip

    def find(self, picture: int, labels: np.ndarray, boxes_xywh: np.ndarray) -> tuple[list[int], bool]:
        """The objects of a picture by their numbers, and whether its label file says what it said.

        Args:
            picture: its number.
            labels: of the objects in its label file.
            boxes_xywh: their boxes in pixels.

        Returns:
            Where the file is the same, all of its noted objects. Else one for every object of the file, -1 where it is
            none of them, and then those that are in no label file.
        """
        every = np.arange(self.starts[picture], self.starts[picture + 1])
        written = every[self.is_written[every]]
        tolerance = TOLERANCE * np.tile(self.sizes[picture], 2)
        is_same = len(written) == len(labels) and bool((self.labels[written] == labels).all())
        if is_same and (np.abs(self.boxes_xywh[written] - boxes_xywh) <= tolerance).all():
            return every.tolist(), True
        free, found = written.tolist(), []
        for label, box in zip(labels, boxes_xywh):
            alike = (one for one in free if self.labels[one] == label)
            number = next((one for one in alike if (np.abs(self.boxes_xywh[one] - box) <= tolerance).all()), -1)
            found.append(number)
            if number >= 0:
                free.remove(number)
        return found + every[~self.is_written[every]].tolist(), False


def write_notes(folder: Path, layout: str, splits: Iterable[SplitToWrite]) -> None:
    """Write the notes of the splits of a data set in `folder`, whose format is `layout`."""
    content = {"opendetr": VERSION, "format": layout, "splits": {one.name: _noted(one) for one in splits}}
    write_text(folder / NOTES, json.dumps(content, separators=(",", ":")) + "\n")


def _noted(split: SplitToWrite) -> dict[str, Any]:
    index, objects = split.index, split.index.objects
    labels = index.label_map
    rows = list(zip(
        objects.labels.tolist(), *objects.boxes_xywh.T.tolist(),
        [area if np.isfinite(area) else 0.0 for area in objects.areas.tolist()],
        objects.is_crowd.astype(int).tolist(), split.is_written.astype(int).tolist(), objects.ids.tolist(),
    ))  # fmt: skip
    starts = np.searchsorted(objects.pictures, np.arange(len(index) + 1)).tolist()
    return {
        "classes": [
            {"id": category_id, "name": name, "written": written}
            for category_id, name, written in zip(labels.category_ids, labels.names, split.class_names)
        ],
        "columns": ["class", "x", "y", "width", "height", "area", "crowd", "written", "id"],
        "pictures": [
            {"file": name, "id": image_id, "size": size, "objects": rows[start:end]}
            for name, image_id, size, (start, end) in zip(
                split.file_names, index.image_ids.tolist(), index.sizes.tolist(), pairwise(starts)
            )
        ],
    }  # fmt: skip


def with_notes(raw: RawSplit, folder: FilePath, split: str, layout: str) -> RawSplit:
    """What a reader found, with the notes that lie in the data set's folder, if there are any for it.

    Pictures have their noted order, ids and sizes; new ones come after them, with ids that are free. Objects that were
    changed in the label files, and new ones, are as these say.

    Raises:
        UserError: the notes are damaged.
    """
    source = folder / NOTES
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "opendetr" not in content:
            return raw
        if content["opendetr"] != VERSION:
            raise UserError(f"{source} was written by a newer version of opendetr; install that, or remove the file")
        if content["format"] != layout or split not in content["splits"]:
            return raw
        noted = content["splits"][split]
        notes = _Notes.of(noted["pictures"])
        label_map, new_labels = _classes(raw.label_map, noted["classes"])
        now = np.array([label_map.index_of[one["id"]] for one in noted["classes"]])  # classes may have been added
        notes = replace(notes, labels=now[notes.labels])
    except FileNotFoundError:
        return raw
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{source} cannot be read ({type(error).__name__}: {first_line(error)}); remove it to read the labels "
            f"alone, or convert the data set again"
        ) from None
    return _merge(replace(raw, label_map=label_map, labels=new_labels[raw.labels], classes_by_name=False), notes)


def _classes(found: LabelMap, noted: Sequence[dict[str, Any]]) -> tuple[LabelMap, np.ndarray]:
    """The classes as they were, and the new index of every class that a reader found.

    A class that is written as a number has the name of the label files, should they call it otherwise by now.
    """
    names = {one["id"]: str(one["name"]) for one in noted}
    id_of = {one["written"]: one["id"] for one in noted}
    ids: list[RawId] = []
    for category_id, name in zip(found.category_ids, found.names):
        as_number = category_id in id_of and isinstance(category_id, int)
        known: RawId | None = id_of.get(category_id if as_number and category_id is not None else name)
        if known is None:
            known = category_id if category_id is not None and category_id not in names else next_free(names)
            names[known] = name
        elif as_number:
            names[known] = name
        ids.append(known)
    label_map = LabelMap.from_categories([{"id": one, "name": name} for one, name in names.items()], NOTES)
    return label_map, np.array([label_map.index_of[one] for one in ids], dtype=np.int64)


def _merge(raw: RawSplit, notes: _Notes) -> RawSplit:
    """The pictures of a reader in the noted order, with the notes of those whose labels did not change."""
    files = [name.rpartition("/")[2] for name in raw.file_names]
    number_of = {name: number for number, name in enumerate(notes.files)}
    place = [number_of.get(name, len(number_of)) for name in files]
    order = sorted(range(len(files)), key=lambda position: (place[position], position))
    by_picture = np.argsort(raw.pictures, kind="stable")
    starts = np.searchsorted(raw.pictures[by_picture], np.arange(len(files) + 1))
    relative, sizes = np.broadcast_to(raw.is_relative, len(raw.pictures)), np.array(raw.sizes, dtype=np.float64)
    image_ids: list[RawId | None] = []
    rows: list[int] = []  # of the objects of the reader, followed by the noted ones
    pictures: list[int] = []
    changed = 0
    for new, position in enumerate(order):
        own = by_picture[starts[position] : starts[position + 1]]
        chosen: list[int] = own.tolist()
        noted = number_of.pop(files[position], None)  # a second file of the name is another picture
        image_ids.append(None if noted is None else notes.image_ids[noted])
        if noted is not None:
            stated, size, is_same = sizes[position], notes.sizes[noted], False
            if ((stated == size) | ~(stated >= 1)).all():
                sizes[position] = size
                canvas = np.where(relative[own, None], np.tile(size, 2), 1.0)
                found, is_same = notes.find(noted, raw.labels[own], raw.boxes_xywh[own] * canvas)
                chosen = [len(relative) + one if one >= 0 else own[at] for at, one in enumerate(found)]
            changed += not is_same
        rows += chosen
        pictures += [new] * len(chosen)
    at = np.array(rows, dtype=np.int64)
    object_ids = [None] * len(relative) + list(notes.ids)
    repairs = raw.repairs.copy()
    if changed:
        repairs["picture whose labels were changed after the conversion: read from its label file"] += changed
    return replace(
        raw, file_names=[raw.file_names[position] for position in order], sizes=sizes[order],
        image_ids=_with_free_ids(image_ids, notes.image_ids), pictures=np.array(pictures, dtype=np.int64),
        labels=np.concatenate([raw.labels, notes.labels])[at],
        boxes_xywh=np.concatenate([raw.boxes_xywh, notes.boxes_xywh])[at],
        areas=np.concatenate([raw.areas, notes.areas])[at], crowds=np.concatenate([raw.crowds, notes.crowds])[at],
        is_relative=np.concatenate([relative, np.zeros(len(notes.labels), dtype=bool)])[at],
        ids=_with_free_ids([object_ids[row] for row in rows], notes.ids), repairs=repairs,
    )  # fmt: skip


def _with_free_ids(ids: Sequence[RawId | None], taken: Sequence[RawId]) -> list[RawId]:
    """Ids, with free numbers for those that are None."""
    free = next_free(taken)
    found: list[RawId] = []
    for one in ids:
        found.append(free if one is None else one)
        free += one is None
    return found
