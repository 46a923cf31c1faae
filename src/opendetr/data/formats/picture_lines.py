"""Lines of pictures, as keras-yolo3 and Roboflow's `_annotations.txt` have them: `a.jpg x1,y1,x2,y2,class x1,...`."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial

from opendetr.data.formats.entries import Place, SplitBuilder, numbers, shown
from opendetr.data.formats.split_files import (
    begins_with,
    name_of_split,
    numbered_lines,
    picture_folders,
    read_text,
    split_folders,
)
from opendetr.data.index import Unused
from opendetr.data.raw import FoundSplit, RawSplit, ReadOptions
from opendetr.errors import UserError
from opendetr.labels import LabelMap
from opendetr.locations import FilePath
from opendetr.raw_values import whole_number

LAYOUT = "lines of pictures"
_LINE = re.compile(rb"\.[A-Za-z0-9]{2,5}([ \t]+-?[0-9.]+(,-?[0-9.]+){3},[0-9]+)+[ \t]*[\r\n]")
_BOX = re.compile(r"\s[^\s,]*(,[^\s,]*){4}(?=\s|$)")


def find_picture_lines(root: FilePath, options: ReadOptions) -> Iterator[FoundSplit]:
    """The splits of a folder: `_annotations.txt` and `_classes.txt` in `SPLIT/` or in the folder itself."""
    for folder in [*split_folders(root), root]:
        source = folder / "_annotations.txt"
        if begins_with(source, _LINE):
            name = "train" if folder == root else name_of_split(folder)
            yield FoundSplit(name, folder.name, source, LAYOUT, partial(read_picture_lines, source))


def read_picture_lines(source: FilePath) -> RawSplit:
    """What the lines of a split state; classes are numbers from 0, named by the lines of `_classes.txt`.

    Raises:
        UserError: a file is missing, there is no picture, or no object can be used.
    """
    entries = SplitBuilder(source, picture_folders(source.parent, "images"))
    classes = source.parent / "_classes.txt"
    names = [line.strip() for _, line in numbered_lines(read_text(classes, Counter(), "a class per line"))]
    if not names:
        raise UserError(f"{classes} names no class; expected a class per line")
    for number, line in numbered_lines(read_text(source, entries.repairs, "a picture per line")):
        first = _BOX.search(line)
        name, boxes = (line, "") if first is None else (line[: first.start()], line[first.start() :])
        picture = entries.add_picture(name.strip())
        for text in boxes.split():
            where = Place(source, number, text)
            *corners, label = text.split(",")
            try:
                known = whole_number(label) in range(len(names))
            except ValueError:
                known = False
            if not known:
                sentence = f"{where} has the class {shown(label)}; {classes} has {len(names)}, from 0"
                entries.leave_out("object", Unused.NO_CATEGORY, sentence)
                continue
            values = numbers(corners)
            box = entries.between(values) if values is not None and len(values) == 4 else None
            entries.add_object(picture, str(whole_number(label)), box, where)
    label_map = LabelMap(tuple(range(len(names))), tuple(names))
    return entries.split(label_map, class_names=list(map(str, range(len(names)))), states_sizes=False)
