"""What is wrong, odd or worth knowing in a data set: findings about entries and boxes. Pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch

from opendetr.boxes import box_iou
from opendetr.data.check import MANY_CROWDS, left_out_by_reason
from opendetr.data.index import OF_OBJECTS, USED, DatasetIndex, Unused
from opendetr.locations import file_path
from opendetr.wording import counted

SAME_BOX = 0.8  # IoU from which on two boxes are of one object
SMALLEST = 3  # pixels of a side at the training size below which an object can hardly be seen
LONGEST = 20  # times as long as wide
FEWEST_OUT = 3  # boxes that reach out, from which on all of them may be written in another way
REACHES_OUT = 2  # pixels by which a box may leave its picture without a word
UNUSUAL_SCORE, UNUSUAL_RATIO = 3.5, 1.75  # of sizes within a class: modified z-score (Iglewicz and Hoaglin 1993), ratio
ENOUGH = 20  # objects of a class, to know the usual size
WHOLE = 0.95  # of a picture, which a huge box covers


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # training fails, or learns something wrong
    WARNING = "warning"  # something is lost or likely to be wrong
    NOTE = "note"  # worth knowing


class PicturePlace(NamedTuple):
    """A picture that a finding concerns."""

    split: str
    picture: int  # position in the index of the split
    objects: tuple[int, ...] = ()  # numbers in `index.objects`; none where the whole picture is meant


@dataclass(frozen=True)
class Finding:
    """One finding about a data set."""

    severity: Severity
    kind: str  # a few words
    sentence: str  # what was found, where first, and what to do
    count: int = 1  # of the entries that it concerns
    places: tuple[PicturePlace, ...] = ()

    @property
    def is_problem(self) -> bool:
        """Whether it must be put right before training can succeed."""
        return self.severity == Severity.ERROR


Splits = Mapping[str, DatasetIndex]  # by name, with the class indices of one label map
SEVERITY_OF = {
    Unused.MISSING_FILE: Severity.ERROR, Unused.BROKEN_FILE: Severity.ERROR, Unused.CROWD: Severity.NOTE,
    Unused.NOT_ASKED: Severity.NOTE,
}  # fmt: skip


def examine_entries(splits: Splits) -> Iterator[Finding]:
    """What of the source is left out or put right, and splits without objects."""
    for split, index in splits.items():
        for kind, reason, number, first in left_out_by_reason(index):
            severity = SEVERITY_OF.get(reason, Severity.WARNING)
            if reason == Unused.CROWD and index.objects.is_crowd.mean() >= MANY_CROWDS:
                severity = Severity.WARNING
            is_reason = (index.objects.reasons == OF_OBJECTS.index(reason)) & (kind == "object")
            asked = reason != Unused.NOT_ASKED  # whose objects have no class here
            places = _places(split, index, np.flatnonzero(is_reason)) if asked else ()
            said = f"{split}: {counted(number, kind)} {reason}, left out of training; first: {first}"
            yield Finding(severity, f"{kind} {reason}", said, number, places)
        for what, number in index.repairs.items():
            said = f"{split}: {counted(number, 'entry was', 'entries were')} put right: {what}"
            yield Finding(Severity.NOTE, "put right", said, number)
        for note in index.notes:
            yield Finding(Severity.NOTE, "of the whole split", f"{split}: {note}")
        if not len(index.labels):
            said = f"{split}: {index.source} has no box that can be learned from"
            yield Finding(Severity.ERROR, "no objects", said)
        elif (empty := int((index.counts == 0).sum())) > len(index) / 2:
            said = f"{split}: {empty:,} of {counted(len(index), 'picture')} have no objects: are annotations missing?"
            yield Finding(Severity.NOTE, "pictures without objects", said, empty)


def examine_boxes(splits: Splits, image_size: int, num_queries: int = 0) -> Iterator[Finding]:
    """Whether boxes are what they should be, one split after the other.

    Args:
        splits: by name.
        image_size: the shorter side of pictures in training, in pixels.
        num_queries: of the model; 0 is not chosen yet.
    """
    for split, index in splits.items():
        if not len(index.objects):
            continue
        convention = _convention(split, index)
        if convention is not None:
            yield convention
            continue
        yield from _reaching_out(split, index)
        yield from _shapes(split, index, image_size)
        yield from _double(split, index)
        most = int(index.counts.max())
        if 0 < num_queries < most:
            crowded = np.flatnonzero(index.counts > num_queries)
            said = (
                f"{split}: {index.paths[int(index.counts.argmax())]} has {most} objects and the model only "
                f"{num_queries} queries; raise it with --set model.num_queries={most}"
            )
            places = tuple(PicturePlace(split, picture) for picture in crowded.tolist())
            yield Finding(Severity.WARNING, "more objects than queries", said, len(crowded), places)
    yield from _unusual_sizes(splits)


def _places(split: str, index: DatasetIndex, numbers: Sequence[int] | np.ndarray) -> tuple[PicturePlace, ...]:
    """The pictures of some objects."""
    of_picture: dict[int, list[int]] = {}
    for number in np.asarray(numbers, dtype=np.int64).tolist():
        of_picture.setdefault(int(index.objects.pictures[number]), []).append(number)
    return tuple(PicturePlace(split, picture, tuple(those)) for picture, those in of_picture.items())


def _canvas(index: DatasetIndex) -> np.ndarray:
    """Width and height [M, 2] of the picture of every object."""
    canvas: np.ndarray = index.sizes[index.objects.pictures].astype(np.float64)
    return canvas


def _convention(split: str, index: DatasetIndex) -> Finding | None:
    """Whether all boxes seem written in another way than they are read: as shares, corners or centres."""
    boxes, canvas = index.objects.boxes_xywh, _canvas(index)
    expected = "expected x, y, width, height in pixels"
    if boxes.max() <= 1.5 and canvas.min() > 8:
        said = f"{split}: all boxes are fractions of 0 to 1; {expected}: multiply by the picture's sides"
        return Finding(Severity.ERROR, "shares instead of pixels", said, len(boxes))
    if np.median(boxes[:, 2:] / canvas) > 4:
        said = (
            f"{split}: boxes are far larger than their pictures: pixels are written where shares of 0 to 1 are expected"
        )
        return Finding(Severity.ERROR, "pixels instead of shares", said, len(boxes))
    number = int((boxes[:, :2] + boxes[:, 2:] > canvas + REACHES_OUT).any(1).sum())
    outside = number / len(boxes)
    as_corners = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= canvas + REACHES_OUT)).all(1).mean()
    starts, ends = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    as_centres = ((starts >= -REACHES_OUT) & (ends <= canvas + REACHES_OUT)).all(1).mean()
    # Of small boxes few reach out; a single one that does is no convention.
    if number >= FEWEST_OUT and (outside > 0.1 or (outside > 0.01 and max(as_corners, as_centres) == 1)):
        other = "x1, y1, x2, y2" if as_corners > 0.98 else "centre x, centre y, width, height"
        hint = f"read as {other} they all fit: convert them" if max(as_corners, as_centres) > 0.98 else "look at them"
        said = f"{split}: {outside:.0%} of the boxes reach out of their pictures; {expected}; {hint}"
        kind = other if max(as_corners, as_centres) > 0.98 else "boxes reach out"
        return Finding(Severity.ERROR, f"boxes as {kind}" if "," in kind else kind, said, number)
    return None


def _reaching_out(split: str, index: DatasetIndex) -> Iterator[Finding]:
    boxes, canvas = index.objects.boxes_xywh, _canvas(index)
    reach = (boxes[:, :2] < -REACHES_OUT) | (boxes[:, :2] + boxes[:, 2:] > canvas + REACHES_OUT)
    numbers = np.flatnonzero(reach.any(1) & (index.objects.reasons == USED))
    if len(numbers):
        said = (
            f"{split}: {counted(len(numbers), 'box reaches', 'boxes reach')} out of the picture by more than "
            f"{REACHES_OUT} pixels, first in {_first_name(index, numbers)}; training clips them: --fix clip writes that"
        )
        yield Finding(Severity.WARNING, "partly outside", said, len(numbers), _places(split, index, numbers))


def _shapes(split: str, index: DatasetIndex, image_size: int) -> Iterator[Finding]:
    """Boxes that are tiny at the training size, very long, or as large as their picture."""
    used = index.objects.reasons == USED
    sides, canvas = index.objects.boxes_xywh[:, 2:], _canvas(index)
    seen = sides * (image_size / canvas.min(1))[:, None]
    tiny = np.flatnonzero(used & (seen.min(1) < SMALLEST))
    if len(tiny):
        said = (
            f"{split}: {counted(len(tiny), 'box has', 'boxes have')} a side below {SMALLEST} pixels at pictures of "
            f"{image_size}, first in {_first_name(index, tiny)}: train with a larger --image-size, or remove them"
        )
        yield Finding(Severity.WARNING, "tiny", said, len(tiny), _places(split, index, tiny))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sides.max(1) / sides.min(1)
    long = np.flatnonzero(used & (ratio > LONGEST))
    if len(long):
        said = (
            f"{split}: {counted(len(long), 'box is', 'boxes are')} more than {LONGEST} times as long as wide, first in "
            f"{_first_name(index, long)}: look whether a side is wrong"
        )
        yield Finding(Severity.NOTE, "extreme aspect", said, len(long), _places(split, index, long))
    share = sides.prod(1) / canvas.prod(1)
    typical = np.array([np.median(share[index.objects.labels == label]) for label in range(index.label_map.num_classes)
                        if (index.objects.labels == label).any()] or [1.0])  # fmt: skip
    huge = np.flatnonzero(used & (share > WHOLE))
    if len(huge) and typical.max() < WHOLE / 2:  # in pictures of single things such boxes are usual
        said = (
            f"{split}: {counted(len(huge), 'box covers', 'boxes cover')} its whole picture, where others are small, "
            f"first in {_first_name(index, huge)}: look whether it is a mistake"
        )
        yield Finding(Severity.WARNING, "as large as the picture", said, len(huge), _places(split, index, huge))


def _double(split: str, index: DatasetIndex) -> Iterator[Finding]:
    """Objects that are labelled twice, with one class or with two."""
    twice, otherwise = list[int](), list[int]()
    used = np.flatnonzero(index.objects.reasons == USED)
    for picture in np.flatnonzero(index.counts > 1).tolist():
        own = slice(index.starts[picture], index.starts[picture + 1])
        boxes, labels = torch.from_numpy(index.boxes_xyxy[own]), index.labels[own]
        first, second = np.nonzero(np.triu((box_iou(boxes[:, None], boxes[None]) > SAME_BOX).numpy(), 1))
        for one, other in zip(first.tolist(), second.tolist()):
            found = twice if labels[one] == labels[other] else otherwise
            found += [int(used[own.start + one]), int(used[own.start + other])]
    iou = f"IoU above {SAME_BOX:g})"
    for kind, numbers, words, what in (
        ("double box", twice, ("object looks", "objects look"), f"labelled twice (same class, {iou}"),
        ("two classes", otherwise, ("object has", "objects have"), f"two classes ({iou}"),
    ):
        if numbers:
            pairs, keep = len(numbers) // 2, "keep one box of each" if numbers is twice else "keep the right one"
            said = f"{split}: {counted(pairs, *words)} {what}, first in {_first_name(index, numbers)}: {keep}"
            yield Finding(Severity.WARNING, kind, said, pairs, _places(split, index, numbers))


def _unusual_sizes(splits: Splits) -> Iterator[Finding]:
    """Objects far larger or smaller than all others of their class, which often have another one's label."""
    if not splits:
        return
    labels = np.concatenate([index.objects.labels for index in splits.values()])
    used = np.concatenate([index.objects.reasons == USED for index in splits.values()])
    sides = np.concatenate([index.objects.boxes_xywh[:, 2:] for index in splits.values()])
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.log(np.sqrt(sides.prod(1)))
    unusual = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels[used]).tolist():
        own = used & (labels == label)
        away = sizes - np.median(sizes[own])
        spread = 1.4826 * np.median(np.abs(away[own]))
        if own.sum() >= ENOUGH and spread > 0:
            far = (np.abs(away) > UNUSUAL_SCORE * spread) & (np.abs(away) > np.log(UNUSUAL_RATIO))
            unusual |= own & far
    begin = 0
    for split, index in splits.items():
        numbers = np.flatnonzero(unusual[begin : begin + len(index.objects)])
        begin += len(index.objects)
        if len(numbers):
            name = index.label_map.names[index.objects.labels[numbers[0]]]
            said = (
                f"{split}: {counted(len(numbers), 'object is', 'objects are')} far larger or smaller than others of "
                f"the class, first a '{name}' in {_first_name(index, numbers)}: look whether the label is right"
            )
            yield Finding(Severity.NOTE, "unusual size", said, len(numbers), _places(split, index, numbers))


def _first_name(index: DatasetIndex, numbers: Sequence[int] | np.ndarray) -> str:
    """The file of the first of some objects."""
    return file_path(index.paths[int(index.objects.pictures[numbers[0]])]).name
