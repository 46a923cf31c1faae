"""A data set in another format: its pictures linked or copied, its labels written, what is lost on the way said."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, count, pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from opendetr.data.door import load_index, split_names
from opendetr.data.index import OF_OBJECTS, DatasetIndex, Unused
from opendetr.data.side_notes import NOTES, write_notes
from opendetr.data.source import DataSource
from opendetr.data.split_names import usual_name
from opendetr.data.written_formats import (
    WRITTEN_FORMATS,
    SplitToWrite,
    WrittenFormat,
    is_held,
    not_held,
    plain_text,
    written_class_names,
)
from opendetr.decoding import decoded, picture_suffixes
from opendetr.errors import UserError
from opendetr.files import replacing_folder
from opendetr.locations import FilePath, file_path, folder_path
from opendetr.options import DataFormat
from opendetr.progress import console, show_progress, warn
from opendetr.raw_values import RawId
from opendetr.wording import counted, without_hidden


def write_data(
    source: DataSource, folder: Path, to: DataFormat, splits: Sequence[str] = (), *, copies: bool = False
) -> dict[str, DatasetIndex]:
    """Write a data set in another format, and print what was written, what was left out and what the format lacks.

    Args:
        source: the data set.
        folder: where to write, new or empty.
        to: the format.
        splits: those to write; none for all.
        copies: whether pictures are copied rather than linked.

    Returns:
        What was read, by the names of the written splits.

    Raises:
        UserError: the folder is not empty or in the data set; or there is no such split.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; give the name of a new folder")
    for root in source.roots:
        if isinstance(place := folder_path(root), Path) and folder.resolve().is_relative_to(place.resolve()):
            raise UserError(f"{folder} lies in the data set {root}; give a folder outside of it")
    indices = _read(source, splits)
    written = write_indices(indices, folder, to, copies=copies)
    _say(folder, written, indices, WRITTEN_FORMATS[to])
    return indices


def write_indices(
    indices: Mapping[str, DatasetIndex], folder: Path, to: DataFormat = "coco", *, copies: bool = False
) -> list[SplitToWrite]:
    """Write splits, by their names, in a format; returns them as they are written.

    Raises:
        UserError: no object is there, where a format names classes by their objects.
    """
    format = WRITTEN_FORMATS[to]
    written = _prepared(indices, format)
    if format.names_only and not any(split.is_written.any() for split in written):
        first = next(iter(indices.values())).source
        raise UserError(f"{first} has no object, and {format.layout} names classes by their objects: use coco or yolo")
    with replacing_folder(folder) as new:
        format.write(new, written, [name for _, name in _all_classes(indices.values())])
        if not format.holds_ids:
            write_notes(new, format.layout, written)
        for split in written:
            pictures = new / format.pictures.format(split=split.name)
            pictures.mkdir(parents=True, exist_ok=True)
            paths = zip(split.index.paths, split.file_names)
            for path, name in show_progress(paths, f"pictures of {split.name}", len(split.index)):
                _place(file_path(path), pictures / name, copies=copies)
    return written


def _read(source: DataSource, splits: Sequence[str]) -> dict[str, DatasetIndex]:
    """The splits to write, by the names that they will have."""
    names = list(splits) or split_names(source) or ["train"]  # load_index says what is wrong where there is none
    order = ["train", "val", "test"]
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    indices: dict[str, DatasetIndex] = {}
    for name in names:
        short = usual_name(PurePosixPath(name).stem.removeprefix("instances_"))
        if short in indices:
            raise UserError(f"--split {name}: another split would be called {short} too; convert one of them alone")
        indices[short] = load_index(source, name)
    is_unusual = len(indices) == 1 and not set(indices) & set(order)
    return {"train": next(iter(indices.values()))} if is_unusual else indices


def _all_classes(indices: Iterable[DatasetIndex]) -> list[tuple[RawId | None, str]]:
    """Id and name of the classes of all splits, in the order of their ids."""
    found = {pair: None for index in indices for pair in zip(index.label_map.category_ids, index.label_map.names)}
    return sorted(found, key=lambda pair: (isinstance(pair[0], str), pair))


def _prepared(indices: Mapping[str, DatasetIndex], format: WrittenFormat) -> list[SplitToWrite]:
    """The splits without the objects that are not asked for, and with the names of pictures and classes."""
    classes = _all_classes(indices.values())
    called = dict(zip(classes, written_class_names([name for _, name in classes], format)))
    names = _Names(format)
    found = []
    for name, index in indices.items():
        asked = index.objects.reasons != OF_OBJECTS.index(Unused.NOT_ASKED)
        index = replace(index, objects=index.objects.at(asked))
        own = [called[pair] for pair in zip(index.label_map.category_ids, index.label_map.names)]
        found.append(SplitToWrite(name, index, names.of(name, index, own), own, is_held(index, format)))
    return found


class _Names:
    """The names of files: a picture keeps its own, with the name of its folder or a number where another has it.

    Label files are called like pictures without their suffix, so this too must be free, in any letter case. A picture
    that several splits list with the same objects is one file, where they share a folder.
    """

    def __init__(self, format: WrittenFormat) -> None:
        self.format = format
        self.known: dict[tuple[str, str, bytes], str] = {}
        self.taken: set[tuple[str, str]] = set()

    def of(self, split: str, index: DatasetIndex, class_names: Sequence[str | int]) -> list[str]:
        """Names for the pictures of a split."""
        folder, objects = self.format.pictures.format(split=split), index.objects
        starts = np.searchsorted(objects.pictures, np.arange(len(index) + 1))
        found = []
        for path, (start, end) in zip(index.paths, pairwise(starts.tolist())):
            own = slice(start, end)
            labels = repr([class_names[label] for label in objects.labels[own].tolist()]).encode()
            content = labels + objects.boxes_xywh[own].tobytes() + objects.is_crowd[own].tobytes()
            key = folder, path, content
            if key not in self.known:
                self.known[key] = self._free(file_path(path), folder)
            found.append(self.known[key])
        return found

    def _free(self, path: FilePath, folder: str) -> str:
        suffix = path.suffix
        if suffix.lower() not in picture_suffixes():  # by which other programs know pictures
            suffix += _suffix_of(path)
        stem = without_hidden(plain_text(path.name.removesuffix(path.suffix))).lstrip(".") or "picture"
        above = without_hidden(plain_text(path.parent.name))
        candidates = chain([stem, f"{above}_{stem}"], (f"{stem}-{number}" for number in count(2)))
        free = next(one for one in candidates if (folder, one.casefold()) not in self.taken)
        self.taken.add((folder, free.casefold()))
        return free + suffix


def _suffix_of(path: FilePath) -> str:
    """The suffix for a picture's kind."""
    try:
        kind = decoded(path, str(path), lambda image: image.format) or "jpg"
    except UserError:
        kind = "jpg"
    return f".{kind.lower()}"


def _place(path: FilePath, target: Path, *, copies: bool) -> None:
    """Put a picture into a folder: a link to it, or a copy where that is asked for or links are not possible."""
    if target.exists():  # another split has it too
        return
    if not isinstance(path, Path):
        target.write_bytes(path.read_bytes())
        return
    if not copies:
        # Not relative: the data set may then be moved. The system may not allow links, as Windows does for most users.
        with suppress(OSError):
            target.symlink_to(os.path.realpath(path))
            return
    shutil.copyfile(path, target)


def _say(
    folder: Path, written: Sequence[SplitToWrite], read: Mapping[str, DatasetIndex], format: WrittenFormat
) -> None:
    """Print what was written, what was not, and what the format cannot hold."""
    lacking: Counter[tuple[str, str]] = Counter()
    for split in written:
        pictures, objects = counted(len(split.index), "picture"), counted(len(split.index.objects), "object")
        console.print(f"{split.name}: {pictures}, {objects}")
        lost = list(read[split.name].left_out)
        for (kind, reason), number in Counter((one.kind, one.reason) for one in lost).items():
            first = next(one.sentence for one in lost if (one.kind, one.reason) == (kind, reason))
            warn(f"{split.name}: {counted(number, kind)} {reason}: not written (first: {first}).")
        if not_asked := len(read[split.name].objects) - len(split.index.objects):
            console.print(f"{split.name}: {counted(not_asked, 'object')} {Unused.NOT_ASKED}: not written")
        lacking.update(not_held(split, format))
    console.print(f"The data set is {folder}, as {format.layout}.")
    if lacking:
        found = ", ".join(counted(number, *words) for words, number in lacking.items())
        console.print(
            f"{format.layout} cannot hold {found}; {NOTES} beside it holds them, and opendetr reads it: keep it there."
        )
