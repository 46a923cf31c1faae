"""Which query is matched to which object, its cost, and why an object was missed. Pure functions of an output."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.detections import Threshold, reaches
from opendetr.explanation.verdicts import Verdict
from opendetr.loss.matcher import CostWeights, match, matching_cost
from opendetr.scoring import Scoring
from opendetr.structures import DetrOutput, Target, Targets

NEAR = 0.5  # smallest IoU of a box that finds an object, as in AP50
MEANS = 0.1  # smallest score below the threshold that still counts as an answer
RUNNERS_UP = 3


class Reason(StrEnum):
    """Why an object was missed."""

    LOST = "lost at a later layer"
    NOT_NEAR = "no query near it"
    WRONG_CLASS = "right box, wrong class"
    LOW_SCORE = "right answer, score below the threshold"
    SILENT = "query near it, but all its scores are low"
    TAKEN = "query taken by a neighbour"


@dataclass(frozen=True)
class Candidate:
    """A query as a candidate for an object, in the last decoder layer."""

    query: int
    class_cost: float  # the weighted terms of the matching cost (equation 1); lower fits better
    l1_cost: float
    giou_cost: float
    iou: float
    answer: str  # its best class
    score: float  # of that class

    @property
    def cost(self) -> float:
        """What the matcher minimises."""
        return self.class_cost + self.l1_cost + self.giou_cost


@dataclass(frozen=True)
class ObjectMatch:
    """One true object: its matched query, and whether it was found."""

    name: str
    box_cxcywh: tuple[float, float, float, float]  # 0..1 of the picture
    taken_by: Candidate | None  # by Hungarian matching; None where objects outnumber queries
    runners_up: list[Candidate]  # the cheapest other queries
    found_by: int | None  # the query that detects it at the threshold
    reason: Reason | None  # why it was missed; None where it was found
    verdict: Verdict  # what became of it

    @property
    def sentence(self) -> str:
        """What became of it, in words."""
        return self.verdict.sentence


def explain_matching(
    output: DetrOutput,
    target: Target,
    scoring: Scoring,
    costs: CostWeights,
    names: Sequence[str],
    threshold: Threshold,
) -> list[ObjectMatch]:
    """Say for every true object of one picture (B = 1) which query is matched to it, and why it was missed, if it was.

    An object is found where a query has its class, at least the threshold's score and a box of IoU 0.5 or more, and no
    better detection of another object uses that query.
    """
    targets = Targets.stack([target])
    last = DetrOutput(output.logits[-1:], output.boxes_cxcywh[-1:])
    pairs = match(last, targets, scoring, costs)
    taken = dict(zip(pairs.targets.tolist(), pairs.queries.tolist()))
    parts = [CostWeights(costs.class_, 0, 0), CostWeights(0, costs.l1, 0), CostWeights(0, 0, costs.giou)]
    terms = torch.stack([matching_cost(last, targets, scoring, part)[0, 0] for part in parts], -1)  # [T, Q, 3]
    history = _History.of(output, target, scoring)
    found = history.found(threshold, layer=-1)
    matches = []
    for number, label in enumerate(target.labels.tolist()):
        cheapest_first = terms[number].sum(-1).argsort(stable=True).tolist()
        candidates = [_candidate(query, terms[number], history, number, names) for query in cheapest_first]
        own, query = taken.get(number), found.get(number)
        if query is None:
            reason, verdict = _why_missed(history, number, names, threshold, {q: o for o, q in found.items()})
        else:
            score, iou = float(history.scores[-1, query, label]), float(history.ious[-1, query, number])
            reason, verdict = None, Verdict.of("found", query=query, name=names[label], score=score, iou=iou)
        box = tuple(target.boxes_cxcywh[number].tolist())
        taken_by = next((candidate for candidate in candidates if candidate.query == own), None)
        others = [candidate for candidate in candidates if candidate.query != own][:RUNNERS_UP]
        matches.append(ObjectMatch(names[label], box, taken_by, others, query, reason, verdict))
    return matches


@dataclass(frozen=True)
class _History:
    """Scores and overlaps of all decoder layers."""

    labels: Tensor  # [T]
    scores: Float[Tensor, "L Q C"]
    given: Bool[Tensor, "L Q C"]  # whether the query answers with that class: softmax models answer with the best only
    ious: Float[Tensor, "L Q T"]

    @classmethod
    def of(cls, output: DetrOutput, target: Target, scoring: Scoring) -> "_History":
        boxes = cxcywh_to_xyxy(output.boxes_cxcywh[:, 0].detach().float())
        true = cxcywh_to_xyxy(target.boxes_cxcywh.float())
        scores = scoring.probabilities(output.logits[:, 0].detach().float())
        given = torch.zeros_like(scores, dtype=torch.bool)
        for layer, logits in enumerate(output.logits.detach().float()):
            answers = scoring.answers(logits)
            given[layer, answers.queries[0], answers.labels[0]] = True
        return cls(target.labels, scores, given, box_iou(boxes[:, :, None], true[None, None]))

    def right(self, threshold: Threshold) -> Tensor:
        """Where a query of a layer has an object's class, enough score and enough IoU: [L, Q, T]."""
        answers = reaches(self.scores, torch.arange(self.scores.shape[-1]), threshold) & self.given
        return answers[:, :, self.labels] & (self.ious >= NEAR)

    def found(self, threshold: Threshold, layer: int) -> dict[int, int]:
        """Object -> query that detects it in a layer; the best scores choose first, each its best object."""
        right, found = self.right(threshold)[layer], dict[int, int]()
        for query in self.scores[layer].amax(-1).argsort(descending=True, stable=True).tolist():
            free = [number for number in torch.where(right[query])[0].tolist() if number not in found]
            if free:
                found[max(free, key=lambda number: float(self.ious[layer, query, number]))] = query
        return found


def _candidate(query: int, terms: Tensor, history: _History, number: int, names: Sequence[str]) -> Candidate:
    score, label = history.scores[-1, query].max(-1)
    class_cost, l1_cost, giou_cost = terms[query].tolist()
    iou = float(history.ious[-1, query, number])
    return Candidate(query, class_cost, l1_cost, giou_cost, iou, names[int(label)], float(score))


def _why_missed(
    history: _History, number: int, names: Sequence[str], threshold: Threshold, owner: dict[int, int]
) -> tuple[Reason, Verdict]:
    """The reason and its facts; `owner` is the object that a query already detects."""
    label = int(history.labels[number])
    ious = history.ious[-1, :, number]
    best_scores, best_labels = history.scores[-1].max(-1)
    reached = reaches(best_scores, best_labels, threshold)

    def facts(query: int) -> dict[str, int | float | str]:
        answer, score = names[int(best_labels[query])], float(best_scores[query])
        return {"query": query, "iou": float(ious[query]), "answer": answer, "score": score}

    lost = _lost(history, number, threshold, owner)
    if lost is not None:
        layer, query = lost
        there = {"score_there": float(history.scores[layer, query, label])}
        there["iou_there"] = float(history.ious[layer, query, number])
        return Reason.LOST, Verdict.of("lost", **facts(query), layer=layer + 1, next_layer=layer + 2, **there)
    near = torch.where(ious >= NEAR)[0].tolist()
    if not near:
        return Reason.NOT_NEAR, Verdict.of("not_near", query=int(ious.argmax()), iou=float(ious.max()))
    free = sorted((query for query in near if query not in owner), key=lambda query: -float(best_scores[query]))
    owned = [query for query in near if query in owner]
    right_for_both = [query for query in owned if history.right(threshold)[-1, query, number]]
    answering = [query for query in free if bool(reached[query]) or float(best_scores[query]) >= MEANS]
    right = [query for query in answering if int(best_labels[query]) == label]
    wrong = [query for query in answering if int(best_labels[query]) != label]
    shown_wrong = bool(wrong) and bool(reached[wrong[0]])
    if right and not shown_wrong:
        least = threshold if isinstance(threshold, int | float) else threshold[label]
        low = facts(right[0]) | {"threshold": f"{least:.3g}"}
        if not right_for_both:
            return Reason.LOW_SCORE, Verdict.of("low_score", **low)
        other = max(right_for_both, key=lambda query: float(ious[query]))
        theirs = {f"other_{name}": value for name, value in facts(other).items() if name != "iou"}
        return Reason.LOW_SCORE, Verdict.of("low_score_other_taken", **low, **theirs, number=owner[other] + 1)
    if owned and not shown_wrong:
        query = max(owned, key=lambda query: float(ious[query]))
        theirs = {"name": names[int(history.labels[owner[query]])], "number": owner[query] + 1}
        return Reason.TAKEN, Verdict.of("taken", query=query, iou=float(ious[query]), **theirs)
    if wrong:
        return Reason.WRONG_CLASS, Verdict.of("wrong_class", **facts(wrong[0]))
    return Reason.SILENT, Verdict.of("silent", **facts(max(near, key=lambda query: float(ious[query]))))


def _lost(history: _History, number: int, threshold: Threshold, owner: dict[int, int]) -> tuple[int, int] | None:
    """The latest layer before the last that found the object, and the query; None where none did.

    A query that fitted another object better at that layer does not count.
    """
    for layer in reversed(range(len(history.ious) - 1)):
        query = history.found(threshold, layer).get(number)
        if query is not None and query not in owner:
            fits = history.ious[layer, query] * history.right(threshold)[layer, query]
            if float(fits[number]) == float(fits.max()):
                return layer, query
    return None
