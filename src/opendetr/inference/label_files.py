"""What `predict` writes on request beside `detections.json`: YOLO labels, a table, a COCO data set, crops.

Boxes are clipped to their picture here, and those that are empty then are left out, because other programs refuse them;
`detections.json` has them as the model gives them.
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from opendetr.boxes import clip_boxes
from opendetr.detections import Detections
from opendetr.errors import UserError
from opendetr.files import write_bytes, write_lines, write_text
from opendetr.images import encode_image
from opendetr.labels import LabelMap
from opendetr.raw_values import RawId
from opendetr.wording import one_line, without_hidden

COLUMNS = ("file_name", "image_id", "category_id", "name", "score", "x1", "y1", "x2", "y2")  # of a table
OF_VIDEO = ("seconds",)
LONGEST_NAME = 80  # characters of a folder's name: file systems take 255 bytes
SPLIT = "train"  # of the COCO data set, the split that `train` learns from

Entries = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Saving:
    """Which of these files are written."""

    txt: bool = False
    csv: bool = False
    coco: bool = False
    crops: bool = False

    @property
    def names(self) -> list[str]:
        """The options that ask for them."""
        return [f"--save-{name}" for name, wanted in zip(("txt", "csv", "coco", "crops"), astuple(self)) if wanted]


class Listed(NamedTuple):
    """A picture that was detected in, as the data set and the table name it."""

    image_id: RawId
    file_name: str  # in the data set
    size: tuple[int, int]  # height, width in pixels


class LabelFiles:
    """Writes the files of every picture as it is done, and at the end those of all."""

    def __init__(self, folder: Path, saving: Saving, label_map: LabelMap) -> None:
        self.folder, self.saving = folder, saving
        self.categories = [entry for entry in label_map.to_json() if entry["id"] is not None]
        # YOLO counts classes from 0 without gaps.
        self.numbers = {entry["id"]: number for number, entry in enumerate(self.categories)}

    def require_new(self) -> None:
        """Check that no labels and no crops of other work are there, among which the new ones would be lost.

        Raises:
            UserError: there are.
        """
        checked = ((self.saving.txt, self._labels, "*.txt"), (self.saving.crops, self._crops, "*/*"))
        for wanted, folder, files in checked:
            if wanted and any(folder.glob(files)):
                raise UserError(f"{folder} holds {folder.name} of earlier work: remove it, or choose another --output")

    def write(self, stem: str, image: Image.Image, found: Detections, original: Path | None = None) -> None:
        """The files of one picture.

        Args:
            stem: of their names, different for every picture.
            image: upright, RGB.
            found: its detections.
            original: its file, which is copied into the data set; None writes the picture as JPEG.
        """
        if not self.saving.names:
            return
        visible = found.visible()
        if self.saving.txt:
            lines = yolo_lines(visible, self.numbers)
            write_text(self._labels / f"{stem}.txt", "".join(f"{line}\n" for line in lines))
        if self.saving.crops:
            for number, (name, crop) in enumerate(zip(visible.names, visible.crops(image)), start=1):
                write_bytes(self._crops / folder_name(name) / f"{stem}-{number:02}.jpg", _jpeg(crop))
        if self.saving.coco:
            target = self.pictures / data_set_name(stem, original)
            if original is None:
                write_bytes(target, _jpeg(image))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(original, target)

    def finish(self, entries: Entries, listed: Sequence[Listed], *, video: bool = False) -> list[Path]:
        """The files of all pictures; returns what is there now, for a message.

        Args:
            entries: COCO results of all pictures, read as often as they are needed.
            listed: all pictures that were detected in, in their order.
            video: whether results have their `seconds`.
        """
        done = []
        if self.saving.txt:
            write_lines(
                self.folder / "classes.txt", (one_line(" ".join(entry["name"].split())) for entry in self.categories)
            )
            done.append(self._labels)
        if self.saving.csv:
            sizes = {one.image_id: one.size for one in listed}
            done.append(self.folder / "detections.csv")
            write_table(done[-1], entries, sizes, OF_VIDEO if video else ())
        if self.saving.coco:
            done.append(self.folder / "coco")
            write_lines(done[-1] / "annotations" / f"{SPLIT}.json", coco_lines(entries, listed, self.categories))
        if self.saving.crops:
            done.append(self._crops)
        return done

    @property
    def pictures(self) -> Path:
        """Of the data set."""
        return self.folder / "coco" / "images"

    @property
    def _labels(self) -> Path:
        return self.folder / "labels"

    @property
    def _crops(self) -> Path:
        return self.folder / "crops"


def yolo_lines(found: Detections, numbers: Mapping[RawId, int]) -> list[str]:
    """A line `class cx cy width height` per detection, the box in shares of the picture; `numbers` by raw id."""
    height, width = found.image_size
    shares = found.boxes_xyxy.double() / torch.tensor([width, height, width, height])
    return [
        f"{numbers[category_id]} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}"
        for category_id, (x1, y1, x2, y2) in zip(found.category_ids, shares.tolist())
        if category_id is not None
    ]


def write_table(path: Path, entries: Entries, sizes: Mapping[RawId, tuple[int, int]], more: Sequence[str] = ()) -> None:
    """COCO results as CSV, one line per detection, boxes clipped; `sizes` (height, width) by image id.

    `more` are further columns, keys of the results.
    """

    def lines() -> Iterator[str]:
        yield _csv_line([*COLUMNS[:2], *more, *COLUMNS[2:]])
        for entry in entries:
            box = clipped_box(entry["bbox"], sizes[entry["image_id"]])
            if box is not None:
                values = {
                    **entry,
                    "score": f"{entry['score']:.4f}",
                    **dict(zip(COLUMNS[-4:], (f"{v:.2f}" for v in box))),
                }
                yield _csv_line([values[name] for name in (*COLUMNS[:2], *more, *COLUMNS[2:])])

    write_lines(path, lines())


def coco_lines(entries: Entries, listed: Sequence[Listed], categories: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A COCO annotation file, one picture or annotation a line; annotations also have their `score`."""
    sizes = {one.image_id: one.size for one in listed}
    yield '{"images": ['
    pictures = (
        {"id": one.image_id, "file_name": one.file_name, "height": one.size[0], "width": one.size[1]} for one in listed
    )
    yield from _with_commas(pictures)
    yield '],\n"annotations": ['
    yield from _with_commas(_annotations(entries, sizes))
    yield f'],\n"categories": {json.dumps(categories)}}}'


def _annotations(entries: Entries, sizes: Mapping[RawId, tuple[int, int]]) -> Iterator[dict[str, Any]]:
    number = 0
    for entry in entries:
        box = clipped_box(entry["bbox"], sizes[entry["image_id"]])
        if box is not None:
            x1, y1, x2, y2 = box
            number += 1
            yield {
                "id": number, "image_id": entry["image_id"], "category_id": entry["category_id"], "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "score": entry["score"],
            }  # fmt: skip


def clipped_box(bbox: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of a COCO box (x, y, width, height) within a picture of `size` (height, width); None if empty."""
    x, y, w, h = bbox
    box, is_visible = clip_boxes(torch.tensor([x, y, x + w, y + h], dtype=torch.float64), size)
    x1, y1, x2, y2 = box.tolist()
    return (x1, y1, x2, y2) if is_visible else None


def data_set_name(stem: str, original: Path | None) -> str:
    """The name of a picture in the COCO data set."""
    return f"{stem}{'.jpg' if original is None else original.suffix}"


def folder_name(name: str) -> str:
    """A class name as the name of a folder, on any system."""
    return re.sub(r'[<>:"/\\|?*]', "-", without_hidden(name))[:LONGEST_NAME].strip(" .") or "-"


def _with_commas(values: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, value in enumerate(values):
        yield ("," if number else "") + json.dumps(value, allow_nan=False)


def _csv_line(values: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    return encode_image(image, "JPEG", quality=95)
