import json
import shutil

import numpy as np
import pytest
from PIL import Image

from opendetr.data.check import left_out_in_words
from opendetr.data.data_check import check_splits, mended, read_all_splits
from opendetr.data.door import load_index
from opendetr.data.findings import Severity
from opendetr.errors import UserError
from opendetr.recipes.recipe import resolve_config
from opendetr.training.setup import read_splits


def check(root, *names, image_size=480, **options):
    return check_splits(read_all_splits(root, names), lambda index: image_size, **options)


def sentences(root, *names, **options):
    return {finding.sentence: finding.is_problem for finding in check(root, *names, **options).findings}


def kinds(root, **options):
    return {finding.kind: finding for finding in check(root, **options).findings}


def only(found, words):
    matching = [sentence for sentence in found if words in sentence]
    assert len(matching) == 1, found
    return matching[0]


def edit(root, change, split="train"):
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def put_boxes(root, *boxes, category=1, picture=1):
    def change(coco):
        coco["annotations"] += [
            {
                "id": 900 + number,
                "image_id": picture,
                "category_id": category,
                "bbox": list(box),
                "area": 1,
                "iscrowd": 0,
            }
            for number, box in enumerate(boxes)
        ]

    edit(root, change)


@pytest.fixture
def data(coco_folder):
    return coco_folder((12, 11, 10, 9), splits=("train", "val"))


@pytest.fixture
def sparse(coco_folder):
    """Boxes that do not overlap, in pictures of 640x480."""
    root = coco_folder((0, 0, 0), size=(640, 480))
    put_boxes(root, *([20 + 60 * x, 20 + 60 * y, 40, 40] for x in range(8) for y in range(6)), picture=2)
    return root


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
    assert found[only(found, "never shows: 'square', 'star'")]


def test_pictures_twice_and_broken(data):
    pictures = data / "images"
    shutil.copy(pictures / "train_0.png", pictures / "train_1.png")
    (pictures / "train_3.png").write_bytes(b"nothing")
    found = sentences(data)
    assert "train_0.png (train) and train_1.png (train)" in only(found, "copies within a split")
    assert found[only(found, "1 picture cannot be used")]


def test_boxes_twice(data):
    edit(data, lambda coco: coco["annotations"].append({**coco["annotations"][0], "id": 999}))
    assert "train_0.png" in only(sentences(data, "train"), "labelled twice (same class")


def test_pictures_of_val_in_train(data):
    shutil.copy(data / "images" / "train_0.png", data / "images" / "val_0.png")
    assert "train_0.png (train) and val_0.png (val)" in only(sentences(data), "copies across splits")


def test_no_boxes_at_all(data):
    edit(data, lambda coco: coco["annotations"].clear())
    found = sentences(data)
    assert found[only(found, "no box that can be learned from")]


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
    assert found[only(found, "never shows: 'star';")]  # the class indices of val are not those of train


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
    found = sentences(data)
    assert not found[only(found, "4 boxes reach out of the picture by more than 2 pixels")]
    assert not any("they all fit" in sentence for sentence in found)


def test_digits_and_sparse_boxes_are_clean(sparse):
    assert [finding.kind for finding in check(sparse, image_size=480).findings] == [
        "pictures without objects", "never used",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("boxes", "kind", "severity", "count"),
    [
        ([[10, 400, 2, 30]], "tiny", Severity.WARNING, 1),
        ([[10, 400, 400, 4]], "extreme aspect", Severity.NOTE, 1),
        ([[0, 0, 640, 479]], "as large as the picture", Severity.WARNING, 1),
        ([[600, 400, 60, 40]], "partly outside", Severity.WARNING, 1),
        ([[10, 400, 40, 40], [11, 401, 40, 40]], "double box", Severity.WARNING, 1),
        ([[10, 400, 0, 40]], "object without width or height", Severity.WARNING, 1),
        ([[700, 400, 10, 40]], "object outside its picture", Severity.WARNING, 1),
        ([[10, 300, 160, 160]], "unusual size", Severity.NOTE, 1),
    ],
)
def test_a_planted_box_is_found_and_no_other(sparse, boxes, kind, severity, count):
    rng = np.random.default_rng(0)

    def vary(coco):  # a class whose objects are all of one size has no usual spread
        for a in coco["annotations"]:
            a["bbox"][2:] = (40 + rng.normal(0, 3, 2)).tolist()

    edit(sparse, vary)
    before = kinds(sparse)
    put_boxes(sparse, *boxes, picture=3)
    found = kinds(sparse)
    assert {kind} <= set(found) - set(before) <= {kind, "unusual size"}
    assert (found[kind].severity, found[kind].count) == (severity, count)
    (place,) = found[kind].places
    assert (place.split, place.picture, len(place.objects)) == ("train", 2, len(boxes))


def test_two_classes_of_one_object(sparse):
    put_boxes(sparse, [20, 20, 40, 40], category=2, picture=2)
    assert kinds(sparse)["two classes"].count == 1


def test_more_objects_than_queries(sparse):
    assert "more objects than queries" not in kinds(sparse, num_queries=48)
    found = kinds(sparse, num_queries=20)["more objects than queries"]
    assert "48 objects and the model only 20 queries" in found.sentence


def test_classes_differ_between_splits(coco_folder):
    data = coco_folder((10, 10, 10), ("train", "val"))
    edit(data, lambda coco: [a.update(category_id=1 + (n % 30 >= 15)) for n, a in enumerate(coco["annotations"])])
    edit(data, lambda coco: [a.update(category_id=1 + (n < 26)) for n, a in enumerate(coco["annotations"])], "val")
    assert "classes differ between splits" not in kinds(data)  # too few objects to say so
    edit(data, lambda coco: coco["annotations"].extend([{**coco["annotations"][0], "id": 900 + n} for n in range(300)]))
    found = kinds(data)["classes differ between splits"]
    assert "'square'" in found.sentence


def test_files_of_pictures(data, monkeypatch):
    pictures = data / "images"
    Image.new("RGB", (64, 48), "grey").save(pictures / "train_0.png")
    Image.new("RGB", (64, 48)).save(pictures / "other.png")
    near = Image.open(pictures / "train_1.png").point(lambda value: min(255, value + 3))
    near.save(pictures / "val_1.png")
    found = kinds(data)
    assert found["uniform picture"].places[0].picture == 0
    assert "other.png" in found["not listed"].sentence
    assert not any("on disk but not listed" in sentence for sentence in sentences(data, "train"))  # val may list it
    assert "train_1.png (train) and val_1.png (val)" in found["near duplicates across splits"].sentence
    assert found["near duplicates across splits"].severity == Severity.WARNING
    assert not any("not read" in kind for kind in found)
    assert "train: 4 of 4 pictures were not read" in only(sentences(data, seconds=-1.0), "train: 4")


def test_names_that_differ_in_letter_case(data):
    shutil.copy(data / "images/train_2.png", data / "images/Train_1.png")
    edit(data, lambda coco: coco["images"][2].update(file_name="Train_1.png"))
    assert "train_1.png and Train_1.png" in kinds(data)["letter case"].sentence


def test_a_split_of_other_splits_is_not_looked_at_again(data, edit_json):
    both = [json.loads((data / "annotations" / f"{name}.json").read_text()) for name in ("train", "val")]
    whole = {**both[0], "images": both[0]["images"] + both[1]["images"], "annotations": []}
    (data / "annotations/trainval.json").write_text(json.dumps(whole))
    checked = check(data)
    assert list(checked.splits) == ["train", "val"]
    assert "trainval lists 8 pictures of other splits" in only(sentences(data), "trainval")
    shutil.copy(data / "annotations/train.json", data / "annotations/val.json")
    first = next(one for one in check(data).findings if one.kind == "listed in two splits")
    assert (first.severity, first.count) == (Severity.WARNING, 4)


@pytest.mark.parametrize("how", ["drop", "clip"])
def test_a_clean_copy_has_no_findings_of_what_was_mended(sparse, how):
    put_boxes(sparse, [600, 400, 60, 40], [10, 400, 0, 40], [10, 400, 40, 40], [11, 401, 40, 40], picture=3)
    (sparse / "images/train_0.png").write_bytes(b"no picture")
    clean = mended(check(sparse), how)["train"]
    assert [path.rpartition("/")[2] for path in clean.paths] == ["train_1.png", "train_2.png"]
    own = clean.objects.boxes_xywh[clean.objects.pictures == 1].tolist()
    assert own == ([[600, 400, 40, 40]] if how == "clip" else []) + [[10, 400, 40, 40]]
    assert left_out_in_words(clean) == []


def test_a_split_that_cannot_be_read_is_an_error(data):
    (data / "annotations/val.json").write_text("{")
    checked = check(data)
    assert checked.errors == 1
    assert "val.json cannot be read as JSON" in checked.findings[0].sentence


def test_bccd_has_what_its_page_says(test_data):
    """The double field 00037/00038, eight pairs of cells, and five very large platelets; cards: near duplicates."""
    found = check(test_data / "bccd")
    paths = {name: index.paths for name, index in found.splits.items()}

    def names(kind):
        return {
            paths[place.split][place.picture][-9:-4]
            for finding in found.findings if finding.kind == kind for place in finding.places
        }  # fmt: skip

    assert names("double box") == {"00284", "00013", "00020", "00100", "00251", "00403", "00104", "00331"}
    assert names("near duplicates across splits") == {"00037", "00038"}
    assert {"00133", "00135", "00382", "00233", "00407", "00113"} <= names("unusual size")
    assert len(names("unusual size")) <= 9
    assert found.errors == 0
    cards = check(test_data / "cards")
    pairs = next(one for one in cards.findings if one.kind == "near duplicates within a split").places
    named = [cards.splits[place.split].paths[place.picture].rpartition("/")[2].partition(".")[0] for place in pairs]
    assert {frozenset(pair) for pair in zip(named[::2], named[1::2])} >= {
        frozenset(("IMG_2464", "IMG_2465")), frozenset(("IMG_2466", "IMG_2467")),
        frozenset(("cam_image1", "cam_image54")),
    }  # fmt: skip
