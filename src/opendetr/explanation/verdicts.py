"""What became of an object or a detection: a case, the facts that belong to it, and both as one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass

# The page says the same in its languages (`verdict.*` in serving/web/words), but for `finds`, which it never shows.
SENTENCES = {
    # of a true object
    "found": "found by query {query}: '{name}' with score {score}, IoU {iou}",
    "lost": "query {query} had it after layer {layer} (score {score_there}, IoU {iou_there}) and lost it at layer "
    "{next_layer}: it ends with '{answer}' with score {score}, IoU {iou}",
    "not_near": "no query near it: the nearest, query {query}, overlaps it with IoU {iou}",
    "low_score": "right answer, low score: query {query} (IoU {iou}) says '{answer}' with score {score}, below the "
    "threshold of {threshold}",
    "low_score_other_taken": "right answer, low score: query {query} (IoU {iou}) says '{answer}' with score {score}, "
    "below the threshold of {threshold}; query {other_query} ('{other_answer}' with score {other_score}) would do, "
    "but it finds number {number}",
    "taken": "query taken by a neighbour: query {query} overlaps it with IoU {iou} but answers '{name}' number "
    "{number}",
    "wrong_class": "right box, wrong class: query {query} (IoU {iou}) says '{answer}' with score {score}",
    "silent": "near, but all its scores are low: query {query} has IoU {iou}, and its best score is {score}, for "
    "'{answer}'",
    # of a detection
    "finds": "finds '{name}' number {number}, IoU {iou}",
    "double": "a double: it overlaps '{name}' number {number} with IoU {iou}, which query {finder} finds",
    "double_finds_another": "a double: it overlaps '{name}' number {number} with IoU {iou}, but query {query} finds "
    "another",
    "another_class": "another class: it overlaps '{name}' number {number} with IoU {iou}",
    "badly_placed": "badly placed: it overlaps '{name}' number {number} with IoU {iou}; {least} is needed",
    "another_class_badly_placed": "another class, badly placed: it overlaps '{name}' number {number} with IoU {iou}; "
    "{least} is needed",
    "background": "background: no object overlaps it with IoU {least} or more",
}


@dataclass(frozen=True)
class Verdict:
    """A case of `SENTENCES`, and what its sentence names, as it is written there."""

    case: str
    facts: Mapping[str, str]

    @classmethod
    def of(cls, case: str, **facts: int | float | str) -> "Verdict":
        """A case with its facts; scores and overlaps get two digits."""
        written = {name: f"{fact:.2f}" if isinstance(fact, float) else str(fact) for name, fact in facts.items()}
        return cls(case, written)

    @property
    def sentence(self) -> str:
        """The case in words, in English."""
        return SENTENCES[self.case].format_map(self.facts)
