"""Corrections of labels: what somebody decided about them, and the annotations that follow."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from opendetr.data.formats.coco_json import LAYOUT
from opendetr.data.raw import LARGEST, FoundSplit
from opendetr.data.split_names import CORRECTED, usual_name
from opendetr.errors import UserError
from opendetr.locations import FilePath
from opendetr.raw_values import RawId, raw_id, raw_number

ENDING = CORRECTED.removesuffix(".json")  # of the name of a corrected split
SAME_PLACE = 0.5  # smallest IoU of two boxes that are about one place


class Edit(StrEnum):
    """What a decision does to the labels."""

    ADD = "add"
    MOVE = "move"
    CLASS = "class"
    DELETE = "delete"
    KEEP = "keep"  # what was suspected is no fault


@dataclass(frozen=True)
class Correction:
    """One decision about the labels of a picture."""

    edit: Edit
    image_id: RawId
    annotation: RawId | None  # its id, of ADD a new one; None where a place without a label is kept as it is
    category_id: RawId | None = None  # the new one, of ADD and CLASS
    bbox: tuple[float, float, float, float] | None = None  # x, y, width, height in pixels, of ADD, MOVE and such a KEEP
    accepted: bool = False  # whether it is what was proposed

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Correction":
        """The inverse of `to_json`; ValueError with a sentence if a value is missing or of another kind."""
        edit = Edit(str(values.get("edit")))
        image_id = raw_id(values.get("image_id"))
        annotation, category_id, bbox = (values.get(name) for name in ("annotation", "category_id", "bbox"))
        if edit not in (Edit.ADD, Edit.KEEP) and annotation is None:
            raise ValueError(f"'{edit}' needs the id of an annotation")
        if edit in (Edit.ADD, Edit.CLASS) and category_id is None:
            raise ValueError(f"'{edit}' needs a category_id")
        if (edit in (Edit.ADD, Edit.MOVE) or (edit == Edit.KEEP and annotation is None)) and bbox is None:
            raise ValueError(f"'{edit}' needs a box")
        return cls(
            edit, image_id, None if annotation is None else raw_id(annotation),
            None if category_id is None else raw_id(category_id), None if bbox is None else _box(bbox),
            values.get("accepted") is True,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain values, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def is_about(self, image_id: RawId, annotation: RawId | None, bbox: Sequence[float]) -> bool:
        """Whether it decides about that object, or where there is none, about that place of the picture."""
        if self.image_id != image_id:
            return False
        if annotation is not None:
            return self.annotation == annotation
        is_place = self.edit == Edit.ADD or self.annotation is None
        return is_place and self.bbox is not None and iou_xywh(self.bbox, bbox) >= SAME_PLACE


def corrected(
    annotations: Mapping[RawId, Mapping[str, Any]], corrections: Iterable[Correction]
) -> dict[RawId, Mapping[str, Any]]:
    """COCO annotations by their ids with the corrections made, in their order; all else is as it was.

    A box that is moved gets its own area, and loses the polygon or mask that outlined the old one. A correction of an
    annotation that is not there (any more), or is one of another picture, changes nothing; nor does one that would add
    an id again.
    """
    annotations = dict(annotations)
    for one in corrections:
        own_id, box = one.annotation, {}
        if one.bbox is not None:
            box = {"bbox": list(one.bbox), "area": one.bbox[2] * one.bbox[3]}
        if own_id is None:
            continue
        if one.edit == Edit.ADD:
            new = {"id": own_id, "image_id": one.image_id, "category_id": one.category_id}
            annotations.setdefault(own_id, new | box | {"iscrowd": 0})
        elif own_id not in annotations or id_of(annotations[own_id], "image_id") != one.image_id:
            continue
        elif one.edit == Edit.DELETE:
            del annotations[own_id]
        elif one.edit == Edit.CLASS:
            annotations[own_id] = {**annotations[own_id], "category_id": one.category_id}
        elif one.edit == Edit.MOVE:
            kept = {name: value for name, value in annotations[own_id].items() if name != "segmentation"}
            annotations[own_id] = kept | box
    return annotations


def annotation_ids(coco: Mapping[str, Any]) -> list[RawId]:
    """The id of every annotation, as `read_coco` gives it: its own, else its place from 1.

    Raises:
        UserError: an entry that is no JSON object, or an id that is there twice.
    """
    ids: list[RawId] = []
    for place, one in enumerate(coco["annotations"], start=1):
        if not isinstance(one, Mapping):
            raise UserError(f"annotation {place} is no JSON object: remove it, and its labels can be reviewed")
        try:
            ids.append(raw_id(one.get("id")))
        except ValueError:
            ids.append(place)
    (twice, times), *_ = [*Counter(ids).most_common(1), (None, 0)]
    if times > 1:
        raise UserError(
            f"annotation id {twice} is there twice: number the annotations anew, with opendetr data convert, and their "
            f"labels can be reviewed"
        )
    return ids


def id_of(entry: Mapping[str, Any], name: str = "id") -> RawId | None:
    """The id of an entry of a COCO file; None where it is none, which no decision can name."""
    try:
        return raw_id(entry.get(name))
    except ValueError:
        return None


def iou_xywh(one: Sequence[float], other: Sequence[float]) -> float:
    """IoU of two boxes x, y, width, height; 0 where both are empty."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0


def corrected_file(root: FilePath, found: FoundSplit) -> FilePath:
    """Where the corrected labels of a split are: beside its COCO file, of another format in the data set's folder."""
    folder = found.source.parent if found.layout == LAYOUT else root
    return folder / f"{usual_name(found.name)}{CORRECTED}"


def _box(value: Any) -> tuple[float, float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise ValueError("a box is four numbers: x, y, width and height in pixels")
    x, y, width, height = (raw_number(one) for one in value)
    if not all(abs(one) < LARGEST for one in (x, y, width, height)) or width <= 0 or height <= 0:
        raise ValueError("a box needs four finite numbers, and a width and a height above 0")
    return x, y, width, height
