"""Thresholds per class: how they are fitted, how they cut, and how they are read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from opendetr.checkpoints.description import Description, checked_thresholds
from opendetr.data.transforms import Preprocessing
from opendetr.detections import Detections, threshold_in_words
from opendetr.evaluation.analysis import LEAST_OBJECTS, analyse, fitted_thresholds
from opendetr.evaluation.coco import FoundArrays, TruthArrays
from opendetr.labels import LabelMap
from opendetr.scoring import FocalScoring

LABELS = LabelMap((7, None, 90, 12), ("cat", "N/A", "dog", "emu"))
MEASURED = LabelMap((7, 90), ("cat", "dog"))


def analysis_of(objects):
    """An object of each class in as many pictures as said, found with 0.3 (cat) or 0.8 (dog), and false alarms."""
    pictures = np.concatenate([np.arange(count) for count in objects])
    labels = np.repeat(np.arange(2), objects)
    boxes = np.tile([10.0, 10.0, 20.0, 20.0], (len(labels), 1)) + 40.0 * labels[:, None] * [1, 1, 0, 0]
    size = max(objects)
    truth = TruthArrays(
        list(range(size)), [7, 90], ["cat", "dog"], pictures, labels, boxes, boxes[:, 2:].prod(1),
        np.zeros(len(labels), dtype=bool),
    )  # fmt: skip
    wrong = np.tile([150.0, 150.0, 20.0, 20.0], (2 * size, 1))
    found = FoundArrays(
        np.concatenate([pictures, np.tile(np.arange(size), 2)]), np.concatenate([labels, np.repeat([0, 1], size)]),
        np.concatenate([boxes, wrong]), np.concatenate([np.where(labels, 0.8, 0.3), np.repeat([0.1, 0.6], size)]),
    )  # fmt: skip
    return analyse(truth, found).analysis


def test_a_class_has_the_threshold_between_its_right_and_wrong_detections():
    fitted = fitted_thresholds(analysis_of((LEAST_OBJECTS, LEAST_OBJECTS)), MEASURED, LABELS)
    assert fitted == pytest.approx((0.2, 0.5, 0.7, 0.5))  # half-way; classes that are not measured have 0.5


def test_a_class_with_few_objects_keeps_the_usual_threshold():
    fitted = fitted_thresholds(analysis_of((LEAST_OBJECTS, LEAST_OBJECTS - 1)), MEASURED, LABELS)
    assert fitted == pytest.approx((0.2, 0.5, 0.5, 0.5))


def test_every_class_is_cut_at_its_own_threshold():
    scores, labels = torch.tensor([0.9, 0.6, 0.5, 0.3, 0.2]), torch.tensor([2, 2, 1, 0, 0])
    found = Detections(torch.zeros(5, 4), scores, labels, LABELS, (10, 10))
    assert found.above((0.25, 0.0, 0.7, 0.5)).scores.tolist() == pytest.approx([0.9, 0.3])
    assert len(found.above(0.25)) == 3  # a number is that of all classes


def test_a_threshold_between_neighbours_in_single_precision_parts_them():
    low = np.float32(0.7)
    high = np.nextafter(low, np.float32(1))
    found = Detections(torch.zeros(2, 4), torch.tensor([high, low]), torch.tensor([0, 0]), MEASURED, (10, 10))
    assert len(found.above([(float(low) + float(high)) / 2, 0.5])) == 1


def test_what_is_asked_for_comes_before_the_models_own():
    plain = Description(Preprocessing(64, 64, (0.5,) * 3, (0.5,) * 3, 32), FocalScoring(), MEASURED)
    own = replace(plain, thresholds=(0.2, 0.7))
    assert [plain.threshold(None), own.threshold(None), own.threshold(0.0)] == [0.5, (0.2, 0.7), 0.0]
    assert Description.from_json(own.to_json()).thresholds == (0.2, 0.7)
    assert "thresholds" not in plain.to_json()
    assert Description.from_json(plain.to_json()).thresholds == ()


@pytest.mark.parametrize("stored", [[0.5], [0.5, 1.5], [0.5, float("nan")], [0.5, True], ["0.5", 0.5], "00", None, 0.5])
def test_stored_thresholds_are_checked(stored):
    with pytest.raises(ValueError, match=r"expected 2 numbers in 0\.\.1, one per class"):
        checked_thresholds(stored, 2)


def test_thresholds_in_words():
    assert threshold_in_words(0.25) == threshold_in_words((0.25, 0.25)) == "the threshold of 0.25"
    assert threshold_in_words((0.31, 0.62, 0.5)) == "the model's threshold of its class (0.31 to 0.62)"
