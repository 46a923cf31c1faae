"""Checks of a data set before training: its content, and problems that would stop training later."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from opendetr.data.index import OF_OBJECTS, DatasetIndex, Record, Unused
from opendetr.errors import UserError
from opendetr.images import QUARTER_TURNS, check_image, exif_orientation
from opendetr.labels import LabelMap
from opendetr.locations import FilePath
from opendetr.progress import warn
from opendetr.wording import counted, one_line

MANY_CROWDS = 0.2  # the share of crowds from which on a tool may have marked ordinary objects so
ASKED = 100  # pictures, for the convention of a data set's boxes


def check_pictures(index: DatasetIndex, seconds: float, *, strict: bool = False) -> int:
    """Read pictures for at most `seconds`, in their order; returns how many were read.

    Pictures that are damaged or do not have the size in their annotations are said.

    Raises:
        UserError: more than half of those that were read are such pictures, or with `strict` one is.
    """
    deadline, broken, read = time.time() + seconds, list[str](), 0
    for record in index.records:
        try:
            require_size(record, check_image(record.path), index)
        except UserError as error:
            if strict:
                raise
            broken.append(str(error))
        read += 1
        if time.time() > deadline:
            break
    if not broken:
        return read
    said = f"{len(broken)} of the {counted(read, 'picture')} of {index.source} that were looked at cannot be used"
    if len(broken) > read / 2:
        raise UserError(broken[0] if read == 1 else f"{said}: {broken[0]}")
    warn(f"{said} and {'is' if len(broken) == 1 else 'are'} left out: {broken[0]}.")
    return read


def require_size(record: Record, size: tuple[int, int], index: DatasetIndex) -> None:
    """Check a picture's width and height against its annotation; UserError if they differ."""
    if size == (record.width, record.height):
        return
    said = f"{record.path} is {size[0]}x{size[1]} pixels"
    stated = f"{index.source} says {record.width}x{record.height}"
    if size == (record.height, record.width) and (orientation := exif_orientation(record.path)) in QUARTER_TURNS:
        raise UserError(
            f"{said} upright, as its EXIF orientation {orientation} turns it, but {stated}, the size before it is "
            f"turned; {_fitting(record, index)}"
        )
    raise UserError(f"{said}, but {stated}; its boxes would be wrong, so correct the annotation file")


def _fitting(record: Record, index: DatasetIndex) -> str:
    """Whether boxes are those of the upright pictures or of the stored ones, and what to do.

    Looks at the pictures of this stated size that EXIF turns, at most `ASKED`. Boxes were clipped to the stated size:
    one that ends at its edge may have reached further, into the upright picture.
    """
    stated = record.width, record.height
    alike = [other for other in index.records if (other.width, other.height) == stated][:ASKED]
    turned = [other for other in (record, *alike) if other is record or _is_turned(other.path)]
    ends = np.concatenate([other.boxes_xyxy[:, 2:] for other in turned])
    if (ends > stated[::-1]).any():
        return "the boxes fit the pictures before they are turned: turn the boxes too, or remove EXIF from the pictures"
    if (ends == stated).any():
        return "the boxes fit the upright pictures: only width and height need correcting, exchange them"
    return "the boxes fit either way: if they were drawn upright, only width and height need correcting, exchange them"


def _is_turned(path: FilePath) -> bool:
    try:
        return exif_orientation(path) in QUARTER_TURNS
    except UserError:
        return False


def describe(index: DatasetIndex) -> str:
    """Pictures and objects of a split in words."""
    counts = index.counts
    empty, least, most = int((counts == 0).sum()), int(counts.min()), int(counts.max())
    spread = f"{least} per picture" if least == most else f"{least} to {most} per picture"
    return (
        f"{counted(len(index), 'picture')} ({empty or 'none'} without objects), "
        f"{counted(len(index.labels), 'object')} ({spread})"
    )


def describe_classes(label_map: LabelMap, limit: int = 12) -> str:
    """The classes in words, at most `limit` of them, with their raw ids."""
    named = [f"{one_line(name)} ({number})" for number, name in zip(label_map.category_ids, label_map.names)]
    more = f" and {len(named) - limit} more" if len(named) > limit else ""
    return f"{counted(len(named), 'class', 'classes')} (with id): {', '.join(named[:limit])}{more}"


def warnings(index: DatasetIndex, num_queries: int) -> list[str]:
    """Warnings before training on the split, one sentence each; `num_queries` 0 means not chosen yet."""
    found = left_out_in_words(index)
    most = int(index.counts.max())
    if 0 < num_queries < most:
        fullest, crowded = index.records[int(index.counts.argmax())], int((index.counts > num_queries).sum())
        found.append(
            f"{fullest.path} has {most} objects and the model only {num_queries} queries "
            f"({counted(crowded, 'such picture')}): some objects can never be found; raise it with "
            f"--set model.num_queries=..."
        )
    if not len(index.labels):
        found.append(f"{index.source} has no objects to learn: the model would learn to find nothing.")
    return found


def left_out_by_reason(index: DatasetIndex) -> Iterator[tuple[str, Unused, int, str]]:
    """Kind of entry (picture, object), reason, number, and a sentence on the first, of all that training leaves out."""
    number_of = Counter((one.kind, one.reason) for one in index.left_out)
    first = {(one.kind, one.reason): one.sentence for one in reversed(index.left_out)}
    objects = index.objects
    for code in np.unique(objects.reasons[objects.reasons >= 0]).tolist():
        key, these = ("object", OF_OBJECTS[code]), np.flatnonzero(objects.reasons == code)
        number_of[key] += len(these)
        first[key] = describe_object(index, int(these[0]))
    for (kind, reason), number in number_of.items():
        yield kind, reason, number, first[kind, reason] + (_about_crowds(index) if reason == Unused.CROWD else "")


def left_out_in_words(index: DatasetIndex) -> list[str]:
    """A sentence per reason why entries of the source are not used, per kind of repair, and what the split shows."""
    found = [
        f"{counted(number, kind)} {reason}: left out of training (first: {first})."
        for kind, reason, number, first in left_out_by_reason(index)
    ]
    found += [
        f"{counted(number, 'entry was', 'entries were')} put right: {what}."
        for what, number in index.repairs.items()
        if number
    ]
    return [*found, *index.notes]


def account_of(index: DatasetIndex) -> dict[str, Any]:
    """How many entries of a split are used, and every single one that training leaves out: for `--report`."""
    left_out = [{"kind": one.kind, "reason": str(one.reason), "entry": one.sentence} for one in index.left_out]
    reasons = index.objects.reasons
    left_out += [
        {"kind": "object", "reason": str(OF_OBJECTS[reasons[number]]), "entry": describe_object(index, number)}
        for number in np.flatnonzero(reasons >= 0).tolist()
    ]
    return {
        "source": str(index.source), "format": index.layout, "pictures": len(index), "objects": len(index.labels),
        "left_out": left_out, "put_right": index.repairs,
    }  # fmt: skip


def _about_crowds(index: DatasetIndex) -> str:
    """What to do where a tool has marked ordinary objects as crowds."""
    share = index.objects.is_crowd.mean()
    if share < MANY_CROWDS:
        return ""
    return (
        f"; these are {share:.0%} of all objects, and some tools, such as CVAT, mark every mask so: if they are single "
        f"objects, set their iscrowd to 0"
    )


def describe_object(index: DatasetIndex, number: int) -> str:
    """The file, the number and the box of an object of `index.objects`."""
    objects = index.objects
    box = [round(value, 2) for value in objects.boxes_xywh[number].tolist()]
    picture = int(objects.pictures[number])
    width, height = index.sizes[picture].tolist()
    path = index.paths[picture]
    return f"{path}: annotation {objects.ids[number]} with box {box} in {width}x{height} pixels"


def shared_pictures(one: DatasetIndex, other: DatasetIndex) -> list[FilePath]:
    """Pictures of `one` that `other` has too: the same file, or another file with the same bytes."""
    others = {record.path.resolve() for record in other.records}
    of_size: dict[int, list[FilePath]] = {}
    for path in others:
        of_size.setdefault(path.stat().st_size, []).append(path)
    digests: dict[FilePath, bytes] = {}

    def digest(path: FilePath) -> bytes:
        if path not in digests:
            digests[path] = hashlib.blake2b(path.read_bytes()).digest()
        return digests[path]

    def is_shared(path: FilePath) -> bool:
        twins = of_size.get(path.stat().st_size, [])  # compare sizes first: hashing all of COCO would take minutes
        return path in others or any(digest(path) == digest(twin) for twin in twins)

    return [record.path for record in one.records if is_shared(record.path.resolve())]
