"""YOLO: a text file per picture, with a line `class x y width height` per object, in shares of the picture's sides.

The file is long because tools lay the same files out in many ways, and each way is a few lines of it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml

from opendetr.data.formats.entries import Place, SplitBuilder, numbers, shown, span
from opendetr.data.formats.split_files import (
    is_file,
    name_of_split,
    natural_order,
    numbered_lines,
    pictures_below,
    read_text,
    split_folders,
    suffix_of,
    without_suffix,
)
from opendetr.data.index import Unused
from opendetr.data.picture_files import PictureFinder, list_files
from opendetr.data.raw import FoundSplit, RawSplit, ReadOptions
from opendetr.errors import UserError, first_line
from opendetr.labels import LabelMap
from opendetr.locations import FilePath, file_path
from opendetr.raw_values import whole_number
from opendetr.wording import counted

LAYOUT = "YOLO"
EXPECTED = "a YOLO data file, with names and the folders of train and val"
DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml", "obj.data", "*.yaml", "*.yml", "*.data")
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "classes.names", "labels.txt")
SPLIT_KEYS = ("train", "val", "valid", "validation", "test")


@dataclass(frozen=True)
class PicturePlaces:
    """Where the pictures of a split are: in folders, or listed in text files."""

    places: Sequence[FilePath]
    root: FilePath  # of the data set, to which names are relative
    label_map: LabelMap | None  # None: classes are the numbers that are found
    class_file: FilePath | None = None  # that names the classes
    has_keypoints: bool = False
    missing: Sequence[str] = field(default=())  # what the data file names and what does not exist


def find_yolo(root: FilePath, options: ReadOptions) -> Iterator[FoundSplit]:
    """The splits of a folder.

    Those that `data.yaml` names (or another YAML file, or Darknet's `obj.data`); without it `images/` beside `labels/`,
    both with sub-folders for splits or not, `SPLIT/images/` beside `SPLIT/labels/`, or text files beside their
    pictures, in the folder or in `SPLIT/`. Names of classes may be in `classes.txt` or Darknet's `obj.names`.
    """
    described = _described(root)
    if described is not None:
        source, found = described
        for name, split in found.items():
            yield FoundSplit(name, name, source, LAYOUT, partial(_read, split, list(found.values())))
        return
    folders = list(_folders(root))
    for name, split in folders:
        place = split.places[0]
        yield FoundSplit(name, place.name, place, LAYOUT, partial(_read, split, [one for _, one in folders]))


def _described(root: FilePath) -> tuple[FilePath, dict[str, PicturePlaces]] | None:
    """The first data file of a folder, and the splits that it names."""
    for pattern in DATA_FILES:
        for source in sorted(root.glob(pattern)):
            if source.name.startswith("."):
                continue
            try:
                content = _data_file(source)
            except UserError:
                if "*" in pattern:  # whatever other programs leave
                    continue
                raise
            splits = [key for key in SPLIT_KEYS if content.get(key)]
            splits += [key for key, value in content.items() if value == f"images/{key}" and key not in splits]
            if splits and ("names" in content or "nc" in content or "classes" in content or pattern[0] != "*"):
                return source, {
                    key: _of_data_file(content, key, source) for key in splits if _is_there(content, key, source)
                }
    return None


def _data_file(source: FilePath) -> dict[str, Any]:
    """The entries of a data file, all values as texts, as they are written: `no` may be the name of a class."""
    text = read_text(source, Counter(), EXPECTED)
    if source.suffix == ".data":
        pairs = [line.partition("=") for _, line in numbered_lines(text) if not line.lstrip().startswith("#")]
        return {key.strip(): value.strip() for key, _, value in pairs}
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{source}{line} cannot be read as YAML ({problem}); expected {EXPECTED}") from None
    if not isinstance(content, dict):
        raise UserError(f"{source} is not {EXPECTED}")
    return content


def _is_there(content: Mapping[str, Any], key: str, source: FilePath) -> bool:
    """Whether a split can be asked for: tools name a test split whether they wrote one or not."""
    return key != "test" or bool(_of_data_file(content, key, source, names=False).places)


def _of_data_file(content: Mapping[str, Any], key: str, source: FilePath, *, names: bool = True) -> PicturePlaces:
    root, given = source.parent, content[key]
    base = content.get("path")
    bases = [root] if not isinstance(base, str) or not base else [*_there(root, base), root]
    places: list[FilePath] = []
    missing = []
    for text in given if isinstance(given, list) else [given]:
        if not isinstance(text, str):
            raise UserError(f"{source}: {key} must be a folder, a text file, or a list of them; change it")
        found = next((place for one in bases for place in _there(one, text)), None)
        if found is None:
            missing.append(shown(text))
        else:
            places.append(found)
    label_map = _label_map(content, source) if names else None
    return PicturePlaces(places, root, label_map, source, "kpt_shape" in content, missing)


def _there(base: FilePath, text: str) -> list[FilePath]:
    """The file or folder that a path in a data file means, if it exists.

    A path of another machine is found by its end. `../train/images` is Roboflow's way to say `train/images`.
    """
    text = text.strip().replace("\\", "/").rstrip("/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or "\0" in text:
        return [base] if text in (".", "./") else []
    tails = [base.joinpath(*parts[start:]) for start in range(len(parts)) if ".." not in parts[start:]]
    is_absolute = text.startswith("/") or "://" in text
    whole = [file_path(text)] if is_absolute else [base.joinpath(*parts)]
    for place in [*whole, *tails] if is_absolute or parts[0] != ".." else [*tails[:1], *whole, *tails[1:]]:
        try:
            if place.exists():
                return [place]
        except (OSError, ValueError):  # a name that is too long for a file
            continue
    return []


def _label_map(content: Mapping[str, Any], source: FilePath) -> LabelMap | None:
    names = content.get("names")
    if isinstance(names, str) and names:
        found = next((place for place in _there(source.parent, names) if place.is_file()), None)
        if found is not None:
            return _names_of_file(found)
        names = [part.strip(" '\"") for part in names.strip("[]").split(",")]
    pairs = (
        list(enumerate(names)) if isinstance(names, list) else list(names.items()) if isinstance(names, dict) else []
    )
    for at, name in pairs:
        if not isinstance(name, str) or not isinstance(at, int | str):  # not shown: aliases may make it endless
            raise UserError(f"{source}: names must be a list of texts, or numbers with a text each; change it")
    return LabelMap.from_categories([{"id": at, "name": name} for at, name in pairs], str(source)) if pairs else None


def _names_of_file(source: FilePath) -> LabelMap | None:
    names = [line.strip() for _, line in numbered_lines(read_text(source, Counter(), "a class per line"))]
    return LabelMap(tuple(range(len(names))), tuple(names)) if names else None


def _folders(root: FilePath) -> Iterator[tuple[str, PicturePlaces]]:
    """Splits without a data file."""
    images = root / "images"
    if images.is_dir() and (root / "labels").is_dir():
        label_names = [name for name, _ in list_files(root / "labels")]
        if any(suffix_of(name) == ".txt" for name in label_names):
            for place in split_folders(images) or [images]:
                yield ("train" if place == images else name_of_split(place)), _of_folder(place, root)
            return
    in_splits = split_folders(root)
    of_splits = [folder for folder in in_splits if (folder / "images").is_dir() and (folder / "labels").is_dir()]
    if of_splits:
        for folder in of_splits:
            yield name_of_split(folder), _of_folder(folder / "images", root)
        return
    beside = [folder for folder in in_splits if _has_labels_beside(folder)]
    for folder in beside:
        yield name_of_split(folder), _of_folder(folder, root)
    data = root / "obj_train_data"  # CVAT's
    for folder in (root, data):
        if not beside and folder.is_dir() and _has_labels_beside(folder):
            yield "train", _of_folder(folder, root)
            return


def _of_folder(place: FilePath, root: FilePath) -> PicturePlaces:
    near = [place, place.parent, place.parent / "labels", root, root / "labels"]
    for folder in near:
        for name in NAME_FILES:
            if (folder / name).is_file() and (label_map := _names_of_file(folder / name)) is not None:
                return PicturePlaces([place], root, label_map, folder / name)
    return PicturePlaces([place], root, None)


def _has_labels_beside(folder: FilePath) -> bool:
    """Whether text files of YOLO lie beside pictures of the same names."""
    stems = {without_suffix(name)[0] for name in pictures_below(folder)}
    texts = [name for name, _ in list_files(folder) if suffix_of(name) == ".txt"]
    return any(without_suffix(name)[0] in stems and _is_label_file(folder / name) for name in texts)


def _is_label_file(source: FilePath) -> bool:
    """Whether a line of a text file has at least five columns, all numbers."""
    try:
        with source.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    lines = start.removeprefix(b"\xef\xbb\xbf").decode("latin-1").splitlines()
    return any(len(line.split()) >= 5 and numbers(line.split()[:5]) is not None for line in lines)


def _read(split: PicturePlaces, all_splits: Sequence[PicturePlaces]) -> RawSplit:
    """What the label files of a split state.

    Raises:
        UserError: the folder of its pictures does not exist, it has no picture, or no object can be used.
    """
    entries = _gather(split)
    label_map = split.label_map
    if label_map is None:
        found = set(entries.class_names)
        for other in all_splits:
            found |= set(_gather(other).class_names) if other is not split and other.places else set()
        ids = sorted(map(int, found)) or [0]
        label_map = LabelMap(tuple(ids), tuple(map(str, ids)))
    return entries.split(
        label_map, class_names=[str(one) for one in label_map.category_ids], is_relative=True, states_sizes=False
    )


def _gather(split: PicturePlaces) -> SplitBuilder:
    if split.missing:
        raise UserError(
            f"{split.class_file} names {' and '.join(split.missing)}, which does not exist; correct or remove the entry"
        )
    entries = SplitBuilder(split.places[0], [split.root])
    labelled = sum((_add_folder if place.is_dir() else _add_list)(entries, place, split) for place in split.places)
    if unlabelled := len(entries.file_names) - labelled:
        said = counted(
            unlabelled,
            "picture without a label file is taken as one",
            "pictures without a label file are taken as ones",
        )
        entries.notes.append(f"{entries.source}: {said} without objects.")
    return entries


def _add_folder(entries: SplitBuilder, place: FilePath, split: PicturePlaces) -> int:
    """The pictures of a folder, and labels in it that are of no picture; how many pictures have labels."""
    names = pictures_below(place)
    labelled = sum(_add_picture(entries, _relative(place / name, split.root), place / name, split) for name in names)
    stems = {without_suffix(name)[0] for name in names}
    labels = _labels_folder(place)
    for name in sorted((name for name, _ in list_files(labels)), key=natural_order) if labels.is_dir() else []:
        stem, suffix = without_suffix(name)
        if suffix.lower() == ".txt" and stem not in stems and _is_label_file(labels / name):
            entries.leave_out("picture", Unused.MISSING_FILE, f"{labels / name} is of a picture that is not in {place}")
            for number, line in numbered_lines(read_text(labels / name, entries.repairs, "labels")):
                sentence = f"{Place(labels / name, number, line)} is {Unused.NO_PICTURE}"
                entries.leave_out("object", Unused.NO_PICTURE, sentence)
    return labelled


def _labels_folder(place: FilePath) -> FilePath:
    """Where the labels of a folder of pictures are: with `labels` for the last `images` of its path, or beside them."""
    for folder in [place, *place.parents]:
        if folder.name.lower() == "images":
            labels = folder.parent / "labels" / place.relative_to(folder)
            return labels if labels.is_dir() else place
    return place


def _add_list(entries: SplitBuilder, source: FilePath, split: PicturePlaces) -> int:
    """The pictures of a text file with a path per line; how many have labels."""
    folders = [source.parent, split.root]
    finder, labelled = PictureFinder(folders), 0
    for _, line in numbered_lines(read_text(source, entries.repairs, "a path of a picture per line")):
        name = line.strip()
        found = finder.find(name)
        picture = file_path(found[0]) if found is not None else split.root / name.replace("\0", "?").lstrip("/")
        name = name if found is None else _relative(picture, split.root)
        labelled += _add_picture(entries, name, picture, split)
    return labelled


def _relative(path: FilePath, root: FilePath) -> str:
    """A path relative to the data set's folder, where it is in it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _add_picture(entries: SplitBuilder, name: str, picture: FilePath, split: PicturePlaces) -> bool:
    """Add a picture and its objects; whether it is there and has labels."""
    labels = next((file for file in _label_files(picture) if is_file(file)), None)
    if labels is None:
        entries.add_picture(name)
        return False
    try:
        text = read_text(labels, entries.repairs, "a line per object")
    except UserError as error:
        entries.leave_out("picture", Unused.UNREADABLE, str(error))
        return False
    position = entries.add_picture(name)
    for number, line in numbered_lines(text):
        _add_line(entries, position, line, Place(labels, number, line), split)
    return True


def _label_files(picture: FilePath) -> Iterator[FilePath]:
    """Where the labels of a picture may be, the likeliest place first."""
    for folder in picture.parents:
        if folder.name.lower() == "images":
            labels = folder.parent / "labels"
            yield labels / (without_suffix(picture.relative_to(folder).as_posix())[0] + ".txt")
            yield labels / (without_suffix(picture.name)[0] + ".txt")
            break
    yield picture.parent / (without_suffix(picture.name)[0] + ".txt")


def _add_line(entries: SplitBuilder, position: int, line: str, where: Place, split: PicturePlaces) -> None:
    """An object: a box, which further columns may follow (a confidence, the number of a track), or a polygon."""
    columns = line.split()
    try:
        number = whole_number(columns[0])
    except ValueError:
        entries.leave_out("object", Unused.NO_CATEGORY, f"{where} does not begin with the number of a class")
        return
    known = split.label_map
    if number < 0 or (known is not None and number not in known.index_of):
        classes = "at least 0" if known is None else f"those of {split.class_file}: {known.describe()}"
        entries.leave_out("object", Unused.NO_CATEGORY, f"{where} has the class {number}; expected {classes}")
        return
    entries.add_object(position, str(number), _box(columns[1:], split.has_keypoints), where)


def _box(columns: Sequence[str], has_keypoints: bool) -> Sequence[float] | None:
    """The box x, y, width, height in shares of the picture's sides; None where there is none."""
    values = numbers(columns)
    if values is None or len(values) < 4:
        return None
    is_polygon = len(values) >= 6 and len(values) % 2 == 0 and not has_keypoints
    if is_polygon and not (len(values) == 6 and values[5] > 1):  # a box, its confidence and the number of its track
        return span(values[::2], values[1::2])
    if len(values) > 6 and not has_keypoints:
        return None
    x, y, width, height = values[:4]
    return x - width / 2, y - height / 2, width, height
