"""What the process that computes does with a data set and with the checkpoints of a run.

Pictures are asked for by the name of their split and their number there: no path ever comes from a request.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property, wraps
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.checkpoints.native import load_folder
from opendetr.data.check import require_size
from opendetr.data.door import load_index, split_names
from opendetr.data.index import USED, DatasetIndex, Record
from opendetr.data.reviewed_labels import reviewed_labels
from opendetr.data.source import DataSource
from opendetr.detections import Threshold
from opendetr.errors import UserError
from opendetr.evaluation.own_data import own_data
from opendetr.explanation.false_alarms import ExplainedDetection, FalseAlarm, explain_detections
from opendetr.explanation.label_faults import label_evidence, output_of
from opendetr.explanation.matching import explain_matching
from opendetr.explanation.mistakes import crowds_of, target_of
from opendetr.images import read_image
from opendetr.inference.detector import Detector
from opendetr.labels import LabelMap
from opendetr.locations import FilePath, file_path
from opendetr.loss.matcher import CostWeights
from opendetr.serving.run_files import CHECKPOINTS, checkpoint_names, run_of
from opendetr.serving.settings import ModelSettings
from opendetr.structures import DetrOutput, Target
from opendetr.wording import one_line, without_folders

SHOWN = 0.05  # the lowest score of detections for a page, which has its own slider
THUMBNAIL = 256  # pixels: the longer side
SHARP = 512 * 512  # pixels of a picture up to which it is sent without loss
CHECKPOINTS_IN_MEMORY = 2


class OpenData:
    """A data set under the classes of a model; a split is read when it is asked for."""

    def __init__(self, settings: ModelSettings, detector: Detector) -> None:
        """Take what `serve` was given, and the model.

        Raises:
            UserError: there is no such data set, or the model lacks one of its classes.
        """
        self.detector = detector
        self.is_own = settings.data is None
        self.source: DataSource = settings.data or own_data(settings.model, "")[0]
        self.names = split_names(self.source)
        self._splits: dict[str, DatasetIndex] = {}
        self._loading = Lock()

    def split(self, name: str) -> DatasetIndex:
        """A split.

        Raises:
            UserError: there is none of this name, or it cannot be read.
        """
        if name not in self.names:
            raise UserError(f"the data set has no split '{name[:80]}'; it has {', '.join(self.names)}")
        with self._loading:  # threads ask, which prepare pictures
            if name not in self._splits:
                self._splits[name] = load_index(self.source, name).under(self.detector.description.label_map)
        return self._splits[name]

    def without_folders(self, sentence: str) -> str:
        """A sentence for clients, who need not know where on this machine the data set is."""
        for root in sorted({*self.source.roots, *(str(Path(root).resolve()) for root in self.source.roots)}, key=len):
            sentence = sentence.replace(f"{root}/", "").replace(root, one_line(self.source.name))
        return without_folders(sentence)

    def record(self, split: str, number: int) -> Record:
        """A picture by its number in the split.

        Raises:
            UserError: there is no such picture.
        """
        index = self.split(split)
        if not 0 <= number < len(index):
            raise UserError(f"split '{split}' has the pictures 0 to {len(index) - 1}")
        return index.records[number]


def open_data(worker: Any) -> dict[str, Any] | None:
    """The data set in plain values: name, splits with their numbers of pictures, and whether it is the run's own."""
    data: OpenData | None = worker.data
    if data is None:
        return None
    splits: list[dict[str, Any]] = []
    for name in data.names:
        try:
            splits.append({"name": name, "pictures": len(data.split(name))})
        except UserError as error:
            splits.append({"name": name, "pictures": 0, "problem": data.without_folders(str(error))})
    return {"name": one_line(data.source.name), "own": data.is_own, "splits": splits}


def split_pictures(worker: Any, split: str) -> dict[str, Any]:
    """All pictures of a split: names, sizes, ids; and what its survey may be kept under."""
    index = worker.data.split(split)
    return {
        "names": [file_path(path).name for path in index.paths],
        "sizes": index.sizes.tolist(),
        "image_ids": index.image_ids.tolist(),
        "objects": index.counts.tolist(),
        "identity": _identity(worker, index),
    }


def split_labels(worker: Any, split: str) -> dict[str, Any]:
    """The labels of a split for their review: a COCO file's content, its own name of the split, and where it is.

    `categories` has the category of every class of the model that the labels have, by its label.
    """
    found = reviewed_labels(worker.data.source, split)
    folder = found.folder if isinstance(found.folder, Path) else None  # others are not on this machine's disk
    own, model = (
        LabelMap.from_categories(found.content["categories"], found.split),
        worker.detector.description.label_map,
    )
    # Labels that are no COCO file get new ids for their classes, and keep the names.
    by_name, known = dict(zip(own.names, own.category_ids)), set(zip(own.names, own.category_ids))
    categories = {
        label: category_id if (name, category_id) in known else by_name[name]
        for label, (name, category_id) in enumerate(zip(model.names, model.category_ids))
        if name in by_name
    }
    return {
        "content": found.content, "split": found.split, "folder": folder, "place": found.folder.name,
        "categories": categories,
    }  # fmt: skip


def data_picture(worker: Any, split: str, number: int) -> dict[str, Any]:
    """A picture's name, size and true objects; boxes in pixels of the picture."""
    record, index = worker.data.record(split, number), worker.data.split(split)
    objects = index.objects
    start, end = np.searchsorted(objects.pictures, [number, number + 1])
    truth = []
    for place in range(start, end):
        label = int(objects.labels[place])
        x, y, width, height = objects.boxes_xywh[place].tolist()
        if label >= 0:
            truth.append({
                "label": label, "name": one_line(index.label_map.names[label]),
                "category_id": index.label_map.category_ids[label], "box_xyxy": [x, y, x + width, y + height],
                "used": int(objects.reasons[place]) == USED,
            })  # fmt: skip
    size = {"width": record.width, "height": record.height}
    return {"number": number, "name": record.path.name, "image_id": record.image_id, **size, "truth": truth}


def data_image(worker: Any, split: str, number: int, known: str | None, *, small: bool) -> tuple[str, str, bytes]:
    """The pixels of a picture, encoded anew: the entity tag, the media type and the content of a file.

    Where the tag is among those in `known` (If-None-Match), the content is empty.
    """
    tag = _tag(worker, split, number, small)
    if known is not None and tag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return tag, "", b""
    image = _read(worker, split, number)
    if small:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    if image.width * image.height <= SHARP and not small:
        image.save(file, "PNG", compress_level=1)
        return tag, "image/png", file.getvalue()
    image.save(file, "JPEG", quality=80 if small else 95, subsampling=-1 if small else 0)
    return tag, "image/jpeg", file.getvalue()


def _tag(worker: Any, split: str, number: int, small: bool) -> str:
    """An entity tag: the same address is another picture where the server is started with another data set."""
    path = worker.data.record(split, number).path
    said: list[Any] = [str(worker.data.source), str(path), small, worker.detector.description.preprocessing.white_level]
    with suppress(OSError, ValueError):
        state = path.stat()
        said += [state.st_size, state.st_mtime]
    return f'"{hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()}"'


def data_detections(worker: Any, split: str, number: int, checkpoint: str | None) -> dict[str, Any]:
    """What the model, or a checkpoint of its run, finds in a picture of the data set, from a low score on."""
    return _detected(worker, _read(worker, split, number), checkpoint)


def checkpoint_detections(worker: Any, picture: bytes, name: str, checkpoint: str | None) -> dict[str, Any]:
    """The same of a picture that was sent."""
    return _detected(worker, worker.picture(picture, name), checkpoint)


def _detected(worker: Any, image: Image.Image, checkpoint: str | None) -> dict[str, Any]:
    detector = worker.detector if checkpoint is None else worker.checkpoints.detector(checkpoint)
    output = output_of(detector, image)
    answers = detector.description.scoring.answers(output.logits[-1].float().cpu())
    boxes = cxcywh_to_xyxy(output.boxes_cxcywh[-1, 0].float().cpu())
    boxes = boxes * torch.tensor([image.width, image.height] * 2)
    label_map, found = detector.description.label_map, []
    for place in answers.scores[0].argsort(descending=True, stable=True).tolist():
        score, label = float(answers.scores[0, place]), int(answers.labels[0, place])
        query = int(answers.queries[0, place])
        if score >= SHOWN and label_map.category_ids[label] is not None:
            found.append({
                "query": query, "label": label, "name": one_line(label_map.names[label]),
                "category_id": label_map.category_ids[label], "score": score, "box_xyxy": boxes[query].tolist(),
            })  # fmt: skip
    return {"width": image.width, "height": image.height, "detections": found}


class Checkpoints:
    """The kept models of a run (`train.keep`), loaded when they are asked for."""

    def __init__(self, run: Path, device: str) -> None:
        self.run, self.device = run, device
        self._loaded: dict[str, Detector] = {}

    def detector(self, name: str) -> Detector:
        """A checkpoint, ready to detect.

        Raises:
            UserError: there is none of this name.
        """
        if name not in checkpoint_names(self.run):
            raise UserError(f"the run has no checkpoint '{name[:40]}'")
        if name not in self._loaded:
            self._loaded[name] = Detector.of_checkpoint(load_folder(self.run / CHECKPOINTS / name), self.device)
            while len(self._loaded) > CHECKPOINTS_IN_MEMORY:
                del self._loaded[next(iter(self._loaded))]
        self._loaded[name] = self._loaded.pop(name)  # the last to be dropped
        return self._loaded[name]


def survey_picture(worker: Any, split: str, number: int) -> dict[str, Any]:
    """What became of every object and detection of a picture, and what may be wrong with its labels."""
    record, index = worker.data.record(split, number), worker.data.split(split)
    image = _read(worker, split, number)
    with _named_only(record.path):
        require_size(record, image.size, index)
    detector = _all_layers(worker)
    output = output_of(detector, image)
    output = DetrOutput(output.logits.float().cpu(), output.boxes_cxcywh.float().cpu())
    target, crowds, threshold = target_of(record), crowds_of(index, number), worker.threshold(None)
    label_map, scoring = detector.description.label_map, detector.description.scoring
    names = tuple(map(one_line, label_map.names))
    matches = explain_matching(output, target, scoring, _costs(detector), names, threshold)
    found = explain_detections(output, target, matches, scoring, label_map, threshold, crowds)
    alarms = [one for one in found if one.alarm is not None]
    missed = Counter(str(one.reason) for one in matches if one.reason is not None)
    of_objects = index.objects.ids[index.objects.reasons == USED][index.starts[number] : index.starts[number + 1]]
    evidence = [
        {**asdict(one), "annotation": None if one.number is None else _plain(of_objects[one.number])}
        for one in label_evidence(output, target, scoring, crowds)
    ]
    return {
        "objects": len(matches), "detections": len(found), "missed": dict(missed),
        "false_alarms": dict(Counter(str(one.alarm) for one in alarms)),
        "confusions": _confusions(target, alarms), "evidence": evidence,
    }  # fmt: skip


def _confusions(target: Target, alarms: Sequence[ExplainedDetection]) -> list[tuple[int, int]]:
    """True and found label of every detection of another class than its object's."""
    wrong = [one for one in alarms if one.alarm in (FalseAlarm.WRONG_CLASS, FalseAlarm.WRONG_AND_BADLY_PLACED)]
    if not wrong:
        return []
    boxes = cxcywh_to_xyxy(torch.tensor([one.box_cxcywh for one in wrong]))
    ious = box_iou(boxes[:, None], cxcywh_to_xyxy(target.boxes_cxcywh.float())[None])
    labels = torch.tensor([one.label for one in wrong])
    nearest = torch.where(target.labels[None] == labels[:, None], -1.0, ious).argmax(1)
    return list(zip(target.labels[nearest].tolist(), labels.tolist()))


def _all_layers(worker: Any) -> Detector:
    """The model with the output of every layer; of an exported file, with what it gives."""
    with suppress(UserError):
        looker: Detector = worker.looker
        return looker
    detector: Detector = worker.detector
    return detector


def _costs(detector: Detector) -> CostWeights:
    with suppress(UserError):
        loss = detector.checkpoint.config.loss
        return CostWeights(loss.class_cost, loss.l1_cost, loss.giou_cost)
    return CostWeights(1.0)


def _read(worker: Any, split: str, number: int) -> Image.Image:
    path = worker.data.record(split, number).path
    with _named_only(path):
        return read_image(path, white_level=worker.detector.description.preprocessing.white_level)


@contextmanager
def _named_only(path: FilePath) -> Iterator[None]:
    """What is said of a picture names its file, and not the folders above."""
    try:
        yield
    except UserError as error:
        error.args = (str(error).replace(str(path), path.name),)
        raise


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _identity(worker: Any, index: DatasetIndex) -> str:
    """What the survey of a split depends on: model, threshold, labels, and the picture files as they are now."""
    digest = hashlib.blake2b(digest_size=16)
    threshold: Threshold = worker.threshold(None)
    engine = _all_layers(worker).engine
    said = (worker.detector.identity, engine.name, engine.precision, threshold, index.label_map.to_json())
    digest.update(repr(said).encode())
    for path in index.paths:
        digest.update(path.encode("utf-8", "surrogateescape"))
        with suppress(OSError, ValueError):
            state = file_path(path).stat()
            digest.update(repr((state.st_size, state.st_mtime)).encode())
    objects = index.objects
    for array in (index.sizes, objects.pictures, objects.labels, objects.boxes_xywh, objects.reasons):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr(objects.ids.tolist()).encode())
    return digest.hexdigest()


class WithData:
    """The part of the worker that knows a data set and the checkpoints of a run."""

    settings: ModelSettings
    detector: Detector

    @cached_property
    def data(self) -> OpenData | None:
        """The data set that was asked for, else the run's own where it still is; None where there is none.

        Raises:
            UserError: what was asked for cannot be read.
        """
        if self.settings.data is None and not self.settings.own_data:
            return None
        try:
            return OpenData(self.settings, self.detector)
        except UserError:
            if self.settings.data is not None:
                raise
            return None

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Those of the run whose model is served."""
        return Checkpoints(run_of(self.settings.model), self.settings.device)


def _for_clients(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same work; what it refuses names no folder of this machine."""

    @wraps(work)
    def run(worker: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return work(worker, *arguments, **options)
        except UserError as error:
            if worker.data is not None:
                error.args = (worker.data.without_folders(str(error)),)
            raise

    return run


# `data_image` reads and encodes, which threads do beside the model.
DATA_PREPARED = {"data_image": _for_clients(data_image)}
DATA_WORK = {
    work.__name__: _for_clients(work)
    for work in (
        split_pictures, split_labels, data_picture, data_detections, checkpoint_detections, survey_picture
    )
}  # fmt: skip
