"""Data sets on disk -> one index of pictures and boxes. Nothing is decoded here."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opendetr.errors import UserError
from opendetr.files import read_json
from opendetr.labels import LabelMap, whole_number


@dataclass(frozen=True)
class Record:
    """One picture and its true objects. Crowd regions are left out, as the official training does."""

    image_id: int
    path: Path
    width: int
    height: int
    labels: np.ndarray  # [T] class index
    boxes_xyxy: np.ndarray  # [T, 4] pixels, clipped to the picture, never empty


@dataclass(frozen=True)
class DatasetIndex:
    """One split of a data set."""

    source: Path  # the annotation file
    label_map: LabelMap
    records: list[Record]
    coco: dict[str, Any]  # the annotation file's content, for evaluation
    dropped_boxes: list[str]  # reasons why boxes were left out, one sentence each

    def __len__(self) -> int:
        return len(self.records)

    def under(self, label_map: LabelMap) -> "DatasetIndex":
        """The same split with the class indices of a model; UserError if the model lacks one of its categories."""
        if label_map == self.label_map:
            return self
        label_map.require_same_categories(self.label_map, str(self.source))
        ids = [category_id for category_id in self.label_map.category_ids if category_id is not None]
        indices = np.array([label_map.index_of[category_id] for category_id in ids], dtype=np.int64)
        records = [replace(record, labels=indices[record.labels]) for record in self.records]
        return replace(self, label_map=label_map, records=records)


def load_index(root: Path, split: str) -> DatasetIndex:
    """Find a split of the data set in `root` and read its annotations.

    Three COCO layouts are recognised: `annotations/SPLIT.json` + `images/`; `annotations/instances_SPLIT2017.json` +
    `SPLIT2017/`; and Roboflow's `SPLIT/_annotations.coco.json` (where val is called `valid`). Where several files have
    the split's name, it is named by its own: `annotations/val.json`.

    Raises:
        UserError: no such folder or split, a name that several splits have, a file that is not COCO, an annotation that
            names a missing picture or category, a picture file that is not there.
    """
    return read_coco(*find_split(Path(root), split))


def has_split(root: Path, split: str) -> bool:
    """Whether the data set in `root` has the split."""
    return bool(_named(Path(root), split))


def split_names(root: Path) -> list[str]:
    """The splits of the data set in `root`."""
    return sorted({name for name, _, _, _ in _splits(root)})


def find_split(root: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and the picture folder of a split."""
    if not root.is_dir():
        raise UserError(f"--data {root} is not a folder; expected a data set with annotations in COCO format")
    fitting = _named(root, split)
    if len(fitting) > 1:
        sources = [source.relative_to(root).as_posix() for source, _ in fitting]
        raise UserError(
            f"split '{split}' of {root} could be any of {', '.join(sources)}; "
            f"name the split by its file, as {sources[0]}"
        )
    if fitting:
        if not fitting[0][1].is_dir():
            raise UserError(f"{fitting[0][0]} has no pictures: the folder {fitting[0][1]} does not exist")
        return fitting[0]
    known = split_names(root)
    if not known:
        raise UserError(
            f"{root} has no data set that this version reads; expected annotations/{split}.json + images/, "
            f"annotations/instances_{split}2017.json + {split}2017/, or {split}/_annotations.coco.json"
        )
    raise UserError(f"{root} has no split '{split}'; it has: {', '.join(known)}")


def _named(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Annotation file and picture folder of every split of that name; the path of its file is a name of each."""
    return [
        (source, pictures)
        for name, own_name, source, pictures in _splits(root)
        if split in (name, own_name, source.relative_to(root).as_posix())
    ]


def _splits(root: Path) -> Iterator[tuple[str, str, Path, Path]]:
    """Every (split, its literal name on disk, annotation file, picture folder) of the data set in `root`."""
    for source in sorted((root / "annotations").glob("*.json")):
        if source.stem.startswith("instances_"):
            folder = source.stem.removeprefix("instances_")
            yield folder.rstrip("0123456789") or folder, folder, source, root / folder
        else:
            yield source.stem, source.stem, source, root / "images"
    for source in sorted(root.glob("*/_annotations.coco.json")):
        name = source.parent.name
        yield {"valid": "val"}.get(name, name), name, source, source.parent


def read_coco(source: Path, image_folder: Path) -> DatasetIndex:
    """Index one COCO annotation file whose pictures lie in `image_folder`."""
    coco = read_coco_file(source)
    label_map = LabelMap.from_categories(coco["categories"], str(source))
    records, dropped = [], []
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    for image in coco["images"]:
        path = image_folder / image["file_name"]
        if not path.is_file():
            raise UserError(f"{source} names the picture {path}, which does not exist; add it or remove its entry")
        labels, boxes = [], []
        for annotation in of_image[image["id"]]:
            if annotation.get("iscrowd", 0):
                continue
            box, reason = _clip(annotation["bbox"], image["width"], image["height"])
            if reason:
                dropped.append(f"{path}: annotation {annotation.get('id')} with bbox {annotation['bbox']} is {reason}")
                continue
            labels.append(label_map.index_of[whole_number(annotation["category_id"])])
            boxes.append(box)
        records.append(
            Record(
                image["id"], path, image["width"], image["height"],
                np.array(labels, dtype=np.int64), np.array(boxes, dtype=np.float32).reshape(-1, 4),
            )
        )  # fmt: skip
    if not records:
        raise UserError(f"{source}: the list 'images' is empty; at least one picture is needed")
    return DatasetIndex(source, label_map, records, coco, dropped)


def read_coco_file(source: Path) -> dict[str, Any]:
    """The content of a COCO annotation file, its lists and entries checked; UserError names the first error."""
    coco = read_json(source, "a COCO annotation file with images, annotations and categories")
    if not isinstance(coco, dict) or not all(
        isinstance(coco.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise UserError(
            f"{source} is not a COCO annotation file: it needs the lists images, annotations and categories"
        )
    seen: set[int] = set()
    for image in coco["images"]:
        sizes = [image.get(key) for key in ("id", "width", "height")] if isinstance(image, dict) else [None]
        if not all(isinstance(v, int) for v in sizes) or not isinstance(image.get("file_name"), str):
            raise UserError(
                f"{source}: every image needs a whole-number id, width and height and a file_name, got {image}"
            )
        if image["id"] in seen:
            raise UserError(f"{source}: image id {image['id']} is listed twice; ids must be unique")
        seen.add(image["id"])
    for annotation in coco["annotations"]:
        box = annotation.get("bbox") if isinstance(annotation, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            raise UserError(
                f"{source}: every annotation needs a bbox [x, y, width, height] in pixels, got {annotation}"
            )
        if not isinstance(annotation.get("image_id"), int) or annotation["image_id"] not in seen:
            raise UserError(
                f"{source}: annotation {annotation.get('id')} belongs to image {annotation.get('image_id')}, "
                f"which is not listed; add the image or remove the annotation"
            )
    _require_listed_categories(coco, source)
    return coco


def _require_listed_categories(coco: dict[str, Any], source: Path) -> None:
    label_map = LabelMap.from_categories(coco["categories"], str(source))
    for annotation in coco["annotations"]:
        try:
            known = whole_number(annotation["category_id"]) in label_map.index_of
        except (KeyError, TypeError, ValueError):
            known = False
        if not known:
            raise UserError(
                f"{source}: annotation {annotation.get('id')} has category {annotation.get('category_id')}, "
                f"which is not listed; the categories are {label_map.describe()}{_shift_in_words(coco, label_map)}"
            )


def _shift_in_words(coco: dict[str, Any], label_map: LabelMap) -> str:
    """A hint, where adding or subtracting 1 makes all categories of the annotations listed ones."""
    try:
        used = {whole_number(annotation["category_id"]) for annotation in coco["annotations"]}
    except (KeyError, TypeError, ValueError):
        return ""
    for shift, said in ((1, "one too low: add 1 to each"), (-1, "one too high: take 1 from each")):
        if all(category_id + shift in label_map.index_of for category_id in used):
            return f"; every category_id of the annotations seems {said}"
    return ""


def _clip(bbox: Sequence[float | int], width: int, height: int) -> tuple[list[float], str]:
    """The box as xyxy within the picture, and why training cannot use it ('' where it can)."""
    x, y, w, h = map(float, bbox)
    if not np.isfinite(bbox).all():
        return [], "not finite"
    if w <= 0 or h <= 0:
        return [], "empty"
    x1, y1, x2, y2 = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    if x2 <= x1 or y2 <= y1:
        return [], f"outside its picture of {width}x{height} pixels"
    return [x1, y1, x2, y2], ""


def shared_pictures(one: DatasetIndex, other: DatasetIndex) -> list[Path]:
    """Pictures of `one` that `other` has too: the same file, or another file with the same bytes."""
    others = {record.path.resolve() for record in other.records}
    of_size: dict[int, list[Path]] = {}
    for path in others:
        of_size.setdefault(path.stat().st_size, []).append(path)
    digests: dict[Path, bytes] = {}

    def digest(path: Path) -> bytes:
        if path not in digests:
            digests[path] = hashlib.blake2b(path.read_bytes()).digest()
        return digests[path]

    def is_shared(path: Path) -> bool:
        twins = of_size.get(path.stat().st_size, [])  # compare sizes first: hashing all of COCO would take minutes
        return path in others or any(digest(path) == digest(twin) for twin in twins)

    return [record.path for record in one.records if is_shared(record.path.resolve())]


def known_images(folder: Path) -> dict[str, int]:
    """File name -> image id of the data set whose picture folder this is; empty for other folders.

    File names are relative to the folder, as the data set writes them.
    """
    folder = folder.resolve()
    ids: dict[str, int] = {}
    for source in [source for _, _, source, pictures in _splits(folder.parent) if pictures.resolve() == folder]:
        try:
            images = read_coco_file(source)["images"]
        except UserError:
            return {}
        for image in images:
            if ids.setdefault(image["file_name"], image["id"]) != image["id"]:
                return {}  # two splits give the same picture different ids: none is valid for the data set
    return ids


def count_objects(records: Iterable[Record]) -> int:
    """True objects of all pictures together."""
    return sum(len(record.labels) for record in records)
