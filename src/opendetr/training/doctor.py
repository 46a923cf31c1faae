"""Checks a data set for training: what `data check` finds, whether eight pictures can be overfitted, and the rates."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opendetr.config import RunConfig
from opendetr.data.data_check import by_severity, check_splits, read_all_splits
from opendetr.data.door import has_split, load_index
from opendetr.data.findings import Finding, Severity
from opendetr.data.index import DatasetIndex, Record
from opendetr.data.source import DataSource
from opendetr.engines.engine import TorchEngine
from opendetr.errors import UserError
from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.report import print_classes, print_findings, print_verdict
from opendetr.evaluation.runner import evaluate_split
from opendetr.progress import console, waiting
from opendetr.training.choices import SMALLEST_PIXELS, choose_size, fit_to_data, measure_objects, usual_size
from opendetr.training.range_test import range_test
from opendetr.training.setup import assemble
from opendetr.wording import counted

PICTURES = 8
OVERFITTED = 0.9  # AP50 on the training pictures from which on a model has overfitted them
SECONDS_FOR_PICTURES = 60.0  # of reading those of each split; `data check` has no limit
ENOUGH_PASSES = 100  # over the pictures, after which a failure to overfit them has a cause


def diagnose(config: RunConfig, source: DataSource, seconds: float) -> list[Finding]:
    """What `data check` finds in the splits of a training, then what short trainings on eight pictures find.

    They tell whether the pictures can be overfitted, in `seconds`, and which learning rates fit, in half of that.
    Returns the errors first. Prints the classes before, and the findings with a verdict after that.

    Raises:
        UserError: the training split cannot be read.
    """
    split = config.data.train_split
    index = load_index(source, split)
    print_classes(index)
    names = [split] + (["val"] if split != "val" and has_split(source, "val") else [])
    checked = read_all_splits(source, names)

    def image_size(index: DatasetIndex) -> int:
        return config.data.image_size or usual_size(index)

    found = check_splits(checked, image_size, config.model.num_queries, SECONDS_FOR_PICTURES).findings
    if not checked.errors:
        try:
            found += verdict(overfit(config, index, seconds), index)
        except UserError as error:  # keep what was found so far
            found.append(Finding(Severity.ERROR, "overfitting", f"eight pictures could not be learned: {error}"))
        try:  # also where the learning rate is so high that they could not
            found.append(try_rates(config, index, seconds / 2))
        except UserError as error:
            found.append(Finding(Severity.WARNING, "learning rate", f"rates could not be tried: {error}"))
    console.print(f"Looked at: {', '.join(checked.splits)}.")
    print_findings(found)
    print_verdict(found, source)
    return by_severity(found)


@dataclass(frozen=True)
class Overfitting:
    """The result of overfitting a few pictures."""

    metrics: CocoMetrics  # on the same pictures
    image_size: int
    passes: float  # over the pictures
    training_size: int  # at which the whole split would be trained


def overfit(config: RunConfig, index: DatasetIndex, seconds: float) -> Overfitting:
    """Train on eight pictures of the split for some seconds, at a size for that time, and measure on the same eight."""
    objects = measure_objects(index)
    training_size = config.data.image_size or choose_size(objects, len(index), None)[0]
    config, few = _few_by_heart(config, index, seconds)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with waiting(f"overfitting {counted(len(few), 'picture')}", seconds):
            trainer = assemble(config, few, None, run, time.time(), objects=objects)
            trainer.fit()
        learned = trainer.unwrapped()
    engine = TorchEngine(learned.model.eval(), trainer.accelerator.device, trainer.config.train.precision)
    metrics = evaluate_split(engine, learned.description, few)
    passes = trainer.state.epoch + trainer.state.step / trainer.pictures.steps_per_epoch
    return Overfitting(metrics, trainer.config.data.image_size, passes, training_size)


def try_rates(config: RunConfig, index: DatasetIndex, seconds: float) -> Finding:
    """Which learning rates fit eight pictures of the split, as a finding about the config's."""
    config, few = _few_by_heart(config, index, seconds)
    return range_test(config, few, measure_objects(index), seconds).verdict(config.train.lr)


def _few_by_heart(config: RunConfig, index: DatasetIndex, seconds: float) -> tuple[RunConfig, DatasetIndex]:
    """The config for learning a few pictures by heart in that time, without augmentation; and these pictures.

    Queries and sizes are those of the whole split.
    """
    config, _ = fit_to_data(config, index)
    few = index.subset(_with_most_classes(index.records))
    still = {
        "data.horizontal_flip": 0.0, "data.vertical_flip": 0.0, "data.crop_probability": 0.0,
        "data.zoom_probability": 0.0, "data.colour": 0.0, "train.minutes": seconds / 60, "train.small_first": 0.0,
        "train.warmup": 0.05, "train.batch_size": min(4, len(few)),
    }  # fmt: skip
    return config.with_values(still, "the doctor"), few


def verdict(result: Overfitting, index: DatasetIndex) -> Iterator[Finding]:
    """What overfitting shows about the data."""
    metrics, pixels = result.metrics, measure_objects(index).smallest_kind * result.training_size
    if pixels < SMALLEST_PIXELS:
        yield Finding(
            Severity.ERROR,
            "too small",
            f"at pictures of {result.training_size} pixels, as train would use, the smallest kind of object is "
            f"only {pixels:.0f} pixels large; train with a larger --image-size, or cut the pictures into parts",
        )
    ap50 = metrics.summary["AP50"]
    pictures = min(PICTURES, int((index.counts > 0).sum()))
    if ap50 >= OVERFITTED:
        were = counted(pictures, "picture was", "pictures were")
        yield Finding(Severity.NOTE, "overfitting", f"{were} overfitted (AP50 {ap50:.2f}): the data can be learned")
        return
    worst = min(metrics.per_class, key=lambda name: _defined(metrics.per_class[name]["AP50"]))
    were = counted(pictures, "picture was", "pictures were")
    found = f"{were} overfitted to an AP50 of {ap50:.2f} only, worst in '{worst}'"
    if result.passes < ENOUGH_PASSES:
        looked = f"{result.passes:.0f} passes over {counted(pictures, 'picture')} (AP50 {ap50:.2f})"
        yield Finding(
            Severity.NOTE,
            "overfitting",
            f"whether the data can be learned is open: {looked} are too few to judge; raise --seconds",
        )
        return
    yield Finding(
        Severity.ERROR if ap50 < OVERFITTED / 2 else Severity.WARNING,
        "overfitting",
        f"{found}, in {result.passes:.0f} passes at {result.image_size} pixels: check whether its boxes fit the "
        f"pictures; if they do, a larger --image-size may help",
    )


def _defined(value: float) -> float:
    return value if value >= 0 else float("inf")


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
