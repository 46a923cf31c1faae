"""Why an object was missed, on answers made for the purpose: one test per reason."""

import pytest
import torch

from opendetr.explanation.matching import Reason, explain_matching
from opendetr.loss.matcher import CostWeights, match
from opendetr.scoring import FocalScoring, SoftmaxScoring
from opendetr.structures import DetrOutput, Target, Targets

NAMES = ("cat", "dog")
HERE, NEARBY, FAR = [0.3, 0.3, 0.2, 0.2], [0.33, 0.3, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]
CAT, DOG, NOTHING = (0.9, 0.01), (0.01, 0.9), (0.01, 0.01)


def answers(*layers):
    """One layer after the other: (scores of cat and dog, box) of every query."""
    logits = torch.tensor([[scores for scores, _ in layer] for layer in layers]).logit()
    return DetrOutput(logits[:, None], torch.tensor([[box for _, box in layer] for layer in layers])[:, None])


def explain(output, *objects, threshold=0.5):
    target = Target(torch.tensor([label for label, _ in objects]), torch.tensor([box for _, box in objects]))
    return explain_matching(output, target, FocalScoring(), CostWeights(2.0), NAMES, threshold)


def test_found():
    (found,) = explain(answers([(CAT, HERE), (NOTHING, FAR)]), (0, HERE))
    assert (found.found_by, found.reason) == (0, None)
    assert "found by query 0: 'cat' with score 0.90, IoU 1.00" in found.sentence


def test_no_query_is_near():
    (missed,) = explain(answers([(CAT, FAR), (NOTHING, [0.45, 0.3, 0.2, 0.2])]), (0, HERE))
    assert missed.reason == Reason.NOT_NEAR
    assert "the nearest, query 1, overlaps it with IoU 0.14" in missed.sentence


def test_right_box_wrong_class():
    (missed,) = explain(answers([(DOG, NEARBY), (CAT, FAR)]), (0, HERE))
    assert missed.reason == Reason.WRONG_CLASS
    assert "query 0 (IoU 0.74) says 'dog' with score 0.90" in missed.sentence


def test_right_answer_low_score():
    (missed,) = explain(answers([((0.3, 0.1), NEARBY), (NOTHING, FAR)]), (0, HERE))
    assert missed.reason == Reason.LOW_SCORE
    assert "score 0.30, below the threshold of 0.5" in missed.sentence
    (found,) = explain(answers([((0.3, 0.1), NEARBY), (NOTHING, FAR)]), (0, HERE), threshold=0.25)
    assert found.reason is None


def test_a_wrong_class_that_is_shown_is_the_reason_rather_than_a_low_score():
    (missed,) = explain(answers([(DOG, HERE), ((0.3, 0.1), NEARBY)]), (0, HERE))
    assert missed.reason == Reason.WRONG_CLASS


def test_the_query_is_taken_by_a_neighbour():
    first, second = explain(answers([(CAT, HERE), (NOTHING, FAR)]), (0, HERE), (0, NEARBY))
    assert first.reason is None
    assert second.reason == Reason.TAKEN
    assert "query 0 overlaps it with IoU 0.74 but answers 'cat' number 1" in second.sentence


def test_a_silent_query_beside_the_taken_one_is_no_answer():
    _, second = explain(answers([(CAT, HERE), (NOTHING, NEARBY)]), (0, HERE), (0, NEARBY))
    assert second.reason == Reason.TAKEN
    _, second = explain(answers([(CAT, HERE), ((0.3, 0.1), NEARBY)]), (0, HERE), (0, NEARBY))
    assert second.reason == Reason.LOW_SCORE
    assert "query 1 (IoU 1.00) says 'cat' with score 0.30" in second.sentence
    _, second = explain(answers([(CAT, HERE), (DOG, NEARBY)]), (0, HERE), (0, NEARBY))
    assert second.reason == Reason.WRONG_CLASS


def test_a_query_that_is_near_but_silent():
    for scores in ((0.01, 0.02), (0.02, 0.01)):
        (missed,) = explain(answers([(scores, HERE)]), (0, HERE))
        assert missed.reason == Reason.SILENT
        assert "near, but all its scores are low: query 0 has IoU 1.00, and its best score is 0.02" in missed.sentence


@pytest.mark.parametrize("scores", [(0.01, 0.4), (0.2, 0.45)])
def test_a_right_class_that_is_not_the_best_is_no_right_answer(scores):
    (missed,) = explain(answers([(scores, HERE)]), (0, HERE))
    assert missed.reason == Reason.WRONG_CLASS
    assert f"query 0 (IoU 1.00) says 'dog' with score {scores[1]:.2f}" in missed.sentence


def test_a_silenced_duplicate_of_a_neighbour_is_not_lost():
    """Query 1 had nothing but a second answer about the first object: the second was never found."""
    first, second = explain(answers([(CAT, HERE), (CAT, HERE)], [(CAT, HERE), (NOTHING, HERE)]), (0, HERE), (0, NEARBY))
    assert first.reason is None
    assert second.reason == Reason.TAKEN


def test_what_two_queries_had_at_one_layer_is_lost_once():
    """A second query on the object that another one keeps loses nothing; on the one that nobody keeps it does."""
    before, after = [(CAT, HERE), (CAT, NEARBY)], [(CAT, HERE), (NOTHING, NEARBY)]
    first, second = explain(answers(before, after), (0, HERE), (0, NEARBY))
    assert (first.reason, second.reason) == (None, Reason.LOST)


@pytest.mark.parametrize("end", [(NOTHING, HERE), (CAT, FAR), (DOG, HERE)])
def test_lost_at_a_later_layer(end):
    (missed,) = explain(answers([(CAT, FAR)], [(CAT, HERE)], [end]), (0, HERE))
    assert missed.reason == Reason.LOST
    assert "query 0 had it after layer 2 (score 0.90, IoU 1.00) and lost it at layer 3" in missed.sentence


@pytest.mark.parametrize("scoring", [FocalScoring(), SoftmaxScoring()])
def test_costs_are_the_matchers(random_output, random_targets, scoring):
    output = random_output(2, 1, 8, classes=4 if isinstance(scoring, SoftmaxScoring) else 3)
    targets: Targets = random_targets(3)
    costs = CostWeights(2.0, 5.0, 2.0)
    names = ("a", "b", "c", "d")
    found = explain_matching(output, Target(targets.labels[0], targets.boxes_cxcywh[0]), scoring, costs, names, 0.5)
    last = DetrOutput(output.logits[-1:], output.boxes_cxcywh[-1:])
    expected = match(last, targets, scoring, costs)
    assert {n: one.taken_by.query for n, one in enumerate(found)} == dict(
        zip(expected.targets.tolist(), expected.queries.tolist())
    )
    for one in found:
        assert [other.cost for other in one.runners_up] == sorted(other.cost for other in one.runners_up)
        assert one.taken_by.query not in [other.query for other in one.runners_up]
        assert len(one.runners_up) == 3


def test_a_softmax_model_answers_with_its_best_class_only():
    logits = torch.tensor([0.35, 0.45, 0.2]).log()[None, None, None]  # cat, dog, nothing
    output = DetrOutput(logits, torch.tensor(HERE)[None, None, None])
    target = Target(torch.tensor([0]), torch.tensor([HERE]))
    (missed,) = explain_matching(output, target, SoftmaxScoring(), CostWeights(), NAMES, 0.3)
    assert missed.reason == Reason.WRONG_CLASS


def test_more_objects_than_queries():
    found = explain(answers([(CAT, HERE)]), (0, HERE), (0, FAR))
    assert [one.taken_by is None for one in found] == [False, True]
    assert found[1].reason == Reason.NOT_NEAR
