from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from opendetr.config import LossConfig
from opendetr.data.door import load_index
from opendetr.data.loader import DetectionDataset
from opendetr.data.transforms import Preprocessing
from opendetr.loss.criterion import Criterion, Normalisers, set_loss
from opendetr.loss.matcher import match
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import load_recipe, resolve_config
from opendetr.scoring import FocalScoring
from opendetr.structures import DetrOutput
from opendetr.training.flips import (
    FlipTrial,
    class_medians,
    mirrored,
    object_costs,
    open_flips,
    seconds_for_trial,
    settle_flips,
    still_open,
    telling_pictures,
    try_flips,
    upside_down,
)

FOCAL = replace(PRESETS["detr-tiny"], scoring="focal")


@pytest.mark.parametrize("flip", [mirrored, upside_down])
def test_boxes_follow_what_they_are_around(flip):
    image = torch.zeros(1, 3, 40, 60)
    image[:, :, 4:14, 6:36] = 1
    boxes = torch.tensor([[[21 / 60, 9 / 40, 30 / 60, 10 / 40]]])
    flipped, moved = flip(image, boxes)
    rows, columns = torch.where(flipped[0, 0] > 0)
    found = [(columns.min() + columns.max() + 1) / 120, (rows.min() + rows.max() + 1) / 80, 30 / 60, 10 / 40]
    assert moved[0, 0].tolist() == pytest.approx([float(value) for value in found])
    again = flip(flipped, moved)
    assert torch.equal(again[0], image)
    torch.testing.assert_close(again[1], boxes)


def test_what_costs_the_model_more_is_never_shown():
    config, reasons = settle_flips(load_recipe("fast"), FlipTrial(0.9, 0.8, 1.05, 2.4), is_last=False)
    assert (config.data.horizontal_flip, config.data.vertical_flip) == (0.5, 0.0)
    assert "mirrored" in reasons[0]
    assert "never shown upside down" in reasons[1]
    assert open_flips(config.data) == []


def test_a_model_that_knows_too_little_decides_last():
    for ignorant in (FlipTrial(1.0, 0.3, 1.0, 1.0), FlipTrial(0.5, 0.8, 1.0, 1.0)):
        assert settle_flips(load_recipe("fast"), ignorant, is_last=False) == (load_recipe("fast"), [])
        assert "stays open: the model has not learned enough yet" in still_open(ignorant)
    config, reasons = settle_flips(load_recipe("fast"), ignorant, is_last=True)
    assert (config.data.horizontal_flip, config.data.vertical_flip) == (0.0, 0.0)
    assert "50%" in reasons[0]


def test_too_few_pictures_decide_nothing():
    few, begun_with = FlipTrial(1.0, 0.9, 1.0, 1.0, pictures=11, wanted=48), load_recipe("fast")
    assert settle_flips(begun_with, few, is_last=False) == (begun_with, [])
    assert "only 11 pictures could be tried in 5% of the time" in still_open(few)
    assert settle_flips(begun_with, few, is_last=True)[0].data.horizontal_flip == 0
    all_there_are = few._replace(wanted=11)
    assert settle_flips(begun_with, all_there_are, is_last=False)[0].data.horizontal_flip == 0.5


def test_a_trial_cut_short_may_forbid_flips_but_not_allow_them():
    """The pictures that it did not show may be those of classes that mirror each other."""
    cut, begun_with = FlipTrial(1.0, 0.9, 1.0, 1.0, pictures=12, wanted=96), load_recipe("fast")
    assert settle_flips(begun_with, cut, is_last=False) == (begun_with, [])
    assert "only 12 pictures could be tried in 5% of the time, of 96 that show every class" in still_open(cut)
    config, reasons = settle_flips(begun_with, cut, is_last=True)
    assert (config.data.horizontal_flip, config.data.vertical_flip) == (0.0, 0.0)
    assert "never shown mirrored, since only 12 pictures" in reasons[0]
    costly, _ = settle_flips(begun_with, cut._replace(upside_down=2.0), is_last=False)
    assert (costly.data.horizontal_flip, costly.data.vertical_flip) == (-1, 0.0)
    settled, _ = settle_flips(begun_with, cut._replace(saw_all_classes=True), is_last=False)
    assert (settled.data.horizontal_flip, settled.data.vertical_flip) == (0.5, 0.5)


def test_trials_share_their_time():
    assert seconds_for_trial(0.2, 1000, 0) == pytest.approx(12.5)  # 50 for four
    assert seconds_for_trial(0.3, 1000, 2.0) == pytest.approx(16)  # what the first one left is for the others
    assert seconds_for_trial(0.5, 1000, 45.0) == pytest.approx(5)
    assert seconds_for_trial(0.2, None, 9.0) == float("inf")  # epochs have no budget


def test_the_trial_that_says_most_decides():
    long, short = FlipTrial(0.5, 0.8, 1.0, 1.0), FlipTrial(0.9, 0.8, 1.0, 1.0, pictures=2)
    knowing = FlipTrial(0.9, 0.8, 1.0, 1.0, pictures=13)
    assert max(short, long, knowing, key=lambda trial: trial.rank) == knowing
    assert max(short, long, key=lambda trial: trial.rank) == long


def test_what_is_given_is_not_tried():
    config = resolve_config("fast", overrides=["data.vertical_flip=0.0"])
    assert open_flips(config.data) == ["horizontal_flip"]
    assert settle_flips(config, FlipTrial(1.0, 0.8, 3.0, 1.0), is_last=False)[0].data.vertical_flip == 0
    assert open_flips(load_recipe("paper").data) == []


def test_two_classes_that_mirror_each_other_are_enough():
    trial = FlipTrial(0.9, 0.8, 1.1, 1.0, mirrored_class=2.5, upside_down_class=1.2, mirrored_name="left")
    config, reasons = settle_flips(load_recipe("fast"), trial, is_last=False)
    assert (config.data.horizontal_flip, config.data.vertical_flip) == (0.0, 0.5)
    assert "1.10 times the upright one, and 2.50 times in the class with the largest ratio, 'left'" in reasons[0]
    nothing_measured = settle_flips(load_recipe("fast"), FlipTrial(0.9, 0.8, 1.1, 1.0), is_last=False)[1]
    assert nothing_measured[0].endswith("where their loss is 1.10 times the upright one")


PREPROCESSING = Preprocessing(48, 64, (0.0,) * 3, (1.0,) * 3)


def knowing_all(dataset, answer):
    """A model's forward that recognises every picture; `answer` says boxes and labels, and whether mirrored or neither.

    `answer` gets the true boxes and labels as they stand in the upright picture.
    """
    samples = [dataset[n] for n in range(len(dataset))]
    images = torch.stack([image for image, _, _ in samples])

    def of_picture(shown):
        way, number = next(
            (way, int(same.nonzero()))
            for way, flip in (("upright", []), ("mirrored", [3]), ("upside down", [2]))
            if (same := (images.flip(flip) == shown).flatten(1).all(1)).any()
        )
        boxes, labels = answer(samples[number][1].boxes_cxcywh, samples[number][1].labels, way)
        logits = torch.full((len(labels), dataset.index.label_map.num_classes), -4.0)
        logits[torch.arange(len(labels)), labels] = 2.0
        return logits, boxes

    def forward(shown, padding_mask):
        logits, boxes = zip(*map(of_picture, shown))
        return DetrOutput(torch.stack(logits)[None], torch.stack(boxes)[None])

    return forward


ASKED = (Criterion(FocalScoring(), num_queries=10), torch.device("cpu"), "fp32")


def test_the_cost_is_that_of_the_flipped_pictures(coco_folder, monkeypatch):
    """A model that knows every picture, mirrored too, and answers anything to one that is upside down."""
    dataset = DetectionDataset(load_index(coco_folder((1,) * 6), "train"), PREPROCESSING.transform())
    model = build_model(FOCAL, LossConfig(), 3).eval()

    def only_upright_or_mirrored(boxes, labels, way):
        if way == "mirrored":
            boxes = torch.cat([1 - boxes[:, :1], boxes[:, 1:]], 1)
        return (0 * boxes + 0.02 if way == "upside down" else boxes), labels

    monkeypatch.setattr(model, "forward", knowing_all(dataset, only_upright_or_mirrored))
    found = try_flips(model, dataset, *ASKED)
    assert found.accuracy == 1
    assert found.mirrored == pytest.approx(1.0)
    assert found.upside_down > 3


def test_one_pair_of_classes_among_thirteen_is_seen_in_the_trial(coco_folder, monkeypatch):
    """Left and right hands, say: a mirrored one is the other, all else is what it was."""
    names = tuple(map(str, range(13)))
    dataset = DetectionDataset(load_index(coco_folder((2,) * 60, names=names), "train"), PREPROCESSING.transform())
    model = build_model(FOCAL, LossConfig(), 13).eval()

    def hands(boxes, labels, way):
        if way == "mirrored":
            boxes = torch.cat([1 - boxes[:, :1], boxes[:, 1:]], 1)
            labels = torch.where(labels < 2, 1 - labels, labels)
        if way == "upside down":
            boxes = torch.cat([boxes[:, :1], 1 - boxes[:, 1:2], boxes[:, 2:]], 1)
        return boxes, labels

    monkeypatch.setattr(model, "forward", knowing_all(dataset, hands))
    found = try_flips(model, dataset, *ASKED)
    assert found.mirrored_class > 3
    assert found.mirrored_name in ("0", "1")
    assert found.upside_down_class == pytest.approx(1.0)
    assert (found.saw_all_classes, found.pictures) == (True, found.wanted)


def test_an_object_costs_what_it_adds_to_the_loss(random_output, random_targets):
    """Where every query has an object, they share all of the loss among them."""
    criterion = Criterion(FocalScoring(), num_queries=5)
    output, targets = random_output(1, 1, 5, classes=3), random_targets(5)
    matches, one = match(output, targets, criterion.scoring, criterion.costs), torch.tensor(1.0)
    total = criterion.weights.total(set_loss(output, targets, matches, criterion.scoring, Normalisers(one, one, one)))
    each = object_costs(output, targets, matches, criterion)
    torch.testing.assert_close(each.sum(), total)
    fewer = DetrOutput(output.logits[:, :, :2], output.boxes_cxcywh[:, :, :2])
    unmatched = object_costs(fewer, targets, match(fewer, targets, criterion.scoring, criterion.costs), criterion)
    assert int(unmatched.isnan().sum()) == 3


def test_classes_of_enough_objects_are_measured():
    labels = torch.tensor([0] * 5 + [1] * 4 + [2] * 7)
    ratios = torch.tensor([1.0, 1.1, 1.2, 40.0, 1.0] + [9.0] * 4 + [float("nan")] * 2 + [1.3] * 5)
    assert class_medians(labels, ratios) == pytest.approx({0: 1.1, 2: 1.3})
    assert class_medians(labels[:4], ratios[:4]) == {}


def test_every_class_is_among_the_pictures_shown(coco_folder):
    records = load_index(coco_folder([1, 0] + [1] * 4), "train").records

    def of(*labels):
        return replace(records[0], labels=np.array(labels, dtype=np.int64))

    rare_last = [of(0)] * 300 + [records[1]] + [of(0, 1)] * 6 + [of(2)] * 3
    chosen = telling_pictures(rare_last)
    shown = Counter(label for position in chosen for label in rare_last[position].labels.tolist())
    assert (len(chosen), len({*chosen})) == (48, 48)
    assert 300 not in chosen  # nothing is there to be seen
    assert (shown[1], shown[2]) == (5, 3)
    assert len(telling_pictures([of(n % 13) for n in range(500)])) == 65  # five of each
    assert len(telling_pictures([of(n) for n in range(500)])) == 96
    assert len(telling_pictures([of(0)] * 5)) == 5


def test_a_trial_ends_where_the_model_knows_little_or_the_time_is_over(coco_folder, monkeypatch):
    dataset = DetectionDataset(load_index(coco_folder((1,) * 20), "train"), PREPROCESSING.transform())
    model = build_model(FOCAL, LossConfig(), 3).eval()
    ignorant = try_flips(model, dataset, *ASKED)
    assert (ignorant.pictures, ignorant.wanted) == (12, 20)

    def upright(boxes, labels, way):
        return boxes, labels

    monkeypatch.setattr(model, "forward", knowing_all(dataset, upright))
    complete = try_flips(model, dataset, *ASKED)
    assert (complete.pictures, complete.saw_all_classes) == (20, True)
    assert try_flips(model, dataset, *ASKED, seconds=0.0).pictures == 0
    assert try_flips(model, dataset, *ASKED, seconds=1e-9).pictures <= 1


def test_without_any_object_there_is_nothing_to_ask(coco_folder):
    transform = PREPROCESSING.transform()
    model = build_model(PRESETS["detr-tiny"], LossConfig(), 3).eval()
    empty = DetectionDataset(load_index(coco_folder((0, 0)), "train"), transform)
    nothing_known = try_flips(model, empty, *ASKED)
    assert nothing_known.accuracy == 0
    assert settle_flips(load_recipe("fast"), nothing_known, is_last=True)[0].data.horizontal_flip == 0
    mostly_empty = DetectionDataset(load_index(coco_folder((0, 2, 0), names=("only",)), "train"), transform)
    found = try_flips(model, mostly_empty, *ASKED)
    assert 0 <= found.iou < 0.5  # an untrained model: with one class its accuracy says nothing, its boxes do
    assert open_flips(settle_flips(load_recipe("fast"), found, is_last=False)[0].data)
    assert try_flips(model, mostly_empty, *ASKED, lambda: True) is None
