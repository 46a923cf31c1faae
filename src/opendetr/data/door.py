"""The one door for data: finds out which format a folder has, and reads its splits."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from opendetr.data.admission import admit
from opendetr.data.formats.coco_json import find_coco
from opendetr.data.formats.csv_tables import find_csv
from opendetr.data.formats.labelme_json import find_labelme
from opendetr.data.formats.picture_lines import find_picture_lines
from opendetr.data.formats.voc_xml import find_voc
from opendetr.data.formats.yolo_txt import find_yolo
from opendetr.data.index import DatasetIndex
from opendetr.data.picture_files import PictureFinder
from opendetr.data.raw import FoundSplit, ReadOptions
from opendetr.errors import UserError
from opendetr.locations import FilePath, folder_path
from opendetr.raw_values import RawId

FORMATS: tuple[Callable[[FilePath, ReadOptions], Iterator[FoundSplit]], ...] = (
    find_coco, find_yolo, find_voc, find_csv, find_labelme, find_picture_lines,
)  # fmt: skip  # the first that finds a split reads all
KNOWN = (  # an example of each, for those whose data is not recognised
    "COCO: annotations/{split}.json + images/, annotations/instances_{split}2017.json + {split}2017/ or "
    "{split}/_annotations.coco.json; YOLO: data.yaml, or images/ + labels/*.txt; Pascal VOC: JPEGImages/ + "
    "Annotations/*.xml; CSV: {split}.csv with image,xmin,ymin,xmax,ymax,label; or LabelMe: pictures + *.json"
)
USUAL_NAMES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
AS_WRITTEN = ReadOptions()
LEVELS = 8  # of folders above a picture in which its data set is looked for


def load_index(root: str | Path, split: str, options: ReadOptions = AS_WRITTEN) -> DatasetIndex:
    """Find a split of the data set in `root` and read its annotations.

    Every format that `FORMATS` names is recognised. Where several files have the split's name, it is named by its own:
    `annotations/val.json`. A data set with one split of an unusual name has it as `train`, too.

    Args:
        root: a folder, a zip archive, or an address that fsspec opens.
        split: `train`, `val`, `test` or another name.
        options: how files are read that leave it open.

    Raises:
        UserError: no such folder or split, a name that several splits have, a file that is not of its format, or not
            one picture that can be used.
    """
    found = find_split(root, split, options)
    return admit(found.read(), found.layout)


def has_split(root: str | Path, split: str) -> bool:
    """Whether the data set in `root` has the split."""
    return bool(_named(folder_path(root), split))


def split_names(root: str | Path) -> list[str]:
    """The splits of the data set in `root`."""
    return sorted({usual_name(split.name) for split in found_splits(folder_path(root))})


def find_split(root: str | Path, split: str, options: ReadOptions = AS_WRITTEN) -> FoundSplit:
    """Where a split is; errors as of `load_index`."""
    folder = folder_path(root)
    if not folder.is_dir():
        raise UserError(f"--data {root} is not a folder; expected a data set")
    fitting = _named(folder, split, options)
    if len(fitting) > 1:
        sources = [one.source.relative_to(folder).as_posix() for one in fitting]
        raise UserError(
            f"split '{split}' of {root} could be any of {', '.join(sources)}; "
            f"name the split by its file, as {sources[0]}"
        )
    if fitting:
        return fitting[0]
    known = split_names(root)
    if not known:
        inside = [one for one in sorted(folder.iterdir()) if one.is_dir() and found_splits(one)]
        if inside:
            raise UserError(f"{root} is no data set, but holds one: give {inside[0]}")
        raise UserError(f"{root} has no data set that this version reads; expected {KNOWN.format(split=split)}")
    raise UserError(f"{root} has no split '{split}'; it has: {', '.join(known)}")


def usual_name(name: str) -> str:
    """`val` for `valid`, and the like."""
    return USUAL_NAMES.get(name.lower(), name)


def found_splits(folder: FilePath, options: ReadOptions = AS_WRITTEN) -> list[FoundSplit]:
    """The splits that the first format with any finds in a folder."""
    return next((found for find in FORMATS if (found := list(find(folder, options)))), [])


def _named(folder: FilePath, split: str, options: ReadOptions = AS_WRITTEN) -> list[FoundSplit]:
    """The splits of that name; the path of its file is a name of each."""
    found = found_splits(folder, options)
    if len(found) == 1 and split == "train" and usual_name(found[0].name) not in ("train", "val", "test"):
        return found
    return [
        one for one in found
        if split in (one.name, usual_name(one.name), one.own_name, one.source.relative_to(folder).as_posix())
    ]  # fmt: skip


def known_ids(paths: Sequence[Path]) -> list[tuple[str, RawId] | None]:
    """File name as written and image id of every picture in the data set that it belongs to; None for others.

    A picture belongs to a data set in one of the folders above it that lists the same file, whatever links lead there.
    One that several splits list under different ids has none.
    """
    of_root: dict[str, dict[str, tuple[str, RawId] | None]] = {}
    found: list[tuple[str, RawId] | None] = []
    for path in paths:
        real = os.path.realpath(path)
        roots = dict.fromkeys([*_above(os.path.abspath(path)), *_above(real)])
        known = None
        for root in roots:
            if root not in of_root:
                of_root[root] = _files_of(Path(root))
            if real in of_root[root]:
                known = of_root[root][real]
                break
        found.append(known)
    return found


def _above(path: str) -> list[str]:
    return [str(folder) for folder in list(Path(path).parents)[:LEVELS]]


def _files_of(root: Path) -> dict[str, tuple[str, RawId] | None]:
    """Real path -> file name and image id, of every picture of the data set in a folder; None where splits disagree."""
    files: dict[str, tuple[str, RawId] | None] = {}
    try:
        splits = list(find_coco(root, AS_WRITTEN))
    except OSError:  # a folder above the pictures that must not be read
        return {}
    for split in splits:
        try:
            raw = split.read()
        except UserError:
            continue
        finder = PictureFinder(raw.folders)
        for name, image_id in zip(raw.file_names, raw.image_ids):
            if (place := finder.find_exactly(name)) is not None:
                real = os.path.realpath(place)
                entry = (name, image_id)
                files[real] = entry if files.get(real, entry) == entry else None
    return files
