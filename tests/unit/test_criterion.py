from itertools import product

import pytest
import torch

from opendetr.loss.criterion import LossWeights, Normalisers, set_loss, statistics
from opendetr.loss.matcher import CostWeights, match
from opendetr.scoring import FocalScoring, SoftmaxScoring
from opendetr.structures import DetrOutput, Matches, Target, Targets

SCORING = SoftmaxScoring()


def losses_of(output, targets, normalisers=None, scoring=SCORING):
    matches = match(output, targets, scoring, CostWeights())
    if normalisers is None:
        normalisers = Normalisers.of_batch(targets, output.logits.shape[2], scoring)
    return set_loss(output, targets, matches, scoring, normalisers)


def part_of(output, targets, layers, images):
    return (
        DetrOutput(*(x[layers][:, images] for x in output)),
        Targets(targets.labels[images], targets.boxes_cxcywh[images], targets.counts[images]),
    )


def perfect(targets, queries=6, classes=4):
    """What a model says that knows the truth and answers in the last queries."""
    images = len(targets.counts)
    logits = torch.full((2, images, queries, classes + 1), -50.0)
    boxes = torch.rand(2, images, queries, 4)
    logits[..., -1] = 0
    for image, count in enumerate(targets.counts.tolist()):
        for target in range(count):
            logits[:, image, queries - 1 - target, -1] = -50
            logits[:, image, queries - 1 - target, targets.labels[image, target]] = 0
            boxes[:, image, queries - 1 - target] = targets.boxes_cxcywh[image, target]
    return DetrOutput(logits, boxes)


@pytest.mark.parametrize("counts", [(3, 1, 2), (0, 9, 4), (0, 0, 0)])
def test_one_batch_is_the_loop_over_layers_and_images(random_output, random_targets, counts):
    output, targets = random_output(3, 3, 6), random_targets(*counts)
    normalisers = Normalisers.of_batch(targets, 6, SCORING)
    together = losses_of(output, targets, normalisers)
    for name, layer in product(together, range(3)):
        alone = sum(
            losses_of(*part_of(output, targets, [layer], [image]), normalisers)[name] for image in range(3)
        )  # fmt: skip
        torch.testing.assert_close(together[name][layer : layer + 1], alone)


def test_two_micro_batches_with_shared_normalisers_are_one_batch(random_output, random_targets):
    output, targets = random_output(2, 4, 5), random_targets(3, 0, 1, 7)  # 7: more than queries
    whole = losses_of(output, targets)
    parts = [part_of(output, targets, slice(None), images) for images in ([0, 1], [2, 3])]
    normalisers = [Normalisers.of_batch(part[1], 5, SCORING) for part in parts]
    shared = Normalisers(*(a + b for a, b in zip(*normalisers)))
    torch.testing.assert_close(tuple(shared), tuple(Normalisers.of_batch(targets, 5, SCORING)))
    halves = [losses_of(*part, shared) for part in parts]
    for name in whole:
        torch.testing.assert_close(whole[name], halves[0][name] + halves[1][name])


def test_the_normaliser_is_the_sum_of_the_class_weights_and_the_number_of_boxes(random_targets):
    found = Normalisers.of_batch(random_targets(3, 0, 7), 5, SCORING)
    assert float(found.num_boxes) == 10  # all of them, as in the official code, though two can have no query
    assert float(found.class_weight) == pytest.approx(8 + 0.1 * 7)


def test_permuting_queries_changes_nothing(random_output, random_targets):
    output, targets = random_output(2, 3, 6), random_targets(3, 0, 8)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    permuted = losses_of(DetrOutput(*(x[:, :, order] for x in output)), targets)
    for name, values in losses_of(output, targets).items():
        torch.testing.assert_close(permuted[name], values)


def test_perfect_predictions_cost_nothing(random_targets):
    targets = random_targets(3, 0, 2)
    for name, values in losses_of(perfect(targets), targets).items():
        assert values.abs().max() < 1e-6, name  # rounding of a box's area


@pytest.mark.parametrize("term", ["class", "l1", "giou"])
def test_each_term_sees_its_own_mistakes(random_targets, term):
    targets = random_targets(3, 0, 2)
    output = perfect(targets)
    if term == "class":
        output.logits[:, 0, -1] = 0
    else:
        output.boxes_cxcywh[:, 0, -1] *= 0.9
    losses = losses_of(output, targets)
    assert (losses[term] > 0.01).all()
    assert (losses["class"] > 0.01).all() == (term == "class")


def test_the_box_losses_by_hand():
    targets = Targets.stack([Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))])
    output = DetrOutput(torch.zeros(1, 1, 1, 3), torch.tensor([[[[0.6, 0.5, 0.2, 0.2]]]]))
    losses = losses_of(output, targets)
    assert float(losses["l1"]) == pytest.approx(0.1)
    assert float(losses["giou"]) == pytest.approx(1 - 1 / 3)  # half covered, and the hull holds nothing else
    assert float(losses["class"]) == pytest.approx(torch.log(torch.tensor(3.0)))
    total = LossWeights().total(losses)
    assert float(total) == pytest.approx(1 * torch.log(torch.tensor(3.0)) + 5 * 0.1 + 2 * (1 - 1 / 3))


@pytest.mark.parametrize("scoring", [SCORING, SoftmaxScoring(no_object_weight=0.0)])
@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_a_batch_without_objects_has_a_class_loss_only(random_output, random_targets, counts, scoring):
    output, targets = random_output(2, 2, 5), random_targets(*counts)
    for tensor in output:
        tensor.requires_grad_()
    losses = losses_of(output, targets, scoring=scoring)
    LossWeights().total(losses).backward()
    logits, boxes = (tensor.grad for tensor in output)
    assert logits.isfinite().all()
    assert boxes.isfinite().all()
    assert torch.equal(boxes[:, 0], torch.zeros_like(boxes[:, 0]))
    empty = sum(counts) == 0
    assert (logits[:, 0] != 0).any() == (scoring.no_object_weight > 0)
    assert bool((losses["l1"] == 0).all() and (losses["giou"] == 0).all()) == empty
    assert bool(boxes.any()) != empty


def test_a_term_can_be_switched_off(random_output, random_targets):
    losses = losses_of(random_output(), random_targets(3, 1, 2))
    assert float(LossWeights(0.0, 1.0, 0.0).total(losses)) == pytest.approx(float(losses["l1"].sum()))
    assert float(LossWeights(0.0, 0.0, 0.0).total(losses)) == 0


def test_half_precision_outputs_give_float32_losses_inside_autocast(random_output, random_targets):
    output, targets = random_output(), random_targets(3, 1, 2)
    half = DetrOutput(*(tensor.bfloat16() for tensor in output))
    expected = losses_of(DetrOutput(*(tensor.float() for tensor in half)), targets)
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(half, targets)
    for name, values in losses.items():
        assert values.dtype == torch.float32
        assert torch.equal(values, expected[name])


def test_float64_stays_float64(random_output, random_targets):
    output = DetrOutput(*(tensor.double() for tensor in random_output()))
    assert {values.dtype for values in losses_of(output, random_targets(3, 1, 2)).values()} == {torch.float64}


def test_statistics_by_hand():
    """Three matched queries of four: one right, one right but for no-object, one wrong."""
    targets = Targets.stack(
        [
            Target(torch.tensor([0, 1]), torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])),
            Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 1.0, 1.0]])),
        ]
    )
    logits = torch.tensor([
        [[9.0, 0.0, 0.0], [0.0, 1.0, 9.0]],  # sure of 0; would say 1 if it were something
        [[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]],  # sure of 0, wrong; sure of 0, matched to nothing
    ])[None]  # fmt: skip
    boxes = torch.tensor([
        [[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 0.5]],  # IoU 1; 1/2
        [[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.1, 0.1]],  # IoU 1/2
    ])[None]  # fmt: skip
    matches = Matches(*torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]))
    values = {
        name: float(value) for name, value in statistics(DetrOutput(logits, boxes), targets, matches, SCORING).items()
    }
    assert values == {
        "matched_accuracy": pytest.approx(200 / 3),
        "class_error": pytest.approx(200 / 3),  # 1 of 3 is right when no-object counts as an answer
        "matched_iou": pytest.approx(2 / 3),
        "cardinality_error": pytest.approx((1 + 1) / 2),  # 1 seen of 2, and 2 seen of 1
    }


def test_statistics_are_about_the_last_layer(random_output, random_targets):
    output, targets = random_output(3, 3, 6), random_targets(3, 0, 8)
    last = DetrOutput(*(tensor[-1:] for tensor in output))

    def of(output):
        return statistics(output, targets, match(output, targets, SCORING, CostWeights()), SCORING)

    assert of(output) == of(last)
    assert of(output) != of(DetrOutput(*(tensor[:1] for tensor in output)))


def test_statistics_of_a_batch_without_objects(random_output, random_targets):
    output, targets = random_output(2, 2), random_targets(0, 0)
    values = statistics(output, targets, match(output, targets, SCORING, CostWeights()), SCORING)
    assert all(value.isfinite() and value.dim() == 0 for value in values.values())
    assert float(values["matched_accuracy"]) == 0


def test_focal_scoring_divides_by_one_at_least(random_output, random_targets):
    scoring, targets = FocalScoring(), random_targets(0, 0)
    output = random_output(1, 2, 6, classes=3)
    matches = match(output, targets, scoring, CostWeights())
    losses = set_loss(output, targets, matches, scoring, Normalisers.of_batch(targets, 6, scoring))
    nothing, unmatched = torch.full((1, 2, 6), 4), torch.zeros(1, 2, 6)
    torch.testing.assert_close(losses["class"], scoring.loss(output.logits, nothing, unmatched))
