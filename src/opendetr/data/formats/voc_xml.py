"""Pascal VOC (Everingham et al. 2010): an XML file per picture, with the corners of every object in pixels."""

import re
from collections.abc import Iterator, Sequence
from functools import partial

from opendetr.data.formats.entries import NO_SIZE, SplitBuilder, numbers, size_of, split_by_names
from opendetr.data.formats.split_files import (
    AnnotationFiles,
    PicturesByStem,
    begins_with,
    folder_with,
    is_file,
    name_of_split,
    natural_order,
    note_unlisted,
    numbered_lines,
    picture_folders,
    read_text,
    split_folders,
    suffix_of,
    without_suffix,
)
from opendetr.data.formats.xml_nodes import Node, read_xml
from opendetr.data.index import Unused
from opendetr.data.picture_files import list_files
from opendetr.data.raw import FoundSplit, RawSplit, ReadOptions
from opendetr.errors import UserError
from opendetr.locations import FilePath
from opendetr.raw_values import raw_flag
from opendetr.wording import counted

LAYOUT = "Pascal VOC"
EXPECTED = "a Pascal VOC annotation"
XML_FOLDERS = ("Annotations", "annotations", "xml", "xmls", "labels")
PICTURE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")
_OF_CLASS = re.compile(r".+_(train|val|trainval|test)")  # lists of the pictures with one class, in ImageSets/Main
_BEGINNING = re.compile(rb"<annotation[\s>]")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(root: FilePath, options: ReadOptions) -> Iterator[FoundSplit]:
    """The splits of a folder.

    `Annotations/` and `JPEGImages/`, with `ImageSets/Main/SPLIT.txt` or sub-folders for splits or neither; `images/`
    beside `annotations/`; annotations beside their pictures, in the folder or in `SPLIT/` (Roboflow). Also of several
    years in one `VOCdevkit`.
    """
    years = [folder for pattern in ("VOC*/Annotations", "VOCdevkit/VOC*/Annotations") for folder in root.glob(pattern)]
    for base in [root, *sorted(folder.parent for folder in years)]:
        found = list(_splits(base))
        for name, split in found:
            source = split.listing or split.folder
            read = partial(_read, split, [one for _, one in found], options.voc_origin)
            yield FoundSplit(name, source.stem, source, LAYOUT, read)


def _splits(base: FilePath) -> Iterator[tuple[str, AnnotationFiles]]:
    folder = folder_with(base, XML_FOLDERS, ".xml", _is_voc)
    if folder is None:
        for place in split_folders(base):
            if (folder := folder_with(place, XML_FOLDERS, ".xml", _is_voc)) is not None:
                yield name_of_split(place), AnnotationFiles(folder, _pictures(place, folder))
        return
    pictures = _pictures(base, folder)
    lists = sorted((base / "ImageSets" / "Main").glob("*.txt"))
    lists = [one for one in lists if not one.name.startswith(".") and not _OF_CLASS.fullmatch(one.stem)]
    for listing in lists:
        yield (
            ("train" if len(lists) == 1 and listing.stem == "default" else listing.stem),
            AnnotationFiles(folder, pictures, listing),
        )
    if lists:
        return
    for place in (inside := split_folders(folder)):
        yield name_of_split(place), AnnotationFiles(place, [*(one / place.name for one in pictures), *pictures])
    if not inside:
        yield "train", AnnotationFiles(folder, pictures)


def _is_voc(source: FilePath) -> bool:
    return begins_with(source, _BEGINNING)


def _pictures(base: FilePath, annotations: FilePath) -> list[FilePath]:
    """Where the pictures may be, the likeliest place first."""
    *usual, last = picture_folders(base, *PICTURE_FOLDERS)
    return list(dict.fromkeys([*usual, annotations, last]))


def _read(split: AnnotationFiles, all_splits: Sequence[AnnotationFiles], origin: int) -> RawSplit:
    """What the annotations of a split state.

    Raises:
        UserError: the list of the split is missing, it has no picture, or no object can be used.
    """
    entries = _gather(split, origin)
    note_unlisted(entries, split, all_splits)
    others = []
    for other in all_splits:
        if other is not split:
            try:
                others.append(_gather(other, origin))
            except UserError:  # which is said when that split is read
                continue
    return split_by_names(entries, others)


def _gather(split: AnnotationFiles, origin: int) -> SplitBuilder:
    entries = SplitBuilder(split.listing or split.folder, split.pictures)
    pictures = PicturesByStem(split.pictures)
    boxes = _Boxes(entries, origin)
    for stem, source in _files(split, entries):
        try:
            root = read_xml(source, entries.repairs, EXPECTED)
            if root.tag != "annotation":
                raise UserError(f"{source} is not {EXPECTED}: its first element is {root.tag[:40]}")
        except UserError as error:
            entries.leave_out("picture", Unused.UNREADABLE, str(error))
            continue
        size = _size(root)
        position = entries.add_picture(_picture_name(root, stem, pictures), size)
        for node in root.all("object"):
            boxes.add(node, position, size, source)
    boxes.note_origin()
    return entries


def _files(split: AnnotationFiles, entries: SplitBuilder) -> Iterator[tuple[str, FilePath]]:
    """The stem, relative to its folder, and the file of every annotation of a split."""
    if split.listing is None:
        names = [name for name, _ in list_files(split.folder) if suffix_of(name) == ".xml"]
        for name in sorted(names, key=natural_order):
            yield without_suffix(name)[0], split.folder / name
        return
    seen = set()
    for number, line in numbered_lines(read_text(split.listing, entries.repairs, "a name of a picture per line")):
        stem = line.strip()
        if not is_file(split.folder / f"{stem}.xml"):
            stem = (line.split() or [""])[0]  # a column may follow
            stem = without_suffix(stem)[0] if suffix_of(stem) in (".jpg", ".jpeg", ".png", ".xml") else stem
        where = f"{split.listing}:{number}: {stem}"
        source = split.folder / f"{stem}.xml"
        if stem in seen:
            entries.leave_out("picture", Unused.LISTED_TWICE, f"{where} is listed before")
        elif not is_file(source):
            entries.leave_out("picture", Unused.MISSING_FILE, f"{where} has no annotation: {source} does not exist")
        else:
            yield stem, source
        seen.add(stem)


def _picture_name(root: Node, stem: str, pictures: PicturesByStem) -> str:
    """The picture with the annotation's own name, else the one that it names: names in copied files are often wrong."""
    stated = root.text_of("filename")
    name = stated.replace("\\", "/").rpartition("/")[2]
    wanted = f"{stem.rpartition('/')[0]}/{name}".lstrip("/")
    found = pictures.of_stem(stem, wanted) or pictures.of_stem(stem.rpartition("/")[2], name)
    return found or stated or stem


def _size(root: Node) -> tuple[float, float]:
    node = root.first("size")
    return (0.0, 0.0) if node is None else size_of(node.text_of("width"), node.text_of("height"))


class _Boxes:
    """The objects of a split, and what their boxes say about the number of the first pixel."""

    def __init__(self, entries: SplitBuilder, origin: int) -> None:
        self.entries, self.origin = entries, origin
        self.from_0 = self.from_1 = self.beyond = self.at_end = 0

    def add(self, node: Node, picture: int, size: tuple[float, float], source: FilePath) -> None:
        """Add an object of a picture of this size."""
        name = node.text_of("name")
        where = f"{source}:{node.line}: the object {name!r}"
        try:
            crowd = raw_flag(node.text_of("difficult"))
        except ValueError:
            self.entries.repairs["difficult that is neither 0 nor 1: taken as 0"] += 1
            crowd = False
        box = node.first("bndbox")
        corners = None if box is None else numbers(box.text_of(tag) for tag in CORNERS)
        if corners is not None:
            self._look_at(corners, size)
            corners = [value - self.origin for value in corners]
        self.entries.add_object(picture, name, self.entries.between(corners), where, crowd)

    def _look_at(self, corners: Sequence[float], size: tuple[float, float]) -> None:
        self.from_0 += min(corners) == 0
        self.from_1 += min(corners) == 1
        if size != NO_SIZE and size[0]:
            self.beyond += corners[2] == size[0] + 1 or corners[3] == size[1] + 1
            self.at_end += corners[2] == size[0] or corners[3] == size[1]

    def note_origin(self) -> None:
        """Say which pixel counts as the first, where the boxes show it and it is not the one that is assumed."""
        source, notes = self.entries.source, self.entries.notes
        if self.origin == 0 and not self.from_0 and (self.beyond or (self.from_1 and self.at_end)):
            notes.append(
                f"{source}: {counted(self.from_1, 'box begins', 'boxes begin')} at 1 and none at 0, and "
                f"{counted(self.beyond + self.at_end, 'ends', 'end')} at the last pixel or beyond: the first pixel "
                f"seems to count as 1. Coordinates are taken as they are written; --voc-origin 1 subtracts 1."
            )
        elif self.origin == 1 and self.from_0:
            notes.append(
                f"{source}: {counted(self.from_0, 'box begins', 'boxes begin')} at 0, so the first pixel counts as 0 "
                f"and --voc-origin 1 moves all boxes by a pixel; leave it out."
            )
