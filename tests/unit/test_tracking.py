"""Objects keep their id through a video."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr.drawing.tracks import draw_tracks
from opendetr.errors import UserError
from opendetr.inference.tracking import Tracker
from opendetr.labels import LabelMap
from opendetr.structures import Detections

LABELS = LabelMap((7, 90), ("cat", "dog"))


def frame(*objects: tuple[int, float, float]) -> Detections:
    """Objects (class index, left edge, score), boxes of 20x20 pixels in a picture of 100x200."""
    boxes = torch.tensor([[left, 40.0, left + 20, 60.0] for _, left, _ in objects]).view(-1, 4)
    scores = torch.tensor([score for _, _, score in objects])
    return Detections(boxes, scores, torch.tensor([label for label, _, _ in objects]).long(), LABELS, (100, 200))


def test_objects_keep_their_ids_and_classes_while_they_pass_each_other():
    tracker = Tracker(0.5, 30)
    seen = []
    for step in range(30):  # a cat from left to right, a dog from right to left, in any order
        objects = [(0, 10.0 + 4 * step, 0.9), (1, 130.0 - 4 * step, 0.8)]
        found, ids = tracker.follow(frame(*(objects if step % 2 else objects[::-1])))
        assert found.names == ([] if not step else ["cat", "dog"] if step % 2 else ["dog", "cat"])
        seen.append(dict(zip(found.names, ids)))
    assert seen[0] == {}  # a track begins with the second frame
    assert all(ids == seen[1] for ids in seen[1:])
    assert sorted(seen[1].values()) == [1, 2]
    assert tracker.count == 2


def test_an_unsure_detection_continues_a_track_and_begins_none():
    tracker = Tracker(0.5, 30)
    for step in range(5):
        tracker.follow(frame((0, 10.0 + step, 0.9), (1, 150.0, 0.3)))
    found, ids = tracker.follow(frame((1, 150.0, 0.3), (0, 15.0, 0.2)))
    assert (found.names, ids) == (["cat"], [1])
    assert found.scores.tolist() == pytest.approx([0.2])


@pytest.mark.parametrize(("missed", "same"), [(20, True), (45, False)])  # of 30 frames a second
def test_an_object_that_was_lost_for_less_than_a_second_is_the_same(missed, same):
    tracker = Tracker(0.5, 30)
    for _ in range(5):
        _, first = tracker.follow(frame((0, 10.0, 0.9)))
    for _ in range(missed):
        found, ids = tracker.follow(frame())
        assert (len(found), ids) == (0, [])
    for _ in range(2):
        _, again = tracker.follow(frame((0, 10.0, 0.9)))
    assert (again == first) is same


def test_without_the_package_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match=r"track needs the package trackers \(.+\); install it with pip install 'open"):
        Tracker(0.5, 30)


def test_lines_are_drawn_along_the_way_in_the_colour_of_the_track():
    image = Image.new("RGB", (800, 600))
    found, traces = frame((0, 150.0, 0.9)), {3: [(20.0, 500.0), (400.0, 500.0), (400.0, 300.0)]}
    drawn = np.asarray(draw_tracks(image, found.boxes_xyxy, found.scores, ["cat"], [3], traces))
    assert drawn.shape == (600, 800, 3)
    box = tuple(drawn[59, 151])  # a corner of the box
    assert box == tuple(drawn[500, 200]) == tuple(drawn[400, 400]) != (0, 0, 0)
    assert not drawn[450, 200].any()
    other = np.asarray(draw_tracks(image, found.boxes_xyxy, found.scores, ["cat"], [4], {}))
    assert tuple(other[59, 151]) != box
    assert not other[500, 200].any()
    assert not np.asarray(draw_tracks(image, found.boxes_xyxy[:0], found.scores[:0], [], [], {})).any()
