"""Whether pictures may be flipped, by the loss of the half-trained model on flipped pictures."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opendetr.config import DataConfig, RunConfig
from opendetr.data.index import Record
from opendetr.data.loader import DetectionDataset, collate
from opendetr.devices import autocast
from opendetr.loss.criterion import Criterion, Normalisers, set_loss, statistics
from opendetr.loss.matcher import match
from opendetr.model.detr import DETR
from opendetr.progress import console, show_progress
from opendetr.structures import DetrOutput, Matches, Targets
from opendetr.wording import counted

PICTURES, MOST_PICTURES = 48, 96  # shown; more than 48 only to show every class
FIRST_LOOK = 12  # pictures after which a trial ends if the model clearly knows too little; with fewer none decides
CLEARLY = 0.8  # share of what must be known, below which that is clear
SHARE = 0.05  # most of a budget of minutes for all trials together
ENOUGH_OBJECTS = 5  # of a class, for its median to count
TRIALS = (0.2, 0.3, 0.4, 0.5)  # shares of the run, when a model knows the objects and has not memorised the pictures
KNOWS_CLASSES = 0.85  # accuracy below which a trial decides nothing: without classes, flipped pictures cost the same
KNOWS_BOXES = 0.5  # IoU, likewise, since with one class the accuracy is always 1
AS_WELL = 1.2  # largest allowed ratio of the loss of flipped to upright pictures
CLASS_AS_WELL = 1.5  # likewise for the median object of every class: a mean hides classes that mirror each other


class FlipTrial(NamedTuple):
    """The losses of a model on pictures upright and flipped."""

    accuracy: float  # share of upright objects with the right class, 0..1
    iou: float  # mean of the boxes of upright objects
    mirrored: float  # the loss of mirrored pictures over that of upright ones
    upside_down: float
    mirrored_class: float = 0.0  # likewise, the median object of the class with the largest ratio; 0 where none counts
    upside_down_class: float = 0.0
    pictures: int = PICTURES  # that were shown
    wanted: int = PICTURES  # that would have been shown, had there been time
    saw_all_classes: bool = False  # often enough, those of which the split has enough objects
    mirrored_name: str = ""  # of the class with the largest ratio
    upside_down_name: str = ""

    def knows(self, share: float = 1.0) -> bool:
        """Whether the model knows the objects well enough to be asked, or has this share of that."""
        return self.accuracy >= share * KNOWS_CLASSES and self.iou >= share * KNOWS_BOXES

    @property
    def can_decide(self) -> bool:
        """Whether it may decide that a flip costs too much: a few pictures say so."""
        return self.knows() and self.pictures >= min(FIRST_LOOK, self.wanted)

    @property
    def is_conclusive(self) -> bool:
        """Whether it may decide that a flip costs nothing: only where no class can hide one that it mirrors."""
        return self.can_decide and (self.pictures >= self.wanted or self.saw_all_classes)

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """The higher, the more it says."""
        return self.is_conclusive, self.can_decide, self.pictures

    @property
    def known(self) -> str:
        """What the model knows, in words."""
        return f"{self.accuracy:.0%} of the classes, boxes to {self.iou:.2f} IoU"


def open_flips(config: DataConfig) -> list[str]:
    """The flips that are not decided yet."""
    return [name for name in ("horizontal_flip", "vertical_flip") if getattr(config, name) == -1]


def due_trial(config: DataConfig, since: float, progress: float) -> float | None:
    """The latest moment of `TRIALS` that has passed between two moments of a run, if flips are still open."""
    passed = [moment for moment in TRIALS if since < moment <= progress]
    return passed[-1] if passed and open_flips(config) else None


def seconds_for_trial(due: float, budget: float | None, spent: float) -> float:
    """What the trial of the moment `due` may take: an equal share of what earlier ones left of all trials' time."""
    if budget is None:
        return math.inf
    return (SHARE * budget - spent) / sum(moment >= due for moment in TRIALS)


def settle_flips(config: RunConfig, trial: FlipTrial, *, is_last: bool) -> tuple[RunConfig, list[str]]:
    """The config with the flips that the trial decides, and a sentence each.

    Others stay open while the model knows little or too few pictures were shown; after the last trial they are never
    shown.
    """
    decided, reasons = {}, list[str]()
    words = {
        "horizontal_flip": ("mirrored", trial.mirrored, trial.mirrored_class, trial.mirrored_name),
        "vertical_flip": ("upside down", trial.upside_down, trial.upside_down_class, trial.upside_down_name),
    }
    for name in open_flips(config.data):
        flipped, cost, of_class, worst = words[name]
        is_costly = cost >= AS_WELL or of_class >= CLASS_AS_WELL
        why = f"where their loss is {cost:.2f} times the upright one"
        if of_class:
            why += f", and {of_class:.2f} times in the class with the largest ratio, '{worst}'"
        if not (trial.is_conclusive or (trial.can_decide and is_costly)):
            if not is_last:
                continue
            is_costly, why = True, f"since {_why_open(trial)}"
        decided[f"data.{name}"] = 0.0 if is_costly else 0.5
        reasons.append(f"pictures are {'never' if is_costly else 'also'} shown {flipped}, {why}")
    return config.with_values(decided, "the flips tried"), reasons


def still_open(trial: FlipTrial) -> str:
    """A sentence on what a trial did not decide."""
    later = "flips will be tried again later in the run"
    return f"whether pictures are flipped stays open: {_why_open(trial)}, so {later}"


def _why_open(trial: FlipTrial) -> str:
    """Why a trial decides nothing."""
    if trial.pictures == 0 and trial.wanted:
        return f"no time was left to try it: trials may take {SHARE:.0%} of the run"
    only = f"only {counted(trial.pictures, 'picture')} could be tried in {SHARE:.0%} of the time"
    if trial.pictures < min(FIRST_LOOK, trial.wanted):
        return only
    if trial.can_decide:
        return f"{only}, of {trial.wanted} that show every class"
    return f"the model has not learned enough yet ({trial.known})"


def mirrored(images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, H, W] and boxes [B, T, 4] (cxcywh, 0..1) with left and right exchanged."""
    return images.flip(3), torch.cat([1 - boxes[..., :1], boxes[..., 1:]], -1)


def upside_down(images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures and boxes with top and bottom exchanged."""
    return images.flip(2), torch.cat([boxes[..., :1], 1 - boxes[..., 1:2], boxes[..., 2:]], -1)


def telling_pictures(records: Sequence[Record]) -> list[int]:
    """Positions of pictures spread over the data, with enough objects of every class where there are enough."""
    shown = [position for position, record in enumerate(records) if len(record.labels)]
    spread = shown[:: max(1, len(shown) // PICTURES)][:PICTURES]
    chosen, seen = list[int](), Counter[int]()
    for position in dict.fromkeys([*spread, *shown]):
        labels = records[position].labels.tolist()
        if len(chosen) < MOST_PICTURES and any(seen[label] < ENOUGH_OBJECTS for label in labels):
            chosen.append(position)
            seen.update(labels)
    others = [position for position in spread if position not in chosen]
    return chosen + others[: max(0, PICTURES - len(chosen))]


@torch.no_grad()
def try_flips(
    model: DETR,
    dataset: DetectionDataset,
    criterion: Criterion,
    device: torch.device,
    precision: str,
    should_stop: Callable[[], bool] = lambda: False,
    seconds: float = math.inf,
) -> FlipTrial | None:
    """The losses of a model in eval mode on pictures of evaluation, upright and flipped.

    It ends early where the first pictures show that the model knows too little, and after `seconds`, with what was seen
    until then. None where `should_stop`, called before every picture, ends it.
    """
    flips: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = [lambda *same: same, mirrored, upside_down]
    losses, right, fit, objects = torch.zeros(3), 0.0, 0.0, 0
    labels, costs_of_objects = list[Tensor](), list[Tensor]()
    chosen, begun, shown = telling_pictures(dataset.index.records), time.monotonic(), 0
    if seconds <= 0:  # the earlier trials took all the time
        return FlipTrial(0.0, 0.0, 1.0, 1.0, pictures=0, wanted=len(chosen))
    console.print(f"trying on {counted(len(chosen), 'picture')} whether they may be flipped")
    for position in show_progress(chosen, "trying flips", len(chosen)):
        if should_stop():
            return None
        knows_little = objects and not FlipTrial(right / objects, fit / objects, 1.0, 1.0).knows(CLEARLY)
        if (shown == FIRST_LOOK and knows_little) or time.monotonic() - begun > seconds:
            break
        shown += 1
        batch, targets = collate([dataset[position]])
        batch, targets = batch.to(device), targets.to(device)
        labels.append(targets.labels[0])
        images, boxes = zip(*(flip(batch.images, targets.boxes_cxcywh) for flip in flips))
        with autocast(device, precision):
            output = model(torch.cat(images), None).last_layer()
        for which in range(len(flips)):
            flipped = Targets(targets.labels, boxes[which], targets.counts)
            last = DetrOutput(output.logits[:, which, None], output.boxes_cxcywh[:, which, None])
            matches = match(last, flipped, criterion.scoring, criterion.costs)
            normalisers = criterion.normalisers(flipped, None)
            loss = set_loss(last, flipped, matches, criterion.scoring, normalisers)
            losses[which] += float(criterion.weights.total(loss))
            costs_of_objects.append(object_costs(last, flipped, matches, criterion))
            if which == 0:
                figures = statistics(last, flipped, matches, criterion.scoring)
                right += float(figures["matched_accuracy"]) / 100 * len(matches.targets)
                fit += float(figures["matched_iou"]) * len(matches.targets)
                objects += len(matches.targets)
    if not objects:
        return FlipTrial(0.0, 0.0, 1.0, 1.0, pictures=shown, wanted=len(chosen))
    upright, *others = losses.tolist()
    by_flip = [torch.cat(costs_of_objects[which::3]) for which in range(3)]
    names = dataset.index.label_map.names
    medians = [class_medians(torch.cat(labels), flipped / by_flip[0]) for flipped in by_flip[1:]]
    by_ratio = [sorted((ratio, names[label]) for label, ratio in of_class.items()) for of_class in medians]
    (mirrored_class, mirrored_name), (upside_down_class, upside_down_name) = (
        of_flip[-1] if of_flip else (0.0, "") for of_flip in by_ratio
    )
    in_split = Counter(dataset.index.labels.tolist())
    return FlipTrial(
        right / objects, fit / objects, others[0] / upright, others[1] / upright, mirrored_class, upside_down_class,
        pictures=shown, wanted=len(chosen),
        saw_all_classes=all(label in medians[0] for label, n in in_split.items() if n >= ENOUGH_OBJECTS),
        mirrored_name=mirrored_name, upside_down_name=upside_down_name,
    )  # fmt: skip


def object_costs(output: DetrOutput, targets: Targets, matches: Matches, criterion: Criterion) -> Tensor:
    """The loss of each object [T] of the one picture alone, by the query it is matched to; NaN without one."""
    logits, boxes = (part[0, 0, matches.queries, None, None] for part in output)  # each as a layer of its own
    each, zeros = torch.arange(len(matches.queries), device=matches.queries.device), torch.zeros_like(matches.queries)
    one = torch.ones((), device=zeros.device)
    alone = Matches(each, zeros, zeros, matches.targets)
    losses = set_loss(DetrOutput(logits, boxes), targets, alone, criterion.scoring, Normalisers(one, one, one))
    costs = torch.full(targets.labels.shape[1:], float("nan"), device=zeros.device)
    costs[matches.targets] = criterion.weights.per_layer(losses)
    return costs


def class_medians(labels: Tensor, ratios: Tensor) -> dict[int, float]:
    """The median of `ratios` [N] of every class with enough objects.

    The median, since one missed object costs as much as many found ones.
    """
    of_class = {label: ratios[(labels == label) & ratios.isfinite()] for label in set(labels.tolist())}
    return {label: float(some.median()) for label, some in of_class.items() if len(some) >= ENOUGH_OBJECTS}
