from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from opendetr.boxes import cxcywh_to_xyxy, generalized_box_iou
from opendetr.loss import matcher
from opendetr.loss.matcher import CostWeights, assign, match, matching_cost
from opendetr.scoring import SoftmaxScoring
from opendetr.structures import DetrOutput, Matches, Targets

SCORING, WEIGHTS = SoftmaxScoring(), CostWeights()


def pairs(matches: Matches) -> set[tuple[int, int, int, int]]:
    """(layer, image, query, target) of every pair."""
    return set(zip(*(index.tolist() for index in matches)))


def one(output: DetrOutput, targets: Targets, layer: int, image: int) -> tuple[DetrOutput, Targets]:
    """A single layer and image, its targets without padding."""
    count = int(targets.counts[image])
    alone = Targets(
        targets.labels[image : image + 1, :count],
        targets.boxes_cxcywh[image : image + 1, :count],
        targets.counts[image : image + 1],
    )
    return DetrOutput(*(x[layer : layer + 1, image : image + 1] for x in output)), alone


def cheapest(cost: torch.Tensor) -> float:
    """The least total cost of giving min(T, Q) targets to different queries, by trying everything; cost is [T, Q]."""
    fewer, more = sorted(cost.shape)
    table = cost.tolist() if cost.shape[0] <= cost.shape[1] else cost.T.tolist()
    return min(
        sum(table[row][column] for row, column in enumerate(chosen)) for chosen in permutations(range(more), fewer)
    )


@pytest.mark.parametrize(("targets", "queries"), list(product(range(6), (1, 2, 3, 5))))
def test_no_other_assignment_costs_less(random_output, random_targets, targets, queries):
    for seed in range(5):
        output, truth = random_output(1, 1, queries, seed=seed), random_targets(targets, seed=seed)
        cost = matching_cost(output, truth, SCORING, WEIGHTS)[0, 0]
        matches = match(output, truth, SCORING, WEIGHTS)
        assert len(matches.queries) == min(targets, queries)
        assert len(set(matches.queries.tolist())) == len(set(matches.targets.tolist())) == len(matches.queries)
        total = float(cost[matches.targets, matches.queries].sum())
        assert total == pytest.approx(cheapest(cost), abs=1e-5)  # float32 sums of up to 5 costs


def test_the_cost_is_the_weighted_sum_of_its_terms(random_output, random_targets):
    output, targets = random_output(), random_targets(3, 1, 2)

    def cost(*weights):
        return matching_cost(output, targets, SCORING, CostWeights(*weights))

    parts = [cost(1.0, 0.0, 0.0), cost(0.0, 1.0, 0.0), cost(0.0, 0.0, 1.0)]
    torch.testing.assert_close(cost(1.0, 5.0, 2.0), parts[0] + 5 * parts[1] + 2 * parts[2])
    l1 = (output.boxes_cxcywh[:, :, None] - targets.boxes_cxcywh[None, :, :, None]).abs().sum(-1)
    torch.testing.assert_close(parts[1], l1)
    torch.testing.assert_close(parts[0], SCORING.matching_cost(output.logits, targets.labels))
    predicted, true = cxcywh_to_xyxy(output.boxes_cxcywh), cxcywh_to_xyxy(targets.boxes_cxcywh)
    torch.testing.assert_close(parts[2], -generalized_box_iou(predicted[:, :, None], true[None, :, :, None]))


def test_one_batch_is_the_loop_over_layers_and_images(random_output, random_targets):
    output, targets = random_output(3, 4, 6), random_targets(2, 0, 9, 5)
    expected = set()
    for layer, image in product(range(3), range(4)):
        alone = match(*one(output, targets, layer, image), SCORING, WEIGHTS)
        expected |= {(layer, image, query, target) for _, _, query, target in pairs(alone)}
    assert pairs(match(output, targets, SCORING, WEIGHTS)) == expected
    assert len(expected) == 3 * (2 + 0 + 6 + 5)  # more objects than queries: every query has one


def test_targets_that_are_padding_are_never_matched(random_output, random_targets):
    output, targets = random_output(2, 3, 8), random_targets(1, 6, 0)
    matches = match(output, targets, SCORING, WEIGHTS)
    assert (matches.targets < targets.counts[matches.images]).all()
    targets.labels[0, 1:], targets.boxes_cxcywh[0, 1:] = 3, 0.9  # nor do they matter
    assert pairs(match(output, targets, SCORING, WEIGHTS)) == pairs(matches)


def test_permuting_queries_permutes_the_matches(random_output, random_targets):
    output, targets = random_output(2, 3, 6), random_targets(3, 0, 8)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    permuted = DetrOutput(*(x[:, :, order] for x in output))
    found = match(permuted, targets, SCORING, WEIGHTS)
    assert pairs(found._replace(queries=order[found.queries])) == pairs(match(output, targets, SCORING, WEIGHTS))


def test_permuting_objects_permutes_the_matches(random_output, random_targets):
    output, targets = random_output(2, 2, 6), random_targets(4, 4)
    order = torch.tensor([2, 0, 3, 1])
    found = match(
        output, Targets(targets.labels[:, order], targets.boxes_cxcywh[:, order], targets.counts), SCORING, WEIGHTS
    )
    assert pairs(found._replace(targets=order[found.targets])) == pairs(match(output, targets, SCORING, WEIGHTS))


@pytest.mark.parametrize("counts", [(0,), (0, 0, 0)])
def test_a_batch_without_objects_has_no_matches(random_output, random_targets, counts):
    matches = match(random_output(2, len(counts)), random_targets(*counts), SCORING, WEIGHTS)
    assert all(index.shape == (0,) and index.dtype == torch.int64 for index in matches)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_diverging_model_can_be_matched(random_output, random_targets, broken, everywhere):
    output, targets = random_output(2, 2, 5), random_targets(3, 7)
    for tensor in output:
        tensor[(..., slice(None)) if everywhere else (..., 0)] = broken
    matches = match(output, targets, SCORING, WEIGHTS)
    assert len(matches.queries) == 2 * (3 + 5)
    assert len(pairs(matches)) == len(matches.queries)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_query_is_the_last_to_be_chosen(random_output, random_targets, broken):
    """Also where its cost is below every other: -inf."""
    output, targets = random_output(1, 1, 4), random_targets(3)
    output.boxes_cxcywh[0, 0, 1] = broken
    assert 1 not in match(output, targets, SCORING, WEIGHTS).queries


def test_costs_below_all_numbers_are_high_ones(random_output, random_targets, monkeypatch):
    cost = torch.rand(1, 1, 3, 4)
    cost[..., 2] = -float("inf")
    monkeypatch.setattr(matcher, "matching_cost", lambda *_: cost)
    assert 2 not in match(random_output(1, 1, 4), random_targets(3), SCORING, WEIGHTS).queries


@pytest.mark.parametrize("seed", range(5))
def test_one_target_is_matched_to_the_cheapest_queries(seed):
    cost = np.random.default_rng(seed).random((1, 50))
    for repeats in (2, 3, 7):
        rows, columns = assign(cost, repeats)
        assert rows.tolist() == [0] * repeats
        assert sorted(columns) == sorted(np.argsort(cost[0])[:repeats])


def test_matching_needs_no_gradients_and_follows_no_autocast(random_output, random_targets):
    output, targets = random_output(), random_targets(3, 1, 2)
    half = DetrOutput(output.logits.bfloat16().requires_grad_(), output.boxes_cxcywh.requires_grad_())
    full = DetrOutput(half.logits.float(), half.boxes_cxcywh)
    with torch.autocast("cpu", torch.bfloat16):
        matches = match(half, targets, SCORING, WEIGHTS)
    assert pairs(matches) == pairs(match(full, targets, SCORING, WEIGHTS))
    assert matching_cost(half, targets, SCORING, WEIGHTS).dtype == torch.float32


@given(
    targets=st.integers(0, 9), queries=st.integers(1, 60), repeats=st.integers(1, 5), seed=st.integers(0, 99),
    levels=st.sampled_from((2, 5, 10**6)), alike=st.booleans(),
)  # fmt: skip
def test_targets_matched_several_times_cost_no_more_than_copies_of_them(targets, queries, repeats, seed, levels, alike):
    """Whether all targets want the same queries or not, and with many equal costs."""
    rng = np.random.default_rng(seed)
    cost = rng.integers(0, levels, (1 if alike else targets, queries)).astype(np.float32)
    cost = cost.repeat(targets, axis=0) if alike else cost
    rows, columns = assign(cost, repeats)
    copies = np.repeat(cost, repeats, axis=0)
    assert len(rows) == min(repeats * targets, queries) == len(set(columns.tolist()))
    assert np.bincount(rows, minlength=1).max() <= repeats
    assert cost[rows, columns].sum() == copies[linear_sum_assignment(copies)].sum()
