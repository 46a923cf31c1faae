"""The labels of a split as the content of a COCO file, whatever its format: what a label review corrects."""

import json
from dataclasses import dataclass
from typing import Any

from opendetr.data.admission import admit
from opendetr.data.corrections import corrected_file
from opendetr.data.door import find_split
from opendetr.data.formats.coco_json import EXPECTED, LAYOUT, is_coco, load_json
from opendetr.data.raw import ReadOptions
from opendetr.data.side_notes import with_notes
from opendetr.data.source import DataSource
from opendetr.data.split_names import usual_name
from opendetr.data.written_formats import SplitToWrite, coco_file_lines
from opendetr.errors import UserError
from opendetr.locations import FilePath, folder_path


@dataclass(frozen=True)
class ReviewedLabels:
    """The labels of a split, and where their corrections go."""

    content: dict[str, Any]  # of a COCO file
    split: str  # its own name, which asking for `train` may have found
    folder: FilePath  # of the source


def reviewed_labels(source: DataSource, split: str) -> ReviewedLabels:
    """The labels of a split; those of a COCO file are its content as it is, with all its fields.

    Raises:
        UserError: they are not those of one data set as it is, or cannot be read.
    """
    if source.is_joined or source.classes or source.val_share:
        raise UserError(
            "labels are reviewed of one data set as it is: give a single --data, without --classes, --rename and a "
            "share of train as val"
        )
    root = folder_path(source.roots[0])
    found = find_split(source.roots[0], split, ReadOptions(source.voc_origin))
    folder = corrected_file(root, found).parent
    if found.layout == LAYOUT:
        content = load_json(found.source)
        if not is_coco(content):
            raise UserError(f"{found.source} is not {EXPECTED}")
        return ReviewedLabels(content, usual_name(found.name), folder)
    raw = with_notes(found.read(), root, usual_name(found.name), found.layout)
    index = admit(raw, found.layout)
    name_of = dict(zip(raw.image_ids, raw.file_names))
    names = [name_of[image_id] for image_id in index.image_ids.tolist()]
    lines = coco_file_lines(SplitToWrite(split, index, names, index.label_map.names, index.objects.reasons < 0))
    return ReviewedLabels(json.loads("".join(lines)), usual_name(found.name), folder)
