"""What the process that computes can do: functions by name, on plain values, with the model at hand.

`WORK` is the table. A function takes the `ServingWorker` and the arguments of `Compute.call` by name, and returns plain
values: numbers, texts, lists, dicts and bytes. What it refuses it raises as a UserError.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from opendetr.boxes import xyxy_to_cxcywh
from opendetr.checkpoints.loading import is_exported
from opendetr.decoding import TooManyPixelsError
from opendetr.detections import Detections, Threshold
from opendetr.engines.detecting import Prepared, detect
from opendetr.errors import UserError
from opendetr.explanation.explaining import Asked, require_inside
from opendetr.explanation.false_alarms import explain_detections
from opendetr.explanation.look import Look, look
from opendetr.explanation.matching import Candidate, ObjectMatch, explain_matching
from opendetr.exporting.exported_file import describe_exported
from opendetr.exporting.fastest_engine import engine_file
from opendetr.files import read_note
from opendetr.images import decode_image
from opendetr.inference.detector import Detector, computes_on, require_numbers
from opendetr.loss.matcher import CostWeights
from opendetr.serving.data_work import DATA_PREPARED, DATA_WORK, WithData, open_data
from opendetr.serving.look_tensors import look_tensors
from opendetr.serving.model_facts import model_facts, short_name
from opendetr.serving.run_files import described_run, run_of
from opendetr.serving.settings import ModelSettings
from opendetr.structures import DetrOutput, Target
from opendetr.threads import settle_threads
from opendetr.wording import one_line


class TooLargeError(UserError):
    """A picture with more pixels than this server takes."""


class ServingWorker(WithData):
    """The model, and what works keep between calls."""

    def __init__(self, settings: ModelSettings) -> None:
        """Load the model.

        Raises:
            UserError: it cannot be loaded.
        """
        self.settings = settings
        # Pillow refuses a picture with more than twice this, before it is decoded, and warns of half as many.
        Image.MAX_IMAGE_PIXELS = settings.max_pixels / 2  # type: ignore[assignment]
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        on = computes_on(settings.model, settings.engine, settings.device)
        settle_threads(settings.threads, measure=True, device=on)
        self.detector = Detector.load(
            settings.model, settings.device, settings.engine, settings.precision, image_size=settings.image_size
        )

    def picture(self, content: bytes, name: str) -> Image.Image:
        """An upright RGB picture from the content of a file, called `name` in messages.

        Raises:
            UserError: it is no readable picture.
            TooLargeError: it has too many pixels.
        """
        try:
            return decode_image(content, name, self.detector.description.preprocessing.white_level)
        except TooManyPixelsError:
            most = self.settings.max_pixels / 1e6
            raise TooLargeError(f"{name} has too many pixels; this server takes {most:g} megapixels at most") from None

    def threshold(self, asked: float | None) -> Threshold:
        """The threshold of a request, of the server, or the model's own."""
        return self.detector.description.threshold(self.settings.threshold if asked is None else asked)

    @cached_property
    def looker(self) -> Detector:
        """The model in PyTorch, whichever engine detects: attention is captured there.

        Raises:
            UserError: there is only an exported file, or the model pads its pictures.
        """
        if is_exported(self.settings.model):
            raise UserError(
                f"{Path(self.settings.model).name} is an exported file, which shows no attention: serve the model that "
                f"it was made from"
            )
        if self.detector.description.preprocessing.pad_size is not None:
            raise UserError("attention is not shown for models that pad their pictures to one size")
        if self.detector.engine.name == "torch" and self.detector.engine.precision == "fp32":
            return self.detector
        return Detector.of_checkpoint(self.detector.checkpoint, self.settings.device)

    def facts(self) -> dict[str, Any]:
        """The model in plain values, as GET /v1/model gives it."""
        engine, exported = self.detector.engine, is_exported(self.settings.model)
        facts = model_facts(
            short_name(self.settings.model), self.detector.description, self.threshold(None),
            checkpoint=None if exported else self.detector.checkpoint, engine=engine.name, precision=engine.precision,
            certificate=self._certificate(),
            can_look=not exported and self.detector.description.preprocessing.pad_size is None,
        )  # fmt: skip
        of_folders = {"data": open_data(self), "run": described_run(run_of(self.settings.model))}
        return facts | {"identity": self.detector.identity} | of_folders

    def _certificate(self) -> dict[str, Any] | None:
        """That the engine agrees with PyTorch; None where PyTorch itself runs."""
        if is_exported(self.settings.model):
            found: dict[str, Any] | None = describe_exported(Path(self.settings.model))["certificate"]
            return found
        engine = self.detector.engine
        if engine.name == "torch":
            return None
        note = engine_file(self.detector.checkpoint, engine.name, engine.precision).with_suffix(".json")
        return read_note(note).get("certificate")


def warm_up(worker: ServingWorker) -> None:
    """Detect once, so that the first client does not wait, and a model that gives no numbers is noticed now.

    Raises:
        UserError: it gives none.
    """
    grey = Image.new("RGB", (640, 480), (128, 128, 128))
    _found(worker, [_ToDetect(worker.detector.prepared(0, grey), worker.threshold(None))])


class _ToDetect(NamedTuple):
    picture: Prepared
    threshold: Threshold


def prepare_detect(worker: ServingWorker, picture: bytes, name: str, threshold: float | None) -> _ToDetect:
    """A picture as the model's input, in a thread beside the model; UserError where it cannot be read."""
    return _ToDetect(worker.detector.prepared(0, worker.picture(picture, name)), worker.threshold(threshold))


def detect_all(worker: ServingWorker, group: Sequence[_ToDetect]) -> list[dict[str, Any]]:
    """Width, height and detections of pictures of one shape."""
    return _found(worker, group)


def _found(worker: ServingWorker, group: Sequence[_ToDetect]) -> list[dict[str, Any]]:
    detector, queries = worker.detector, dict[int, Tensor]()

    def note_queries(keys: Sequence[int], output: DetrOutput) -> None:
        queries.update(zip(keys, detector.description.scoring.answers(output.logits[-1].float()).queries.cpu()))

    pictures = [one.picture._replace(key=key) for key, one in enumerate(group)]
    found = dict(detect(detector.engine, detector.description, pictures, len(pictures), observe=note_queries))
    results = []
    for key, one in enumerate(group):
        require_numbers(detector.engine, found[key].scores, found[key].boxes_xyxy)
        rows = found[key].reaching(one.threshold)
        results.append(plain(found[key][rows], queries[key][rows].tolist()))
    return results


def plain(detections: Detections, queries: Sequence[int]) -> dict[str, Any]:
    """Detections as a route answers them, with the query that gave each."""
    height, width = detections.image_size
    return {
        "width": width,
        "height": height,
        "detections": [
            {
                "name": one.name,
                "category_id": one.category_id,
                "score": one.score,
                "box_xyxy": list(one.box_xyxy),
                "label": one.label,
                "query": query,
            }
            for one, query in zip(detections, queries)
        ],
    }


def explain_maps(
    worker: ServingWorker,
    picture: bytes,
    name: str,
    threshold: float | None,
    points: Sequence[tuple[float, float]],
    layer: int,
    head: int,
    at_most: int,
) -> dict[str, Any]:
    """What each detection looked at, and what the cells at some points (pixels) attend to, as maps [h][w]."""
    asked = Asked(threshold, points, layer, head, at_most)
    asked.check(worker.looker)
    image = worker.picture(picture, name)
    require_inside(points, name, image)
    seen = look(worker.looker, image)
    explained = seen.explained(worker.threshold(threshold), at_most)
    attention, what = asked.of(seen.cross_maps(explained.queries))
    rollout = seen.rollout_maps(explained.queries)
    boxes = seen.boxes_xyxy()[explained.queries].tolist()
    in_encoder: list[dict[str, Any]] = []
    if points:
        reads, readers = asked.of(seen.encoder_maps(points))[0], asked.of(seen.encoder_readers(points))[0]
        in_encoder = [
            {"point": list(point), "reads": to.tolist(), "readers": by.tolist()}
            for point, to, by in zip(points, reads, readers)
        ]
    return {
        "width": image.width,
        "height": image.height,
        "extent": list(seen.extent),
        "maps": what,
        "found": explained.found,
        "detections": [
            {
                "query": query, "label": label, "name": called, "score": score, "box_xyxy": box,
                "attention": weights.tolist(), "rollout": rolled.tolist(),
            }
            for query, label, called, score, box, weights, rolled in zip(
                explained.queries, explained.labels, explained.names, explained.scores, boxes, attention, rollout
            )
        ],
        "points": in_encoder,
    }  # fmt: skip


def look_inside(worker: ServingWorker, picture: bytes, name: str, checkpoint: str | None) -> bytes:
    """The tensors of `look_tensors` as a safetensors file, whose metadata hold the sizes as JSON.

    `checkpoint` is the name of a kept checkpoint of the run; None is the model itself.
    """
    detector = worker.looker if checkpoint is None else worker.checkpoints.detector(checkpoint)
    image = worker.picture(picture, name)
    seen = look(detector, image)
    sizes: dict[str, Any] = {
        "width": image.width, "height": image.height, "extent": list(seen.extent),
        "memory_shapes": [list(shape) for shape in seen.memory.shapes],
    }  # fmt: skip
    tensors = {key: tensor.cpu() for key, tensor in look_tensors(seen.output, seen.captured).items()}
    return save(tensors, {key: json.dumps(value) for key, value in sizes.items()})


def match_truth(
    worker: ServingWorker, picture: bytes, name: str, truth: Sequence[dict[str, Any]], threshold: float | None
) -> dict[str, Any]:
    """Which query was matched to which true object, why objects were missed, and what the false alarms are."""
    image = worker.picture(picture, name)
    target = true_objects(worker, truth, image.size)
    return matching(worker, look(worker.looker, image), target, worker.threshold(threshold))


def true_objects(worker: ServingWorker, truth: Sequence[dict[str, Any]], size: tuple[int, int]) -> Target:
    """True objects (`box_xyxy` in pixels, and one of `label`, `name`, `category_id`) of a picture of `size`.

    Raises:
        UserError: a class that the model does not have.
    """
    label_map = worker.detector.description.label_map
    labels = []
    for number, one in enumerate(truth, start=1):
        if one.get("label") is not None:
            label = one["label"]
            if not 0 <= label < label_map.num_classes:
                raise UserError(f"true object {number}: the labels of this model are 0 to {label_map.num_classes - 1}")
        else:
            wanted = one["name"] if one.get("name") is not None else one["category_id"]
            label = min(label_map.indices_of(wanted))
        labels.append(label)
    width, height = size
    boxes = torch.tensor([one["box_xyxy"] for one in truth], dtype=torch.float32).reshape(-1, 4)
    sides = torch.tensor([width, height, width, height], dtype=torch.float32)
    return Target(torch.tensor(labels, dtype=torch.long), xyxy_to_cxcywh(boxes / sides))


def matching(worker: ServingWorker, seen: Look, target: Target, threshold: Threshold) -> dict[str, Any]:
    """The matching of a picture that was looked at, in plain values; boxes in its pixels."""
    checkpoint = worker.looker.checkpoint
    loss, label_map = checkpoint.config.loss, checkpoint.label_map
    costs = CostWeights(loss.class_cost, loss.l1_cost, loss.giou_cost)
    names = tuple(map(one_line, label_map.names))
    output = DetrOutput(seen.output.logits.cpu(), seen.output.boxes_cxcywh.cpu())
    matches = explain_matching(output, target, seen.scoring, costs, names, threshold)
    detections = explain_detections(output, target, matches, seen.scoring, label_map, threshold)
    width, height = seen.image.size
    return {
        "width": width,
        "height": height,
        "objects": [
            _plain_match(found, int(label), seen) for found, label in zip(matches, target.labels.tolist())
        ],
        "false_alarms": [
            {
                "query": found.query, "name": found.name, "score": found.score,
                "box_xyxy": _in_pixels(found.box_cxcywh, seen), "kind": str(found.alarm), "sentence": found.sentence,
                "verdict": asdict(found.verdict),
            }
            for found in detections if found.alarm is not None
        ],
    }  # fmt: skip


def _plain_match(found: ObjectMatch, label: int, seen: Look) -> dict[str, Any]:
    return {
        "name": found.name,
        "label": label,
        "box_xyxy": _in_pixels(found.box_cxcywh, seen),
        "taken_by": None if found.taken_by is None else _plain_candidate(found.taken_by),
        "runners_up": [_plain_candidate(other) for other in found.runners_up],
        "found_by": found.found_by,
        "reason": None if found.reason is None else str(found.reason),
        "sentence": found.sentence,
        "verdict": asdict(found.verdict),
    }


def _plain_candidate(candidate: Candidate) -> dict[str, Any]:
    return asdict(candidate) | {"cost": candidate.cost}


def _in_pixels(box_cxcywh: Sequence[float], seen: Look) -> list[float]:
    box: list[float] = seen.in_pixels(torch.tensor(box_cxcywh)).tolist()
    return box


@dataclass(frozen=True)
class Work:
    """One kind of work.

    Without `prepare`, `run` takes the worker and the arguments. With it, `prepare` takes these, in a thread beside the
    model, and `run` the worker and a list of what it returned, of which all are `alike`; it returns a list.
    """

    run: Callable[..., Any]
    prepare: Callable[..., Any] | None = None
    alike: Callable[[Any, Any], bool] = lambda one, other: False


WORK: dict[str, Work] = {
    "detect": Work(detect_all, prepare_detect, lambda one, other: one.picture.image.shape == other.picture.image.shape),
    "explain": Work(explain_maps),
    "look": Work(look_inside),
    "match": Work(match_truth),
    **{name: Work(run) for name, run in DATA_WORK.items()},
    **{name: Work(lambda worker, made: list(made), prepare) for name, prepare in DATA_PREPARED.items()},
}
