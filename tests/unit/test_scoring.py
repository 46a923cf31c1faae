import pytest
import torch
from torch.nn import functional as F

from opendetr.scoring import Scoring, SoftmaxScoring

L, B, Q, C, T = 2, 3, 5, 4, 3


@pytest.fixture
def logits():
    return torch.randn(L, B, Q, C + 1, generator=torch.Generator().manual_seed(0)) * 3


def test_softmax_scoring_is_a_scoring():
    assert isinstance(SoftmaxScoring(), Scoring)
    assert SoftmaxScoring().num_logits(C) == C + 1


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
        loss = scoring.loss(logits, classes)[layer] / scoring.normaliser(matched, torch.tensor(float(B * Q)))
        torch.testing.assert_close(loss, expected)


def test_the_answer_is_the_most_probable_class_and_never_no_object(logits):
    sure_of_nothing = logits[0].clone()
    sure_of_nothing[..., -1] = 100
    for answer in (logits[0], sure_of_nothing):
        scores, labels = SoftmaxScoring().scores(answer)
        probabilities = answer.softmax(-1)
        assert ((scores >= 0) & (scores <= 1)).all()
        assert torch.equal(labels, answer[..., :C].argmax(-1))
        assert torch.equal(scores, probabilities.gather(-1, labels[..., None])[..., 0])


def test_a_query_finds_something_unless_no_object_is_its_most_probable_class(logits):
    found = SoftmaxScoring().finds_something(logits)
    assert torch.equal(found, logits[..., :C].amax(-1) > logits[..., C])
    assert 0 < found.sum() < found.numel()
