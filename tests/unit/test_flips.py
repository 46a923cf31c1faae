import pytest
import torch

from opendetr.config import PRESETS, LossConfig, load_recipe, resolve_config
from opendetr.data.datasets import load_index
from opendetr.data.loader import DetectionDataset
from opendetr.data.transforms import Preprocessing
from opendetr.loss.criterion import LossWeights
from opendetr.loss.matcher import CostWeights
from opendetr.model.detr import build_model
from opendetr.structures import DetrOutput
from opendetr.training.flips import FlipTrial, mirrored, open_flips, settle_flips, try_flips, upside_down


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
        config, reasons = settle_flips(load_recipe("fast"), ignorant, is_last=False)
    assert open_flips(config.data) == ["horizontal_flip", "vertical_flip"]
    assert reasons == []
    config, reasons = settle_flips(config, ignorant, is_last=True)
    assert (config.data.horizontal_flip, config.data.vertical_flip) == (0.0, 0.0)
    assert "50%" in reasons[0]


def test_what_is_given_is_not_tried():
    config = resolve_config("fast", overrides=["data.vertical_flip=0.0"])
    assert open_flips(config.data) == ["horizontal_flip"]
    assert settle_flips(config, FlipTrial(1.0, 0.8, 3.0, 1.0), is_last=False)[0].data.vertical_flip == 0
    assert open_flips(load_recipe("paper").data) == []


def test_the_cost_is_that_of_the_flipped_pictures(coco_folder, monkeypatch):
    """A model that knows every picture, mirrored too, and answers anything to one that is upside down."""
    dataset = DetectionDataset(
        load_index(coco_folder((1,) * 6), "train"), Preprocessing(48, 64, (0.0,) * 3, (1.0,) * 3).transform()
    )
    model = build_model(PRESETS["detr-tiny"], LossConfig(), 3).eval()
    truth = {
        float(dataset[n][0].sum()): (dataset[n][1].boxes_cxcywh, dataset[n][1].labels) for n in range(len(dataset))
    }

    def only_upright_or_mirrored(images, padding_mask):
        (boxes, labels), image = truth[min(truth, key=lambda key: abs(key - float(images.sum())))], images[0]
        corner = torch.stack([image[0, 0, 0], image[0, 0, -1]])
        originals = [dataset[n][0][0, 0, [0, -1]] for n in range(len(dataset))]
        upright = any(torch.equal(corner, original) for original in originals)
        if any(torch.equal(corner.flip(0), original) for original in originals):
            boxes, upright = torch.cat([1 - boxes[:, :1], boxes[:, 1:]], 1), True
        logits = torch.full((1, 1, 1, 4), -2.0)
        logits[..., labels[0]] = 2.0
        return DetrOutput(logits, boxes[None, None] if upright else 0 * boxes[None, None] + 0.02)

    monkeypatch.setattr(model, "forward", only_upright_or_mirrored)
    weights = LossWeights()
    found = try_flips(model, dataset, CostWeights(), weights, torch.device("cpu"), "fp32")
    assert found.accuracy == 1
    assert found.mirrored == pytest.approx(1.0)
    assert found.upside_down > 3


def test_without_any_object_there_is_nothing_to_ask(coco_folder):
    transform = Preprocessing(48, 64, (0.0,) * 3, (1.0,) * 3).transform()
    model = build_model(PRESETS["detr-tiny"], LossConfig(), 3).eval()
    asked = (CostWeights(), LossWeights(), torch.device("cpu"), "fp32")
    empty = DetectionDataset(load_index(coco_folder((0, 0)), "train"), transform)
    nothing_known = try_flips(model, empty, *asked)
    assert nothing_known.accuracy == 0
    assert settle_flips(load_recipe("fast"), nothing_known, is_last=True)[0].data.horizontal_flip == 0
    mostly_empty = DetectionDataset(load_index(coco_folder((0, 2, 0), names=("only",)), "train"), transform)
    found = try_flips(model, mostly_empty, *asked)
    assert 0 <= found.iou < 0.5  # an untrained model: with one class its accuracy says nothing, its boxes do
    assert open_flips(settle_flips(load_recipe("fast"), found, is_last=False)[0].data)
    assert try_flips(model, mostly_empty, *asked, lambda: True) is None
