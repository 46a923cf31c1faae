"""From what a reader found to the index: files are found, sizes and boxes checked, and what is left out is noted."""

from collections import Counter

import numpy as np

from opendetr.data.index import OF_OBJECTS, USED, DatasetIndex, LeftOut, Objects, Texts, Unused, id_array
from opendetr.data.picture_files import PictureFinder
from opendetr.data.raw import LARGEST, RawSplit
from opendetr.errors import UserError
from opendetr.locations import file_path
from opendetr.wording import counted


def admit(raw: RawSplit, layout: str) -> DatasetIndex:
    """The index of a split; `layout` is the name of its format.

    Raises:
        UserError: not one of its pictures can be used.
    """
    if not len(raw.file_names):
        raise UserError(f"{raw.source} lists no picture; at least one is needed")
    left_out, repairs = list(raw.left_out), Counter(raw.repairs)
    paths = _find_files(raw, left_out, repairs)
    sizes = _complete_sizes(raw, paths, left_out, repairs)
    kept = np.array([path is not None for path in paths])
    if not kept.any():
        raise UserError(f"none of the {counted(len(kept), 'picture')} of {raw.source} can be used: {_first(left_out)}")
    new_position = np.where(kept, np.cumsum(kept) - 1, -1)
    own = kept[raw.pictures] if len(raw.pictures) else np.empty(0, bool)
    for number in np.flatnonzero(~own).tolist():
        entry = f"{raw.source}: annotation {raw.ids[number]}"
        sentence = f"{entry} belongs to {raw.file_names[raw.pictures[number]]}, which is left out"
        left_out.append(LeftOut("object", Unused.NO_PICTURE, sentence))
    objects = _objects(raw, sizes, new_position, np.flatnonzero(own))
    return DatasetIndex(
        raw.source, layout, raw.label_map, Texts(path for path in paths if path is not None),
        id_array(raw.image_ids)[kept], sizes[kept], objects, tuple(left_out), dict(repairs), tuple(raw.notes),
        raw.classes_by_name,
    )  # fmt: skip


def _first(left_out: list[LeftOut]) -> str:
    return next((one.sentence for one in left_out if one.kind == "picture"), "")


def _find_files(raw: RawSplit, left_out: list[LeftOut], repairs: Counter[str]) -> list[str | None]:
    """The paths [N] of the picture files; None where there is none, or another entry has it already."""
    finder = PictureFinder(raw.folders)
    paths: list[str | None] = []
    entry_of: dict[str, int] = {}
    for position, name in enumerate(raw.file_names):
        found = finder.find(name)
        path = None if found is None else found[0]
        if found is None or path is None:
            where = f"{raw.folders[0]}/{name if len(name) <= 255 else name[:252] + '...'}"
            sentence = f"{raw.source} names the picture {where}, which does not exist; add it or remove its entry"
            left_out.append(LeftOut("picture", Unused.MISSING_FILE, sentence))
        elif path in entry_of:
            first = raw.image_ids[entry_of[path]]
            sentence = f"{raw.source}: image {raw.image_ids[position]} has the file of image {first}, {path}"
            left_out.append(LeftOut("picture", Unused.LISTED_TWICE, sentence))
            path = None
        else:
            entry_of[path] = position
            if found[1]:
                repairs["file name written as on another system"] += 1
        paths.append(path)
    return paths


def _complete_sizes(
    raw: RawSplit, paths: list[str | None], left_out: list[LeftOut], repairs: Counter[str]
) -> np.ndarray:
    """The sizes [N, 2]; those that are not stated are read from the files. Paths of unreadable files become None."""
    sizes = np.where((raw.sizes >= 1) & (raw.sizes < LARGEST), raw.sizes, 0).astype(np.int64)
    for position in np.flatnonzero((sizes == 0).any(1)).tolist():
        path = paths[position]
        if path is None:
            continue
        from opendetr.images import image_size  # which loads torch

        try:
            sizes[position] = image_size(file_path(path))
            repairs["picture without a stated size: read from its file"] += raw.states_sizes
        except UserError as error:
            left_out.append(LeftOut("picture", Unused.BROKEN_FILE, str(error)))
            paths[position] = None
    return sizes


def _objects(raw: RawSplit, sizes: np.ndarray, new_position: np.ndarray, own: np.ndarray) -> Objects:
    """The objects whose numbers are `own`, those of one picture together, each used or with the reason why not."""
    own = own[np.argsort(raw.pictures[own], kind="stable")]
    pictures, boxes = raw.pictures[own], raw.boxes_xywh[own].astype(np.float64)
    huge = (np.abs(boxes) >= LARGEST).any(1)  # their areas may be beyond any number
    boxes[huge] = 0
    canvas = sizes[pictures].astype(np.float64).reshape(-1, 2)
    is_relative = np.broadcast_to(raw.is_relative, len(raw.pictures))[own]
    boxes[is_relative] *= np.tile(canvas[is_relative], 2)
    ends = boxes[:, :2] + boxes[:, 2:]
    empty = (boxes[:, 2:] <= 0).any(1)
    outside = (np.minimum(ends, canvas) <= np.maximum(boxes[:, :2], 0)).any(1)
    codes = [OF_OBJECTS.index(reason) for reason in (Unused.NO_BOX, Unused.CROWD, Unused.EMPTY, Unused.OUTSIDE)]
    reasons = np.select([huge, raw.crowds[own], empty, outside], codes, USED)
    areas = raw.areas[own]
    areas = np.where(areas > 0, areas, boxes[:, 2:].prod(1))
    ids = id_array(raw.ids)[own]
    return Objects(new_position[pictures], raw.labels[own], boxes, areas, reasons, ids)
