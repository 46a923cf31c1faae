"""`report.html` of a run: written before the first step, after every evaluation and at the end.

The page is a by-product: whatever goes wrong with it is one sentence, and the training goes on.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from opendetr.boxes import cxcywh_to_xyxy
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import Sample
from opendetr.data.transforms import Preprocessing
from opendetr.errors import first_line
from opendetr.evaluation.analysis import AnalysedMetrics, Analysis
from opendetr.evaluation.analysis_page import analysis_figures, learning_verdict, value_with_interval
from opendetr.evaluation.coco import SUMMARY_NAMES
from opendetr.evaluation.report import metric_in_words
from opendetr.evaluation.run_page import (
    THRESHOLDS,
    ShownPicture,
    average_precision,
    class_table,
    distributions,
    learning_curves,
    symptoms_in_words,
    truth_beside_found,
)
from opendetr.files import read_note, write_json, write_text
from opendetr.pages.boxed_pictures import Thumbnail
from opendetr.pages.page import figure, page, paragraph, table
from opendetr.progress import console, warn, warning_instead
from opendetr.structures import Detections
from opendetr.training.manifest import manifest_in_words
from opendetr.training.run_folder import EVALUATION, RunFolder
from opendetr.wording import counted

SHOWN, AUGMENTED = 24, 16  # held-out pictures; training pictures
FAILED = "report.html is not up to date"
SECONDS = 3.0  # for reading each of the two: huge pictures make a shorter page, not a late one

T = TypeVar("T")


class RunReport:
    """Collects what the page shows of a run, and writes it; in the process that writes the run's folder only.

    Args:
        folder: of the run.
        train_index: the training split, with the class indices of the model.
        val_index: the split that chooses the best weights, with the same class indices; None where there is none.
        symptoms: sentences on what keeps the run from learning; they may become more while it trains.
    """

    def __init__(
        self, folder: RunFolder, train_index: DatasetIndex, val_index: DatasetIndex | None,
        symptoms: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.folder, self.train_index, self.val_index, self.symptoms = folder, train_index, val_index, symptoms
        self.read: dict[int, ShownPicture] = {}  # by position, all that were read
        self.unreadable: set[int] = set()  # said once
        self.pictures: list[ShownPicture] = []  # that are shown
        self.augmented = ""
        self.metrics: AnalysedMetrics | None = None
        self.found: dict[int, Detections] = {}

    @property
    def path(self) -> Path:
        """Where the page is."""
        return self.folder.path / "report.html"

    def begin(self, samples: Iterable[Sample], preprocessing: Preprocessing) -> None:
        """Read the pictures that the page shows, and write it for the first time.

        `samples` are augmented pictures as training sees them, in its order.
        """
        with warning_instead(FAILED):
            of_train = _in_time(samples, AUGMENTED, lambda sample: sample)
            self.augmented = "".join(self._augmented(*of, preprocessing) for of in enumerate(of_train))
        with warning_instead(FAILED):
            self._choose_pictures(list(self.found))
        self.write(preprocessing)
        if self.path.exists():
            console.print(f"Curves and pictures are in {self.path}, written anew after every evaluation.")

    def restore(self, run: Path) -> None:
        """Show the latest evaluation of a run that is continued."""
        with warning_instead(FAILED):
            note = read_note(run / EVALUATION)
            if note and self.val_index is not None and "analysis" in note["metrics"]:  # earlier versions had none
                values = note["metrics"]
                summary = {name: values[name] for name in SUMMARY_NAMES}
                self.metrics = AnalysedMetrics(summary, values["per_class"], Analysis.from_json(values["analysis"]))
                known = {record.image_id: position for position, record in enumerate(self.val_index.records)}
                for entry in note["found"]:
                    if (position := known.get(entry["image_id"])) is not None:
                        self.found[position] = self._detections(position, entry)

    def record_evaluation(
        self, metrics: AnalysedMetrics, detections: Sequence[tuple[int, Detections]], when: Mapping[str, Any]
    ) -> None:
        """Show an evaluation on val; detections come with their position in the split."""
        with warning_instead(FAILED):
            assert self.val_index is not None
            self.metrics = metrics
            positions = {image_id: position for position, image_id in enumerate(self.val_index.image_ids.tolist())}
            self._choose_pictures([positions[image_id] for image_id in metrics.analysis.hardest])
            found, weakest = dict(detections), min(THRESHOLDS[-1], metrics.analysis.threshold)
            shown = [picture.position for picture in self.pictures if picture.position in found]
            self.found = {position: found[position].above(weakest) for position in shown}
            entries = [
                {
                    "image_id": found.image_id, "boxes_xyxy": found.boxes_xyxy.tolist(),
                    "scores": found.scores.tolist(), "labels": found.labels.tolist(),
                }
                for found in self.found.values()
            ]  # fmt: skip
            write_json(self.folder.path / EVALUATION, {**when, "metrics": metrics.to_json(), "found": entries})

    def write(self, preprocessing: Preprocessing) -> None:
        """Write the page with what is known now."""
        with warning_instead(FAILED):
            write_text(self.path, self._page(preprocessing))

    def _choose_pictures(self, first: Sequence[int]) -> None:
        """Show these pictures of val, then some from all over the split; reads those that are not read yet."""
        val = self.val_index
        if val is None:
            return
        spread = np.linspace(0, len(val) - 1, SHOWN).round().astype(int).tolist()
        wanted = [position for position in dict.fromkeys([*first, *spread]) if position not in self.unreadable]

        def read(position: int) -> ShownPicture:
            if position not in self.read:
                self.unreadable.add(position)
                self.read[position] = ShownPicture.of(val, position)
                self.unreadable.remove(position)
            return self.read[position]

        self.pictures = _in_time(wanted, SHOWN, read)

    def _page(self, preprocessing: Preprocessing) -> str:
        label_map = self.train_index.label_map
        splits = {"training": self.train_index} | ({} if self.val_index is None else {"val": self.val_index})
        metrics = self.metrics
        measured, analysed, threshold = "", "", None
        if metrics is not None:
            measured = f"<div><h3>Average precision so far</h3>{average_precision(metrics)}</div>"
            analysed, threshold = analysis_figures(metrics), metrics.analysis.threshold
        held_out = truth_beside_found(self.pictures, self.found, label_map, threshold) if self.pictures else ""
        return page(
            f"Run {self.folder.path.resolve().name}",
            ("" if metrics is None else learning_verdict(metrics))
            + symptoms_in_words(self.symptoms)
            + paragraph(self._summary())
            + (learning_curves(self.folder.history, label_map.num_classes) if self.folder.history else "")
            + f"<div class=side>{measured}<div><h3>Classes</h3>"
            + f"{class_table(splits, label_map, metrics)}</div></div>"
            + (f"<h2>Detections on held-out pictures</h2>{analysed}" if analysed else "")
            + (f"<h2>{self._title_of_pictures()}: truth beside found</h2>{held_out}" if held_out else "")
            + "<h2>Training pictures as the model sees them</h2>"
            + paragraph("The first ones, after cropping, resizing and other augmentation. Check that the boxes fit.")
            + f"<div class='grid small'>{self.augmented}</div>"
            + f"<h2>Objects of the training pictures</h2>{distributions(self.train_index, preprocessing)}"
            + f"<h2>What made this run</h2>{table((), manifest_in_words(self.folder.path))}"
            + "<h2>Files</h2><p><a href=metrics.jsonl>metrics.jsonl</a>: every number of the curves; "
            + "<a href=config.toml>config.toml</a>: the settings; "
            + "<a href=manifest.json>manifest.json</a>: all sessions, with what is private to this machine.</p>",
        )

    def _title_of_pictures(self) -> str:
        """What the held-out pictures are: the hardest first, once some are known."""
        hard = len(self.metrics.analysis.hardest) if self.metrics else 0
        others = ", then others" if hard < len(self.pictures) else ""
        return f"The {counted(hard, 'hardest held-out picture')}{others}" if hard > 1 else "Held-out pictures"

    def _summary(self) -> str:
        """Where the run is, and the AP so far."""
        history, measured = self.folder.history, self.folder.measured
        last = history[-1] if history else None
        where = "Training has not begun." if last is None else (
            f"Epoch {round(last['epoch'], 2):,g}, step {last['step']:,}, {last['seconds'] / 60:.1f} minutes."
        )  # fmt: skip
        if self.val_index is None:
            return (
                f"{where} There is no val split without pictures of training: nothing is measured, and the last "
                f"weights are kept; opendetr val RUN --data DATA --split NAME measures them."
            )
        if not measured:
            return f"{where} Val ({len(self.val_index):,} pictures) was not measured yet."
        best = max(measured, key=lambda line: line["val_AP"])
        latest = ", ".join(
            f"{name} {metric_in_words(measured[-1][f'val_{name}'])}"
            if self.metrics is None
            else value_with_interval(self.metrics, name)
            for name in ("AP", "AP50")
        )
        return (
            f"{where} On {len(self.val_index):,} pictures of val after {measured[-1]['step']:,} steps: {latest}. "
            f"The best so far, AP {metric_in_words(best['val_AP'])} after {best['step']:,} steps, is in the folder "
            "best."
        )

    def _augmented(self, number: int, sample: Sample, preprocessing: Preprocessing) -> str:
        image, target, _ = sample
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        pixels = ((image * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        height, width = pixels.shape[:2]
        boxes = cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])
        thumbnail = Thumbnail.of(Image.fromarray(pixels), f"training-{number}")
        drawn = thumbnail.boxed(boxes.numpy(), target.labels.numpy(), self.train_index.label_map)
        return figure(drawn, f"{width}x{height} pixels, {counted(len(boxes), 'object')}")

    def _detections(self, position: int, entry: Mapping[str, Any]) -> Detections:
        assert self.val_index is not None
        record = self.val_index.records[position]
        boxes = torch.tensor(entry["boxes_xyxy"], dtype=torch.float32).reshape(-1, 4)
        scores, labels = torch.tensor(entry["scores"], dtype=torch.float32), torch.tensor(entry["labels"]).long()
        size = (record.height, record.width)
        return Detections(boxes, scores, labels, self.val_index.label_map, size, record.image_id)


def _in_time(items: Iterable[Any], at_most: int, read: Callable[[Any], T]) -> list[T]:
    """The first items, read within `SECONDS`; at least one. Those that cannot be read are left out, which is said."""
    deadline, found, failed = time.time() + SECONDS, list[T](), list[str]()
    remaining = iter(items)
    while len(found) < at_most:
        try:
            found.append(read(next(remaining)))
        except StopIteration:
            break
        except Exception as error:
            failed.append(first_line(error))
        if time.time() > deadline:
            break
    if failed:
        warn(f"report.html lacks {counted(len(failed), 'picture')} ({failed[0]}).")
    return found
