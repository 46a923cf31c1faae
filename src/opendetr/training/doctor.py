"""Checks a data set for training: ids, boxes and pictures, and overfitting of eight pictures."""

import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from opendetr.boxes import box_iou
from opendetr.config import RunConfig
from opendetr.data.check import require_size, shared_pictures, warnings
from opendetr.data.door import has_split, load_index
from opendetr.data.index import DatasetIndex, Record
from opendetr.data.source import DataSource
from opendetr.engines.engine import TorchEngine
from opendetr.errors import UserError
from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.report import print_classes, print_findings
from opendetr.evaluation.runner import evaluate_split
from opendetr.images import check_image
from opendetr.progress import waiting
from opendetr.training.choices import SMALLEST_PIXELS, choose_size, fit_to_data, measure_objects
from opendetr.training.setup import assemble
from opendetr.wording import counted

PICTURES = 8
OVERFITTED = 0.9  # AP50 on the training pictures from which on a model has overfitted them
SECONDS_FOR_PICTURES = 10.0  # of checking whether they can be read
ENOUGH_PASSES = 100  # over the pictures, after which a failure to overfit them has a cause


@dataclass(frozen=True)
class Finding:
    """One finding of the doctor."""

    is_problem: bool  # must be fixed before training can succeed
    sentence: str


def diagnose(config: RunConfig, source: DataSource, index: DatasetIndex, seconds: float) -> list[Finding]:
    """Check the files of a split as `examine` does, then overfit eight of its pictures; problems come first.

    Prints the classes before, and the findings with a verdict after that.
    """
    print_classes(index)
    found = list(examine(source, config.data.train_split, index))
    found += [Finding(False, warning.removesuffix(".")) for warning in warnings(index, config.model.num_queries)]
    if not any(finding.is_problem for finding in found):
        try:
            result = overfit(config, index, seconds)
        except UserError as error:  # keep what was found so far
            found.append(Finding(True, f"eight pictures could not be overfitted: {error}"))
        else:
            found += verdict(result, index)
    print_findings([(finding.is_problem, finding.sentence) for finding in found], str(source))
    return sorted(found, key=lambda finding: not finding.is_problem)


def examine(source: DataSource | Path, split: str, index: DatasetIndex) -> Iterator[Finding]:
    """Check the files of a split, whose index was read; UserError if the annotation file of val cannot be read."""
    yield from _boxes(index)
    if not len(index.labels):
        yield Finding(True, f"{index.source} has no box that can be learned from")
        return
    yield from _classes(index)
    yield from _pictures(index)
    yield from _duplicates(index)
    if split != "val" and has_split(source, "val"):
        val_index = load_index(source, "val")
        try:  # as train reads it: val may list fewer categories, no other ones
            unseen = _seen(val_index.under(index.label_map)) - _seen(index)
        except UserError as error:
            yield Finding(True, str(error))
        else:
            if unseen:
                names = ", ".join(sorted(index.label_map.names[label] for label in unseen))
                yield Finding(
                    True, f"val has objects of classes that {split} never shows: {names}; move some pictures over"
                )
        if shared := shared_pictures(val_index, index):
            yield Finding(
                False,
                f"{counted(len(shared), 'picture of val is', 'pictures of val are')} in {split} too, first "
                f"{shared[0]}: val cannot measure what was "
                f"learned; remove them from one of the two, or train with --val-split none and measure on test",
            )


@dataclass(frozen=True)
class Overfitting:
    """The result of overfitting a few pictures."""

    metrics: CocoMetrics  # on the same pictures
    image_size: int
    passes: float  # over the pictures
    training_size: int  # at which the whole split would be trained


def overfit(config: RunConfig, index: DatasetIndex, seconds: float) -> Overfitting:
    """Train on eight pictures of the split for some seconds, at a size for that time, and measure on the same eight."""
    config, _ = fit_to_data(config, index)  # queries and sizes are those of the whole split
    objects = measure_objects(index)
    training_size = config.data.image_size or choose_size(objects, len(index), None)[0]
    few = index.subset(_with_most_classes(index.records))
    still = {
        "data.horizontal_flip": 0.0, "data.vertical_flip": 0.0, "data.crop_probability": 0.0,
        "data.zoom_probability": 0.0, "data.colour": 0.0, "train.minutes": seconds / 60, "train.small_first": 0.0,
        "train.warmup": 0.05, "train.batch_size": min(4, len(few)),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config, run = config.with_values(still, "the doctor"), Path(folder) / "run"
        with waiting(f"overfitting {counted(len(few), 'picture')}", seconds):
            trainer = assemble(config, few, None, run, time.time(), objects=objects)
            trainer.fit()
        learned = trainer.unwrapped()
    engine = TorchEngine(learned.model.eval(), trainer.accelerator.device, trainer.config.train.precision)
    metrics = evaluate_split(engine, learned.description, few)
    passes = trainer.state.epoch + trainer.state.step / trainer.pictures.steps_per_epoch
    return Overfitting(metrics, trainer.config.data.image_size, passes, training_size)


def verdict(result: Overfitting, index: DatasetIndex) -> Iterator[Finding]:
    """What overfitting shows about the data."""
    metrics, pixels = result.metrics, measure_objects(index).smallest_kind * result.training_size
    if pixels < SMALLEST_PIXELS:
        yield Finding(
            True,
            f"at pictures of {result.training_size} pixels, as train would use, the smallest kind of object is "
            f"only {pixels:.0f} pixels large; train with a larger --image-size, or cut the pictures into parts",
        )
    ap50 = metrics.summary["AP50"]
    pictures = min(PICTURES, int((index.counts > 0).sum()))
    if ap50 >= OVERFITTED:
        were = counted(pictures, "picture was", "pictures were")
        yield Finding(False, f"{were} overfitted (AP50 {ap50:.2f}): the data can be learned")
        return
    worst = min(metrics.per_class, key=lambda name: _defined(metrics.per_class[name]["AP50"]))
    were = counted(pictures, "picture was", "pictures were")
    found = f"{were} overfitted to an AP50 of {ap50:.2f} only, worst in '{worst}'"
    if result.passes < ENOUGH_PASSES:
        looked = f"{result.passes:.0f} passes over {counted(pictures, 'picture')} (AP50 {ap50:.2f})"
        yield Finding(False, f"whether the data can be learned is open: {looked} are too few to judge; raise --seconds")
        return
    yield Finding(
        ap50 < OVERFITTED / 2,
        f"{found}, in {result.passes:.0f} passes at {result.image_size} pixels: check whether its boxes fit the "
        f"pictures; if they do, a larger --image-size may help",
    )


def _defined(value: float) -> float:
    return value if value >= 0 else float("inf")


def _boxes(index: DatasetIndex) -> Iterator[Finding]:
    """Whether the boxes are pixels, and x, y, width, height."""
    raw = index.objects.boxes_xywh
    if not len(raw):
        yield Finding(True, f"{index.source} has no boxes at all: there is nothing to learn")
        return
    canvas = index.sizes[index.objects.pictures].astype(float)
    expected = "expected x, y, width, height in pixels"
    if np.nanmax(raw) <= 1.5 and canvas.min() > 8:
        yield Finding(True, f"all boxes are fractions of 0 to 1; {expected}: multiply by the picture's sides")
        return
    outside = (raw[:, :2] + raw[:, 2:] > canvas + 2).any(1).mean()
    as_corners = ((raw[:, 2:] > raw[:, :2]) & (raw[:, 2:] <= canvas + 2)).all(1).mean()
    as_centres = ((raw[:, :2] - raw[:, 2:] / 2 >= -2) & (raw[:, :2] + raw[:, 2:] / 2 <= canvas + 2)).all(1).mean()
    if outside > 0.1 or (outside > 0.01 and max(as_corners, as_centres) == 1):  # small boxes seldom reach out
        other = "x1, y1, x2, y2" if as_corners > 0.98 else "centre x, centre y, width, height"
        hint = f"read as {other} they all fit: convert them" if max(as_corners, as_centres) > 0.98 else "look at them"
        yield Finding(True, f"{outside:.0%} of the boxes reach out of their pictures; {expected}; {hint}")


def _classes(index: DatasetIndex) -> Iterator[Finding]:
    """Whether every listed category is used."""
    used = set(np.unique(index.objects.labels).tolist())
    classes = list(zip(index.label_map.category_ids, index.label_map.names))
    unused = [label for label in range(len(classes)) if label not in used]
    if unused and used:
        names = ", ".join(f"{classes[label][0]} '{classes[label][1]}'" for label in unused[:5])
        shifted = {0, len(classes) - 1} & set(unused)
        hint = "; if the first or last is missing, ids may be shifted by one" if shifted else ""
        yield Finding(
            False, f"{counted(len(unused), 'category is', 'categories are')} listed and never used: {names}{hint}"
        )
    counts = np.bincount(index.labels, minlength=len(index.label_map.names))
    rare = [f"'{name}' ({count})" for name, count in zip(index.label_map.names, counts) if 0 < count < 10]
    if rare:
        yield Finding(False, f"classes with fewer than 10 objects will hardly be learned: {', '.join(rare[:5])}")


def _pictures(index: DatasetIndex) -> Iterator[Finding]:
    """Which pictures cannot be read or have another size than stated, among those read in `SECONDS_FOR_PICTURES`."""
    begun, broken = time.time(), []
    for checked, record in enumerate(index.records, start=1):
        try:
            require_size(record, check_image(record.path), index)
        except UserError as error:
            broken.append(str(error))
        if time.time() - begun > SECONDS_FOR_PICTURES and checked < len(index):
            yield Finding(False, f"checked {checked:,} of {len(index):,} pictures: there was no time to read them all")
            break
    if broken:
        yield Finding(True, f"{counted(len(broken), 'picture is', 'pictures are')} unusable: {broken[0]}")
    empty = int((index.counts == 0).sum())
    if empty > len(index) / 2:
        yield Finding(False, f"{empty} of {counted(len(index), 'picture')} have no objects: are annotations missing?")


def _duplicates(index: DatasetIndex) -> Iterator[Finding]:
    """Pictures and boxes that are there twice."""
    seen: dict[bytes, Path] = {}
    twice = []
    sizes = Counter(record.path.stat().st_size for record in index.records)
    for record in index.records:
        if sizes[record.path.stat().st_size] == 1:  # no other file can be the same
            continue
        first = seen.setdefault(hashlib.blake2b(record.path.read_bytes()).digest(), record.path)
        if first != record.path:
            twice.append(f"{record.path.name} is {first.name}")
    if twice:
        yield Finding(
            False, f"{counted(len(twice), 'picture is', 'pictures are')} there twice ({twice[0]}): keep one of each"
        )
    doubled = [(r, n) for r in index.records if (n := _doubled_boxes(r))]
    if doubled:
        total = sum(n for _, n in doubled)
        yield Finding(
            False,
            f"{counted(total, 'object looks', 'objects look')} labelled twice (same class, IoU above 0.8), first in "
            f"{doubled[0][0].path.name}: "
            f"keep one box of each",
        )


def _doubled_boxes(record: Record) -> int:
    boxes = torch.from_numpy(record.boxes_xyxy)
    same = torch.from_numpy(record.labels[:, None] == record.labels[None])
    return int(((box_iou(boxes[:, None], boxes[None]) > 0.8) & same).triu(1).sum())


def _seen(index: DatasetIndex) -> set[int]:
    return set(np.unique(index.labels).tolist())


def _with_most_classes(records: Sequence[Record]) -> list[int]:
    """Up to eight pictures that show as many classes as possible, else those with a typical number of objects."""
    chosen: list[int] = []
    seen: set[int] = set()
    shown = [n for n, record in enumerate(records) if len(record.labels)]
    usual = float(np.median([len(records[n].labels) for n in shown]))
    shown.sort(key=lambda n: abs(len(records[n].labels) - usual))
    for _ in range(min(PICTURES, len(shown))):
        best = max((n for n in shown if n not in chosen), key=lambda n: len({*records[n].labels.tolist()} - seen))
        chosen.append(best)
        seen |= {*records[best].labels.tolist()}
    return chosen
