import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opendetr.data.check import (
    check_pictures,
    describe,
    describe_classes,
    left_out_in_words,
    shared_pictures,
    warnings,
)
from opendetr.data.door import has_split, known_ids, load_index, split_names
from opendetr.data.source import DataSource
from opendetr.errors import UserError
from opendetr.evaluation.coco import truth_of
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
        assert len(index.labels) == 6
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
    assert len(index.objects) == len(truth_of(index).crowds) == 2
    assert truth_of(index).crowds.tolist() == [False, True]
    assert left_out_in_words(index) == [
        "1 object marked as a crowd or as difficult: left out of training (first: "
        f"{index.records[0].path}: annotation 2 with box [1.0, 2.0, 3.0, 4.0] in 64x48 pixels; these are 50% of all "
        "objects, and some tools, such as CVAT, mark every mask so: if they are single objects, set their iscrowd to "
        "0)."
    ]


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
    assert truth_of(index).boxes_xywh.tolist() == [bbox]  # evaluation sees the file as it is


@pytest.mark.parametrize(
    ("annotation", "reason", "is_evaluated"),
    [
        ({"bbox": [1, 2, 0, 4]}, "without width or height", True),
        ({"bbox": [1, 2, 3, -4]}, "without width or height", True),
        ({"bbox": [64, 2, 3, 4]}, "outside its picture", True),
        ({"bbox": [1, -9, 3, 9]}, "outside its picture", True),
        ({"bbox": [1, float("nan"), 3, 4]}, "without a box of four finite numbers", False),
        ({"bbox": [1, 2, float("inf"), 4]}, "without a box of four finite numbers", False),
        ({"bbox": [1, 2, 10**400, 4]}, "without a box of four finite numbers", False),
        ({"bbox": [1, 2, 3]}, "without a box of four finite numbers", False),
        ({"bbox": [1, 2, 3, "four"]}, "without a box of four finite numbers", False),
        ({"bbox": [1, 2, 3, True]}, "without a box of four finite numbers", False),
        ({"bbox": None}, "without a box of four finite numbers", False),
        ({"bbox": {}}, "without a box of four finite numbers", False),
        ({"category_id": 42}, "of a category that is not listed", False),
        ({"category_id": None}, "of a category that is not listed", False),
        ({"category_id": [1]}, "of a category that is not listed", False),
        ({"image_id": 99}, "of a picture that is not listed", False),
        ({"image_id": 1.5}, "of a picture that is not listed", False),
    ],
)
def test_an_object_that_cannot_be_learned_is_left_out_with_a_sentence(with_boxes, annotation, reason, is_evaluated):
    index = with_boxes({}, annotation, {"category_id": 2})
    assert index.records[0].labels.tolist() == [0, 1]
    assert len(truth_of(index).labels) == 2 + is_evaluated
    (sentence,) = left_out_in_words(index)
    assert sentence.startswith(f"1 object {reason}: left out of training (first: ")
    assert "annotation 2 " in sentence
    assert sentence == warnings(index, num_queries=9)[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"iscrowd": "0"}, 0), ({"iscrowd": "false"}, 0), ({"iscrowd": None}, 0), ({"iscrowd": False}, 0),
        ({"iscrowd": 0.0}, 0), ({"iscrowd": 2}, 0), ({"iscrowd": [1]}, 0), ({"iscrowd": "1"}, 1),
        ({"iscrowd": True}, 1), ({"iscrowd": "true"}, 1), ({"iscrowd": 1.0}, 1),
    ],
)  # fmt: skip
def test_one_rule_says_what_a_crowd_is(with_boxes, values, expected):
    index = with_boxes({}, values)
    assert truth_of(index).crowds.tolist() == [False, bool(expected)]
    assert len(index.labels) == 2 - expected


@pytest.mark.parametrize("area", ["12", [12], 0, float("nan"), -5, None, True, 10**400, "twelve"])
def test_an_area_that_is_no_positive_number_is_the_boxs(with_boxes, area):
    index = with_boxes({"bbox": [1, 2, 3, 4], "area": area})
    assert truth_of(index).areas.tolist() == [12]
    said = left_out_in_words(index)
    assert said == (
        [] if area in ("12", None) else ["1 entry was put right: area that is no positive number: taken from the box."]
    )


@pytest.mark.parametrize("image_id", [1, "1", 1.0, " 1 ", "1.0"])
def test_an_id_is_the_same_however_it_is_written(with_boxes, image_id):
    index = with_boxes({"image_id": image_id, "category_id": "2"})
    assert index.records[0].labels.tolist() == [1]


@pytest.mark.parametrize("image_id", ["seven", 2**53 + 1, 2**64 + 1, 10**40, -3, "0x7", "a/b.jpg"])
def test_ids_of_any_size_and_texts_are_kept(changed, image_id):
    def change(coco):
        coco["images"][0]["id"] = image_id
        for annotation in coco["annotations"]:
            annotation["image_id"] = image_id

    index = load_index(changed(change), "train")
    assert index.records[0].image_id == image_id
    assert len(index.labels) == 3


def test_ids_that_differ_by_one_beyond_the_range_of_floats_stay_apart(coco_folder, edit_json):
    root = coco_folder([1, 2])
    ids = [2**64 + 1, 2**64 + 2]

    def change(coco):
        for entry in coco["annotations"]:
            entry["image_id"] = ids[entry["image_id"] - 1]
        for image, number in zip(coco["images"], ids):
            image["id"] = number

    edit_json(root / TRAIN, change)
    assert [(record.image_id, len(record.labels)) for record in load_index(root, "train").records] == [
        (ids[0], 1), (ids[1], 2),
    ]  # fmt: skip


def test_text_category_ids_are_kept(changed):
    def change(coco):
        for category, number in zip(coco["categories"], ("kreis", "7", 3)):
            category["id"] = number
        for annotation, number in zip(coco["annotations"], ("kreis", 7, "3")):
            annotation["category_id"] = number

    index = load_index(changed(change), "train")
    assert index.label_map.category_ids == (3, 7, "kreis")
    assert [index.label_map.names[label] for label in index.records[0].labels] == ["circle", "square", "star"]


@pytest.mark.parametrize(
    "size", [(0, 0), (-1, -1), (None, None), ("wide", 48), (64, [48]), (64, 0), (float("nan"), 48), (10**400, 48)]
)
def test_a_size_that_is_not_stated_is_read_from_the_picture(changed, size):
    index = load_index(changed(put("images", 0, width=size[0], height=size[1])), "train")
    assert (index.records[0].width, index.records[0].height) == (64, 48)
    assert left_out_in_words(index) == ["1 entry was put right: picture without a stated size: read from its file."]


@pytest.mark.parametrize("size", [("64", "48"), (64.0, 48.0)])
def test_a_size_may_be_written_as_text_or_float(changed, size):
    index = load_index(changed(put("images", 0, width=size[0], height=size[1])), "train")
    assert (index.records[0].width, index.records[0].height) == (64, 48)
    assert left_out_in_words(index) == []


def test_a_box_that_is_not_stated_is_that_of_the_polygons(with_boxes):
    index = with_boxes({"bbox": [], "segmentation": [[10, 20, 30, 20, 30, 25], [5, 22, 6, 22, 6, 23]]})
    assert index.records[0].boxes_xyxy.tolist() == [[5, 20, 30, 25]]
    assert "1 entry was put right: box that is not stated: taken from the polygons." in left_out_in_words(index)


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
        (
            put("images", 0, file_name="other.png"),
            r"none of the 1 picture .*names the picture .*other\.png, which",
        ),
        (put("categories", 0, id=4), r"annotation \d has category 1, which is not listed.*2 'square'"),
        (lambda coco: [one.update(category_id=one["category_id"] - 1) for one in coco["annotations"]], "one too low"),
        (lambda coco: [one.pop("category_id") for one in coco["annotations"]], r"annotation 1 has category None"),
        (put("images", 0, id=99), r"annotation 1 belongs to image 1, which is not listed"),
        (remove("images"), r"the list 'images' is empty"),
        (lambda coco: coco["images"].append({**coco["images"][0], "file_name": "x"}), r"image id 1 is listed twice"),
        (lambda coco: coco["images"][0].pop("file_name"), r"needs an id and a file_name"),
        (put("images", 0, id=None), r"needs an id and a file_name"),
        (lambda coco: coco["categories"].append(dict(coco["categories"][0])), r"category id 1 is listed twice"),
        (lambda coco: coco.update(images=[], annotations=[]), r"the list 'images' is empty"),
        (lambda coco: coco.pop("categories"), r"is not a COCO annotation file with the lists"),
        (lambda coco: coco.update(images={}), r"is not a COCO annotation file with the lists"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_is_refused(changed, change, expected):
    root = changed(change)
    with pytest.raises(UserError, match=expected) as caught:
        load_index(root, "train")
    assert str(root / TRAIN) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put("images", 1, file_name="other.png"), "1 picture whose file does not exist: left out"),
        (lambda coco: coco["images"].append({**coco["images"][0], "id": 9}), "1 picture listed twice: left out"),
        (lambda coco: coco["images"].append(dict(coco["images"][0])), "1 picture listed twice: left out"),
        (lambda coco: coco["images"].append(7), "1 picture that cannot be used as it is written: left out"),
        (lambda coco: coco["images"].append({"id": 9}), "1 picture that cannot be used as it is written: left out"),
        (lambda coco: coco["annotations"].append("x"), "1 object that cannot be used as it is written: left out"),
    ],
)
def test_a_wrong_entry_is_left_out_and_named(coco_folder, edit_json, change, expected):
    root = coco_folder([1, 2])
    edit_json(root / TRAIN, change)
    index = load_index(root, "train")
    said = left_out_in_words(index)
    assert any(expected in sentence for sentence in said)
    stated = json.loads((root / TRAIN).read_text())
    assert len(index) + sum(one.kind == "picture" for one in index.left_out) == len(stated["images"])
    assert len(index.objects) + sum(one.kind == "object" for one in index.left_out) == len(stated["annotations"])


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
    with pytest.raises(
        UserError,
        match=r"none of the 1 picture of .*train\.json can be used: .*train_0\.png",
    ):
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
        assert len(load_index(root, name).labels) == objects
    assert len(load_index(root, "val2017").labels) == 1  # no other split has this name
    assert has_split(root, "val")
    with pytest.raises(UserError, match=r"could be any of .*name the split by its file") as caught:
        load_index(root, "val")
    assert all(name in str(caught.value) for name in own_names)
    assert len(load_index(other, "val").labels) == 1  # the short name is enough where it is the only one


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


@pytest.mark.parametrize(("layout", "folder"), [("plain", "images"), ("roboflow", "valid"), ("coco2017", "valid2017")])
def test_the_ids_of_pictures_of_a_data_set(coco_folder, layout, folder):
    root = coco_folder((1, 0), ("train", "valid"), layout)
    paths = [root / folder / name for name in ("valid_1.png", "valid_0.png")]
    assert known_ids(paths) == [("valid_1.png", 4), ("valid_0.png", 3)]


def test_a_picture_is_found_in_its_data_set_whatever_leads_to_it(coco_folder, edit_json, tmp_path):
    """A linked folder, linked files, names with ./ and folders below, another JSON file beside."""
    root = coco_folder((1, 0))
    store = tmp_path / "store"
    (root / "images").rename(store)
    (root / "images").symlink_to(store)
    assert known_ids([root / "images" / "train_0.png", store / "train_1.png"]) == [("train_0.png", 1), None]
    (root / "images").unlink()
    (root / "images" / "a" / "b" / "c").mkdir(parents=True)
    for number in (0, 1):
        (root / "images" / "a" / "b" / "c" / f"{number}.png").symlink_to(store / f"train_{number}.png")

    def change(coco):
        coco["images"][0]["file_name"] = "./a/b/c/0.png"
        coco["images"][1]["file_name"] = "../images/a/b/c/1.png"

    edit_json(root / TRAIN, change)
    (root / "annotations" / "other.json").write_text("[1]")
    (root / "annotations" / "._train.json").write_bytes(b"\x00\x05")
    assert known_ids([root / f"images/a/b/c/{number}.png" for number in (1, 0)]) == [
        ("../images/a/b/c/1.png", 2), ("./a/b/c/0.png", 1),
    ]  # fmt: skip
    assert known_ids([tmp_path / "elsewhere.png"]) == [None]


def test_a_picture_that_two_splits_number_differently_has_no_id(coco_folder, edit_json):
    root = coco_folder((1, 0), ("train", "val"))
    edit_json(root / "annotations/val.json", put("images", 1, file_name="train_0.png"))
    assert known_ids([root / "images/train_0.png", root / "images/train_1.png"]) == [None, ("train_1.png", 2)]


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


def test_a_picture_that_cannot_be_used_is_said_and_most_are_an_error(coco_folder, capsys):
    index = load_index(coco_folder((1, 1)), "train")
    Image.new("RGB", (48, 64)).save(index.records[1].path)
    said = r"train_1\.png is 48x64 pixels, but .*train\.json says 64x48"
    assert check_pictures(index, seconds=60.0) == 2
    warned = " ".join("".join(capsys.readouterr()).split())
    assert re.search(r"1 of the 2 pictures of .* that were looked at cannot be used and is left out: ", warned)
    assert re.search(said, warned)
    with pytest.raises(UserError, match=said):
        check_pictures(index, seconds=60.0, strict=True)
    index.records[0].path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2 of the 2 pictures of .* cannot be used: "):
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


@pytest.mark.parametrize("layout", ["roboflow", "folders"])
def test_a_missing_picture_is_not_that_of_another_split(coco_folder, layout):
    """Pictures of the splits have the same names; the one of train is gone."""
    root = coco_folder((1, 2), ("train", "valid"), "roboflow")
    for split in ("train", "valid"):
        content = json.loads((root / split / "_annotations.coco.json").read_text())
        for number, image in enumerate(content["images"]):
            (root / split / image["file_name"]).rename(root / split / f"{number}.png")
            image["file_name"] = f"{number}.png"
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
        if layout == "folders":
            (root / "annotations").mkdir(exist_ok=True)
            (root / split / "_annotations.coco.json").rename(root / "annotations" / f"{split}.json")
            (root / "images").mkdir(exist_ok=True)
            (root / split).rename(root / "images" / split)
    train = next(path for path in root.rglob("1.png") if path.parent.name == "train")
    train.unlink()
    index = load_index(root, "train")
    assert [Path(path).parts[-2:] for path in index.paths] == [("train", "0.png")]
    assert "1 picture whose file does not exist" in left_out_in_words(index)[0]


def test_splits_of_capital_letters_and_other_json_files(coco_folder):
    root = coco_folder((1, 2), ("Train", "Val"))
    (root / "package.json").write_text('{"name": "x", "images": []}')
    assert split_names(root) == ["train", "val"]
    assert len(load_index(root, "val")) == 2


def test_a_part_of_train_as_val_is_the_same_whatever_classes_are_wanted(coco_folder, edit_json):
    root = coco_folder((3,) * 20)
    edit_json(root / TRAIN, lambda coco: coco["annotations"].append({**coco["annotations"][0], "category_id": 9}))
    source = DataSource((str(root),), val_share=0.2)
    train, val = (load_index(source, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (16, 4)
    assert set(train.paths) | set(val.paths) == set(load_index(root, "train").paths)
    assert "1 object of a category that is not listed" in left_out_in_words(train)[0]
    narrowed = load_index(replace(source, classes=("star",)), "val")
    assert list(narrowed.paths) == list(val.paths)
    assert has_split(source, "val")
    with pytest.raises(UserError, match="has a split val already"):
        load_index(DataSource((str(coco_folder((1,) * 9, ("train", "val"))),), val_share=0.2), "val")


def test_an_area_without_end_is_the_boxs(with_boxes):
    assert truth_of(with_boxes({"area": float("inf"), "bbox": [1, 2, 3, 4]})).areas.tolist() == [12]


def test_half_a_surrogate_in_a_name(changed):
    index = load_index(changed(lambda coco: coco["categories"][0].update(name="\ud83d cat")), "train")
    assert index.label_map.names[0] == "? cat"


@pytest.mark.parametrize("read", [split_names, lambda root: has_split(root, "val")])
def test_no_folder_is_one_sentence(tmp_path, read):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match="is not a folder"):
            read(root)
