"""A data set looked at as a whole: all its splits, their entries, boxes, classes and the files of their pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from opendetr.data.check import account_of
from opendetr.data.class_findings import examine_classes
from opendetr.data.door import has_split, load_index, split_names
from opendetr.data.findings import (
    Finding,
    PicturePlace,
    Severity,
    examine_boxes,
    examine_entries,
)
from opendetr.data.index import USED, DatasetIndex, Objects
from opendetr.data.picture_findings import examine_pictures, glance_at, not_listed, parts_of_others
from opendetr.data.source import DataSource
from opendetr.errors import UserError
from opendetr.files import write_json
from opendetr.wording import counted

ORDER = (Severity.ERROR, Severity.WARNING, Severity.NOTE)


@dataclass
class CheckedData:
    """The splits of a data set, as far as they can be read, and what was found, errors first."""

    splits: dict[str, DatasetIndex]
    findings: list[Finding] = field(default_factory=list)
    is_whole: bool = True  # whether these are all splits of the data set

    def to_json(self) -> dict[str, Any]:
        """The findings, and of every split how many entries are used and each that is not."""
        findings = [
            {"severity": str(one.severity), "kind": one.kind, "sentence": one.sentence, "count": one.count}
            for one in self.findings
        ]
        return {"findings": findings, "splits": {name: account_of(index) for name, index in self.splits.items()}}

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.is_problem for finding in self.findings)


def read_all_splits(data: str | Path | DataSource, names: Sequence[str] = ()) -> CheckedData:
    """Read splits, by default all; those that cannot be read, or have other classes than the first, are errors.

    The first is the one to train on.

    Raises:
        UserError: there is no data set.
    """
    every = split_names(data)
    names = list(names) or sorted(every, key=lambda name: (name != "train", name))
    checked = CheckedData({})
    if not names:
        load_index(data, "train")  # says what is expected
    for name in names:
        try:
            index = load_index(data, name)
            first = next(iter(checked.splits.values()), None)
            checked.splits[name] = index if first is None else index.under(first.label_map)
        except UserError as error:
            checked.findings.append(Finding(Severity.ERROR, "split cannot be used", str(error)))
    checked.is_whole = checked.splits.keys() >= set(every)
    return checked


def check_splits(
    checked: CheckedData, image_size: Callable[[DatasetIndex], int], num_queries: int = 0, seconds: float = float("inf")
) -> CheckedData:
    """Add everything that is found in the splits.

    Args:
        checked: what `read_all_splits` returned.
        image_size: of a split: the shorter side of its pictures in training.
        num_queries: of the model; 0 is not chosen yet.
        seconds: of reading the pictures of each split.
    """
    found = checked.findings
    for name in parts_of_others(checked.splits):
        index = checked.splits.pop(name)
        said = f"{name} lists {counted(len(index), 'picture')} of other splits and no others: it is not looked at again"
        found.append(Finding(Severity.NOTE, "listed in two splits", said, len(index)))
    splits = checked.splits
    found += examine_entries(splits)
    learnable = {name: index for name, index in splits.items() if len(index.labels)}
    if learnable:
        size = image_size(next(iter(learnable.values())))
        found += examine_boxes(learnable, size, num_queries)
        first = next(iter(splits))
        found += examine_classes(learnable, first if first in learnable else None)
    glances = {name: glance_at(index, seconds) for name, index in splits.items()}
    found += examine_pictures(splits, glances)
    if checked.is_whole:  # pictures of another split are not unlisted
        found += not_listed(splits)
    checked.findings = by_severity(found)
    return checked


def write_accounts(path: Path, data: str | Path | DataSource, splits: Sequence[str]) -> None:
    """Write how many entries of splits are used, and each that is not, as JSON."""
    write_json(path, {split: account_of(load_index(data, split)) for split in splits if has_split(data, split)})


def by_severity(found: Sequence[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes."""
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))


def mended(checked: CheckedData, how: str) -> dict[str, DatasetIndex]:
    """Clean copies of the splits, without what cannot be learned from: `drop` or `clip`.

    Left out are objects that training leaves out (crowds stay), the second box of each double, pictures that cannot be
    used, and the second of each pair of copies within a split. Boxes that reach out of their pictures are clipped by
    `clip` and left out by `drop`.
    """
    bad_objects: dict[str, set[int]] = {name: set() for name in checked.splits}
    bad_pictures: dict[str, set[int]] = {name: set() for name in checked.splits}
    for finding in checked.findings:
        places = finding.places
        if finding.kind == "double box":
            for place in places:
                for kept, other in zip(place.objects[::2], place.objects[1::2]):
                    if kept not in bad_objects[place.split]:
                        bad_objects[place.split].add(other)
        elif finding.kind == "partly outside" and how == "drop":
            for place in places:
                bad_objects[place.split].update(place.objects)
        elif finding.kind == "copies within a split":
            _add(bad_pictures, places[1::2])
        elif finding.kind in ("picture cannot be used", "uniform picture"):
            _add(bad_pictures, places)
    clean = {}
    for name, index in checked.splits.items():
        objects = index.objects
        kept = (objects.reasons == USED) | objects.is_crowd
        kept[list(bad_objects[name])] = False
        index = replace(index, objects=objects.at(kept), left_out=(), repairs={})
        if how == "clip":
            index = replace(index, objects=_clipped(index))
        clean[name] = index.subset([at for at in range(len(index)) if at not in bad_pictures[name]])
    return clean


def _add(bad: dict[str, set[int]], places: Sequence[PicturePlace]) -> None:
    for place in places:
        bad[place.split].add(place.picture)


def _clipped(index: DatasetIndex) -> Objects:
    """The objects with boxes that end where their pictures do; areas of boxes that change are those of the boxes."""
    objects, canvas = index.objects, np.tile(index.sizes[index.objects.pictures], 2).astype(np.float64)
    corners = np.concatenate([objects.boxes_xywh[:, :2], objects.boxes_xywh[:, :2] + objects.boxes_xywh[:, 2:]], axis=1)
    inside = corners.clip(0, canvas)
    changed = (inside != corners).any(1)
    boxes = np.where(
        changed[:, None], np.concatenate([inside[:, :2], inside[:, 2:] - inside[:, :2]], axis=1), objects.boxes_xywh
    )
    areas = np.where(changed, boxes[:, 2:].prod(1), objects.areas)
    return Objects(objects.pictures, objects.labels, boxes, areas, objects.reasons, objects.ids)
