import torch

from opendetr.loss.auxiliary import denoising_losses, proposal_losses
from opendetr.loss.criterion import Normalisers, set_loss
from opendetr.loss.matcher import CostWeights, match
from opendetr.model.denoising import make_denoising
from opendetr.scoring import FocalScoring
from opendetr.structures import DetrOutput, Matches, Target, Targets

CLASSES, SCORING = 4, FocalScoring()


def focal_output(random_output, layers, images, queries):
    return random_output(layers, images, queries, classes=CLASSES - 1)  # K = C without no-object


def test_every_object_is_matched_to_several_cells(random_output, random_targets):
    """As if every object were there four times: the same loss, normalised by four times as many."""
    proposals, targets = focal_output(random_output, 1, 3, 40), random_targets(3, 0, 5)
    copies = [[row for row in range(count) for _ in range(4)] for count in targets.counts.tolist()]
    repeated = Targets.stack(
        [Target(targets.labels[image, rows], targets.boxes_cxcywh[image, rows]) for image, rows in enumerate(copies)]
    )
    matches = match(proposals, repeated, SCORING, CostWeights(class_=2.0))
    found = proposal_losses(
        proposals, targets, 4, SCORING, CostWeights(class_=2.0), Normalisers.of_batch(targets, 40, SCORING)
    )
    expected = set_loss(proposals, repeated, matches, SCORING, Normalisers.of_batch(repeated, 40, SCORING))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_denoising_is_the_set_loss_of_each_picture_with_known_matches(random_output, random_targets):
    torch.manual_seed(0)
    targets = random_targets(3, 0, 5)
    denoising = make_denoising(targets, CLASSES, 34)
    output = focal_output(random_output, 2, 3, 34)
    found = denoising_losses(output, denoising, targets, SCORING, Normalisers.of_batch(targets, 34, SCORING))
    positives = int(denoising.positive.sum())
    sums = {"class": 0.0, "l1": 0.0, "giou": 0.0}
    for image in range(3):
        used = denoising.groups[image] >= 0
        queries = torch.where(denoising.positive[image][used])[0]
        part = DetrOutput(*(x[:, image : image + 1, used] for x in output))
        truth = Targets(*(x[image : image + 1] for x in targets))
        layers = torch.arange(2).repeat_interleave(len(queries))
        origins = denoising.origins[image][used][queries].repeat(2)
        matches = Matches(layers, torch.zeros_like(layers), queries.repeat(2), origins)
        one = torch.tensor(1.0)
        for name, value in set_loss(part, truth, matches, SCORING, Normalisers(one, one)).items():
            sums[name] = sums[name] + value
    for name, value in sums.items():
        torch.testing.assert_close(found[name], value / positives)


def test_without_objects_denoising_costs_nothing_and_has_gradients(random_output, random_targets):
    targets = random_targets(0, 0)
    output = DetrOutput(*(x.requires_grad_() for x in focal_output(random_output, 2, 2, 1)))
    denoising = make_denoising(targets, CLASSES, 10)
    losses = denoising_losses(output, denoising, targets, SCORING, Normalisers.of_batch(targets, 10, SCORING))
    total = sum(value.sum() for value in losses.values())
    assert float(total.detach()) == 0
    total.backward()
    assert not output.logits.grad.any()
