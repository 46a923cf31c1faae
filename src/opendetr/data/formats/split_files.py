"""Files of data sets: texts in any encoding, folders of splits, pictures by their names without suffix."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from opendetr.data.formats.entries import SplitBuilder
from opendetr.data.index import Unused
from opendetr.data.picture_files import PictureFinder, list_files
from opendetr.data.split_names import is_split_name
from opendetr.decoding import picture_suffixes
from opendetr.errors import UserError, first_line
from opendetr.locations import FilePath


@dataclass(frozen=True)
class AnnotationFiles:
    """The files of a split, of a format with one for each picture."""

    folder: FilePath  # of the files
    pictures: Sequence[FilePath]  # where the pictures may be, the likeliest first
    listing: FilePath | None = None  # a text file with their names; None: all in the folder


def name_of_split(folder: FilePath) -> str:
    """`train` for the folder `train2017`."""
    return folder.name.rstrip("0123456789")


def split_folders(folder: FilePath) -> list[FilePath]:
    """The sub-folders that are splits, by their names."""
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if is_split_name(one.name) and one.is_dir())


def natural_order(name: str) -> list[tuple[int, str]]:
    """The key that sorts a2 before a10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,18})", name)]


def pictures_below(folder: FilePath) -> list[str]:
    """The picture files below a folder, relative to it, in natural order."""
    return sorted((name for name, _ in list_files(folder) if suffix_of(name) in picture_suffixes()), key=natural_order)


def suffix_of(name: str) -> str:
    """`.jpg` of `a/b.JPG`."""
    return without_suffix(name)[1].lower()


def without_suffix(name: str) -> tuple[str, str]:
    """`a/b` and `.JPG` of `a/b.JPG`."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem and not stem.endswith("/") and "/" not in suffix else (name, "")


class PicturesByStem:
    """Finds pictures by their names, or by their names without suffix, where files of annotations have these.

    Args:
        folders: where the files may be, the likeliest first.
    """

    def __init__(self, folders: Sequence[FilePath]) -> None:
        self.finder = PictureFinder(folders)
        self._names = [_NamesByStem(folder) for folder in folders]

    def of_stem(self, stem: str, wanted: str = "") -> str | None:
        """The name, relative to its folder, of the picture with this stem; `wanted` decides among several."""
        for names in self._names:
            if found := names.of_stem.get(stem):
                return wanted if wanted in found else found[0]
        return None


class _NamesByStem:
    """The pictures below a folder, listed when they are needed."""

    def __init__(self, folder: FilePath) -> None:
        self.folder = folder

    @cached_property
    def of_stem(self) -> dict[str, list[str]]:
        """Name without suffix -> names."""
        found: dict[str, list[str]] = {}
        for name in pictures_below(self.folder) if self.folder.is_dir() else []:
            found.setdefault(without_suffix(name)[0], []).append(name)
        return found


def read_text(source: FilePath, repairs: Counter[str], expected: str) -> str:
    """The content of a text file, whatever its encoding: UTF-8 or UTF-16 with a mark, else that of Windows.

    Raises:
        UserError: it is missing or unreadable; `expected` describes it.
    """
    content = read_bytes(source, expected)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") and b"\0" in content else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        repairs["file that is not in UTF-8: read as Windows-1252"] += 1
        return content.decode("cp1252", "replace")


def read_bytes(source: FilePath, expected: str) -> bytes:
    """The content of a file; UserError where it is missing or unreadable."""
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{source} does not exist; expected {expected}") from None
    except Exception as error:  # of a disk, an archive, or any library that opens addresses
        raise UserError(f"{source} cannot be read ({first_line(error)}); expected {expected}") from None


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if line.strip():
            yield number, line


def is_file(path: FilePath) -> bool:
    """Whether there is a file of this name, which may be too long for one, or odd."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def folder_with(
    base: FilePath, names: Sequence[str], suffix: str, is_one: Callable[[FilePath], bool]
) -> FilePath | None:
    """The first sub-folder of these names that has a fitting file at any depth, else the base if it has one itself."""
    for name in names:
        if any(is_one(base / name / file) for file, _ in list_files(base / name) if suffix_of(file) == suffix):
            return base / name
    files = (file for file in base.iterdir() if suffix_of(file.name) == suffix and not file.name.startswith("."))
    return base if any(is_one(file) for file in files) else None


def picture_folders(base: FilePath, *names: str) -> list[FilePath]:
    """Where the pictures of a data set may be, with the folder itself: those of these names that there are."""
    return [folder for name in names if (folder := base / name).is_dir()] + [base]


def begins_with(source: FilePath, pattern: re.Pattern[bytes], length: int = 65536) -> bool:
    """Whether the first bytes of a file hold a pattern."""
    try:
        with source.open("rb") as file:
            return pattern.search(file.read(length).replace(b"\0", b"")) is not None
    except OSError:
        return False


def note_unlisted(entries: SplitBuilder, split: AnnotationFiles, all_splits: Sequence[AnnotationFiles]) -> None:
    """Note the pictures without an annotation, in a folder that is of this split alone."""
    finder = PictureFinder(split.pictures)
    used = {os.path.normpath(path) for name in entries.file_names if (path := finder.find_exactly(name)) is not None}
    for folder in split.pictures:
        paths = [path for name, path in list_files(folder) if suffix_of(name) in picture_suffixes()]
        if any(os.path.normpath(path) in used for path in paths):
            break
    else:
        return
    if split.listing is not None or any(folder in other.pictures for other in all_splits if other is not split):
        return
    of_files = {_last_stem(name) for name, _ in list_files(split.folder) if suffix_of(name) not in picture_suffixes()}
    for path in sorted(paths, key=natural_order):
        if os.path.normpath(path) not in used and _last_stem(path) not in of_files:  # a broken annotation is named
            entries.leave_out("picture", Unused.NOT_LISTED, f"{path} has no annotation")


def _last_stem(name: str) -> str:
    return without_suffix(name)[0].rpartition("/")[2]
