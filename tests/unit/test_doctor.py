from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opendetr.data.door import load_index
from opendetr.data.index import index_of_records
from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.report import print_classes
from opendetr.recipes.recipe import resolve_config
from opendetr.training.choices import fit_to_data, measure_objects
from opendetr.training.doctor import Overfitting, _with_most_classes, overfit, verdict
from opendetr.training.range_test import FIRST, range_test
from opendetr.training.speed import Speed
from opendetr.training.step import TrainingStep


@pytest.fixture
def data(coco_folder):
    return coco_folder((12, 11, 10, 9), splits=("train", "val"))


def test_the_table_counts_objects_and_pictures_of_every_class(coco_folder, capsys):
    index = load_index(coco_folder((1,) * 4), "train")
    boxes = ([(1, 4), (1, 6), (0, 10)], [], [(1, 8)], [(0, 20)])  # label and side
    records = [
        replace(
            record, labels=np.array([label for label, _ in objects], dtype=np.int64),
            boxes_xyxy=np.array([[0, 0, side, side] for _, side in objects], np.float32).reshape(-1, 4),
        )
        for record, objects in zip(index.records, boxes)
    ]  # fmt: skip
    print_classes(index_of_records(records, index.label_map, Path("data.json")))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    names, ids = index.label_map.names, [str(number) for number in index.label_map.category_ids]
    assert [row for row in rows if row[:1] and row[0] in names] == [
        [names[1], ids[1], "3", "2", "4", "6", "8"], [names[0], ids[0], "2", "2", "10", "15", "20"],
        [names[2], ids[2], "0", "0"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ap50", "passes", "is_problem", "words"),
    [
        (0.95, 20, False, "were overfitted (AP50 0.95): the data can be learned"),
        (0.3, 20, False, "20 passes over 4 pictures (AP50 0.30) are too few to judge; raise --seconds"),
        (0.3, 300, True, "worst in 'star', in 300 passes at 48 pixels: check whether its boxes fit"),
        (0.6, 300, False, "a larger --image-size may help"),
    ],
)
def test_what_overfitting_says(data, ap50, passes, is_problem, words):
    per_class = {"disc": {"id": 1, "AP": 0.5, "AP50": 0.5}, "star": {"id": 3, "AP": 0.1, "AP50": 0.1}}
    result = Overfitting(CocoMetrics({"AP50": ap50}, per_class), 48, passes, 48)
    (finding,) = verdict(result, load_index(data, "train"))
    assert words in finding.sentence
    assert finding.is_problem == is_problem


def test_objects_too_small_for_the_size_are_a_problem(data):
    result = Overfitting(CocoMetrics({"AP50": 0.95}, {}), 48, 300, training_size=4)
    small, _ = verdict(result, load_index(data, "train"))
    assert small.is_problem
    assert "at pictures of 4 pixels" in small.sentence
    assert "train with a larger --image-size" in small.sentence


def test_small_objects_that_train_would_make_visible_are_no_problem(coco_folder, edit_json, monkeypatch):
    """14 large objects and 6 small ones, one per picture: eight pictures alone would be looked at too small."""
    data = coco_folder((1,) * 20, names=("large", "small"), size=(640, 480))

    def change(coco):
        for number, a in enumerate(coco["annotations"]):
            small = number >= 14
            a.update(category_id=1 + small, bbox=[100, 100, *[24 if small else 160] * 2])

    edit_json(data / "annotations" / "train.json", change)
    monkeypatch.setattr("opendetr.training.setup.look_at_speed", lambda *_: Speed(2e-5, 100.0))
    monkeypatch.setattr("opendetr.training.loop.Trainer.fit", lambda trainer: None)
    config = resolve_config(
        "fast", options={"model.backbone": "test_resnet", "model.backbone_weights": "none", "train.device": "cpu",
                         "train.workers": 0, "train.precision": "fp32", "model.embed_dim": 32},
    )  # fmt: skip
    index = load_index(data, "train")
    result = overfit(config, index, seconds=1000)  # learning itself is left out
    assert result.image_size == 256  # in which the small ones have 12.8 pixels
    assert result.training_size == 480
    assert not any("smallest kind" in finding.sentence for finding in verdict(result, index))


def test_pictures_are_as_full_as_most(data, coco_folder):
    index = load_index(coco_folder((1, 1, 1, 6, 6, 6, 6, 6, 6, 6, 6, 6, 30), names=("one",)), "train")
    assert {len(index.records[n].labels) for n in _with_most_classes(index.records)} == {6}


def test_the_range_test_trains_with_rates_that_grow(data, monkeypatch):
    tiny = {
        "model.backbone": "test_resnet", "model.backbone_weights": "none", "train.device": "cpu", "train.workers": 0,
        "train.precision": "fp32", "model.embed_dim": 32, "data.image_size": 48, "train.batch_size": 4,
    }  # fmt: skip
    lr, rates, real = 1e-3, [], TrainingStep.__call__

    def note(step, batches):
        rates.append(step.optimizer.param_groups[0]["lr"])
        return real(step, batches)

    monkeypatch.setattr(TrainingStep, "__call__", note)
    monkeypatch.setattr("opendetr.training.range_test.STEPS", 8)
    index = load_index(data, "train")
    config, _ = fit_to_data(resolve_config("fast", options={**tiny, "train.lr": lr}), index)
    found = range_test(config, index, measure_objects(index), seconds=600.0)
    assert rates == [lr * factor for factor in found.factors]
    assert found.factors[0] == pytest.approx(FIRST, rel=1e-2)  # a little of the time has passed
    assert found.factors == sorted(found.factors)
    assert len(found.losses) == len(found.factors) <= 8
