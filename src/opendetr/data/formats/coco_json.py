"""COCO: one JSON file per split with the lists images, annotations and categories."""

import gc
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import orjson

from opendetr.data.index import LeftOut, Unused
from opendetr.data.raw import FoundSplit, RawSplit, ReadOptions
from opendetr.errors import UserError, first_line
from opendetr.labels import LabelMap
from opendetr.locations import FilePath
from opendetr.raw_values import RawId, raw_flag, raw_id, raw_number, whole_number

LAYOUT = "COCO"
EXPECTED = "a COCO annotation file with the lists images, annotations and categories"
OTHER_TASKS = ("panoptic_", "captions_", "person_keypoints_", "stuff_", "image_info_")  # files of COCO's beside ours
EXACT = 2**53  # from which on a float does not hold every whole number
_LIST = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
T = TypeVar("T")


def find_coco(root: FilePath, options: ReadOptions) -> Iterator[FoundSplit]:
    """The splits of a folder.

    `annotations/SPLIT.json` or `annotations/instances_SPLIT.json`, with the pictures in `images/SPLIT/`, `images/`,
    `SPLIT/` or the folder itself; `SPLIT/_annotations.coco.json` beside its pictures (Roboflow); `result.json` (Label
    Studio) or one other COCO file in the folder itself.
    """
    for source in sorted((root / "annotations").glob("*.json")):
        usual = source.stem in ("train", "val", "test") or source.name.startswith("instances_")
        if source.name.startswith((".", *OTHER_TASKS)) or not (usual or _holds_coco(source)):
            continue
        own_name = source.stem.removeprefix("instances_")
        name = own_name.rstrip("0123456789") or own_name if own_name != source.stem else own_name
        of_split = [root / own_name, *((root / name,) if name != own_name else ())]
        in_images = [root / "images" / folder.name for folder in of_split]
        usual_folders = [*in_images, root / "images"]
        folders = of_split + usual_folders if own_name != source.stem else usual_folders + of_split
        yield _found(name, own_name, source, [*folders, root])
    for source in sorted(root.glob("*/_annotations.coco.json")):
        yield _found(source.parent.name, source.parent.name, source, [source.parent, root])
    for source in sorted(root.glob("*.json")):
        if not source.name.startswith(".") and _holds_coco(source):
            yield _found(source.stem, source.stem, source, [root / "images", root / source.stem, root])


def _found(name: str, own_name: str, source: FilePath, folders: Sequence[FilePath]) -> FoundSplit:
    there = [folder for folder in folders[:-1] if folder.is_dir()] or [folders[-2]]  # the last is the data set's own
    return FoundSplit(name, own_name, source, LAYOUT, partial(read_coco, source, [*there, folders[-1]]))


def _holds_coco(source: FilePath) -> bool:
    """Whether a JSON file that lies beside pictures begins like a COCO file: other programs leave JSON files too."""
    try:
        with source.open("rb") as file:
            return _LIST.search(file.read(65536)) is not None
    except OSError:
        return False


def load_json(source: FilePath, *, expected: str = EXPECTED, exactly: bool = False) -> Any:
    """The content of a JSON file, whatever wrote it: with a byte order mark, with NaN, deeply nested.

    Numbers of more than 64 bits are rounded, unless they are asked for `exactly`, which takes twice as long. `expected`
    describes the file in errors.

    Raises:
        UserError: it is missing, unreadable or not JSON.
    """
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{source} does not exist; expected {expected}") from None
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error}); expected {expected}") from None
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not exactly:
        with suppress(orjson.JSONDecodeError):  # NaN is no JSON, but Python and JavaScript programs write it
            return orjson.loads(content)
    try:
        return json.loads(content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} cannot be read as JSON ({first_line(error)}); expected {expected}") from None


class _RoundedIdsError(Exception):
    """An id was read as a float so large that it may have been rounded."""


def read_coco(source: FilePath, folders: Sequence[FilePath]) -> RawSplit:
    """What a COCO file states; its pictures are looked for in `folders`.

    Raises:
        UserError: the file is not of this format, no annotation names a listed picture, or none a listed category.
    """
    with _without_garbage_collection():
        try:
            return split_of(load_json(source), source, folders)
        except _RoundedIdsError:
            return split_of(load_json(source, exactly=True), source, folders, exactly=True)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of new dicts and lists would be searched for cycles again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def split_of(content: Any, source: FilePath, folders: Sequence[FilePath], *, exactly: bool = False) -> RawSplit:
    """As `read_coco`, of the content of a file that was read `exactly` or not."""
    if not is_coco(content):
        raise UserError(f"{source} is not {EXPECTED}")
    left_out: list[LeftOut] = []
    repairs: Counter[str] = Counter()
    _ids([entry for entry in content["categories"] if isinstance(entry, dict)], "id", exactly)
    label_map = LabelMap.from_categories(content["categories"], str(source))
    images = _entries(content["images"], "picture", source, left_out)
    ids = _ids(images, "id", exactly)
    position_of: dict[RawId, int] = {}
    kept: list[tuple[RawId, dict[str, Any]]] = []
    for image, image_id in zip(images, ids):
        problem, reason = "", Unused.UNREADABLE
        if image_id is None or not isinstance(image.get("file_name"), str) or not image["file_name"]:
            problem = "needs an id and a file_name"
        elif image_id in position_of:
            if kept[position_of[image_id]][1]["file_name"] != image["file_name"]:
                raise UserError(f"{source}: image id {image_id} is listed twice with two files; ids must be unique")
            problem, reason = f"has the id {image_id} of an earlier one", Unused.LISTED_TWICE
        if problem or image_id is None:
            left_out.append(LeftOut("picture", reason, f"{source}: the image {_shown(image)} {problem}"))
            continue
        position_of[image_id] = len(kept)
        kept.append((image_id, image))
    if not kept:
        first = f": {left_out[0].sentence}" if left_out else " is empty; at least one picture is needed"
        raise UserError(f"{source}: the list 'images'{first}")
    sides = [_column([image for _, image in kept], key, raw_number, 0.0) for key in ("width", "height")]
    annotations = _entries(content["annotations"], "object", source, left_out)
    of_image, of_category = _ids(annotations, "image_id", exactly), _ids(annotations, "category_id", exactly)
    index_of = label_map.index_of
    pictures = np.array([-1 if one is None else position_of.get(one, -1) for one in of_image], dtype=np.int64)
    labels = np.array([-1 if one is None else index_of.get(one, -1) for one in of_category], dtype=np.int64)
    boxes = _boxes(annotations, repairs)
    areas = _column(annotations, "area", raw_number, np.nan)
    _count(repairs, "area that is no positive number: taken from the box", annotations, "area", ~(areas > 0))
    flags = _column(annotations, "iscrowd", raw_flag, np.nan)
    _count(repairs, "iscrowd that is neither 0 nor 1: taken as 0", annotations, "iscrowd", np.isnan(flags))
    crowds = flags == 1
    own_ids: list[RawId] = [
        number if one is None else one for number, one in enumerate(_ids(annotations, "id", exactly), start=1)
    ]
    problems = [
        (pictures < 0, Unused.NO_PICTURE), (labels < 0, Unused.NO_CATEGORY), (np.isnan(boxes).any(1), Unused.NO_BOX),
    ]  # fmt: skip
    if len(annotations):
        _require_some(source, annotations, pictures, labels, label_map)
    usable = np.ones(len(annotations), dtype=bool)
    for wrong, reason in problems:
        for number in np.flatnonzero(wrong & usable).tolist():
            sentence = f"{source}: annotation {own_ids[number]} is {reason}: {_shown(annotations[number])}"
            left_out.append(LeftOut("object", reason, sentence))
        usable &= ~wrong
    at = np.flatnonzero(usable)
    return RawSplit(
        source, label_map, [image["file_name"] for _, image in kept], folders, [image_id for image_id, _ in kept],
        np.stack(sides, axis=1).reshape(-1, 2), pictures[at], labels[at], boxes[at], areas[at], crowds[at],
        own_ids if len(at) == len(own_ids) else [own_ids[number] for number in at.tolist()],
        left_out=left_out, repairs=repairs,
    )  # fmt: skip


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file has the three lists of COCO."""
    names = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in names)


def _entries(found: list[Any], kind: str, source: FilePath, left_out: list[LeftOut]) -> list[dict[str, Any]]:
    """The entries of a list that are JSON objects."""
    if set(map(type, found)) <= {dict}:
        return found
    for entry in found:
        if not isinstance(entry, dict):
            left_out.append(LeftOut(kind, Unused.UNREADABLE, f"{source}: {_shown(entry)} is no JSON object"))
    return [entry for entry in found if isinstance(entry, dict)]


def _ids(entries: Sequence[Mapping[str, Any]], key: str, exactly: bool) -> list[RawId | None]:
    """An id of every entry; None where it is none."""
    values = [entry.get(key) for entry in entries]
    types = set(map(type, values))
    if types <= {int}:
        return values
    if float in types and not exactly and any(type(one) is float and abs(one) >= EXACT for one in values):
        raise _RoundedIdsError
    return [_or(raw_id, value, None) for value in values]


def _column(
    entries: Sequence[Mapping[str, Any]], key: str, convert: Callable[[Any], float], default: float
) -> np.ndarray:
    """A number of every entry, float64; `default` where there is none that `convert` understands."""
    values = [entry.get(key) for entry in entries]
    if not set(map(type, values)) <= {int, float} or (convert is raw_flag and not set(values) <= {0, 1}):
        values = [_or(convert, value, default) for value in values]
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # whole numbers of 400 digits
        return np.array([_or(convert, value, default) for value in values], dtype=np.float64)


def _or(convert: Callable[[Any], T], value: Any, default: T) -> T:
    try:
        return convert(value)
    except ValueError:
        return default


def _count(repairs: Counter[str], what: str, entries: Sequence[Mapping[str, Any]], key: str, wrong: np.ndarray) -> None:
    """Count entries with a wrong value; one that is not there is no fault."""
    found = sum(entries[number].get(key) is not None for number in np.flatnonzero(wrong).tolist())
    if found:
        repairs[what] += found


def _boxes(annotations: Sequence[Mapping[str, Any]], repairs: Counter[str]) -> np.ndarray:
    """The boxes [M, 4] x, y, width, height; a row of nan where there is none."""
    values: list[Any] = [annotation.get("bbox") for annotation in annotations]
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        flat = list(chain.from_iterable(values))
        if set(map(type, flat)) <= {int, float}:
            with suppress(OverflowError):
                boxes = np.array(flat, dtype=np.float64).reshape(-1, 4)
                boxes[~np.isfinite(boxes).all(1)] = np.nan
                return boxes
    return np.array([_box(entry, repairs) for entry in annotations], dtype=np.float64).reshape(-1, 4)


def _box(annotation: Mapping[str, Any], repairs: Counter[str]) -> list[float]:
    """One box: its four numbers, which may be texts, or without them what its polygons span."""
    box = annotation.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        numbers = [_or(raw_number, value, np.nan) for value in box]
        if not np.isnan(numbers).any():
            repairs["box whose numbers are texts"] += any(isinstance(value, str) for value in box)
            return numbers
        return [np.nan] * 4
    polygons = annotation.get("segmentation")
    if not box and isinstance(polygons, list) and polygons and all(isinstance(one, list) for one in polygons):
        points = [_or(raw_number, value, np.nan) for one in polygons for value in one]
        if len(points) >= 6 and len(points) % 2 == 0 and not np.isnan(points).any():
            xs, ys = points[::2], points[1::2]
            repairs["box that is not stated: taken from the polygons"] += 1
            return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return [np.nan] * 4


def _require_some(
    source: FilePath, annotations: Sequence[Mapping[str, Any]], pictures: np.ndarray, labels: np.ndarray,
    label_map: LabelMap,
) -> None:  # fmt: skip
    """UserError where ids are so wrong that leaving entries out would teach nonsense."""
    entry = annotations[0]
    if (pictures < 0).all():
        raise UserError(
            f"{source}: annotation {entry.get('id')} belongs to image {entry.get('image_id')!r}, which is not listed, "
            f"and so are all others; add the images or remove the annotations"
        )
    shift = _shift_in_words(annotations, label_map) if (labels < 0).any() else ""
    if shift or (labels < 0).all():
        entry = annotations[int(np.argmax(labels < 0))]
        raise UserError(
            f"{source}: annotation {entry.get('id')} has category {entry.get('category_id')!r}, which is not listed; "
            f"the categories are {label_map.describe()}{shift}"
        )


def _shift_in_words(annotations: Sequence[Mapping[str, Any]], label_map: LabelMap) -> str:
    """A hint, where adding or subtracting 1 makes all categories of the annotations listed ones."""
    used = {_or(whole_number, annotation.get("category_id"), None) for annotation in annotations}
    for shift, said in ((1, "one too low: add 1 to each"), (-1, "one too high: take 1 from each")):
        if all(number is not None and number + shift in label_map.index_of for number in used):
            return f"; every category_id of the annotations seems {said}"
    return ""


def _shown(entry: Any) -> str:
    """An entry in a message, cut where it is long."""
    text = repr(entry)
    return text if len(text) <= 120 else f"{text[:117]}..."
