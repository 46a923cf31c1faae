import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr.errors import UserError
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
    batch = Batch(torch.zeros(2, 3, 8, 8), None, sizes, (5, 6))
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
    batch = Batch(torch.zeros(1, 3, 8, 8), None, torch.tensor([[20, 30]]), (5,))
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


def with_picture(detections: Detections) -> tuple[Detections, Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return replace(detections, picture=lambda: image), image


def test_items_are_rows_in_plain_numbers(detections):
    items = list(detections)
    assert items[1] == ("dog", pytest.approx(0.9), (0.0, 0.0, 4.0, 2.0), 2, 90)
    assert [type(value) for value in items[0]] == [str, float, tuple, int, int]
    assert detections[0] == detections[np.int64(0)] == detections[torch.tensor(0)] == items[0]
    assert detections[-1] == items[-1]
    with pytest.raises(IndexError):
        detections[3]
    for no_row in (True, np.True_, torch.tensor(True), torch.tensor(1.7), np.array(1.0)):
        with pytest.raises(TypeError):
            detections[no_row]
    assert detections != replace(detections)  # no comparison of tensors, which would be ambiguous


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (slice(1, None), [1, 2]), ([2, 0], [2, 0]), ([], []), ([0], [0]), (torch.tensor([1]), [1]),
        (torch.tensor([True, False, True]), [0, 2]), ([False, True, False], [1]), (np.array([False, False, True]), [2]),
        (slice(None, None, 2), [0, 2]), (slice(None, None, -1), [2, 1, 0]), (np.array([2, 0])[::-1], [0, 2]),
    ],
)  # fmt: skip
def test_other_indices_choose_rows_and_keep_all_about_the_picture(detections, rows, kept):
    chosen = detections[rows]
    assert isinstance(chosen, Detections)
    assert list(chosen) == [detections[row] for row in kept]
    assert (chosen.image_size, chosen.image_id, chosen.file_name) == ((20, 30), 42, "a.jpg")
    assert chosen.boxes_xyxy.shape == (len(kept), 4)


def test_filtering_by_names_ids_and_score(detections):
    assert detections.filter("cat").names == ["cat"]
    assert detections.filter([90]).names == detections.filter("90").names == ["dog"]
    assert detections.filter(["dog", 7]).names == detections.filter("cat,dog").names == ["cat", "dog"]
    assert detections.filter(score=0.5).names == ["cat", "dog"]  # 0.5 itself too
    assert detections.filter("cat", score=0.6).names == []
    assert detections.filter().names == detections.names


def test_an_unknown_class_is_answered_with_those_that_exist(detections):
    with pytest.raises(UserError, match=r"no class 'Catt' \(did you mean cat\?\); its classes are 7 'cat', 90 'dog'$"):
        detections.filter("Catt")
    for unknown in ("N/A", 8, "0", "cat,bird"):
        with pytest.raises(UserError, match="the model has no class"):
            detections.filter(unknown)
    with pytest.raises(UserError, match=r"^score must be between 0 and 1, got 50; for 50 % give 0\.5$"):
        detections.filter(score=50)


def test_clipping_cuts_boxes_and_keeps_rows(detections):
    outside = replace(detections, boxes_xyxy=detections.boxes_xyxy + 25)
    assert detections.clipped().boxes_xyxy[0].tolist() == [0.0, 1.0, 10.0, 20.0]
    assert detections.boxes_xyxy[0].tolist() == [-5.0, 1.0, 10.0, 21.0]  # as it was
    assert len(outside.clipped()) == 3
    assert (outside.clipped().boxes_xyxy <= torch.tensor([30.0, 20.0, 30.0, 20.0])).all()


def test_crops_are_the_pixels_in_the_boxes(detections):
    found, image = with_picture(detections)
    crops = found.crops()
    assert [crop.size for crop in crops] == [(10, 19), (4, 2), (6, 6)]
    assert crops[2].tobytes() == image.crop((3, 3, 9, 9)).tobytes()
    odd = torch.tensor([[2.6, 3.2, 4.1, 3.4], [50.0, 50.0, 60.0, 60.0], [29.9, 5.0, 29.9, 5.0]])
    # thin, rounded outwards; outside of the picture and empty, left out as in drawings and files
    assert [crop.size for crop in replace(found, boxes_xyxy=odd).crops()] == [(3, 1)]
    nan = torch.tensor([[float("nan"), 3.0, 9.0, 9.0], [3.0, 3.0, float("inf"), 9.0], [3.0, 3.0, 9.0, 9.0]])
    assert [crop.size for crop in replace(found, boxes_xyxy=nan).crops()] == [(6, 6)]
    assert found[[]].crops() == []


def test_drawing_changes_a_copy_and_is_written_by_suffix(detections, tmp_path):
    found, image = with_picture(detections)
    before = image.tobytes()
    drawn = found.plot()
    assert image.tobytes() == before
    assert drawn.mode == "RGB"
    assert drawn.size[0] * 20 == drawn.size[1] * 30  # enlarged as a whole
    assert found[[]].plot().tobytes() != drawn.tobytes()
    assert found.save(tmp_path / "new/a.png") == tmp_path / "new/a.png"
    assert Image.open(tmp_path / "new/a.png").tobytes() == drawn.tobytes()
    with pytest.raises(UserError, match=r"a\.txt names no kind of picture by its suffix; expected e\.g\. a\.jpg"):
        found.save(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a\.h5 cannot be written as HDF5 .*; give e\.g\. a\.jpg"):
        found.save(tmp_path / "a.h5")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"cannot be written"):
        found.save(tmp_path / "file/a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new"]


def test_detections_without_their_picture_say_so(detections, tmp_path):
    for use in (detections.plot, detections.crops, lambda: detections.save(tmp_path / "a.png")):
        with pytest.raises(UserError, match="do not know their picture; give it"):
            use()
    _, image = with_picture(detections)
    assert len(detections.crops(image)) == 3
    with pytest.raises(UserError, match=r"^a\.jpg has 20x30 pixels, the one that was detected in had 30x20"):
        detections.plot(image.rotate(90, expand=True))


def test_a_given_picture_is_read_as_predict_reads_it(detections, tmp_path):
    glass = Image.new("RGBA", (30, 20), (0, 0, 0, 0))  # transparent is white, not black
    grey = Image.fromarray(np.full((20, 30), 128 * 257, dtype=np.uint16))  # scaled, not clipped
    turned = Image.new("RGB", (20, 30), "red")
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    assert detections.crops(glass)[0].getpixel((0, 0)) == (255, 255, 255)
    assert detections.crops(grey)[0].getpixel((0, 0)) == (128, 128, 128)
    assert detections.crops(tmp_path / "turned.jpg")[0].size == (10, 19)
    assert detections.crops(np.zeros((20, 30, 3), dtype=np.uint8))[0].getpixel((0, 0)) == (0, 0, 0)


def test_plain_values_go_through_json(detections):
    found = json.loads(json.dumps(detections.to_dict()))
    assert {name: value for name, value in found.items() if name != "detections"} == {
        "file_name": "a.jpg", "image_id": 42, "height": 20, "width": 30,
    }  # fmt: skip
    assert found["detections"][0] == {
        "name": "cat", "score": 0.5, "box_xyxy": [-5.0, 1.0, 10.0, 21.0], "label": 1, "category_id": 7,
    }  # fmt: skip


def test_pandas_has_a_row_per_detection(detections):
    pytest.importorskip("pandas")
    frame = detections[:2].to_pandas()
    assert list(frame.columns) == ["file_name", "image_id", "name", "category_id", "score", "x1", "y1", "x2", "y2"]
    assert frame.iloc[0].tolist() == ["a.jpg", 42, "cat", 7, 0.5, -5.0, 1.0, 10.0, 21.0]
    assert len(detections[[]].to_pandas()) == 0


def test_pandas_is_named_where_it_is_missing(detections, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        detections.to_pandas()


def test_what_is_printed_is_a_table(detections):
    assert repr(detections[:2]).splitlines() == [
        "Detections: 2 in a.jpg of 30x20 pixels",
        "name  score    x1   y1    x2    y2",
        "cat   0.500  -5.0  1.0  10.0  21.0",
        "dog   0.900   0.0  0.0   4.0   2.0",
    ]
    assert repr(detections[[]]) == "Detections: 0 in a.jpg of 30x20 pixels"
    assert repr(detections[[0] * 30]).splitlines()[-1] == "... and 10 more"


def test_a_notebook_shows_the_drawn_picture_or_else_the_table(detections):
    found, _ = with_picture(detections)
    shown = Image.open(io.BytesIO(found._repr_png_()))
    assert (shown.format, max(shown.size) <= 1024) == ("PNG", True)
    assert detections._repr_png_() is None
    huge = Image.new("RGB", (3000, 10))
    wide = replace(detections, image_size=(10, 3000), picture=lambda: huge)
    assert Image.open(io.BytesIO(wide._repr_png_())).width == 1024
