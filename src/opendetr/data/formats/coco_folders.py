"""Where COCO's annotation files and their pictures are in a data set's folder."""

import re
from collections.abc import Iterator, Sequence
from functools import partial

from opendetr.data.formats.coco_json import LAYOUT, read_coco
from opendetr.data.raw import FoundSplit, ReadOptions
from opendetr.data.split_names import CORRECTED
from opendetr.locations import FilePath

OTHER_TASKS = ("panoptic_", "captions_", "person_keypoints_", "stuff_", "image_info_")  # files of COCO's beside ours
_LIST = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[\s*\{')


def find_coco(root: FilePath, options: ReadOptions) -> Iterator[FoundSplit]:
    """The splits of a folder.

    `annotations/SPLIT.json` or `annotations/instances_SPLIT.json`, with the pictures in `images/SPLIT/`, `images/`,
    `SPLIT/` or the folder itself; `SPLIT/_annotations.coco.json` beside its pictures (Roboflow); `result.json` (Label
    Studio) or one other COCO file in the folder itself.
    """
    for source in sorted((root / "annotations").glob("*.json")):
        usual = source.stem in ("train", "val", "test") or source.name.startswith("instances_")
        if is_not_offered(source) or source.name.startswith(OTHER_TASKS) or not (usual or _holds_coco(source)):
            continue
        own_name = source.stem.removeprefix("instances_")
        name = own_name.rstrip("0123456789") or own_name if own_name != source.stem else own_name
        of_split = [root / own_name, *((root / name,) if name != own_name else ())]
        in_images = [root / "images" / folder.name for folder in of_split]
        usual_folders = [*in_images, root / "images"]
        folders = of_split + usual_folders if own_name != source.stem else usual_folders + of_split
        yield _found(name, own_name, source, [*folders, root])
    for source in sorted(root.glob("*/_annotations.coco.json")):
        yield _found(source.parent.name, source.parent.name, source, [source.parent, root])
    for source in sorted(root.glob("*.json")):
        if not is_not_offered(source) and _holds_coco(source):
            yield _found(source.stem, source.stem, source, [root / "images", root / source.stem, root])


def is_not_offered(source: FilePath) -> bool:
    """Whether a file is hidden, or the corrected labels of a split, which are read where they are asked for."""
    return source.name.startswith(".") or source.name.endswith(CORRECTED)


def _found(name: str, own_name: str, source: FilePath, folders: Sequence[FilePath]) -> FoundSplit:
    there = [folder for folder in folders[:-1] if folder.is_dir()] or [folders[-2]]  # the last is the data set's own
    return FoundSplit(name, own_name, source, LAYOUT, partial(read_coco, source, [*there, folders[-1]]))


def _holds_coco(source: FilePath) -> bool:
    """Whether a JSON file that lies beside pictures begins like a COCO file: other programs leave JSON files too."""
    try:
        with source.open("rb") as file:
            return _LIST.search(file.read(65536)) is not None
    except Exception:  # whatever is wrong with the file, it is named where it is read
        return False
