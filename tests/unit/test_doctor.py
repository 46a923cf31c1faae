import json
import shutil

import pytest

from opendetr.training.doctor import examine


def sentences(root, split="train"):
    return {finding.sentence: finding.is_problem for finding in examine(root, split)}


def only(found, words):
    matching = [sentence for sentence in found if words in sentence]
    assert len(matching) == 1, found
    return matching[0]


def edit(root, change, split="train"):
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def data(coco_folder):
    return coco_folder((12, 11, 10, 9), splits=("train", "val"))


def test_good_data_have_no_problems(data):
    assert not any(sentences(data).values())


def test_fractions_are_no_pixels(data):
    def to_fractions(coco):
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"] = [x / 64, y / 48, w / 64, h / 48]

    edit(data, to_fractions)
    found = sentences(data)
    assert found[only(found, "fractions")]


@pytest.mark.parametrize(
    ("convention", "convert"),
    [
        ("x1, y1, x2, y2", lambda x, y, w, h: [x, y, x + w, y + h]),
        ("centre x, centre y", lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
    ],
)
def test_another_convention_is_named(coco_folder, convention, convert):
    data = coco_folder([8] * 20)

    def change(coco):
        for a in coco["annotations"]:
            a["bbox"] = convert(*a["bbox"])

    edit(data, change)
    found = sentences(data)
    sentence = only(found, "reach out of their pictures")
    assert found[sentence]
    assert convention in sentence


def test_ids_that_are_never_used(data):
    edit(data, lambda coco: coco["categories"].append({"id": 4, "name": "moon"}))
    edit(data, lambda coco: coco["categories"].append({"id": 4, "name": "moon"}), "val")
    assert "shifted by one" in only(sentences(data), "'moon'")


def test_classes_only_val_has(data):
    edit(data, lambda coco: [a.update(category_id=1) for a in coco["annotations"]])
    found = sentences(data)
    assert found[only(found, "never shows: square, star")]


def test_pictures_twice_and_broken(data):
    pictures = data / "images"
    shutil.copy(pictures / "train_0.png", pictures / "train_1.png")
    (pictures / "train_3.png").write_bytes(b"nothing")
    found = sentences(data)
    assert "train_1.png is train_0.png" in only(found, "there twice")
    assert found[only(found, "unusable")]


def test_boxes_twice(data):
    edit(data, lambda coco: coco["annotations"].append({**coco["annotations"][0], "id": 999}))
    assert "train_0.png" in only(sentences(data), "labelled twice")


def test_pictures_of_val_in_train(data):
    shutil.copy(data / "images" / "train_0.png", data / "images" / "val_0.png")
    assert "val_0.png" in only(sentences(data), "val are in train")


def test_no_boxes_at_all(data):
    edit(data, lambda coco: coco["annotations"].clear())
    found = sentences(data)
    assert found[only(found, "no boxes at all")]


def test_other_categories_in_val(data):
    edit(data, lambda coco: coco["categories"].append({"id": 4, "name": "moon"}), "val")
    found = sentences(data)
    assert found[only(found, "give both the same list")]


def test_nothing_but_boxes_that_cannot_be_learned(data):
    edit(data, lambda coco: [a.update(bbox=[1, 1, 0, 0]) for a in coco["annotations"]])
    found = sentences(data)
    assert found[only(found, "no box that can be learned from")]
