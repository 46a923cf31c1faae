import math

import pytest
import torch
from torch.nn import functional as F

from opendetr.scoring import FocalScoring, Scoring, SoftmaxScoring

L, B, Q, C, T = 2, 3, 5, 4, 3


@pytest.fixture
def logits():
    return torch.randn(L, B, Q, C + 1, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize(("scoring", "width"), [(SoftmaxScoring(), C + 1), (FocalScoring(), C)])
def test_each_is_a_scoring(scoring, width):
    assert isinstance(scoring, Scoring)
    assert scoring.num_logits(C) == width
    assert scoring.num_classes(width) == C


def test_the_matching_cost_is_minus_the_probability_of_the_class(logits):
    labels = torch.randint(C, (B, T), generator=torch.Generator().manual_seed(1))
    cost = SoftmaxScoring().matching_cost(logits, labels)
    for layer, image, target, query in torch.cartesian_prod(*map(torch.arange, (L, B, T, Q))).tolist():
        probability = logits[layer, image, query].softmax(0)[labels[image, target]]
        assert float(cost[layer, image, target, query]) == pytest.approx(-float(probability), abs=1e-6)


def test_the_cost_of_no_targets_is_empty(logits):
    assert SoftmaxScoring().matching_cost(logits, torch.zeros(B, 0, dtype=torch.long)).shape == (L, B, 0, Q)


@pytest.mark.parametrize("no_object_weight", [0.1, 1.0, 0.0])
def test_loss_over_normaliser_is_weighted_cross_entropy(logits, no_object_weight):
    scoring = SoftmaxScoring(no_object_weight)
    classes = torch.randint(C + 1, (L, B, Q), generator=torch.Generator().manual_seed(2))
    weight = torch.tensor([1.0] * C + [no_object_weight])
    for layer in range(L):
        matched = (classes[layer] < C).sum().float()
        expected = F.cross_entropy(logits[layer].flatten(0, 1), classes[layer].flatten(), weight)
        loss = scoring.loss(logits, classes, torch.rand(L, B, Q))[layer] / scoring.normaliser(
            matched, torch.tensor(float(B * Q))
        )
        torch.testing.assert_close(loss, expected)


def test_the_answer_is_the_most_probable_class_and_never_no_object(logits):
    sure_of_nothing = logits[0].clone()
    sure_of_nothing[..., -1] = 100
    for answer in (logits[0], sure_of_nothing):
        scores, labels, queries = SoftmaxScoring().answers(answer)
        probabilities = answer.softmax(-1)
        assert torch.equal(queries, torch.arange(Q).expand(B, -1))
        assert ((scores >= 0) & (scores <= 1)).all()
        assert torch.equal(labels, answer[..., :C].argmax(-1))
        assert torch.equal(scores, probabilities.gather(-1, labels[..., None])[..., 0])


def test_a_query_finds_something_unless_no_object_is_its_most_probable_class(logits):
    found = SoftmaxScoring().finds_something(logits)
    assert torch.equal(found, logits[..., :C].amax(-1) > logits[..., C])
    assert 0 < found.sum() < found.numel()


# --- focal ---


def test_the_focal_cost_is_the_change_of_the_focal_loss(logits):
    labels = torch.randint(C, (B, T), generator=torch.Generator().manual_seed(1))
    cost = FocalScoring().matching_cost(logits[..., :C], labels)
    for layer, image, target, query in torch.cartesian_prod(*map(torch.arange, (L, B, T, Q))).tolist():
        p = float(logits[layer, image, query, labels[image, target]].double().sigmoid())
        expected = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
        assert float(cost[layer, image, target, query]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_the_focal_loss_asks_matched_queries_for_their_iou(logits, power):
    scoring, logits = FocalScoring(iou_power=power), logits[..., :C].double()
    classes = torch.randint(C + 1, (L, B, Q), generator=torch.Generator().manual_seed(2))
    ious = torch.rand(L, B, Q, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    expected = torch.zeros(L, dtype=torch.double)
    for layer, image, query, c in torch.cartesian_prod(*map(torch.arange, (L, B, Q, C))).tolist():
        p, q = logits[layer, image, query, c].sigmoid(), ious[layer, image, query] ** power
        if classes[layer, image, query] == c:
            expected[layer] -= q * p.log() + (1 - q) * (1 - p).log()
        else:
            expected[layer] -= 0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(scoring.loss(logits, classes, ious), expected)


def test_the_focal_loss_is_least_where_the_score_is_the_iou():
    classes, ious = torch.zeros(1, 1, 1, dtype=torch.long), torch.full((1, 1, 1), 0.7)
    at = {
        score: float(FocalScoring().loss(torch.tensor([[[[score]]]]).logit(), classes, ious))
        for score in (0.6, 0.7, 0.8)
    }
    assert at[0.7] < min(at[0.6], at[0.8])


def test_focal_answers_are_the_best_pairs_of_query_and_class(logits):
    scores, labels, queries = FocalScoring().answers(logits[0][..., :C])
    probabilities = logits[0][..., :C].sigmoid()
    for image in range(B):
        assert torch.equal(scores[image], probabilities[image].flatten().sort(descending=True).values[:Q])
        assert torch.equal(scores[image], probabilities[image, queries[image], labels[image]])
        assert len({*zip(queries[image].tolist(), labels[image].tolist())}) == Q


def test_focal_scores_start_low():
    head = torch.nn.Linear(8, C)
    FocalScoring().initialise(head)
    scores = head(torch.zeros(8)).sigmoid()
    torch.testing.assert_close(scores, torch.full((C,), 0.01))
