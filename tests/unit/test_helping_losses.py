from dataclasses import replace

import torch

from opendetr.loss.criterion import Criterion, Normalisers, set_loss
from opendetr.loss.matcher import CostWeights, match
from opendetr.model.denoising import make_denoising
from opendetr.scoring import FocalScoring
from opendetr.structures import Denoising, DetrOutput, Matches, Target, Targets

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
    criterion = Criterion(SCORING, 40, CostWeights(class_=2.0), proposal_repeats=4)
    matches = match(proposals, repeated, SCORING, criterion.costs)
    found = criterion.proposal_losses(proposals, targets, criterion.normalisers(targets, None))
    expected = set_loss(proposals, repeated, matches, SCORING, Normalisers.of_batch(repeated, 40, SCORING))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_denoising_is_the_set_loss_of_each_picture_with_known_matches(random_output, random_targets):
    torch.manual_seed(0)
    targets = random_targets(3, 0, 5)
    denoising = make_denoising(targets, CLASSES, 34)
    output = focal_output(random_output, 2, 3, 34)
    criterion = Criterion(SCORING, 34)
    found = criterion.denoising_losses(output, denoising, targets, criterion.normalisers(targets, denoising))
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
        for name, value in set_loss(part, truth, matches, SCORING, Normalisers(one, one, one)).items():
            sums[name] = sums[name] + value
    for name, value in sums.items():
        torch.testing.assert_close(found[name], value / positives)


def test_without_objects_denoising_costs_nothing_and_has_gradients(random_output, random_targets):
    targets = random_targets(0, 0)
    output = DetrOutput(*(x.requires_grad_() for x in focal_output(random_output, 2, 2, 1)))
    denoising = make_denoising(targets, CLASSES, 10)
    criterion = Criterion(SCORING, 10)
    losses = criterion.denoising_losses(output, denoising, targets, criterion.normalisers(targets, denoising))
    total = sum(value.sum() for value in losses.values())
    assert float(total.detach()) == 0
    total.backward()
    assert not output.logits.grad.any()


def test_the_whole_loss_is_the_sum_of_its_parts(random_output, random_targets):
    """Of decoder, proposals and denoising; each is there only with what it is about."""
    torch.manual_seed(0)
    targets = random_targets(3, 1, 5)
    denoising = make_denoising(targets, CLASSES, 20)
    said, noised = focal_output(random_output, 2, 3, 12), focal_output(random_output, 2, 3, denoising.labels.shape[1])
    criterion = Criterion(SCORING, 12, proposal_repeats=2)
    proposals = focal_output(random_output, 1, 3, 30)
    normalisers = criterion.normalisers(targets, denoising)
    of_decoder = criterion(said, targets, None, normalisers).total
    of_proposals = criterion.weights.total(criterion.proposal_losses(proposals, targets, normalisers))
    of_denoising = criterion.weights.total(criterion.denoising_losses(noised, denoising, targets, normalisers))
    output = replace(said, proposals=proposals, denoising=noised)
    for given, expected in (
        (criterion(replace(said, proposals=proposals), targets, None, normalisers), of_decoder + of_proposals),
        (criterion(replace(said, denoising=noised), targets, denoising, normalisers), of_decoder + of_denoising),
        (criterion(replace(said, denoising=noised), targets, None, normalisers), of_decoder),
        (criterion(output, targets, denoising, normalisers), of_decoder + of_proposals + of_denoising),
        (replace(criterion, proposal_repeats=0)(output, targets, None, normalisers), of_decoder),
    ):
        torch.testing.assert_close(given.total, expected)


def pictures_of(output, part):
    here = DetrOutput(output.logits[:, part], output.boxes_cxcywh[:, part])
    if output.proposals is None:
        return here
    return replace(here, proposals=pictures_of(output.proposals, part), denoising=pictures_of(output.denoising, part))


def test_micro_batches_add_up_to_the_loss_of_the_whole_batch(random_output, random_targets):
    """Of pictures with few and many objects, with the same denoising queries: each loss is divided by all of them."""
    torch.manual_seed(0)
    targets = random_targets(1, 5, 2, 0, classes=CLASSES)
    denoising = make_denoising(targets, CLASSES, 40)
    said, noised = focal_output(random_output, 2, 4, 12), focal_output(random_output, 2, 4, denoising.labels.shape[1])
    output = replace(said, proposals=focal_output(random_output, 1, 4, 30), denoising=noised)
    criterion = Criterion(SCORING, 12, proposal_repeats=2)
    whole = criterion.normalisers(targets, denoising)
    parts = [slice(0, 1), slice(1, 4)]
    shares = [(Targets(*(x[part] for x in targets)), Denoising(*(x[part] for x in denoising))) for part in parts]
    summed = Normalisers(*(sum(values) for values in zip(*(criterion.normalisers(*share) for share in shares))))
    torch.testing.assert_close(tuple(summed), tuple(whole))
    total = sum(criterion(pictures_of(output, part), *share, summed).total for part, share in zip(parts, shares))
    torch.testing.assert_close(total, criterion(output, targets, denoising, whole).total)
