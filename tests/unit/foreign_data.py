"""Writes a COCO data set of the fixture `coco_folder` in other formats, as their tools write them."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from opendetr.data.index import DatasetIndex

Annotations = list[tuple[str, list[int]]]  # name of the class, box x, y, width, height


def pictures_of(coco_root: Path, split: str = "train") -> Iterator[tuple[dict, Annotations]]:
    """The pictures of a split with their objects."""
    coco = json.loads((coco_root / f"annotations/{split}.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for image in coco["images"]:
        own = [one for one in coco["annotations"] if one["image_id"] == image["id"]]
        yield image, [(names[one["category_id"]], one["bbox"]) for one in own]


def copy_pictures(coco_root: Path, to: Path, split: str = "train") -> None:
    to.mkdir(parents=True, exist_ok=True)
    for image, _ in pictures_of(coco_root, split):
        shutil.copy(coco_root / "images" / image["file_name"], to)


def yolo_line(image: dict, number: int, box: list[int]) -> str:
    x, y, w, h = box
    width, height = image["width"], image["height"]
    return f"{number} {(x + w / 2) / width:.8f} {(y + h / 2) / height:.8f} {w / width:.8f} {h / height:.8f}"


def write_yolo(coco_root: Path, labels: Path, split: str = "train", names=("circle", "square", "star")) -> None:
    """A text file per picture with objects; one without any has none."""
    labels.mkdir(parents=True, exist_ok=True)
    for image, objects in pictures_of(coco_root, split):
        lines = [yolo_line(image, names.index(name), box) for name, box in objects]
        if lines:
            (labels / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines) + "\n")


def voc_text(image: dict, objects: Annotations, shift: int = 0) -> str:
    entries = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><difficult>0</difficult><bndbox><xmin>{x + shift}</xmin>"
        f"<ymin>{y + shift}</ymin><xmax>{x + w + shift}</xmax><ymax>{y + h + shift}</ymax></bndbox></object>\n"
        for name, (x, y, w, h) in objects
    )
    return (
        f"<annotation>\n<folder>images</folder>\n<filename>{image['file_name']}</filename>\n"
        f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>\n"
        f"{entries}</annotation>\n"
    )


def write_voc(coco_root: Path, annotations: Path, split: str = "train", shift: int = 0) -> None:
    annotations.mkdir(parents=True, exist_ok=True)
    for image, objects in pictures_of(coco_root, split):
        (annotations / image["file_name"]).with_suffix(".xml").write_text(voc_text(image, objects, shift))


def csv_lines(
    coco_root: Path, line: Callable[[dict, str, list[int]], str], empty: Callable[[dict], str], split: str = "train"
) -> list[str]:
    """The lines of a table: one per object, or one of a picture without any."""
    lines = []
    for image, objects in pictures_of(coco_root, split):
        lines += [line(image, name, box) for name, box in objects] or [empty(image)]
    return lines


def write_labelme(coco_root: Path, folder: Path, split: str = "train", to_pictures: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image, objects in pictures_of(coco_root, split):
        shapes = [
            {
                "label": name,
                "points": [[x + w, y + h], [x, y]],
                "shape_type": "rectangle",
                "group_id": None,
                "flags": {},
            }
            for name, (x, y, w, h) in objects
        ]
        content = {
            "version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": to_pictures + image["file_name"],
            "imageData": "AAAA", "imageHeight": image["height"], "imageWidth": image["width"],
        }  # fmt: skip
        (folder / image["file_name"]).with_suffix(".json").write_text(json.dumps(content))


def assert_same(index: DatasetIndex, expected: DatasetIndex, tolerance: float = 0) -> None:
    """The same pictures, classes by name and boxes, in the same order."""
    assert [Path(path).name for path in index.paths] == [Path(path).name for path in expected.paths]
    assert np.array_equal(index.sizes, expected.sizes)
    assert np.array_equal(index.counts, expected.counts)
    names, wanted = index.label_map.names, expected.label_map.names
    assert [names[label] for label in index.labels] == [wanted[label] for label in expected.labels]
    assert np.abs(index.boxes_xyxy - expected.boxes_xyxy).max(initial=0) <= tolerance
    assert not index.left_out
