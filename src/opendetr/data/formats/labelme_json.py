"""LabelMe: a JSON file per picture, with rectangles, polygons and circles in pixels."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from opendetr.data.formats.coco_json import load_json
from opendetr.data.formats.entries import SplitBuilder, circle, numbers, shown, size_of, span, split_by_names
from opendetr.data.formats.split_files import (
    AnnotationFiles,
    PicturesByStem,
    begins_with,
    folder_with,
    name_of_split,
    natural_order,
    note_unlisted,
    picture_folders,
    split_folders,
    suffix_of,
    without_suffix,
)
from opendetr.data.index import Unused
from opendetr.data.picture_files import list_files
from opendetr.data.raw import FoundSplit, RawSplit, ReadOptions
from opendetr.data.split_names import CORRECTED
from opendetr.errors import UserError
from opendetr.locations import FilePath
from opendetr.raw_values import raw_flag

LAYOUT = "LabelMe"
EXPECTED = "a LabelMe annotation with the list shapes"
JSON_FOLDERS = ("json", "jsons", "annotations", "Annotations", "labels")
PICTURE_FOLDERS = ("images", "JPEGImages", "imgs")
AREAS = ("rectangle", "polygon", "circle", "mask", "rotation", "quadrilateral")
_SHAPES = re.compile(rb'"shapes"\s*:\s*\[')


def find_labelme(root: FilePath, options: ReadOptions) -> Iterator[FoundSplit]:
    """The splits of a folder: JSON files beside their pictures or in `json/`, in the folder or in `SPLIT/`."""
    found = list(_splits(root))
    for name, split in found:
        read = partial(_read, split, [one for _, one in found])
        yield FoundSplit(name, split.folder.name, split.folder, LAYOUT, read)


def _splits(root: FilePath) -> Iterator[tuple[str, AnnotationFiles]]:
    folder = folder_with(root, JSON_FOLDERS, ".json", _is_labelme)
    if folder is None:
        for place in split_folders(root):
            if (folder := folder_with(place, JSON_FOLDERS, ".json", _is_labelme)) is not None:
                yield name_of_split(place), AnnotationFiles(folder, _pictures(place, folder))
        return
    pictures = _pictures(root, folder)
    inside = split_folders(folder) if folder != root else []
    for place in inside:
        yield name_of_split(place), AnnotationFiles(place, [place, *(one / place.name for one in pictures), *pictures])
    if not inside:
        yield "train", AnnotationFiles(folder, pictures)


def _is_labelme(source: FilePath) -> bool:
    return begins_with(source, _SHAPES)


def _pictures(base: FilePath, annotations: FilePath) -> list[FilePath]:
    """Where the pictures may be, the likeliest place first."""
    return list(dict.fromkeys([annotations, *picture_folders(base, *PICTURE_FOLDERS)]))


def _read(split: AnnotationFiles, all_splits: Sequence[AnnotationFiles]) -> RawSplit:
    """What the annotations of a split state; UserError: it has no picture, or no object can be used."""
    entries = _gather(split)
    note_unlisted(entries, split, all_splits)
    return split_by_names(entries, [_gather(other) for other in all_splits if other is not split])


def _gather(split: AnnotationFiles) -> SplitBuilder:
    entries = SplitBuilder(split.folder, split.pictures)
    pictures = PicturesByStem(split.pictures)
    names = [name for name, _ in list_files(split.folder) if suffix_of(name) == ".json"]
    names = [name for name in names if not name.endswith(CORRECTED)]
    for name in sorted(names, key=natural_order):
        source = split.folder / name
        try:
            content = load_json(source, expected=EXPECTED)
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                raise UserError(f"{source} is not {EXPECTED}")
        except UserError as error:
            entries.leave_out("picture", Unused.UNREADABLE, str(error))
            continue
        size = size_of(content.get("imageWidth"), content.get("imageHeight"))
        position = entries.add_picture(_picture_name(content, without_suffix(name)[0], pictures), size)
        for number, shape in enumerate(content["shapes"], start=1):
            _add_shape(entries, position, shape, f"{source}: shape {number}")
    return entries


def _picture_name(content: Mapping[str, Any], stem: str, pictures: PicturesByStem) -> str:
    """The picture that is named, relative to the annotation's folder, else the one with the annotation's own name."""
    stated = content.get("imagePath")
    stated = stated.replace("\\", "/") if isinstance(stated, str) else ""
    named = f"{stem.rpartition('/')[0]}/{stated}".lstrip("/") if stated and not stated.startswith("/") else stated
    if named and pictures.finder.find_exactly(named) is not None:
        return named
    found = pictures.of_stem(stem) or pictures.of_stem(stem.rpartition("/")[2])
    return found or stated or stem


def _add_shape(entries: SplitBuilder, picture: int, shape: object, where: str) -> None:
    if not isinstance(shape, dict):
        entries.leave_out("object", Unused.UNREADABLE, f"{where}: {shown(shape)} is no JSON object")
        return
    label, kind = shape.get("label"), shape.get("shape_type") or "polygon"
    where = f"{where}, {shown(label)}"
    if kind not in AREAS:
        sentence = f"{where} is a {shown(kind)}; rectangles, polygons and circles have a box"
        entries.leave_out("object", Unused.NO_BOX, sentence)
        return
    try:
        crowd = raw_flag(shape.get("difficult"))
    except ValueError:
        entries.repairs["difficult that is neither 0 nor 1: taken as 0"] += 1
        crowd = False
    name = str(label).strip() if isinstance(label, str | int | float) and not isinstance(label, bool) else ""
    entries.add_object(picture, name, _box(shape.get("points"), kind), where, crowd)


def _box(points: object, kind: str) -> tuple[float, float, float, float] | None:
    """The box x, y, width, height of a shape; None where it has none."""
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    xs, ys = numbers(point[0] for point in points), numbers(point[1] for point in points)
    if xs is None or ys is None:
        return None
    if kind != "circle":
        return span(xs, ys)
    if len(points) != 2:  # the centre and a point of the border
        return None
    radius = math.hypot(xs[0] - xs[1], ys[0] - ys[1])
    return circle(xs[0], ys[0], radius, radius)
