"""COCO: one JSON file per split with the lists images, annotations and categories."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

import msgspec
import numpy as np

from opendetr.data.index import LeftOut, Unused
from opendetr.data.raw import RawSplit
from opendetr.errors import UserError, first_line
from opendetr.labels import LabelMap
from opendetr.locations import FilePath
from opendetr.raw_values import RawId, raw_flag, raw_id, raw_number, whole_number

LAYOUT = "COCO"
EXPECTED = "a COCO annotation file with the lists images, annotations and categories"
T = TypeVar("T")


class CocoAnnotation(msgspec.Struct, gc=False):
    """An annotation as its file has it; a tenth of the memory of a dict with all that such files may hold."""

    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = math.nan
    iscrowd: Any = 0


class CocoFile(msgspec.Struct):
    """The three lists of a file."""

    images: list[Any]
    annotations: list[CocoAnnotation]
    categories: list[Any]


def load_json(source: FilePath, *, expected: str = EXPECTED) -> Any:
    """The content of a JSON file, whatever wrote it: with a byte order mark, with NaN, with numbers of any length.

    `expected` describes the file in errors.

    Raises:
        UserError: it is missing, unreadable or not JSON.
    """
    return _decode(_content(source, expected), source, expected)


def _content(source: FilePath, expected: str) -> bytes:
    try:
        return source.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise UserError(f"{source} does not exist; expected {expected}") from None
    except Exception as error:  # of a disk, an archive, or any library that opens addresses
        raise UserError(f"{source} cannot be read ({first_line(error)}); expected {expected}") from None


def _decode(content: bytes, source: FilePath, expected: str) -> Any:
    with suppress(ValueError, RecursionError):  # NaN is no JSON, but Python and JavaScript programs write it
        return msgspec.json.decode(content)
    try:
        return json.loads(content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} cannot be read as JSON ({first_line(error)}); expected {expected}") from None


def read_coco(source: FilePath, folders: Sequence[FilePath]) -> RawSplit:
    """What a COCO file states; its pictures are looked for in `folders`.

    Raises:
        UserError: the file is not of this format, no annotation names a listed picture, or none a listed category.
    """
    content = _content(source, EXPECTED)
    with suppress(ValueError, RecursionError):
        found = msgspec.json.decode(content, type=CocoFile)
        if all(annotation.bbox for annotation in found.annotations):
            del content
            return _split(found, source, folders, [], Counter())
    return split_of(_decode(content, source, EXPECTED), source, folders)


def split_of(content: Any, source: FilePath, folders: Sequence[FilePath]) -> RawSplit:
    """As `read_coco`, of the content of a file, which may be odd."""
    if not is_coco(content):
        raise UserError(f"{source} is not {EXPECTED}")
    left_out: list[LeftOut] = []
    repairs: Counter[str] = Counter()
    entries = _entries(content["annotations"], "object", source, left_out)
    annotations = [_annotation(entry, repairs) for entry in entries]
    return _split(CocoFile(content["images"], annotations, content["categories"]), source, folders, left_out, repairs)


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file has the three lists of COCO."""
    names = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in names)


def _annotation(entry: Mapping[str, Any], repairs: Counter[str]) -> CocoAnnotation:
    """An annotation; without a box it has that of its polygons."""
    values = {name: entry[name] for name in CocoAnnotation.__struct_fields__ if name in entry}
    polygons = entry.get("segmentation")
    if (
        not values.get("bbox")
        and isinstance(polygons, list)
        and polygons
        and all(type(one) is list for one in polygons)
    ):
        points = [_or(raw_number, value, math.nan) for one in polygons for value in one]
        xs, ys = points[::2], points[1::2]
        if len(points) >= 6 and len(xs) == len(ys) and not any(map(math.isnan, points)):
            repairs["box that is not stated: taken from the polygons"] += 1
            values["bbox"] = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return CocoAnnotation(**values)


def _split(
    file: CocoFile, source: FilePath, folders: Sequence[FilePath], left_out: list[LeftOut], repairs: Counter[str]
) -> RawSplit:
    label_map = LabelMap.from_categories(file.categories, str(source))
    images, position_of = _images(file, source, left_out, needs_files=bool(folders))
    sizes = [_column([image.get(key) for image in images], raw_number, 0.0) for key in ("width", "height")]
    annotations, index_of = file.annotations, label_map.index_of
    pictures = _positions([one.image_id for one in annotations], position_of)
    labels = _positions([one.category_id for one in annotations], index_of)
    boxes = _boxes([one.bbox for one in annotations], repairs)
    given = [one.area for one in annotations]
    areas = _column(given, raw_number, math.nan)
    areas[~np.isfinite(areas)] = math.nan
    _count(repairs, "area that is no positive number: taken from the box", given, ~(areas > 0))
    given = [one.iscrowd for one in annotations]
    flags = _column(given, raw_flag, math.nan)
    _count(repairs, "iscrowd that is neither 0 nor 1: taken as 0", given, np.isnan(flags))
    stated = enumerate(_ids([one.id for one in annotations]), start=1)
    own_ids: list[RawId] = [number if one is None else one for number, one in stated]
    _require_some(source, annotations, pictures, labels, label_map)
    usable = np.ones(len(annotations), dtype=bool)
    for wrong, reason in (
        (pictures < 0, Unused.NO_PICTURE), (labels < 0, Unused.NO_CATEGORY), (np.isnan(boxes).any(1), Unused.NO_BOX),
    ):  # fmt: skip
        for number in np.flatnonzero(wrong & usable).tolist():
            shown = _shown(msgspec.structs.asdict(annotations[number]))
            sentence = f"{source}: annotation {own_ids[number]} is {reason}: {shown}"
            left_out.append(LeftOut("object", reason, sentence))
        usable &= ~wrong
    at = np.flatnonzero(usable)
    return RawSplit(
        source, label_map, [image["file_name"] for image in images], folders, list(position_of),
        np.stack(sizes, axis=1).reshape(-1, 2), pictures[at], labels[at], boxes[at], areas[at], flags[at] == 1,
        own_ids if len(at) == len(own_ids) else [own_ids[number] for number in at.tolist()],
        left_out=left_out, repairs=repairs,
    )  # fmt: skip


def _images(
    file: CocoFile, source: FilePath, left_out: list[LeftOut], *, needs_files: bool
) -> tuple[list[dict[str, Any]], dict[RawId, int]]:
    """The entries of pictures that can be used, and the position of each by its id."""
    entries = _entries(file.images, "picture", source, left_out)
    position_of: dict[RawId, int] = {}
    kept: list[dict[str, Any]] = []
    for image, image_id in zip(entries, _ids([image.get("id") for image in entries])):
        name = image.get("file_name")
        if image_id is not None and name is None and not needs_files:
            name = image["file_name"] = ""
        if image_id is None or not isinstance(name, str) or not (name or not needs_files):
            problem, reason = "needs an id and a file_name", Unused.UNREADABLE
        elif image_id not in position_of:
            position_of[image_id] = len(kept)
            kept.append(image)
            continue
        elif kept[position_of[image_id]]["file_name"] != name:
            raise UserError(f"{source}: image id {image_id} is listed twice with two files; ids must be unique")
        else:
            problem, reason = f"has the id {image_id} of an earlier one", Unused.LISTED_TWICE
        left_out.append(LeftOut("picture", reason, f"{source}: the image {_shown(image)} {problem}"))
    if not kept:
        first = f": {left_out[0].sentence}" if left_out else " is empty; at least one picture is needed"
        raise UserError(f"{source}: the list 'images'{first}")
    return kept, position_of


def _entries(found: list[Any], kind: str, source: FilePath, left_out: list[LeftOut]) -> list[dict[str, Any]]:
    """The entries of a list that are JSON objects."""
    if set(map(type, found)) <= {dict}:
        return found
    for entry in found:
        if not isinstance(entry, dict):
            left_out.append(LeftOut(kind, Unused.UNREADABLE, f"{source}: {_shown(entry)} is no JSON object"))
    return [entry for entry in found if isinstance(entry, dict)]


def _ids(values: Sequence[Any]) -> Sequence[RawId | None]:
    """An id for every value; None where it is none."""
    return values if set(map(type, values)) <= {int} else [_or(raw_id, value, None) for value in values]


def _positions(values: Sequence[Any], position_of: Mapping[RawId, int]) -> np.ndarray:
    """The positions [M] of ids; -1 for unknown ones."""
    return np.array([-1 if one is None else position_of.get(one, -1) for one in _ids(values)], dtype=np.int64)


def _column(values: Sequence[Any], convert: Callable[[Any], float], default: float) -> np.ndarray:
    """A number for every value, float64; `default` where there is none that `convert` understands."""
    plain = set(map(type, values)) <= {int, float} and (convert is not raw_flag or set(values) <= {0, 1})
    with suppress(OverflowError):  # whole numbers of 400 digits
        if plain:
            return np.array(values, dtype=np.float64)
    return np.array([_or(convert, value, default) for value in values], dtype=np.float64)


def _or(convert: Callable[[Any], T], value: Any, default: T) -> T:
    try:
        return convert(value)
    except ValueError:
        return default


def _count(repairs: Counter[str], what: str, values: Sequence[Any], wrong: np.ndarray) -> None:
    """Count wrong values; one that is not there is no fault."""
    given = [values[number] for number in np.flatnonzero(wrong).tolist()]
    if found := sum(value is not None and value is not math.nan for value in given):
        repairs[what] += found


def _boxes(values: Sequence[Any], repairs: Counter[str]) -> np.ndarray:
    """The boxes [M, 4] x, y, width, height; a row of nan where there is none."""
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        with suppress(OverflowError):
            if set(map(type, chain.from_iterable(values))) <= {int, float}:
                boxes = np.fromiter(chain.from_iterable(values), np.float64, 4 * len(values)).reshape(-1, 4)
                boxes[~np.isfinite(boxes).all(1)] = np.nan
                return boxes
    return np.array([_box(value, repairs) for value in values], dtype=np.float64).reshape(-1, 4)


def _box(value: Any, repairs: Counter[str]) -> list[float]:
    """The four numbers of a box, which may be texts."""
    numbers = [_or(raw_number, one, math.nan) for one in value] if isinstance(value, list) and len(value) == 4 else []
    if not numbers or any(map(math.isnan, numbers)):
        return [math.nan] * 4
    if any(isinstance(one, str) for one in value):
        repairs["box whose numbers are texts"] += 1
    return numbers


def _require_some(
    source: FilePath, annotations: Sequence[CocoAnnotation], pictures: np.ndarray, labels: np.ndarray,
    label_map: LabelMap,
) -> None:  # fmt: skip
    """UserError where ids are so wrong that leaving entries out would teach nonsense."""
    if not len(annotations):
        return
    entry = annotations[0]
    if (pictures < 0).all():
        raise UserError(
            f"{source}: annotation {entry.id} belongs to image {entry.image_id!r}, which is not listed, "
            f"and so are all others; add the images or remove the annotations"
        )
    shift = _shift_in_words(annotations, label_map) if (labels < 0).any() else ""
    if shift or (labels < 0).all():
        entry = annotations[int(np.argmax(labels < 0))]
        raise UserError(
            f"{source}: annotation {entry.id} has category {entry.category_id!r}, which is not listed; "
            f"the categories are {label_map.describe()}{shift}"
        )


def _shift_in_words(annotations: Sequence[CocoAnnotation], label_map: LabelMap) -> str:
    """A hint, where adding or subtracting 1 makes all categories of the annotations listed ones."""
    used = {_or(whole_number, annotation.category_id, None) for annotation in annotations}
    for shift, said in ((1, "one too low: add 1 to each"), (-1, "one too high: take 1 from each")):
        if all(number is not None and number + shift in label_map.index_of for number in used):
            return f"; every category_id of the annotations seems {said}"
    return ""


def _shown(entry: Any) -> str:
    """An entry in a message, cut where it is long."""
    text = repr(entry)
    return text if len(text) <= 120 else f"{text[:117]}..."
