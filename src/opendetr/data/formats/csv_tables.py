"""CSV: a table with a line per object, in the ways in which the common tools write it.

The file is long because the tools have neither header nor columns nor splits in common.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from opendetr.data.formats.entries import Place, SplitBuilder, circle, numbers, size_of, span, split_by_names
from opendetr.data.formats.split_files import (
    PicturesByStem,
    name_of_split,
    numbered_lines,
    picture_folders,
    read_text,
    split_folders,
    suffix_of,
)
from opendetr.data.index import Unused
from opendetr.data.raw import FoundSplit, RawSplit, ReadOptions
from opendetr.data.split_names import is_split_name
from opendetr.decoding import picture_suffixes
from opendetr.locations import FilePath
from opendetr.raw_values import raw_flag

LAYOUT = "CSV"
EXPECTED = "a table with a picture, a box and a class per line"
PICTURE_FOLDERS = ("images", "JPEGImages", "imgs", "pictures")
SEPARATORS = (",", ";", "\t")
# What the columns are called, in small letters without signs between.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": (
        "image", "filename", "imageid", "imagename", "imagepath", "imagefile", "imagefilename", "img", "imgpath",
        "imgname", "path", "filepath", "file", "picture", "gcs", "imageuri",
    ),
    "label": ("label", "class", "classname", "category", "categoryname", "labelname", "name", "tag", "object"),
    "xmin": ("xmin", "x1", "left", "x0", "bboxxmin", "boxxmin", "xtl"),
    "ymin": ("ymin", "y1", "top", "y0", "bboxymin", "boxymin", "ytl"),
    "xmax": ("xmax", "x2", "right", "bboxxmax", "boxxmax", "xbr"),
    "ymax": ("ymax", "y2", "bottom", "bboxymax", "boxymax", "ybr"),
    "x": ("x", "bboxx", "boxx"),
    "y": ("y", "bboxy", "boxy"),
    "cx": ("cx", "xcenter", "xcentre", "centerx", "centrex"),
    "cy": ("cy", "ycenter", "ycentre", "centery", "centrey"),
    "w": ("w", "boxwidth", "bboxwidth", "bboxw", "boxw", "width"),
    "h": ("h", "boxheight", "bboxheight", "bboxh", "boxh", "height"),
    "box": ("bbox", "box"),
    "shape": ("regionshapeattributes",),
    "attributes": ("regionattributes",),
    "image_width": ("imagewidth", "imgwidth", "imagew", "width"),
    "image_height": ("imageheight", "imgheight", "imageh", "height"),
    "split": ("split", "set", "subset", "mluse", "partition"),
    "crowd": ("iscrowd", "difficult", "isgroupof"),
}  # fmt: skip
OF_BOX = (
    ("xmin", "ymin", "xmax", "ymax"), ("xmin", "ymin", "w", "h"), ("cx", "cy", "w", "h"), ("x", "y", "w", "h"),
    ("box",), ("shape",),
)  # fmt: skip
OURS = ("score", "categoryid")  # columns of the detections that this project writes
# Tables without a header: what their columns are, and how a first line of theirs looks.
AUTOML = ("split", "image", "label", "xmin", "ymin", "", "", "xmax", "ymax", "", "")
RETINANET = ("image", "xmin", "ymin", "xmax", "ymax", "label")
_AUTOML_SET = re.compile(r"(?i)train|training|validation|validate|test|unassigned")
_LEADING = re.compile(r"(?i)(train|val|valid|validation|test)[0-9]*([^a-z].*)?")
_TRAILING = re.compile(r"(?i).*[^a-z](train|val|valid|validation|test)[0-9]*")
LABEL_KEYS = ("label", "class", "name", "type", "category", "object")  # of VIA's attributes


@dataclass(frozen=True)
class _Table:
    """A CSV file: where its columns are, and whether a line of names comes first."""

    source: FilePath
    split: str  # by its name, where no column says it
    pictures: Sequence[FilePath]  # where they may be
    separator: str
    column_of: Mapping[str, int]
    num_columns: int
    has_header: bool
    is_relative: bool | None = None  # None: the numbers say it
    names: Mapping[str, str] = field(default_factory=dict)  # what the labels are called, where they are codes


def find_csv(root: FilePath, options: ReadOptions) -> Iterator[FoundSplit]:
    """The splits of a folder.

    `train.csv`, `val.csv` and `test.csv`, or one table, with or without a column for the split; the pictures are in
    `images/`, `SPLIT/` or beside it; or a table in every `SPLIT/` (Roboflow).
    """
    tables = _tables(root)
    if any("split" in table.column_of for table in tables):
        names = list(_gather(tables))
        found = [(name, name, tables[0].source) for name in names]
    else:
        found = [(table.split, str(table.source), table.source) for table in tables]
    for name, key, source in found:
        yield FoundSplit(name, name, source, LAYOUT, partial(_read, tables, key))


def _tables(root: FilePath) -> list[_Table]:
    """The tables of a folder, or else those of the folders of its splits."""
    found: list[_Table] = []
    for folder in picture_folders(root, "annotations", "labels", "csv"):
        for source in sorted(folder.glob("*.csv")):
            split = _split_of(source.stem)
            of_split = [place for place in (root / "images" / split, root / split) if place.is_dir()]
            places = [*of_split, *picture_folders(root, *PICTURE_FOLDERS), folder]
            if (table := _recognised(source, split, places)) is not None:
                found.append(table)
    for folder in [] if found else split_folders(root):
        for source in sorted(folder.glob("*.csv")):
            places = picture_folders(folder, *PICTURE_FOLDERS)
            if (table := _recognised(source, name_of_split(folder), places)) is not None:
                found.append(table)
    is_alone = len(found) == 1 and not is_split_name(found[0].split)
    return [replace(found[0], split="train")] if is_alone else found


def _split_of(stem: str) -> str:
    """`train` for `train_labels`, `val` for `annotations-val`."""
    named = _LEADING.fullmatch(stem) or _TRAILING.fullmatch(stem)
    return stem if named is None else named[1].lower()


def _recognised(source: FilePath, split: str, pictures: Sequence[FilePath]) -> _Table | None:
    """How a file is to be read; None where it is no table of boxes."""
    if source.name.startswith("."):
        return None
    try:
        with source.open("rb") as file:
            start = file.read(65536)
    except OSError:
        return None
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    first = next((line for _, line in numbered_lines(start.decode(encoding, "replace"))), "")
    separator = max(SEPARATORS, key=first.count)
    cells = _cells(first, separator)
    if not cells or len(cells) < 4:
        return None
    column_of = _columns(cells)
    if column_of is not None:
        open_images = {"xmin", "xmax", "labelname", "imageid"} <= set(map(_plain, cells))
        names = _class_descriptions(source.parent) if open_images else {}
        is_relative = True if open_images else None
        return _Table(source, split, pictures, separator, column_of, len(cells), True, is_relative, names)
    for layout, fits, is_relative in ((AUTOML, _is_automl, True), (RETINANET, _is_retinanet, None)):
        if fits(cells):
            named = {name: at for at, name in enumerate(layout) if name}
            return _Table(source, split, pictures, separator, named, len(layout), False, is_relative)
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _columns(header: Sequence[str]) -> dict[str, int] | None:
    """Where the columns of a table are, by its first line; None where this names no picture and box."""
    plain = [_plain(cell) for cell in header]
    if set(OURS) <= set(plain):
        return None
    found = {
        meaning: plain.index(name) for meaning, names in COLUMNS.items()
        if (name := next((name for name in names if name in plain), None)) is not None
    }  # fmt: skip
    box = next((columns for columns in OF_BOX if all(column in found for column in columns)), None)
    if "image" not in found or box is None:
        return None
    if "w" in box:  # where width is the box's, it is not the picture's
        for side, own in (("image_width", "w"), ("image_height", "h")):
            if found.get(side) == found[own]:
                del found[side]
    if "shape" in found:
        box = ("shape",)
    kept = {*box, "image", "label", "attributes", "image_width", "image_height", "split", "crowd"}
    return {meaning: at for meaning, at in found.items() if meaning in kept}


def _is_automl(cells: Sequence[str]) -> bool:
    return len(cells) >= 9 and _AUTOML_SET.fullmatch(cells[0].strip()) is not None


def _is_retinanet(cells: Sequence[str]) -> bool:
    is_box = numbers(cells[1:5]) is not None or not any(cell.strip() for cell in cells[1:])
    return len(cells) == 6 and suffix_of(cells[0].strip()) in picture_suffixes() and is_box


def _class_descriptions(folder: FilePath) -> dict[str, str]:
    """What OpenImages calls its classes, whose codes are such as /m/0k4j."""
    names: dict[str, str] = {}
    for source in sorted(folder.glob("*class-descriptions*.csv")):
        for _, line in numbered_lines(read_text(source, Counter(), "a code and a name per line")):
            cells = _cells(line, ",")
            if cells and len(cells) == 2:
                names[cells[0]] = cells[1]
    return names


def _cells(line: str, separator: str) -> list[str] | None:
    """The cells of a line; each line is read alone, so that an open quote spoils no other line."""
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return None


class _Rows:
    """The lines of a split."""

    def __init__(self, table: _Table) -> None:
        self.entries = SplitBuilder(table.source, table.pictures)
        if not {"label", "attributes"} & set(table.column_of):
            self.entries.notes.append(f"{table.source} has no column for classes: all its objects are called object.")
        self.pictures = PicturesByStem(table.pictures)
        self.position_of: dict[str, int] = {}
        self.is_relative = table.is_relative
        self.states_sizes = {"image_width", "image_height"} <= set(table.column_of)

    def add(self, table: _Table, cells: Sequence[str], where: Place) -> None:
        """Add what a line states: an object, or a picture without any."""
        row = {meaning: cells[at].strip() for meaning, at in table.column_of.items() if at < len(cells)}
        if any(cell.strip() for cell in cells[table.num_columns :]):
            sentence = f"{where} has {len(cells)} columns; expected {table.num_columns}"
            self.entries.leave_out("object", Unused.UNREADABLE, sentence)
            return
        if not row.get("image"):
            self.entries.leave_out("object", Unused.NO_PICTURE, f"{where} names no picture")
            return
        picture = self._picture(row, table)
        label = row.get("label", "")
        if "attributes" in table.column_of:
            label = label or _label_of(row.get("attributes", ""))
        if not any(row.get(column, "").strip("{}[]") for column in _box_columns(table.column_of)) and not label:
            return
        if not {"label", "attributes"} & set(table.column_of):
            label = "object"
        try:
            crowd = raw_flag(row.get("crowd"))
        except ValueError:  # such as -1, which is unknown to OpenImages
            crowd = False
        box = self._box(row, table)
        self.entries.add_object(picture, table.names.get(label, label), box, where, crowd)

    def _picture(self, row: Mapping[str, str], table: _Table) -> int:
        name = row["image"]
        if name not in self.position_of:
            size = size_of(row.get("image_width"), row.get("image_height"))
            found = None if suffix_of(name) in picture_suffixes() else self.pictures.of_stem(name)
            self.position_of[name] = self.entries.add_picture(found or name, size)
        return self.position_of[name]

    def _box(self, row: Mapping[str, str], table: _Table) -> Sequence[float] | None:
        """The box x, y, width, height; None where there is none."""
        columns = _box_columns(table.column_of)
        if columns == ("shape",):
            return _of_shape(row.get("shape", ""))
        texts: Sequence[str] = [row.get(column, "") for column in columns]
        if columns == ("box",):
            texts = re.split(r"[\s,;]+", texts[0].strip("[](){} "))
        elif table.separator != ",":
            texts = [text.replace(",", ".") for text in texts]  # as spreadsheets write decimals in most of Europe
        values = numbers(texts)
        if values is None or len(values) != 4:
            return None
        if "xmax" in columns:
            return self.entries.between(values)
        x, y, width, height = values
        return (x - width / 2, y - height / 2, width, height) if columns[0] == "cx" else values

    def split(self, others: Sequence[SplitBuilder]) -> RawSplit:
        """The split; boxes are shares where no number is above 1."""
        entries, is_relative = self.entries, self.is_relative
        if is_relative is None:
            is_relative = bool(entries.boxes_xywh) and all(
                x + width <= 1 and y + height <= 1 for x, y, width, height in entries.boxes_xywh
            )
            if is_relative:
                said = "no number of its boxes is above 1: they are taken as shares of the pictures' sides"
                entries.notes.append(f"{entries.source}: {said}.")
        return split_by_names(entries, others, is_relative=is_relative, states_sizes=self.states_sizes)


def _box_columns(column_of: Mapping[str, int]) -> tuple[str, ...]:
    return next(columns for columns in OF_BOX if all(column in column_of for column in columns))


def _label_of(attributes: str) -> str:
    """The class in VIA's attributes of a region: of the usual names, or the only one."""
    found = _json(attributes)
    if not isinstance(found, dict) or not found:
        return ""
    key = next((key for key in found if _plain(str(key)) in LABEL_KEYS), next(iter(found)) if len(found) == 1 else None)
    value = found.get(key)
    if isinstance(value, dict):  # checkboxes
        value = next((name for name, is_set in value.items() if is_set), "")
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _of_shape(text: str) -> tuple[float, float, float, float] | None:
    """The box of VIA's region: a rectangle, a polygon, a circle or an ellipse."""
    shape = _json(text)
    if not isinstance(shape, dict):
        return None
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if isinstance(xs, list) and isinstance(ys, list):
        x_values, y_values = numbers(xs), numbers(ys)
        return None if x_values is None or y_values is None else span(x_values, y_values)
    if "width" in shape:
        values = numbers(shape.get(key) for key in ("x", "y", "width", "height"))
        return None if values is None else (values[0], values[1], values[2], values[3])
    radius = [shape.get("rx", shape.get("r")), shape.get("ry", shape.get("r"))]
    values = numbers([shape.get("cx"), shape.get("cy"), *radius])
    return None if values is None else circle(values[0], values[1], values[2], values[3])


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _gather(tables: Sequence[_Table]) -> dict[str, _Rows]:
    """The lines of every split: by the name in their column, or by their file where there is no such column."""
    found: dict[str, _Rows] = {}
    for table in tables:
        text_repairs: Counter[str] = Counter()
        lines = numbered_lines(read_text(table.source, text_repairs, EXPECTED))
        if table.has_header:
            next(lines, None)
        key = str(table.source)
        if "split" not in table.column_of:
            found[key] = _Rows(table)
        for number, line in lines:
            where = Place(table.source, number, line)
            cells = _cells(line, table.separator)
            if "split" in table.column_of:
                at = table.column_of["split"]
                key = (cells[at].strip().lower() if cells and at < len(cells) else "") or "train"
                found.setdefault(key, _Rows(table))
            if cells is None:
                found[key].entries.leave_out("object", Unused.UNREADABLE, f"{where} is no line of a table")
            else:
                found[key].add(table, cells, where)
        for rows in found.values():
            rows.entries.repairs.update(text_repairs)
    return found


def _read(tables: Sequence[_Table], key: str) -> RawSplit:
    """What the table of a split states; UserError: it has no picture, or no object can be used."""
    splits = _gather(tables)
    return splits[key].split([rows.entries for name, rows in splits.items() if name != key])
