"""The queue of a label review: which labels of a split may be wrong, the likeliest first. No torch.

A model that has learned from many labels contradicts the few that are wrong, even those that it was trained on, as
long as it has not learned its pictures by heart (Northcutt et al. 2021, confident learning).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median
from typing import Any

NEAR = 0.5  # smallest IoU of an answer that is about an object, whatever its class
ALREADY = 0.3  # IoU with a labelled object from which on an answer without one is more and more likely its double
RARER = 4  # by which entries about which nothing speaks are
WORTH_ASKING = 0.2  # smallest suspicion of an entry of the queue


class LabelFault(StrEnum):
    """What may be wrong with the labels of a picture."""

    MISSING = "missing label"
    WRONG_CLASS = "wrong class"
    SHIFTED = "badly placed"
    SPURIOUS = "nothing there"


@dataclass(frozen=True)
class LabelEvidence:
    """What a model says about one object of the labels, or about one place without a label."""

    number: int | None  # of the object in its picture; None: no object is there
    query: int | None  # that speaks about it; None: none does
    label: int  # the class index that the query answers; of no query, the object's own
    score: float  # of that class, 0..1, the mean over the decoder layers
    given: float  # the same of the class that the object has, of no query the most, times IoU; 0 without an object
    iou: float  # of the query's box and the object's; where there is no object, of the nearest object
    box_cxcywh: tuple[float, float, float, float]  # the query's, of the last layer; of no query, the object's own
    given_label: int | None = None  # class index of the object; None: no object is there


@dataclass(frozen=True)
class Suspect:
    """An entry of the queue."""

    picture: int  # position in the split
    fault: LabelFault
    suspicion: float  # 0..1, comparable among those of its kind
    evidence: LabelEvidence

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"picture": self.picture, "fault": str(self.fault), "suspicion": self.suspicion, **asdict(self.evidence)}


def rank_suspects(pictures: Iterable[tuple[int, Sequence[LabelEvidence]]]) -> list[Suspect]:
    """What may be wrong with the labels of a split, the likeliest first; at most one entry per object.

    The kinds take turns: the likeliest of each, then the second likeliest of each. How rare such strong evidence is in
    the split can be compared between the kinds, and scores cannot: where hundreds of objects have no label, these would
    bury the few labels of a wrong class. Objects about which nothing speaks come a quarter as often: that says
    least, for models miss objects more often than people label what is not there.

    The suspicion is, for a missing label, the score of what is found there; for a wrong class, by how much the score of
    another class is higher; for a bad place, the score of the class, less the closer the boxes are, on the scale of
    what is usual for the class in this split; where no query speaks about an object, how usual it is that one does.

    Args:
        pictures: positions in the split, with the evidence of each picture.
    """
    every = [(position, one) for position, several in pictures for one in several]
    of_class: dict[int, list[LabelEvidence]] = defaultdict(list)
    for _, one in every:
        if one.given_label is not None:
            of_class[one.given_label].append(one)
    usual = {label: _Usual.of(several) for label, several in of_class.items()}
    found: list[Suspect] = []
    for position, one in every:
        fault, suspicion = _judge(one, usual.get(-1 if one.given_label is None else one.given_label))
        if suspicion >= WORTH_ASKING:
            found.append(Suspect(position, fault, suspicion, one))
    found.sort(key=lambda suspect: (-suspect.suspicion, suspect.picture, suspect.evidence.number or 0))
    places = Counter[LabelFault]()
    turns: list[tuple[int, Suspect]] = []
    for suspect in found:
        places[suspect.fault] += 1
        times = RARER if suspect.fault == LabelFault.SPURIOUS else 1
        turns.append((times * places[suspect.fault], suspect))
    return [suspect for _, suspect in sorted(turns, key=lambda turn: turn[0])]


@dataclass(frozen=True)
class _Usual:
    """What is usual for the objects of a class."""

    iou: float  # of a query's box and the object's, the median
    spoken_of: float  # the share of objects about which a query speaks

    @classmethod
    def of(cls, several: Sequence[LabelEvidence]) -> "_Usual":
        ious = [one.iou for one in several if one.query is not None]
        return cls(median(ious) if ious else 0.0, len(ious) / len(several))


def _judge(one: LabelEvidence, usual: _Usual | None) -> tuple[LabelFault, float]:
    if usual is None:
        is_new = min(1.0, (1 - one.iou) / (1 - ALREADY))
        return LabelFault.MISSING, one.score * is_new
    if one.query is None:
        return LabelFault.SPURIOUS, usual.spoken_of**2 * (1 - one.given)
    wrong = one.score - one.given
    lacking = (usual.iou - one.iou) / max(usual.iou - ALREADY, 1e-6)
    shifted = one.given * min(1.0, max(0.0, lacking))
    return (LabelFault.WRONG_CLASS, wrong) if wrong > shifted else (LabelFault.SHIFTED, shifted)
