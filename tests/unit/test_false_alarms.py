"""What a detection is, on answers made for the purpose: one test per kind."""

import pytest
import torch

from opendetr.explanation.false_alarms import FalseAlarm, explain_detections, letter_of
from opendetr.explanation.matching import explain_matching
from opendetr.labels import LabelMap
from opendetr.loss.matcher import CostWeights
from opendetr.scoring import FocalScoring, SoftmaxScoring
from opendetr.structures import DetrOutput, Target

LABELS = LabelMap((1, 2, None), ("cat", "dog", "N/A"))
HERE, NEARBY, TOUCHING, FAR = [0.3, 0.3, 0.2, 0.2], [0.33, 0.3, 0.2, 0.2], [0.42, 0.3, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]
CAT, WEAKER_CAT, DOG = (0.9, 0.01, 0.01), (0.8, 0.01, 0.01), (0.01, 0.85, 0.01)
UNUSED, NOTHING = (0.01, 0.01, 0.9), (0.01, 0.01, 0.01)
FOCAL = FocalScoring()


def explain(answers, *objects, threshold=0.5, scoring=FOCAL, crowds=None):
    scores = torch.tensor([scores for scores, _ in answers])
    rest = 1 - scores.sum(-1, keepdim=True)  # of a softmax: no object
    logits = scores.logit() if scoring is FOCAL else torch.cat([scores, rest], -1).log()
    output = DetrOutput(logits[None, None], torch.tensor([[[box for _, box in answers]]]))
    boxes = torch.tensor([box for _, box in objects]).reshape(-1, 4)
    target = Target(torch.tensor([label for label, _ in objects]).long(), boxes)
    matches = explain_matching(output, target, scoring, CostWeights(2.0), LABELS.names, threshold)
    return explain_detections(output, target, matches, scoring, LABELS, threshold, crowds)


def test_a_detection_that_finds_its_object_is_none():
    (found,) = explain([(CAT, NEARBY), (NOTHING, FAR)], (0, HERE))
    assert (found.query, found.name, found.finds, found.alarm) == (0, "cat", 0, None)
    assert found.sentence == "finds 'cat' number 1, IoU 0.74"


def test_a_false_alarm_in_a_crowd_of_its_class_is_none():
    answers = [(CAT, HERE), (WEAKER_CAT, FAR), (DOG, FAR)]
    for region, left in (([0.85, 0.8, 0.2, 0.4], [0, 2]), ([0.9, 0.8, 0.1, 0.1], [0, 1, 2])):  # 1 and 0 of FAR in it
        crowds = Target(torch.tensor([0]), torch.tensor([region]))
        assert sorted(found.query for found in explain(answers, (0, HERE), crowds=crowds)) == left


@pytest.mark.parametrize(
    ("scores", "box", "kind", "sentence"),
    [
        (
            WEAKER_CAT,
            NEARBY,
            FalseAlarm.DOUBLE,
            "a double: it overlaps 'cat' number 1 with IoU 0.74, which query 0",
        ),
        (DOG, NEARBY, FalseAlarm.WRONG_CLASS, "another class: it overlaps 'cat' number 1 with IoU 0.74"),
        (
            WEAKER_CAT,
            TOUCHING,
            FalseAlarm.BADLY_PLACED,
            "badly placed: it overlaps 'cat' number 1 with IoU 0.25; 0.5",
        ),
        (DOG, TOUCHING, FalseAlarm.WRONG_AND_BADLY_PLACED, "another class, badly placed: it overlaps 'cat' number 1"),
        (DOG, FAR, FalseAlarm.BACKGROUND, "background: no object overlaps it with IoU 0.1 or more"),
    ],
)
@pytest.mark.parametrize("scoring", [FOCAL, SoftmaxScoring()])
def test_the_kinds_of_false_alarms(scores, box, kind, sentence, scoring):
    right, wrong = explain([(CAT, HERE), (scores, box)], (0, HERE), scoring=scoring)
    assert (right.alarm, wrong.alarm, wrong.finds) == (None, kind, None)
    assert wrong.sentence.startswith(sentence)


def test_in_a_picture_without_objects_everything_is_background():
    (alarm,) = explain([(CAT, HERE), (NOTHING, FAR)])
    assert alarm.alarm == FalseAlarm.BACKGROUND


def test_a_second_answer_of_one_query_is_a_false_alarm_of_its_own():
    """A sigmoid per class: query 0 says cat and dog about the same cat."""
    both = explain([((0.9, 0.7, 0.01), HERE), (NOTHING, FAR)], (0, HERE))
    assert [(found.query, found.name, found.alarm) for found in both] == [
        (0, "cat", None), (0, "dog", FalseAlarm.WRONG_CLASS),
    ]  # fmt: skip


def test_the_best_come_first_and_weak_or_unused_answers_do_not_come():
    found = explain([(WEAKER_CAT, FAR), (UNUSED, HERE), (CAT, HERE), ((0.4, 0.01, 0.01), HERE)], (0, HERE))
    assert [detection.query for detection in found] == [2, 0]


def test_letters_do_not_end():
    assert [letter_of(number) for number in (0, 25, 26, 53)] == ["A", "Z", "A2", "B3"]
