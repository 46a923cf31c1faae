"""The queue of a label review, on answers made for the purpose."""

import pytest
import torch

from opendetr.explanation.label_faults import label_evidence
from opendetr.explanation.suspects import WORTH_ASKING, LabelEvidence, LabelFault, rank_suspects
from opendetr.scoring import FocalScoring, SoftmaxScoring
from opendetr.structures import DetrOutput, Target

HERE, NEARBY, BESIDE, FAR = [0.3, 0.3, 0.2, 0.2], [0.31, 0.3, 0.2, 0.2], [0.42, 0.3, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]
CAT, DOG, NOTHING = (0.9, 0.01), (0.01, 0.9), (0.01, 0.01)


def answers(*layers):
    """One layer after the other: (scores of cat and dog, box) of every query."""
    logits = torch.tensor([[scores for scores, _ in layer] for layer in layers]).logit()
    return DetrOutput(logits[:, None], torch.tensor([[box for _, box in layer] for layer in layers])[:, None])


def target(*objects):
    return Target(
        torch.tensor([label for label, _ in objects], dtype=torch.long),
        torch.tensor([box for _, box in objects]).view(-1, 4),
    )


def suspects(output, *objects, others=40):
    """The queue of a split with this picture, and others in which the same answers are right."""
    right = label_evidence(answers([(CAT, NEARBY), (DOG, FAR)]), target((0, HERE), (1, FAR)), FocalScoring(), target())
    pictures = [(0, label_evidence(output, target(*objects), FocalScoring(), target()))]
    found = rank_suspects([*pictures, *((number, right) for number in range(1, others + 1))])
    assert all(one.picture == 0 for one in found)
    return [(one.fault, one.evidence.number) for one in found]


def test_right_labels_are_not_suspected():
    assert suspects(answers([(CAT, NEARBY), (DOG, FAR)]), (0, HERE), (1, FAR)) == []


def test_a_missing_label():
    assert suspects(answers([(CAT, NEARBY), (DOG, FAR)]), (0, HERE)) == [(LabelFault.MISSING, None)]


def test_a_double_of_a_labelled_object_is_no_missing_label():
    assert suspects(answers([(CAT, NEARBY), (CAT, NEARBY), (DOG, FAR)]), (0, HERE), (1, FAR)) == []


def test_a_wrong_class():
    assert suspects(answers([(CAT, NEARBY), (DOG, FAR)]), (1, HERE), (1, FAR)) == [(LabelFault.WRONG_CLASS, 0)]


def test_a_badly_placed_box_is_one_entry():
    assert suspects(answers([(CAT, BESIDE), (DOG, FAR)]), (0, HERE), (1, FAR)) == [(LabelFault.SHIFTED, 0)]


def test_a_label_of_nothing():
    assert suspects(answers([(DOG, FAR), (NOTHING, HERE)]), (1, FAR), (0, BESIDE)) == [(LabelFault.SPURIOUS, 1)]


def test_layers_that_disagree_weaken_an_answer():
    sure = label_evidence(answers([(CAT, HERE)], [(CAT, HERE)]), target((1, HERE)), FocalScoring(), target())
    late = label_evidence(answers([(NOTHING, HERE)], [(CAT, HERE)]), target((1, HERE)), FocalScoring(), target())
    assert sure[0].score == pytest.approx(0.9)
    assert late[0].score == pytest.approx((0.01 + 0.9) / 2)


def test_each_query_speaks_about_one_object():
    """Of two labels at one place, one has the only query, and the other has none."""
    found = label_evidence(answers([(CAT, HERE), (DOG, FAR)]), target((0, HERE), (0, NEARBY)), FocalScoring(), target())
    assert [one.query for one in found] == [0, None, 1]


@pytest.mark.parametrize("scoring", [FocalScoring(), SoftmaxScoring()])
def test_pictures_without_labels_and_more_labels_than_queries(scoring):
    classes = scoring.num_logits(2)
    output = DetrOutput(
        torch.zeros(2, 1, 3, classes), torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    )
    assert len(label_evidence(output, target(), scoring, target())) == 3
    many = target(*[(0, [0.1 * (1 + number), 0.5, 0.05, 0.3]) for number in range(5)])
    assert [one.number for one in label_evidence(output, many, scoring, target())][:5] == [0, 1, 2, 3, 4]


def evidence(number, query, given_label, label, score, given=0.0, iou=0.9):
    return LabelEvidence(number, query, label, score, given, iou, (0.5, 0.5, 0.1, 0.1), given_label)


def test_the_kinds_take_turns():
    """Fifty unlabelled objects do not bury one wrong class, whose score is lower."""
    unlabelled = [evidence(None, number, None, 0, 0.9 - number / 100, iou=0.0) for number in range(50)]
    wrong = evidence(0, 60, 1, 0, 0.5, given=0.1)
    right = [evidence(number, 60 + number, 1, 1, 0.8, given=0.8) for number in range(1, 20)]
    queue = rank_suspects([(0, unlabelled), (1, [wrong, *right])])
    assert [one.fault for one in queue[:3]] == [LabelFault.MISSING, LabelFault.WRONG_CLASS, LabelFault.MISSING]
    scores = [one.suspicion for one in queue if one.fault == LabelFault.MISSING]
    assert scores == sorted(scores, reverse=True)
    assert min(one.suspicion for one in queue) >= WORTH_ASKING


def test_the_queue_does_not_depend_on_the_order_of_the_pictures():
    pictures = [
        (0, [evidence(0, 1, 0, 1, 0.7, 0.1)]),
        (1, [evidence(None, 2, None, 0, 0.6, iou=0.0)]),
        (2, [evidence(0, 1, 0, 0, 0.9, 0.9, 0.4)]),
    ]
    assert rank_suspects(pictures) == rank_suspects(pictures[::-1])


def test_what_is_found_in_a_crowd_lacks_no_label():
    output = answers([(CAT, HERE), (DOG, FAR)])
    crowd = target((0, [0.35, 0.3, 0.2, 0.2]))  # three quarters of HERE lie in it
    assert [one.label for one in label_evidence(output, target(), FocalScoring(), crowd)] == [1]
    labelled = label_evidence(output, target((0, HERE)), FocalScoring(), crowd)
    assert [one.number for one in labelled] == [0, None]
