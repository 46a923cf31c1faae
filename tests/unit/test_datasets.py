import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opendetr.data.check import check_pictures, describe, describe_classes, warnings
from opendetr.data.datasets import count_objects, has_split, known_images, load_index, shared_pictures
from opendetr.errors import UserError
from opendetr.labels import LabelMap

TRAIN = Path("annotations/train.json")


@pytest.fixture
def changed(coco_folder, edit_json):
    """A data set of one picture (64x48) with three boxes whose train.json `change` has edited."""

    def make(change):
        root = coco_folder([3])
        edit_json(root / TRAIN, change)
        return root

    return make


@pytest.fixture
def with_boxes(changed):
    """The index of one picture (64x48) with the given annotations; what they leave out is a box of class 1."""

    def load(*annotations):
        def change(coco):
            coco["annotations"] = [
                {"id": number, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
                | annotation
                for number, annotation in enumerate(annotations, start=1)
            ]

        return load_index(changed(change), "train")

    return load


def same_records(one, other):
    assert len(one) == len(other)
    for a, b in zip(one.records, other.records):
        assert (a.image_id, a.path.name, a.width, a.height) == (b.image_id, b.path.name, b.width, b.height)
        assert np.array_equal(a.labels, b.labels)
        assert np.array_equal(a.boxes_xyxy, b.boxes_xyxy)


@pytest.mark.parametrize(
    ("layout", "written", "names"),
    [
        ("plain", ["train", "val"], ["train", "val"]),
        ("coco2017", ["train", "val"], ["train", "val"]),
        ("roboflow", ["train", "valid", "test"], ["train", "val", "test"]),
    ],
)
def test_three_layouts_hold_the_same(coco_folder, layout, written, names):
    plain, root = coco_folder((1, 2, 0, 3), written), coco_folder((1, 2, 0, 3), written, layout)
    for name, own_name in zip(names, written):
        index = load_index(root, name)
        same_records(index, load_index(plain, own_name))
        assert index.label_map.names == ("circle", "square", "star")
        assert index.label_map.category_ids == (1, 2, 3)
        assert count_objects(index.records) == 6
        assert all(record.path.is_file() for record in index.records)
        assert has_split(root, name)
    assert not has_split(root, "test2")
    assert has_split(root, "valid") == ("valid" in written)  # the name on disk is understood too


def test_labels_and_boxes_are_those_of_the_file(coco_folder):
    root = coco_folder()
    coco = json.loads((root / TRAIN).read_text())
    for record in load_index(root, "train").records:
        own = [a for a in coco["annotations"] if a["image_id"] == record.image_id]
        assert record.labels.tolist() == [a["category_id"] - 1 for a in own]
        x, y, w, h = np.array([a["bbox"] for a in own], dtype=float).reshape(-1, 4).T
        assert np.array_equal(record.boxes_xyxy, np.stack([x, y, x + w, y + h], axis=1))
        assert record.boxes_xyxy.shape == (len(own), 4)


@pytest.mark.parametrize("ids", [(7, 3, 90), (0, 1, 2), ("12", "3", "1")])
def test_category_ids_with_holes_from_zero_and_in_quotes(changed, ids):
    def renumber(coco):
        for category, number in zip(coco["categories"], ids):
            category["id"] = number
        for annotation, number in zip(coco["annotations"], ids):
            annotation["category_id"] = number

    index = load_index(changed(renumber), "train")
    assert index.label_map.category_ids == tuple(sorted(map(int, ids)))
    names = dict(zip(map(int, ids), ("circle", "square", "star")))
    assert [index.label_map.names[label] for label in index.records[0].labels] == [names[int(i)] for i in ids]


def test_a_category_nobody_uses_is_a_class(with_boxes):
    index = with_boxes({"category_id": 3})
    assert (index.label_map.num_classes, index.records[0].labels.tolist()) == (3, [2])


def test_crowds_are_left_out_of_training_but_not_of_evaluation(with_boxes):
    index = with_boxes({}, {"iscrowd": 1, "category_id": 2})
    assert index.records[0].labels.tolist() == [0]
    assert len(index.coco["annotations"]) == 2
    assert index.dropped_boxes == []


@pytest.mark.parametrize(
    ("bbox", "xyxy"),
    [
        ([10, 20, 5, 6], [10, 20, 15, 26]),
        ([-5, -6, 10, 10], [0, 0, 5, 4]),
        ([60, 40, 10, 10.5], [60, 40, 64, 48]),
        ([-1, -1, 100, 100], [0, 0, 64, 48]),
    ],
)
def test_boxes_are_clipped_to_the_picture(with_boxes, bbox, xyxy):
    index = with_boxes({"bbox": bbox})
    assert index.records[0].boxes_xyxy.tolist() == [xyxy]
    assert index.coco["annotations"][0]["bbox"] == bbox  # evaluation sees the file as it is


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([1, 2, 0, 4], "empty"),
        ([1, 2, 3, -4], "empty"),
        ([64, 2, 3, 4], "outside its picture of 64x48 pixels"),
        ([1, -9, 3, 9], "outside its picture of 64x48 pixels"),
        ([1, float("nan"), 3, 4], "not finite"),
        ([1, 2, float("inf"), 4], "not finite"),
    ],
)
def test_a_box_that_cannot_be_learned_is_left_out_with_a_sentence(with_boxes, bbox, reason):
    index = with_boxes({}, {"bbox": bbox}, {"category_id": 2})
    assert index.records[0].labels.tolist() == [0, 1]
    (sentence,) = index.dropped_boxes
    assert str(index.records[0].path) in sentence
    assert f"annotation 2 with bbox {bbox} is {reason}" in sentence
    assert f"1 box is left out of training: {sentence}" in warnings(index, num_queries=9)[0]


def test_a_picture_without_objects_is_a_normal_picture(with_boxes):
    record = with_boxes().records[0]
    assert (record.labels.shape, record.boxes_xyxy.shape) == ((0,), (0, 4))


def remove(key, position=0):
    return lambda coco: coco[key].pop(position)


def put(key, position, **values):
    return lambda coco: coco[key][position].update(values)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put("images", 0, file_name="other.png"), r"names the picture .*other\.png, which does not exist"),
        (put("annotations", 1, category_id=42), r"annotation 2 has category 42, which is not listed.*1 'circle'"),
        (put("annotations", 1, category_id=None), r"annotation 2 has category None, which is not listed"),
        (lambda coco: coco["annotations"][1].pop("category_id"), r"annotation 2 has category None"),
        (put("annotations", 1, image_id=99), r"annotation 2 belongs to image 99, which is not listed"),
        (remove("images"), r"annotation 1 belongs to image 1, which is not listed"),
        (put("annotations", 0, bbox=[1, 2, 3]), r"every annotation needs a bbox \[x, y, width, height\]"),
        (put("annotations", 0, bbox=[1, 2, 3, "4"]), r"every annotation needs a bbox"),
        (lambda coco: coco["annotations"][0].pop("bbox"), r"every annotation needs a bbox"),
        (lambda coco: coco["images"].append(dict(coco["images"][0])), r"image id 1 is listed twice"),
        (put("images", 0, id="one"), r"every image needs a whole-number id"),
        (put("images", 0, width=None), r"every image needs a whole-number id, width and height"),
        (lambda coco: coco["images"][0].pop("file_name"), r"every image needs .* a file_name"),
        (lambda coco: coco["categories"].append(dict(coco["categories"][0])), r"category id 1 is listed twice"),
        (lambda coco: coco.update(images=[], annotations=[]), r"the list 'images' is empty"),
        (lambda coco: coco.pop("categories"), r"is not a COCO annotation file: it needs the lists"),
        (lambda coco: coco.update(images={}), r"is not a COCO annotation file: it needs the lists"),
    ],
)
def test_a_wrong_entry_is_named(changed, change, expected):
    root = changed(change)
    with pytest.raises(UserError, match=expected) as caught:
        load_index(root, "train")
    assert str(root / TRAIN) in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "3", "\x00"])
def test_a_file_that_is_not_coco_is_named(coco_folder, text):
    root = coco_folder()
    (root / TRAIN).write_text(text)
    with pytest.raises(UserError, match="COCO annotation file") as caught:
        load_index(root, "train")
    assert str(root / TRAIN) in str(caught.value)


def test_a_missing_folder_a_missing_split_and_missing_pictures(coco_folder, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        load_index(tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no data set .* annotations/train\.json \+ images/"):
        load_index(tmp_path / "empty", "train")
    root = coco_folder((1,), ("val", "train"))
    with pytest.raises(UserError, match=r"has no split 'test'; it has: train, val"):
        load_index(root, "test")
    shutil.rmtree(root / "images")
    with pytest.raises(UserError, match=r"train\.json has no pictures: the folder .*images does not exist"):
        load_index(root, "train")


def test_splits_of_one_name_are_told_apart_by_their_files(coco_folder):
    root, other, third = (
        coco_folder((n,), ("val",), layout) for n, layout in enumerate(("plain", "coco2017", "roboflow"))
    )
    for folder in (other, third):
        shutil.copytree(folder, root, dirs_exist_ok=True)
    own_names = ["annotations/val.json", "annotations/instances_val2017.json", "val/_annotations.coco.json"]
    for objects, name in enumerate(own_names):
        assert has_split(root, name)
        assert count_objects(load_index(root, name).records) == objects
    assert count_objects(load_index(root, "val2017").records) == 1  # no other split has this name
    assert has_split(root, "val")
    with pytest.raises(UserError, match=r"could be any of .*name the split by its file") as caught:
        load_index(root, "val")
    assert all(name in str(caught.value) for name in own_names)
    assert count_objects(load_index(other, "val").records) == 1  # the short name is enough where it is the only one


def test_shared_pictures_are_the_same_file_or_the_same_bytes(coco_folder):
    plain, roboflow = coco_folder((1, 1, 1), ("train", "val")), coco_folder((1, 1, 1), ("train", "valid"), "roboflow")
    for root in (plain, roboflow):
        train, val = load_index(root, "train"), load_index(root, "val")
        assert shared_pictures(val, train) == []
        assert shared_pictures(train, train) == [record.path for record in train.records]
        # Under another name, and in another folder for Roboflow.
        shutil.copy(train.records[2].path, val.records[0].path)
        assert shared_pictures(val, train) == [val.records[0].path]
        assert shared_pictures(train, val) == [train.records[2].path]


def test_a_picture_that_two_splits_list_is_shared(coco_folder, edit_json):
    root = coco_folder((1, 1), ("train", "val"))
    edit_json(root / "annotations/val.json", put("images", 1, file_name="train_0.png"))
    val = load_index(root, "val")
    assert shared_pictures(val, load_index(root, "train")) == [val.records[1].path]


def test_equal_size_alone_is_not_shared(coco_folder):
    root = coco_folder((1,), ("train", "val"))
    train, val = load_index(root, "train"), load_index(root, "val")
    for index, byte in ((train, b"a"), (val, b"b")):
        index.records[0].path.write_bytes(byte * 100)
    assert shared_pictures(val, train) == []


@pytest.mark.parametrize(
    ("layout", "folder", "expected"),
    [
        ("plain", "images", {"train_0.png": 1, "train_1.png": 2, "valid_0.png": 3, "valid_1.png": 4}),
        ("roboflow", "valid", {"valid_0.png": 3, "valid_1.png": 4}),
        ("coco2017", "train2017", {"train_0.png": 1, "train_1.png": 2}),
    ],
)
def test_the_image_ids_of_a_folder_that_belongs_to_a_data_set(coco_folder, layout, folder, expected):
    root = coco_folder((1, 0), ("train", "valid"), layout)
    assert known_images(root / folder) == expected


def test_a_folder_without_a_data_set_or_with_two_that_disagree_has_no_image_ids(coco_folder, edit_json, tmp_path):
    assert known_images(tmp_path) == {}
    root = coco_folder((1, 0), ("train", "val"))
    assert known_images(root / "annotations") == {}
    edit_json(root / "annotations/val.json", put("images", 1, file_name="train_0.png"))
    assert known_images(root / "images") == {}
    (root / "annotations/val.json").write_text("{")
    assert known_images(root / "images") == {}


def test_a_split_in_one_line(coco_folder):
    index = load_index(coco_folder((1, 2, 0, 3)), "train")
    assert describe(index) == "4 pictures (1 without objects), 6 objects (0 to 3 per picture)"
    assert describe_classes(index.label_map) == "3 classes (with id): circle (1), square (2), star (3)"
    assert describe_classes(index.label_map, limit=1) == "3 classes (with id): circle (1) and 2 more"
    one = load_index(coco_folder((1,), names=("raccoon",)), "train")
    assert describe(one) == "1 picture (none without objects), 1 object (1 per picture)"
    assert describe_classes(one.label_map) == "1 class (with id): raccoon (1)"


def test_warnings_name_the_fullest_picture_and_its_count(coco_folder):
    index = load_index(coco_folder((1, 4, 3)), "train")
    assert warnings(index, num_queries=4) == []
    (sentence,) = warnings(index, num_queries=2)
    assert f"{index.records[1].path} has 4 objects and the model only 2 queries (2 such pictures)" in sentence


def test_a_split_without_any_object_is_a_warning(coco_folder):
    (sentence,) = warnings(load_index(coco_folder((0, 0)), "train"), num_queries=4)
    assert "has no objects" in sentence


def test_pictures_are_checked_while_there_is_time(coco_folder, monkeypatch):
    index = load_index(coco_folder((0, 0, 0)), "train")
    assert check_pictures(index, seconds=60.0) == 3
    clock = iter(float(second) for second in range(9))
    monkeypatch.setattr("opendetr.data.check.time.time", lambda: next(clock))
    assert check_pictures(index, seconds=1.0) == 2


def test_a_picture_of_another_size_than_annotated_is_named(coco_folder):
    index = load_index(coco_folder((1, 1)), "train")
    Image.new("RGB", (48, 64)).save(index.records[1].path)
    with pytest.raises(UserError, match=r"train_1\.png is 48x64 pixels, but .*train\.json says 64x48"):
        check_pictures(index, seconds=60.0)


def test_a_model_that_knows_more_classes_gives_its_own_indices(coco_folder):
    index = load_index(coco_folder((2, 3)), "train")  # circle 1, square 2, star 3
    larger = LabelMap((None, 1, 7, 2, 3), ("N/A", "circle", "other", "square", "star"))
    under = index.under(larger)
    for record, own in zip(under.records, index.records):
        assert [larger.names[label] for label in record.labels] == [
            index.label_map.names[label] for label in own.labels
        ]
    assert index.under(index.label_map) is index
    with pytest.raises(UserError, match="category 3 'star' is not among"):
        index.under(LabelMap((1, 2), ("circle", "square")))
