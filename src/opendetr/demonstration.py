"""The demo: trains a DETR on digit scenes until AP50 is high enough, and reports what it learned."""

import html
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opendetr.checkpoints.native import load_folder
from opendetr.data.digits import SIDE, write_digits
from opendetr.data.door import load_index
from opendetr.data.index import DatasetIndex
from opendetr.devices import describe_machine
from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.report import print_metrics
from opendetr.evaluation.run_page import (
    ShownPicture,
    average_precision,
    class_table,
    learning_curves,
    truth_beside_found,
)
from opendetr.evaluation.runner import detect_split, metrics_of
from opendetr.explanation.explaining import Asked, explain_picture
from opendetr.explanation.folder import Folder
from opendetr.files import write_json, write_text
from opendetr.images import read_image
from opendetr.inference.detector import Detector
from opendetr.pages.boxed_pictures import Thumbnail
from opendetr.pages.page import page, paragraph
from opendetr.progress import console
from opendetr.recipes.recipe import resolve_config
from opendetr.structures import Detections
from opendetr.threads import Threads
from opendetr.training.plan import Goal
from opendetr.training.run_folder import read_metrics
from opendetr.training.setup import prepare_training

TRAINING_SCENES = 2000
STEPS = 880  # of 8 scenes, that teach the digits
# AP50 of the averaged weights on the scenes of val, half-way, from which the falling learning rate leads to WANTED_AP50
# on the held-out ones with room to spare: from .58 it led to .89, from .94 to .98 (docs/results/small-data.md).
ENOUGH_AP50, WANTED_AP50 = 0.75, 0.9
MOST_MINUTES = 25.0  # one core of a busy slow machine needs them
SHOWN, BRIGHTER = 12, 0.6  # pictures in the report, the exponent of their brightness
THRESHOLD = 0.5
NEXT = (
    "opendetr doctor --data DATA                                   # can your pictures be learned?",
    "opendetr train --data DATA --minutes 30 --output runs/mine    # learn them",
    "opendetr predict runs/mine photos/ --output found             # detect in others",
)


@dataclass(frozen=True)
class LearnedRun:
    """One run of the demo, measured on the held-out scenes."""

    title: str
    summary: str  # a sentence or two about the numbers
    metrics: CocoMetrics
    section: str  # of the page


def run_demo(output: Path, started: float, *, compare: bool = False, threads: Threads | None = None) -> Path:
    """Make the data, train, measure on held-out scenes, write the report; arguments as in `opendetr.api.demo`.

    Returns:
        The path of `report.html`; `report.json` lies beside it. The runs of earlier demos in the folder are kept.
    """
    console.print("Making digit scenes: handwritten digits on photographs, 128x128 pixels.")
    write_digits(output / "digits", TRAINING_SCENES)
    runs = [_learn("fast", "The recipe fast, the default of opendetr train", output, started, threads)]
    minutes = (time.time() - started) / 60
    if compare:
        title = "The recipe paper-small: a small model with the paper's learned queries and softmax loss"
        runs.append(_learn("paper-small", title, output, time.time(), threads, minutes))
    machine = f"{describe_machine()}; torch {torch.__version__}; {minutes:.1f} minutes"
    commands = html.escape("\n".join(NEXT))
    closing = f"<h2>Your own pictures</h2><pre>{commands}</pre>{paragraph(machine, is_note=True)}"
    sections = "".join(run.section for run in runs)
    write_text(output / "report.html", page("opendetr demo: digit scenes", sections + closing))
    summary = runs[0].metrics.summary
    facts = {"ap50": summary["AP50"], "ap": summary["AP"], "minutes": round(minutes, 2)}
    write_json(output / "report.json", facts | {"threads": torch.get_num_threads(), "machine": describe_machine()})
    for run in runs:
        console.print(f"{run.title}: {run.summary}")
    console.print("\nNext, with pictures of your own:")
    for command in NEXT:
        console.print(f"  {command}", soft_wrap=True)
    console.print(f"\nThe report is {(output / 'report.html').resolve()}")
    return output / "report.html"


def _learn(
    recipe: str, title: str, output: Path, started: float, threads: Threads | None, minutes: float | None = None
) -> LearnedRun:
    """Train with a recipe, for so many minutes or until the digits are learned; measure on the held-out scenes."""
    options = {"data.root": str(output / "digits"), "train.minutes": minutes or MOST_MINUTES}
    goal = None
    if minutes is None:
        options |= {"data.image_size": SIDE, "data.zoom_probability": 0.6}  # the same training on every machine
        goal = Goal(ENOUGH_AP50, STEPS)
    length = f"for {minutes:.1f} minutes" if minutes else f"until they are learned, {MOST_MINUTES:g} minutes at most"
    console.print(f"\n{title}: training {length}. Object queries, no anchors, no NMS.")
    run = next(run for number in itertools.count(1) if not (run := output / f"run-{number}").exists())
    trainer = prepare_training(resolve_config(recipe, options=options), run, started, goal=goal, threads=threads)
    trainer.fit()
    if trainer.plan.interrupted():
        raise KeyboardInterrupt
    index = load_index(output / "digits", "test")
    detector = Detector.of_checkpoint(load_folder(run / "last"))
    detections = sorted(detect_split(detector.engine, detector.description, index, batch_size=16))
    metrics = metrics_of(index, detections)
    print_metrics(metrics)
    history = read_metrics(run)
    summary = _summary(metrics, history, index)
    section = (
        f"<h2>{html.escape(title)}</h2>{paragraph(summary)}{learning_curves(history, index.label_map.num_classes)}"
        f"<h3>Average precision on held-out scenes</h3><div class=side>{average_precision(metrics)}"
        f"{class_table({'the held-out scenes': index}, index.label_map, metrics)}</div>"
        f"<h3>Held-out scenes: truth beside found</h3>{_truth_and_found(index, dict(detections))}"
        f"{_attention(detector, index, detections, output / f'{run.name}-attention')}"
    )
    return LearnedRun(title, summary, metrics, section)


def _summary(metrics: CocoMetrics, history: Sequence[dict[str, Any]], index: DatasetIndex) -> str:
    """A summary of the numbers."""
    trained = [line for line in history if line["kind"] != "val"]
    first, last = trained[0], trained[-1]
    loss, iou = ([f"{line[key] or float('nan'):.2f}" for line in (first, last)] for key in ("loss", "matched_iou"))
    learned = (
        f"In {last['epoch']:.2g} epochs ({last['seconds'] / 60:.1f} minutes) the loss went from {loss[0]} to {loss[1]} "
        f"and the mean IoU of matched boxes from {iou[0]} to {iou[1]}. "
        f"On {len(index)} held-out scenes, whose digits and backgrounds were never seen in training: "
        f"AP {metrics.summary['AP']:.3f}, AP50 {metrics.summary['AP50']:.3f}."
    )
    if metrics.summary["AP50"] >= WANTED_AP50:
        return learned
    return f"{learned} That is less than the AP50 of {WANTED_AP50} that is wanted here: the curves show the trend."


def _truth_and_found(index: DatasetIndex, detections: Mapping[int, Detections]) -> str:
    """The first scenes, brighter, with their true boxes and with the detections."""
    shown = []
    for position, record in enumerate(index.records[:SHOWN]):
        curve = [round(255 * (value / 255) ** BRIGHTER) for value in range(256)] * 3
        image = read_image(record.path).point(curve)
        shown.append(ShownPicture(position, record, Thumbnail.of(image, f"{index.source.stem}-{position}")))
    return truth_beside_found(shown, detections, index.label_map)


def _attention(
    detector: Detector, index: DatasetIndex, detections: Sequence[tuple[int, Detections]], folder: Path
) -> str:
    """What the model attends to in the held-out scene with most detections, as a part of the page."""
    position, _ = max(detections, key=lambda item: len(item[1].above(THRESHOLD)))
    record = index.records[position]
    seen = Folder(folder, "What the model attends to", folder.parent)
    explain_picture(seen, detector, record.path.stem, read_image(record.path), Asked(THRESHOLD))
    return (
        "<h2>Attention</h2><p>One of the held-out scenes, with the attention of the model while it detected the "
        "digits, and below each figure how to read it.</p>" + seen.body
    )
