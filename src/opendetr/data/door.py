"""The one door for data: finds out which format a folder has, and reads its splits."""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from opendetr.data.admission import admit
from opendetr.data.corrections import ENDING, corrected_file
from opendetr.data.formats.coco_folders import find_coco
from opendetr.data.formats.coco_json import LAYOUT, read_coco
from opendetr.data.formats.csv_tables import find_csv
from opendetr.data.formats.labelme_json import find_labelme
from opendetr.data.formats.picture_lines import find_picture_lines
from opendetr.data.formats.voc_xml import find_voc
from opendetr.data.formats.yolo_txt import find_yolo
from opendetr.data.index import DatasetIndex
from opendetr.data.joining import joined, keep_classes
from opendetr.data.picture_files import PictureFinder
from opendetr.data.raw import FoundSplit, ReadOptions
from opendetr.data.side_notes import with_notes
from opendetr.data.source import DataSource
from opendetr.data.split_names import APART, usual_name
from opendetr.errors import UserError
from opendetr.locations import FilePath, folder_path
from opendetr.progress import console, warn
from opendetr.raw_values import RawId
from opendetr.wording import counted

FORMATS: tuple[Callable[[FilePath, ReadOptions], Iterator[FoundSplit]], ...] = (
    find_coco, find_yolo, find_voc, find_csv, find_labelme, find_picture_lines,
)  # fmt: skip  # the first that finds a split reads all
KNOWN = (  # an example of each, for those whose data is not recognised
    "COCO: annotations/{split}.json + images/, annotations/instances_{split}2017.json + {split}2017/ or "
    "{split}/_annotations.coco.json; YOLO: data.yaml, or images/ + labels/*.txt; Pascal VOC: JPEGImages/ + "
    "Annotations/*.xml; CSV: {split}.csv with image,xmin,ymin,xmax,ymax,label; or LabelMe: pictures + *.json"
)
AS_WRITTEN = ReadOptions()
OF_OTHER_FORMATS = ("data.yaml", "opendetr.json", "JPEGImages")  # in folders of data sets that are not COCO's
LEVELS = 8  # of folders above a picture in which its data set is looked for


def load_index(data: str | FilePath | DataSource, split: str) -> DatasetIndex:
    """Find a split of a data set, or of several that are joined, and read its annotations.

    Every format that `FORMATS` names is recognised. Where several files have the split's name, it is named by its own:
    `annotations/val.json`. A data set with one split of an unusual name has it as `train`, too. Sets that lack the
    split are passed over with a warning, as long as one has it.

    Args:
        data: a folder, a zip archive, or an address that fsspec opens; or several, with the classes that are wanted.
        split: `train`, `val`, `test` or another name.

    Raises:
        UserError: no such folder, split or class, a name that several splits have, a file that is not of its format, or
            not one picture that can be used.
    """
    source = _source(data)
    if source.val_share and split in ("train", "val"):
        whole = _load(replace(source, val_share=0.0), "train")
        return _part(whole, split, _divided(replace(source, classes=(), renamed=())))
    index = _load(source, split)
    _return_freed_memory()  # of the files' content, many times as much as the index
    return index


def _load(source: DataSource, split: str) -> DatasetIndex:
    """A split as its files have it, of all sets together, with the classes that are wanted."""
    roots, options = source.roots, ReadOptions(source.voc_origin)
    if len(roots) > 1:
        roots = tuple(root for root in roots if _named(_set_folder(root), split, options)) or roots[:1]
    parts = [_read(root, split, options) for root in roots]
    for root in source.roots:
        if root not in roots:
            warn(f"{root} has no split '{split}': it is that of {' and '.join(roots)} alone.")
    if not source.is_joined and not source.classes:
        return parts[0]
    names = {name for part in parts for name in part.label_map.names}
    source.require_known(names, lambda: _names_of_all(source, names))
    index = parts[0]
    if source.is_joined:
        index = joined(parts, [source.new_names(part.label_map.names) for part in parts])
    if not source.classes:
        return index
    kept = source.kept_names(index.label_map.names)
    if not kept & set(index.label_map.names):
        raise UserError(f"--classes: split '{split}' of {source} has none of {', '.join(sorted(kept))}")
    return keep_classes(index, kept)


@lru_cache(maxsize=1)  # train and val are asked for one after the other
def _divided(source: DataSource) -> frozenset[str]:
    """The paths of the pictures of train that are val, near duplicates on one side; it reads all pictures.

    Which they are does not depend on the classes that are wanted.
    """
    from opendetr.data.near_duplicates import near_pairs, share_of
    from opendetr.data.picture_findings import glance_at

    if has_split(replace(source, val_share=0.0), "val"):
        raise UserError(f"--val-share {source.val_share:g}: {source} has a split val already; leave out the option")
    whole = _load(source, "train")
    pairs = near_pairs(np.array([glance.hash for glance in glance_at(whole)]))
    labels = np.split(whole.labels, whole.starts[1:-1])
    train, val = share_of(labels, pairs, source.val_share, source.split_seed)
    if not train or not val:
        raise UserError(f"--val-share {source.val_share:g} of {counted(len(whole), 'picture')} leaves a split empty")
    console.print(
        f"val is {counted(len(val), 'picture')} of the {len(whole):,} of train, chosen by the seed "
        f"{source.split_seed}; near duplicates stay on one side."
    )
    return frozenset(whole.paths[position] for position in val)


def _part(whole: DatasetIndex, split: str, val: frozenset[str]) -> DatasetIndex:
    """The pictures of train that are val, or the others, which have what the whole split left out."""
    chosen = [at for at, path in enumerate(whole.paths) if (path in val) == (split == "val")]
    part = whole.subset(chosen)
    if split == "val":
        return part
    return replace(part, left_out=whole.left_out, repairs=whole.repairs, notes=whole.notes)


def _return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library (glibc) would keep it for later."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _source(data: str | FilePath | DataSource) -> DataSource:
    return data if isinstance(data, DataSource) else DataSource((str(data),))


def _read(root: str, split: str, options: ReadOptions) -> DatasetIndex:
    found = find_split(root, split, options)
    raw = with_notes(found.read(), folder_path(root), usual_name(found.name), found.layout)
    return admit(raw, found.layout)


def _names_of_all(source: DataSource, known: set[str]) -> set[str]:
    """The names of the classes of all splits: a split may list fewer than others do."""
    names = set(known)
    for root in source.roots:
        for split in found_splits(_set_folder(root)):
            names |= set(split.read().label_map.names)
    return names


def has_split(data: str | FilePath | DataSource, split: str) -> bool:
    """Whether the data set, or one of several, has the split."""
    source = _source(data)
    if source.val_share and split == "val":
        return True
    return any(_named(_set_folder(root), split) for root in source.roots)


def split_names(data: str | FilePath | DataSource) -> list[str]:
    """The splits of the data set, or of several."""
    return sorted({
        usual_name(split.name) for root in _source(data).roots for split in found_splits(_set_folder(root))
    })  # fmt: skip


def _set_folder(root: str | Path) -> FilePath:
    """The folder of a data set; UserError where it is none."""
    folder = folder_path(root)
    if not folder.is_dir():
        raise UserError(f"--data {root} is not a folder; expected a data set")
    return folder


def find_split(root: str | Path, split: str, options: ReadOptions = AS_WRITTEN) -> FoundSplit:
    """Where a split is; errors as of `load_index`."""
    folder = _set_folder(root)
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


def found_splits(folder: FilePath, options: ReadOptions = AS_WRITTEN) -> list[FoundSplit]:
    """The splits that the first format with any finds in a folder."""
    return next((found for find in FORMATS if (found := list(find(folder, options)))), [])


def _named(folder: FilePath, split: str, options: ReadOptions = AS_WRITTEN) -> list[FoundSplit]:
    """The splits of that name; the path of its file is a name of each, and `SPLIT.corrected` a reviewed one."""
    if split.endswith(ENDING):
        return [_corrected(folder, one) for one in _named(folder, split.removesuffix(ENDING), options)]
    found = found_splits(folder, options)
    if len(found) == 1 and split == "train" and usual_name(found[0].name) not in APART:
        return found
    return [
        one for one in found
        if split in (one.name, usual_name(one.name), one.own_name, one.source.relative_to(folder).as_posix())
    ]  # fmt: skip


def _corrected(root: FilePath, found: FoundSplit) -> FoundSplit:
    """The corrected labels of a split, with its pictures."""
    source = corrected_file(root, found)
    name = f"{usual_name(found.name)}{ENDING}"
    return FoundSplit(name, name, source, LAYOUT, lambda: read_coco(source, [*found.read().folders, root]))


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
    has_others = any((root / name).exists() for name in OF_OTHER_FORMATS)
    try:
        splits = found_splits(root) if has_others else list(find_coco(root, AS_WRITTEN))
    except OSError:  # a folder above the pictures that must not be read
        return {}
    for split in splits:
        try:
            raw = with_notes(split.read(), root, usual_name(split.name), split.layout)
        except UserError:
            continue
        finder = PictureFinder(raw.folders)
        for name, image_id in zip(raw.file_names, raw.image_ids):
            if (place := finder.find(name)) is not None:
                real = os.path.realpath(place[0])
                entry = (name, image_id)
                files[real] = entry if files.get(real, entry) == entry else None
    return files
