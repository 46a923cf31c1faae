"""A run learns from its pictures: what changed in them is said."""

from dataclasses import replace

import pytest

from opendetr.data.door import load_index
from opendetr.data.index import Objects, Texts
from opendetr.data.picture_digests import changes_in_words, picture_digests


@pytest.fixture
def index(coco_folder):
    return load_index(coco_folder(boxes_per_picture=[1, 2, 0, 3]), "train")


def moved(index, **changes):
    objects = index.objects
    values = {
        "pictures": objects.pictures, "labels": objects.labels, "boxes_xywh": objects.boxes_xywh,
        "areas": objects.areas, "reasons": objects.reasons, "ids": objects.ids,
    }  # fmt: skip
    return replace(index, objects=Objects(**values | changes))


def test_a_moved_folder_is_the_same(index):
    names = [path.replace("/images/", "/elsewhere/") for path in index.paths]
    assert changes_in_words(picture_digests(index), picture_digests(replace(index, paths=Texts(names)))) == ""


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ([0, 1, 2], [0, 1, 2, 3], "1 picture was added"),
        ([0, 1, 2, 3], [2, 3], "2 pictures were removed"),
        ([0, 1], [1, 2], "1 picture was added and 1 picture was removed"),
        ([0, 1], [1, 0], "its pictures have another order or other ids"),
        ([0, 0, 1], [0, 1], "1 picture was removed"),
    ],
)
def test_pictures_that_came_and_went_are_counted(index, before, now, said):
    digests = picture_digests(index)
    assert changes_in_words(digests[before], digests[now]) == said


def test_boxes_labels_and_ids_count(index):
    before = picture_digests(index)
    boxes = index.objects.boxes_xywh.copy()
    boxes[0, 2] -= 0.25
    assert (
        changes_in_words(before, picture_digests(moved(index, boxes_xywh=boxes))) == "size or boxes of 1 picture differ"
    )
    labels = index.objects.labels + 1
    assert "of 3 pictures differ" in changes_in_words(before, picture_digests(moved(index, labels=labels)))
    ids = replace(index, image_ids=index.image_ids + 1)
    assert changes_in_words(before, picture_digests(ids)) == "its pictures have another order or other ids"
