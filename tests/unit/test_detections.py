import numpy as np
import pytest
import torch

from opendetr.labels import LabelMap
from opendetr.model.postprocess import postprocess
from opendetr.scoring import SoftmaxScoring
from opendetr.structures import Batch, Detections, DetrOutput, Target, Targets

LABELS = LabelMap((None, 7, 90), ("N/A", "cat", "dog"))


@pytest.fixture
def detections():
    return Detections(
        boxes_xyxy=torch.tensor([[-5.0, 1.0, 10.0, 21.0], [0.0, 0.0, 4.0, 2.0], [3.0, 3.0, 9.0, 9.0]]),
        scores=torch.tensor([0.5, 0.9, 0.25]),
        labels=torch.tensor([1, 2, 0]),
        label_map=LABELS,
        image_size=(20, 30),
        image_id=42,
        file_name="a.jpg",
    )


def test_names_and_raw_category_ids(detections):
    assert len(detections) == 3
    assert detections.names == ["cat", "dog", "N/A"]
    assert detections.category_ids == [7, 90, None]


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, [0, 1]), (0.5, [0, 1]), (0.6, [1]), (0.95, [])])
def test_above_keeps_what_reaches_the_threshold_and_has_a_category_and_all_about_it(detections, threshold, kept):
    above = detections.above(threshold)
    assert torch.equal(above.scores, detections.scores[kept])
    assert torch.equal(above.boxes_xyxy, detections.boxes_xyxy[kept])
    assert torch.equal(above.labels, detections.labels[kept])
    assert (above.label_map, above.image_size, above.image_id, above.file_name) == (LABELS, (20, 30), 42, "a.jpg")
    assert above.boxes_xyxy.shape == (len(kept), 4)


def test_coco_results_are_width_and_height_not_clipped_and_without_unused_classes(detections):
    of_picture = {"image_id": 42, "file_name": "a.jpg"}
    assert detections.to_coco() == [
        {**of_picture, "category_id": 7, "name": "cat", "bbox": [-5.0, 1.0, 15.0, 20.0], "score": 0.5},
        {**of_picture, "category_id": 90, "name": "dog", "bbox": [0.0, 0.0, 4.0, 2.0], "score": pytest.approx(0.9)},
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.95])
def test_supervision_holds_the_same(detections, threshold):
    kept = detections.above(threshold)
    converted = kept.to_supervision()
    assert np.array_equal(converted.xyxy, kept.boxes_xyxy.numpy())
    assert np.array_equal(converted.confidence, kept.scores.numpy())
    assert np.array_equal(converted.class_id, kept.labels.numpy())
    assert converted.data["class_name"].tolist() == kept.names


def test_postprocessing_answers_every_query_in_pixels_of_the_original_picture(random_output):
    output = random_output(2, 2, 5, classes=3)
    output.boxes_cxcywh[-1, 0, 0] = torch.tensor([0.5, 0.9, 0.5, 0.4])  # reaches below the picture
    sizes = torch.tensor([[20, 30], [100, 50]])
    batch = Batch(torch.zeros(2, 3, 8, 8), None, sizes, torch.tensor([5, 6]))
    both = postprocess(output, batch, SoftmaxScoring(), LABELS)
    assert [found.image_id for found in both] == [5, 6]
    assert [found.image_size for found in both] == [(20, 30), (100, 50)]
    torch.testing.assert_close(both[0].boxes_xyxy[0], torch.tensor([7.5, 14.0, 22.5, 22.0]))
    for image, found in enumerate(both):
        height, width = sizes[image].tolist()
        probabilities = output.logits[-1, image].softmax(-1)[:, :3]
        assert torch.equal(found.scores, probabilities.amax(1))
        assert torch.equal(found.labels, probabilities.argmax(1))
        x, y, w, h = output.boxes_cxcywh[-1, image].unbind(1)
        expected = torch.stack(
            [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height], 1
        )
        torch.testing.assert_close(found.boxes_xyxy, expected)


def test_half_precision_answers_are_reported_in_float32(random_output):
    output = DetrOutput(*(tensor.bfloat16() for tensor in random_output(1, 1, 5, classes=3)))
    batch = Batch(torch.zeros(1, 3, 8, 8), None, torch.tensor([[20, 30]]), torch.tensor([5]))
    (found,) = postprocess(output, batch, SoftmaxScoring(), LABELS)
    assert found.scores.dtype == found.boxes_xyxy.dtype == torch.float32


def test_targets_are_stacked_with_their_counts():
    targets = [Target(torch.arange(count), torch.rand(count, 4)) for count in (2, 0, 3)]
    stacked = Targets.stack(targets)
    assert stacked.counts.tolist() == [2, 0, 3]
    assert stacked.boxes_cxcywh.shape == (3, 3, 4)
    for row, target in enumerate(targets):
        assert torch.equal(stacked.labels[row, : len(target.labels)], target.labels)
        assert torch.equal(stacked.boxes_cxcywh[row, : len(target.labels)], target.boxes_cxcywh)
