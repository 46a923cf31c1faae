import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from indices import indexed

from opendetr.data.check import left_out_in_words
from opendetr.data.door import load_index
from opendetr.errors import UserError
from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.report import print_classes
from opendetr.recipes.recipe import resolve_config
from opendetr.training import doctor
from opendetr.training.doctor import Overfitting, _with_most_classes, examine, overfit, verdict
from opendetr.training.setup import read_splits
from opendetr.training.speed import Speed


def sentences(root, split="train"):
    return {finding.sentence: finding.is_problem for finding in examine(root, split, load_index(root, split))}


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
    print_classes(indexed(records, index.label_map))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    names, ids = index.label_map.names, [str(number) for number in index.label_map.category_ids]
    assert [row for row in rows if row[:1] and row[0] in names] == [
        [names[1], ids[1], "3", "2", "4", "6", "8"], [names[0], ids[0], "2", "2", "10", "15", "20"],
        [names[2], ids[2], "0", "0"],
    ]  # fmt: skip


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
    assert "val_0.png" in only(sentences(data), "val is in train")


def test_no_boxes_at_all(data):
    edit(data, lambda coco: coco["annotations"].clear())
    found = sentences(data)
    assert found[only(found, "no boxes at all")]


def read_by_train(root):
    return read_splits(resolve_config("paper", options={"data.root": str(root)}), check_seconds=0.0)


def test_a_category_that_only_val_lists_is_a_problem_for_the_doctor_and_for_train(data):
    edit(data, lambda coco: coco["categories"].append({"id": 4, "name": "moon"}), "val")
    with pytest.raises(UserError, match="category 4 'moon' is not among") as refused:
        read_by_train(data)
    found = sentences(data)
    assert found[only(found, str(refused.value))]


def test_fewer_categories_in_val_are_none(data):
    def drop_the_first(coco):
        coco["categories"] = coco["categories"][1:]
        coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != 1]

    edit(data, drop_the_first, "val")
    assert read_by_train(data)[1] is not None
    assert not any(sentences(data).values())
    edit(data, lambda coco: [a.update(category_id=2) for a in coco["annotations"]])  # train shows no star
    found = sentences(data)
    assert found[only(found, "never shows: star;")]  # the class indices of val are not those of train


def test_nothing_but_boxes_that_cannot_be_learned(data):
    edit(data, lambda coco: [a.update(bbox=[1, 1, 0, 0]) for a in coco["annotations"]])
    found = sentences(data)
    assert found[only(found, "no box that can be learned from")]


@pytest.mark.parametrize("shift", [-1, 1])
def test_shifted_ids_are_named(data, shift):
    edit(data, lambda coco: [a.update(category_id=a["category_id"] + shift) for a in coco["annotations"]])
    with pytest.raises(
        UserError, match="one too low: add 1 to each" if shift < 0 else "one too high: take 1 from each"
    ):
        load_index(data, "train")


def test_a_category_from_nowhere_is_no_shift(data):
    edit(data, lambda coco: coco["annotations"][0].update(category_id=40))
    (said,) = left_out_in_words(load_index(data, "train"))
    assert "1 object of a category that is not listed: left out" in said
    assert "'category_id': 40" in said


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


def test_small_boxes_by_their_centres_are_named(coco_folder, edit_json):
    """Of small boxes few reach out of their pictures when centres are taken for corners."""
    data = coco_folder([8] * 20, size=(640, 480))

    def change(coco):
        for number, a in enumerate(coco["annotations"]):
            x = 10 if number % 40 == 0 else 630 if number % 40 == 1 else 40 + 3 * number
            a["bbox"] = [x, 240, 20, 20]

    edit_json(data / "annotations" / "train.json", change)
    found = sentences(data)
    sentence = only(found, "2% of the boxes reach out")
    assert found[sentence]
    assert "centre x, centre y" in sentence


def test_a_few_boxes_that_reach_out_are_no_convention(coco_folder, edit_json):
    data = coco_folder([8] * 20, size=(640, 480))

    def change(coco):
        for number, a in enumerate(coco["annotations"]):
            a["bbox"] = [630 if number % 40 == 1 else number % 40, 240, 20, 20]

    edit_json(data / "annotations" / "train.json", change)
    assert not any("reach out" in sentence for sentence in sentences(data))


def test_pictures_there_was_no_time_for_are_said(data, monkeypatch):
    assert not any("checked" in sentence for sentence in sentences(data))
    monkeypatch.setattr(doctor, "SECONDS_FOR_PICTURES", -1.0)
    found = sentences(data)
    assert not found[only(found, "checked 1 of 4 pictures")]
