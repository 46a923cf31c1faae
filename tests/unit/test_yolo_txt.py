import json
from pathlib import Path

import pytest
from foreign_data import assert_same, copy_pictures, write_yolo

from opendetr.data.check import left_out_in_words
from opendetr.data.door import find_split, has_split, load_index, split_names
from opendetr.data.index import Unused
from opendetr.errors import UserError

PIXEL = 1e-5  # 8 decimals of a side of 64 pixels
NAMES = "names: [circle, square, star]\n"
# Ten levels of ten aliases: written out, it would have 10 billion entries.
LAUGHS = "train: images/train\nl0: &l0 [a]\n"
LAUGHS += "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 11)) + "names: *l10\n"


@pytest.fixture
def coco(coco_folder):
    return coco_folder((1, 2, 0, 3), ("train", "val"))


@pytest.fixture
def yolo(coco, tmp_path):
    """`images/SPLIT/` and `labels/SPLIT/` of two splits."""
    root = tmp_path / "yolo"
    for split in ("train", "val"):
        copy_pictures(coco, root / "images" / split, split)
        write_yolo(coco, root / "labels" / split, split)
    return root


@pytest.fixture
def one_label(coco_folder, tmp_path):
    """A data set of one picture (64x48) whose label file holds some text."""

    def make(text: str | bytes, data: str = "train: images\n" + NAMES):
        root = tmp_path / "one"
        copy_pictures(coco_folder((1,)), root / "images")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels/train_0.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        (root / "data.yaml").write_text(data)
        return root

    return make


@pytest.mark.parametrize(
    "data",
    [
        "train: images/train\nval: images/val\n" + NAMES,
        "path: .\ntrain: [images/train]\nval: ./images/val/\nnc: 3\nnames:\n  0: circle\n  1: square\n  2: star\n",
        "train: ../images/train\nval: ../images/val\n" + NAMES,  # Roboflow's: one level too high
        "path: {root}\ntrain: {root}/images/train\nval: images/val\n" + NAMES,
        "path: /content/set\ntrain: /content/set/images/train\nval: C:\\set\\images\\val\n"
        + NAMES,  # another machine's
        "train: train.txt\nval: lists/val.txt\n" + NAMES,
        "\ufefftrain: images/train\r\nvalid: images/val\r\nnames: ['circle', 'square', 'star']\r\n",
    ],
)
def test_data_files(yolo, coco, data):
    (yolo / "lists").mkdir()
    for split, file in (("train", "train.txt"), ("val", "lists/val.txt")):
        names = sorted(path.name for path in (yolo / "images" / split).iterdir())
        prefix = f"./images/{split}/" if split == "train" else f"{yolo}/images/{split}/"
        (yolo / file).write_text("\r\n".join(prefix + name for name in names))
    (yolo / "data.yaml").write_text(data.replace("{root}", str(yolo)), newline="")
    assert find_split(yolo, "train").layout == "YOLO"
    assert split_names(yolo) == ["train", "val"]
    for split in ("train", "val"):
        index = load_index(yolo, split)
        assert_same(index, load_index(coco, split), PIXEL)
        assert index.label_map.category_ids == (0, 1, 2)
        assert index.label_map.names == ("circle", "square", "star")
        assert index.image_ids.tolist() == [1, 2, 3, 4]
        (note,) = left_out_in_words(index)
        assert "1 picture without a label file is taken as one without objects" in note


def split_inside(root: Path) -> None:
    """`train/images/` beside `train/labels/`, as Roboflow has it."""
    for split, name in (("train", "train"), ("val", "valid")):
        (root / name).mkdir()
        (root / "images" / split).rename(root / name / "images")
        (root / "labels" / split).rename(root / name / "labels")


def beside(root: Path) -> None:
    """Text files beside the pictures of `train/` and `valid/`, with Darknet's names."""
    for split, name in (("train", "train"), ("val", "valid")):
        (root / "images" / split).rename(root / name)
        for path in (root / "labels" / split).iterdir():
            path.rename(root / name / path.name)
        (root / name / "_darknet.labels").write_text("circle\nsquare\nstar\n")


def flat_labels(root: Path) -> None:
    for split in ("train", "val"):
        for path in list((root / "labels" / split).iterdir()):
            path.rename(root / "labels" / path.name)


@pytest.mark.parametrize("change", [lambda root: None, split_inside, beside, flat_labels])
def test_folders_without_a_data_file(yolo, coco, change):
    change(yolo)
    (yolo / "classes.txt").write_text("circle\r\nsquare\r\nstar\r\n")
    assert find_split(yolo, "train").layout == "YOLO"
    assert split_names(yolo) == ["train", "val"]
    for split in ("train", "val"):
        assert_same(load_index(yolo, split), load_index(coco, split), PIXEL)


@pytest.mark.parametrize("folders", [("images", "labels"), (".", "."), ("obj_train_data", "obj_train_data")])
def test_a_folder_without_splits_is_train(coco, tmp_path, folders):
    root = tmp_path / "flat"
    copy_pictures(coco, root / folders[0])
    write_yolo(coco, root / folders[1])
    (root / "obj.names").write_text("circle\nsquare\nstar\n")
    assert split_names(root) == ["train"]
    assert_same(load_index(root, "train"), load_index(coco, "train"), PIXEL)


def test_cvat_writes_darknets_data_file(coco, tmp_path):
    root = tmp_path / "cvat"
    copy_pictures(coco, root / "obj_train_data")
    write_yolo(coco, root / "obj_train_data")
    (root / "obj.names").write_text("circle\nsquare\nstar\n")
    (root / "obj.data").write_text("classes = 3\nnames = data/obj.names\ntrain = data/train.txt\nbackup = backup/\n")
    (root / "train.txt").write_text("".join(f"data/obj_train_data/train_{number}.png\n" for number in range(4)))
    assert_same(load_index(root, "train"), load_index(coco, "train"), PIXEL)


def test_without_names_the_classes_are_the_numbers_of_all_splits(yolo, coco):
    train, val = load_index(yolo, "train"), load_index(yolo, "val")
    assert train.label_map == val.label_map
    used = set(load_index(coco, "train").labels.tolist()) | set(load_index(coco, "val").labels.tolist())
    assert train.label_map.category_ids == tuple(sorted(used))
    assert train.label_map.names == tuple(map(str, sorted(used)))


def test_names_are_taken_as_they_are_written(yolo):
    (yolo / "data.yaml").write_text("train: images/train\nnames: [no, 1.50, 2020-13-45]\n")
    assert load_index(yolo, "train").label_map.names == ("no", "1.50", "2020-13-45")


def test_pictures_are_numbered_in_natural_order_or_as_the_list_has_them(coco_folder, tmp_path):
    root = tmp_path / "many"
    copy_pictures(coco_folder([1] * 11), root / "images")
    (root / "labels").mkdir()
    (root / "data.yaml").write_text("train: images\nval: val.txt\n" + NAMES)
    (root / "val.txt").write_text("images/train_10.png\nimages/train_2.png\n")
    names = [Path(path).name for path in load_index(root, "train").paths]
    assert names == [f"train_{number}.png" for number in range(11)]
    assert [Path(path).name for path in load_index(root, "val").paths] == ["train_10.png", "train_2.png"]


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("1 0.5 0.5 0.25 0.5", [24, 12, 40, 36]),
        ("1.0\t0.5  0.5 0.25 0.5 ", [24, 12, 40, 36]),
        ("1 0.5 0.5 0.25 0.5 0.93", [24, 12, 40, 36]),  # a confidence
        ("1 0.5 0.5 0.25 0.5 0.93 17", [24, 12, 40, 36]),  # and the number of a track
        ("1 0.25 0.25 0.75 0.25 0.5 0.5", [16, 12, 48, 24]),  # a polygon of three points
        ("1 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5", [16, 12, 48, 24]),
    ],
)
@pytest.mark.parametrize("form", ["{}\n", "\ufeff{}\r\n\r\n", "\n  \n{}"])
def test_lines(one_label, line, box, form):
    index = load_index(one_label(form.format(line)), "train")
    assert index.boxes_xyxy.tolist() == [box]
    assert index.labels.tolist() == [1]
    assert not index.left_out


def test_keypoints_follow_the_box(one_label):
    data = "train: images\nkpt_shape: [2, 2]\n" + NAMES
    index = load_index(one_label("1 0.5 0.5 0.25 0.5 0.1 0.1 0.9 0.9", data), "train")
    assert index.boxes_xyxy.tolist() == [[24, 12, 40, 36]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("3 0.5 0.5 0.25 0.5", Unused.NO_CATEGORY),
        ("-1 0.5 0.5 0.25 0.5", Unused.NO_CATEGORY),
        ("star 0.5 0.5 0.25 0.5", Unused.NO_CATEGORY),
        ("1e999 0.5 0.5 0.25 0.5", Unused.NO_CATEGORY),
        ("1 0.5 0.5 0.25", Unused.NO_BOX),
        ("1", Unused.NO_BOX),
        ("1 0.5 nan 0.25 0.5", Unused.NO_BOX),
        ("1 0.5 0,5 0.25 0.5", Unused.NO_BOX),
        (f"1 0.5 0.5 0.25 {'9' * 400}", Unused.NO_BOX),
        ("1 0.1 0.1 0.2 0.2 0.3 0.3 0.4", Unused.NO_BOX),  # half a point
    ],
)
def test_a_line_that_is_no_object_is_left_out_and_named(one_label, line, reason):
    root = one_label(f"1 0.5 0.5 0.25 0.5\n\n{line}\n")
    index = load_index(root, "train")
    (left_out,) = index.left_out
    assert (left_out.kind, left_out.reason) == ("object", reason)
    assert f"{root / 'labels/train_0.txt'}:3: '{line[:60]}" in left_out.sentence
    assert len(index.objects) == 1
    with pytest.raises(UserError, match=r"not one object can be used: .*train_0\.txt:1"):
        load_index(one_label(line), "train")


def test_boxes_without_area_and_outside_are_kept_with_their_reason(one_label):
    index = load_index(one_label("1 0.5 0.5 0 0.5\n0 1.6 0.5 0.2 0.5\n2 0.5 0.5 0.5 0.5\n"), "train")
    assert len(index.objects) == 3
    assert index.labels.tolist() == [2]
    assert sum("left out of training" in sentence for sentence in left_out_in_words(index)) == 2


def test_texts_of_windows(one_label):
    data = "train: images\nnames: [caf\u00e9, square, star]\n"
    root = one_label("0 0.5 0.5 0.25 0.5", data)
    (root / "data.yaml").write_bytes(data.encode("cp1252"))
    assert load_index(root, "train").label_map.names[0] == "caf\u00e9"
    (root / "labels/train_0.txt").write_bytes("0 0.5 0.5 0.25 0.5\n".encode("utf-16"))
    assert len(load_index(root, "train").labels) == 1
    (root / "labels/train_0.txt").write_bytes(b"0 0.5 0.5 0.25 0.5 \x80\n1 0.5 0.5 0.25 0.5\n")
    index = load_index(root, "train")
    assert any("not in UTF-8" in sentence for sentence in left_out_in_words(index))
    assert index.labels.tolist() == [1]
    assert len(index.left_out) == 1


def test_labels_without_a_picture_and_pictures_of_a_list_that_are_missing(yolo):
    (yolo / "images/train/train_1.png").unlink()
    (yolo / "data.yaml").write_text("train: images/train\nval: val.txt\n" + NAMES)
    (yolo / "val.txt").write_text("images/val/val_0.png\nimages/val/gone.png\n")
    index = load_index(yolo, "train")
    assert [(one.kind, one.reason) for one in index.left_out] == [
        ("picture", Unused.MISSING_FILE), ("object", Unused.NO_PICTURE), ("object", Unused.NO_PICTURE),
    ]  # fmt: skip
    assert "labels/train/train_1.txt:2" in index.left_out[2].sentence
    (left_out,) = load_index(yolo, "val").left_out
    assert left_out.reason == Unused.MISSING_FILE
    assert "gone.png" in left_out.sentence


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("nc: 3\ntrain: [", r"data\.yaml:2 cannot be read as YAML"),
        ("- 1\n- 2\n", r"data\.yaml is not a YOLO data file"),
        ("train: images/nowhere\n" + NAMES, r"data\.yaml names 'images/nowhere', which does not exist"),
        ("train: images/train\nnames: {a: b, 0: [c]}\n", r"data\.yaml: names must be a list of texts"),
        ("train: {a: b}\n" + NAMES, r"data\.yaml: train must be a folder"),
        (LAUGHS, r"data\.yaml: names must be"),
        ("train: images/train\nnames: &a [*a, *a]\n", r"data\.yaml"),
        ("[" * 1200, r"data\.yaml"),
    ],
)
def test_data_files_that_cannot_be_used_are_named(yolo, data, expected):
    (yolo / "data.yaml").write_text(data)
    with pytest.raises(UserError, match=expected):
        load_index(yolo, "train")


def test_a_test_split_that_was_not_exported_is_none(yolo):
    (yolo / "data.yaml").write_text("train: ../images/train\nval: ../images/val\ntest: ../images/test\n" + NAMES)
    assert not has_split(yolo, "test")
    assert has_split(yolo, "val")


def test_other_files_are_no_data_sets(tmp_path, coco):
    copy_pictures(coco, tmp_path / "pictures")
    (tmp_path / "pictures/train_0.txt").write_text("a red disc on a table\n")
    (tmp_path / "pictures/config.yaml").write_text(json.dumps({"train": {"lr": 1}, "val": 3}))
    with pytest.raises(UserError, match=r"has no data set .*COCO.*YOLO.*Pascal VOC.*CSV.*LabelMe"):
        load_index(tmp_path / "pictures", "train")
