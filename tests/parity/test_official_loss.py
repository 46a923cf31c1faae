"""Matching, loss terms and post-processing of the same outputs and targets are those of the official code."""

import pytest
import torch

from opendetr.config import LossConfig
from opendetr.labels import LabelMap
from opendetr.loss.criterion import LossWeights, Normalisers, set_loss, statistics
from opendetr.loss.matcher import CostWeights, match
from opendetr.model.postprocess import postprocess
from opendetr.scoring import SoftmaxScoring
from opendetr.structures import Batch, DetrOutput, Target, Targets

NUM_LAYERS, NUM_QUERIES, NUM_CLASSES = 3, 10, 5
LOSS, SCORING = LossConfig(), SoftmaxScoring()
OBJECTS_PER_PICTURE = {
    "normal": [3, 1, 4],
    "one-picture-empty": [3, 0, 4],
    "more-objects-than-queries": [3, 14, 1],
    "all-pictures-empty": [0, 0, 0],
}


@pytest.fixture(params=OBJECTS_PER_PICTURE)
def objects_per_picture(request) -> list[int]:
    return OBJECTS_PER_PICTURE[request.param]


@pytest.fixture
def targets(objects_per_picture) -> list[Target]:
    generator = torch.Generator().manual_seed(0)
    return [
        Target(
            torch.randint(NUM_CLASSES, (count,), generator=generator),
            torch.rand(count, 4, generator=generator) * 0.5 + 0.05,
        )
        for count in objects_per_picture
    ]


@pytest.fixture
def output(targets) -> DetrOutput:
    generator = torch.Generator().manual_seed(1)
    shape = (NUM_LAYERS, len(targets), NUM_QUERIES)
    return DetrOutput(
        torch.randn(*shape, NUM_CLASSES + 1, generator=generator) * 2, torch.rand(*shape, 4, generator=generator)
    )


@pytest.fixture
def matches(output, targets):
    return match(output, Targets.stack(targets), SCORING, CostWeights())


def test_matches_are_identical(official, output, targets, matches):
    matcher = official.build_matcher(LOSS)
    expected = {
        (layer, image, query, target)
        for layer, (logits, boxes) in enumerate(zip(*output))
        for image, pairs in enumerate(matcher({"pred_logits": logits, "pred_boxes": boxes}, official.to_dicts(targets)))
        for query, target in zip(*(index.tolist() for index in pairs))
    }
    ours = [tuple(pair) for pair in torch.stack(matches, dim=1).tolist()]
    assert len(ours) == NUM_LAYERS * sum(min(len(target.labels), NUM_QUERIES) for target in targets)
    assert set(ours) == expected


@pytest.mark.parametrize(("ours", "theirs"), [("class", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")])
def test_loss_terms_agree(official, output, targets, matches, ours, theirs):
    padded = Targets.stack(targets)
    losses = set_loss(output, padded, matches, SCORING, Normalisers.of_batch(padded, NUM_QUERIES, SCORING))
    expected = official_losses(official, output, targets)
    per_layer = [expected[f"{theirs}_{layer}"] for layer in range(NUM_LAYERS - 1)] + [expected[theirs]]
    # Relative only: float32 sums in another order; where there are no objects, both box terms are exactly 0.
    torch.testing.assert_close(losses[ours], torch.stack(per_layer), rtol=1e-5, atol=0)


def test_the_total_agrees(official, output, targets, matches):
    padded = Targets.stack(targets)
    losses = set_loss(output, padded, matches, SCORING, Normalisers.of_batch(padded, NUM_QUERIES, SCORING))
    criterion = official.build_criterion(LOSS, NUM_CLASSES, NUM_LAYERS)
    expected = official.total_loss(criterion, official_losses(official, output, targets))
    torch.testing.assert_close(LossWeights().total(losses), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["class_error", "cardinality_error"])
def test_logged_figures_agree(official, output, targets, matches, name):
    figures = statistics(output, Targets.stack(targets), matches, SCORING)
    expected = official_losses(official, output, targets)[name]
    torch.testing.assert_close(figures[name].float(), expected, rtol=1e-5, atol=0)


def test_detections_agree(official, output, targets):
    sizes = torch.tensor([[480, 640], [427, 333], [1200, 800]])
    labels = LabelMap(tuple(range(NUM_CLASSES)), tuple("abcde"))
    batch = Batch(torch.zeros(3, 3, 8, 8), None, sizes, (0, 1, 2))
    expected = official.load().detr.PostProcess()(official.to_dict(output), sizes)
    for ours, theirs in zip(postprocess(output, batch, SCORING, labels), expected, strict=True):
        assert torch.equal(ours.labels, theirs["labels"])
        assert torch.equal(ours.scores, theirs["scores"])
        # Absolute, in pixels of pictures up to 1200 pixels long: the rounding of float32.
        torch.testing.assert_close(ours.boxes_xyxy, theirs["boxes"], rtol=0, atol=1e-4)


def official_losses(official, output, targets):
    criterion = official.build_criterion(LOSS, NUM_CLASSES, NUM_LAYERS)
    return criterion(official.to_dict(output), official.to_dicts(targets))
