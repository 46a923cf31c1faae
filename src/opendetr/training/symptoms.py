"""What a training that does not learn shows: every symptom is a rule over what is measured, and says what to do.

The rules look at the data before the first step, and, from half of the run on, at each evaluation on val and the same
on a sample of the training pictures. docs/tasks/not-learning.md has them in words.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from opendetr.config import RunConfig
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import DetectionDataset
from opendetr.errors import UserError
from opendetr.evaluation.analysis import LEAST_OBJECTS, AnalysedMetrics, analyse
from opendetr.evaluation.box_conventions import AS_LABELLED, convention_fits
from opendetr.evaluation.coco import FoundArrays, TruthArrays
from opendetr.evaluation.confusion import confusion_matrix
from opendetr.training.choices import measure_objects
from opendetr.wording import counted

SAMPLE = 24  # training pictures that are looked at
EARLY, LATE = 0.5, 0.75  # shares of the run: rules on faults apply from the first on, those on learning from the second
FEWEST_STEPS = 100  # of a run, below which no rule on an evaluation applies
FEWEST = 3  # objects of a class, below which its confusions are chance
UNIFORM = 0.01  # the standard deviation of normalised pixels below which a picture is of one colour
TOO_SMALL = 10.0  # pixels: the side of the smallest kind of object, below which it is hardly ever found
NOTHING = 0.05  # AP50 on training pictures, below which nothing is learned
MOST_NAMED = 5  # classes in a sentence


def sample_of(index: DatasetIndex) -> DatasetIndex:
    """Pictures from all over a split that have objects, at most `SAMPLE`."""
    shown = np.flatnonzero(index.counts > 0)
    return index.subset(shown[_from_all_over(len(shown))].tolist())


def _from_all_over(count: int) -> Int[np.ndarray, " n"]:
    """At most `SAMPLE` of so many positions, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).round().astype(int))


def count_objects(truth: TruthArrays) -> Int[np.ndarray, " C"]:
    """How many objects every class has, crowds apart."""
    return np.bincount(truth.labels[~truth.crowds], minlength=len(truth.names))


@dataclass(frozen=True)
class Measured:
    """Pictures, and what a model finds in them."""

    truth: TruthArrays
    found: FoundArrays
    known: AnalysedMetrics | None = None  # their metrics, where these were computed before

    @cached_property
    def metrics(self) -> AnalysedMetrics:
        """COCO metrics and analysis."""
        return self.known or analyse(self.truth, self.found)

    @property
    def objects(self) -> Int[np.ndarray, " C"]:
        """As `count_objects`."""
        return count_objects(self.truth)

    @cached_property
    def fits(self) -> dict[str, float]:
        """The median IoU of the objects with what is found, by convention of boxes."""
        return convention_fits(self.truth, self.found)

    def confusion(self, threshold: float) -> Int[np.ndarray, "classes classes"]:
        """Objects by true class and class found, with background as the last of both."""
        analysis = self.metrics.analysis
        if threshold == analysis.threshold:
            return np.array(analysis.confusion)
        return confusion_matrix(self.truth, self.found, threshold)


@dataclass(frozen=True)
class Evidence:
    """What is known of a run at an evaluation; all class indices are those of `Measured.truth`."""

    config: RunConfig
    progress: float  # of the run, 0..1
    history: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl
    objects: Int[np.ndarray, " C"]  # of the whole training split, by class
    pictures: int  # of the training split
    train: Measured  # a sample of the training pictures, without augmentation
    val: Measured | None
    is_explained: bool = False  # by symptoms that were said before

    @cached_property
    def losses(self) -> list[float]:
        """The losses in the log, in its order."""
        lines = [line for line in self.history if line["kind"] == "step"] or self.history
        return [float(line["loss"]) for line in lines if line.get("loss") is not None]

    @property
    def steps(self) -> int:
        """Steps of the run so far."""
        return int(self.history[-1]["step"]) if self.history else 0

    @cached_property
    def ap50(self) -> float:
        """AP50 on the sample of the training pictures."""
        return self.train.metrics.summary["AP50"]

    @property
    def measured(self) -> Measured:
        """Val, where there is one; else the sample of the training pictures."""
        return self.val or self.train

    @property
    def threshold(self) -> float:
        """The score of the best F1 on `measured`."""
        return self.measured.metrics.analysis.threshold

    @cached_property
    def shares_of_train(self) -> tuple[Int[np.ndarray, "C C"], Int[np.ndarray, " C"]]:
        """Objects of the sample by true class and class found, and all of every class that a detection covers."""
        matrix = self.train.confusion(self.train.metrics.analysis.threshold)[:-1, :-1]
        return matrix, matrix.sum(1)


Rule = Callable[[Evidence], str | None]


def rate_too_high(seen: Evidence) -> str | None:
    """The loss rises or leaps, and nothing is learned."""
    if len(seen.losses) < 4 or seen.ap50 >= NOTHING:
        return None
    rate, losses = seen.config.train.lr, seen.losses
    leap = float((np.array(losses) / np.minimum.accumulate(losses)).max())
    if leap < 3 and losses[-1] <= 1.1 * losses[0]:
        return None
    return (
        f"the loss does not settle (between {min(losses):.3g} and {max(losses):.3g}, now {losses[-1]:.3g}) and nothing "
        f"is found even in training pictures: the learning rate is probably too high (train.lr = {rate:g}); try "
        f"--set train.lr={rate / 10:g}; opendetr doctor tests which rates fit"
    )


def rate_too_low(seen: Evidence) -> str | None:
    """The loss hardly falls, and nothing is learned."""
    if len(seen.losses) < 4 or seen.ap50 >= NOTHING:
        return None
    rate, first, now = seen.config.train.lr, seen.losses[0], float(np.mean(seen.losses[-3:]))
    if not 0.8 * first <= now <= 1.1 * first:
        return None
    return (
        f"the loss has hardly moved in {seen.steps:,} steps (from {first:.3g} to {now:.3g}) and nothing is found even "
        f"in training pictures: the learning rate is probably too low (train.lr = {rate:g}); try "
        f"--set train.lr={10 * rate:g}; opendetr doctor tests which rates fit"
    )


def loss_rises(seen: Evidence) -> str | None:
    """The loss is much higher than it was."""
    if len(seen.losses) < 8 or seen.ap50 < NOTHING:
        return None
    windows = np.array(seen.losses[-(len(seen.losses) // 4 * 4) :]).reshape(4, -1).mean(1)
    if windows[-1] < 1.3 * windows.min():
        return None
    kept = "" if seen.val is None else "; the best weights so far are kept in the folder best"
    return (
        f"the loss rises: it was {windows.min():.3g} and is {windows[-1]:.3g}; a lower learning rate helps most often "
        f"(--set train.lr={seen.config.train.lr / 3:.2g}){kept}"
    )


def other_boxes(seen: Evidence) -> str | None:
    """What is found on val fits boxes that are written in another way."""
    if seen.val is None or seen.val.objects.sum() < LEAST_OBJECTS or seen.train.fits[AS_LABELLED] < 0.3:
        return None
    fits = seen.val.fits
    convention = max(fits, key=fits.__getitem__)
    if fits[convention] < 0.35 or fits[convention] < fits[AS_LABELLED] + 0.2:
        return None
    return (
        f"in val things are found {convention} compared with the labelled boxes (median IoU {fits[convention]:.2f}, "
        f"as labelled {fits[AS_LABELLED]:.2f}), in training pictures as labelled: the boxes of the two splits are "
        f"written in different ways; compare them in report.html, and mend the split that is wrong"
    )


def classes_exchanged(seen: Evidence) -> str | None:
    """Classes are right in training pictures, and others in val."""
    if seen.val is None:
        return None
    matrix, covered = seen.shares_of_train
    of_val = seen.val.confusion(seen.threshold)[:-1, :-1]
    # A class that is right itself was only mistaken for another.
    is_lost = (np.diagonal(of_val) <= 0.3 * of_val.sum(1)) & (of_val.sum(1) >= FEWEST)
    exchanged = []
    for label in np.flatnonzero((of_val.sum(1) >= FEWEST) & (covered >= FEWEST)).tolist():
        other, names = int(of_val[label].argmax()), seen.train.truth.names
        known = matrix[label, label] >= 0.7 * covered[label]
        if other != label and known and is_lost[other] and of_val[label, other] >= 0.7 * of_val[label].sum():
            exchanged.append(f"'{names[label]}' is found as '{names[other]}'")
    if not exchanged:
        return None
    more = f" and {len(exchanged) - MOST_NAMED} more" if len(exchanged) > MOST_NAMED else ""
    return (
        f"in val {', '.join(exchanged[:MOST_NAMED])}{more}, while training pictures have the right classes: the two "
        f"splits number or name their classes differently; compare the categories of their annotations"
    )


def classes_not_learned(seen: Evidence) -> str | None:
    """Objects are found, and their classes are not told apart even in training pictures."""
    if seen.train.fits[AS_LABELLED] < 0.6:
        return None
    split, measured = "training" if seen.val is None else "val", seen.measured
    matrix = measured.confusion(measured.metrics.analysis.threshold)[:-1, :-1]
    covered = matrix.sum(1)
    others = [int(of.sum() - of.max()) for of in (covered, seen.shares_of_train[1])]
    if min(others) < LEAST_OBJECTS or covered.sum() < 0.4 * measured.objects.sum():
        return None
    right, usual = np.trace(matrix) / covered.sum(), covered.max() / covered.sum()
    if _beyond_chance(matrix) > 0.15 or _beyond_chance(seen.shares_of_train[0]) > 0.6:
        return None
    return (
        f"objects are found, but not their classes: in {split} pictures {right:.0%} of the classes are right, and "
        f"always answering '{measured.truth.names[int(covered.argmax())]}' would give {usual:.0%}; labels that belong "
        f"to other boxes do this, or classes that look alike; look at the pictures in report.html"
    )


def _beyond_chance(matrix: Int[np.ndarray, "C C"]) -> float:
    """How far classes are right beyond always answering the most frequent one: 0 for that, 1 where all are right."""
    covered = matrix.sum(1)
    return float((np.trace(matrix) - covered.max()) / max(1, covered.sum() - covered.max()))


def labels_missing(seen: Evidence) -> str | None:
    """Much is found in training pictures where nothing is labelled, with confidence."""
    of_train = seen.train.confusion(seen.threshold)
    detections, on_nothing = int(of_train[:, :-1].sum()), int(of_train[-1, :-1].sum())
    found = of_train[:-1, :-1].sum() / max(1, of_train[:-1].sum())
    if detections < LEAST_OBJECTS or found < 0.6 or on_nothing < 0.3 * detections:
        return None
    beside = ""
    if seen.val is not None:
        of_val = seen.val.confusion(seen.threshold)
        if of_val[:, :-1].sum() < LEAST_OBJECTS:
            return None
        share = of_val[-1, :-1].sum() / max(1, of_val[:, :-1].sum())
        if share > 0.7 * on_nothing / detections:
            return None
        beside = f", in val {share:.0%}"
    return (
        f"in training pictures {on_nothing / detections:.0%} of what is found with a score of {seen.threshold:.2f} or "
        f"more lies where nothing is labelled{beside}: objects are probably not labelled there; the label review "
        "of opendetr serve RUN --data DATA shows where"
    )


def class_never_found(seen: Evidence) -> str | None:
    """A class that has enough objects is never found, while others are."""
    classes = seen.measured.metrics.analysis.classes
    never = [
        label for label, one in enumerate(classes)
        if one.best is None and one.objects >= LEAST_OBJECTS and seen.objects[label] >= LEAST_OBJECTS
    ]  # fmt: skip
    if not never or seen.measured.metrics.summary["AP50"] < 0.2:
        return None
    named = ", ".join(f"'{classes[label].name}'" for label in never[:MOST_NAMED])
    return (
        f"{named} {'is' if len(never) == 1 else 'are'} never found, though other classes are: check the labels of "
        f"{'this class' if len(never) == 1 else 'these classes'} in report.html, and try --balanced"
    )


def overfitting(seen: Evidence) -> str | None:
    """Training pictures are learned by heart."""
    if seen.val is None or seen.ap50 < 0.5:
        return None
    val = seen.val.metrics
    low, high = val.analysis.intervals.get("AP50", (1.0, 1.0))
    lowest = seen.train.metrics.analysis.intervals["AP50"][0]
    if lowest < high + 0.1 or seen.ap50 < val.summary["AP50"] + 0.25:
        return None
    return (
        f"the training pictures are learned by heart: AP50 is {seen.ap50:.2f} on a sample of them and "
        f"{val.summary['AP50']:.2f} on val (95 %: {low:.2f} to {high:.2f}); more than these "
        f"{counted(seen.pictures, 'picture')} help most, then --augment strong, then fewer --epochs"
    )


def nothing_found(seen: Evidence) -> str | None:
    """Nothing is learned, for no reason that another rule knows."""
    if seen.ap50 >= NOTHING:
        return None
    lines = [line["matched_iou"] for line in seen.history if line.get("matched_iou") is not None]
    best = seen.train.found.scores.max() if len(seen.train.found.scores) else 0.0
    iou = f"matched boxes have an IoU of {lines[-1]:.2f}, it was {lines[0]:.2f}" if lines else "no IoU is known"
    answer = "everything is answered 'no object'" if best < 0.1 else "what is found is wrong"
    return (
        f"nothing is learned after {seen.steps:,} steps: {answer} even in training pictures ({iou}); "
        f"opendetr doctor tries whether eight of the pictures can be learned at all"
    )


FAULTS: dict[str, Rule] = {  # a name in the log, and its rule
    "rate-too-high": rate_too_high,
    "loss-rises": loss_rises,
    "other-boxes": other_boxes,
    "classes-exchanged": classes_exchanged,
    "labels-missing": labels_missing,
}
UNLEARNED: dict[str, Rule] = {"rate-too-low": rate_too_low, "classes-not-learned": classes_not_learned}
GENERAL: dict[str, Rule] = {  # the first that applies, where none of those speaks
    "class-never-found": class_never_found,
    "overfitting": overfitting,
    "nothing-found": nothing_found,
}


def symptoms_of_learning(seen: Evidence) -> dict[str, str]:
    """What an evaluation shows: a sentence by the name of the symptom.

    Boxes are learned before classes, and much is learned late: of what is not learned nothing is said before `LATE`.
    """
    if seen.steps < FEWEST_STEPS or seen.progress < EARLY:
        return {}
    said = _spoken(FAULTS, seen)
    if seen.progress >= LATE and not seen.is_explained:
        said |= _spoken(UNLEARNED, seen)
        said = said or dict(itertools.islice(_spoken(GENERAL, seen).items(), 1))
    return said


def _spoken(rules: Mapping[str, Rule], seen: Evidence) -> dict[str, str]:
    return {name: sentence for name, rule in rules.items() if (sentence := rule(seen)) is not None}


def symptoms_of_data(
    train: DatasetIndex, val: DatasetIndex | None, upright: DetectionDataset, image_size: int
) -> dict[str, str]:
    """What is wrong before the first step: a sentence by the name of the symptom; reads at most `SAMPLE` pictures.

    `upright` are the pictures of `train` without augmentation; `image_size` is their shorter side in training.
    """
    found = {
        "uniform-pictures": _uniform_pictures(upright),
        "objects-too-small": _too_small(train, image_size),
        "class-not-labelled": None if val is None else _not_labelled(train, val),
    }
    return {name: sentence for name, sentence in found.items() if sentence is not None}


def _uniform_pictures(upright: DetectionDataset) -> str | None:
    read, uniform = 0, list[str]()
    for position in _from_all_over(len(upright)).tolist():
        try:
            image, _, record = upright[position]
        except UserError:  # which is said elsewhere
            continue
        read += 1
        if float(image.flatten(1).std(1).max()) < UNIFORM:
            uniform.append(record.path.name)
    if len(uniform) <= read / 2 or not uniform:
        return None
    return (
        f"{len(uniform)} of the {counted(read, 'training picture')} that were looked at are of one colour, first "
        f"{uniform[0]}: nothing can be learned from them; check that the files hold the pictures that were labelled"
    )


def _too_small(train: DatasetIndex, image_size: int) -> str | None:
    share = measure_objects(train).smallest_kind
    if share * image_size >= TOO_SMALL:
        return None
    return (
        f"the smallest kind of object is typically {share * image_size:.1f} pixels large at --image-size {image_size}, "
        f"too small to be found; train with --image-size {round(12 / share)}, or cut the pictures into parts"
    )


def _not_labelled(train: DatasetIndex, val: DatasetIndex) -> str | None:
    in_train, in_val = (np.bincount(index.labels, minlength=train.label_map.num_classes) for index in (train, val))
    unseen = np.flatnonzero((in_val > 0) & (in_train == 0)).tolist() if in_train.any() else []
    if not unseen:
        return None
    named = ", ".join(f"'{train.label_map.names[label]}' ({in_val[label]:,})" for label in unseen[:MOST_NAMED])
    more = f" and {len(unseen) - MOST_NAMED} more" if len(unseen) > MOST_NAMED else ""
    return (
        f"val has objects of classes that the training split never shows: {named}{more}; they cannot be learned: label "
        f"some, or leave the class out by --classes"
    )
