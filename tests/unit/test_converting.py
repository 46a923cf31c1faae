"""Data sets in other formats, and back: nothing changes on the way."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from opendetr import api
from opendetr.data.door import load_index, split_names
from opendetr.data.index import OF_OBJECTS, USED, DatasetIndex, Record, Unused
from opendetr.errors import UserError

FORMATS = ["coco", "yolo", "voc", "csv"]
OTHERS = FORMATS[1:]
CLASSES = [
    {"id": 2**70, "name": "zebra"}, {"id": 4, "name": "bolt, \"long\""}, {"id": 7, "name": " two\nlines "},
    {"id": 9, "name": "never"}, {"id": 11, "name": "zebra"}, {"id": "x", "name": "naïve: #no <&>"},
]  # fmt: skip


def write_odd_set(root: Path) -> Path:
    """A COCO set with what other formats lack."""
    rng = np.random.default_rng(0)
    for split, first in (("train", 0), ("val", 20)):
        images, annotations = [], []
        for number, name in enumerate(["b/10.png", "a/10.png", "a/9.PNG", "c/no suffix", "c/.hidden.png", "d/ä b.png"]):
            width, height = 50 + number, 40
            path = root / "images" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (width, height), (number, first, 0)).save(path, format="PNG")
            image_id = [f"p-{first}", 2**66 + first, 5, -3, 8, 9][number]
            images.append({"id": image_id, "file_name": f"{split}/{name}", "width": width, "height": height})
            for _ in range(0 if number == 2 else 3):
                box = (rng.random(4) * [30, 20, 20, 20]).tolist()
                entry = {"id": 1000 - len(annotations), "image_id": image_id, "bbox": box, "iscrowd": 0}
                entry |= {"category_id": CLASSES[int(rng.choice([0, 1, 2, 4, 5]))]["id"], "area": rng.random() * 99}
                annotations.append(entry)
        annotations[1] |= {"iscrowd": 1}
        annotations[2] |= {"bbox": [3, 4, 0, 5], "area": 0}
        annotations[3] |= {"bbox": [900, 4, 5, 5]}
        annotations[4] |= {"bbox": [-3.25, 4, 9, 100]}
        annotations[5] |= {"bbox": [3, 4, 7, 8], "area": 56}
        order = rng.permutation(len(annotations)).tolist()
        content = {"images": images, "annotations": [annotations[at] for at in order], "categories": CLASSES}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    return write_odd_set(tmp_path_factory.mktemp("odd") / "data")


def require_same(one: DatasetIndex, other: DatasetIndex) -> None:
    """Every array has the same bits; pictures have the same content."""
    assert one.label_map == other.label_map
    pairs = [(one.image_ids, other.image_ids), (one.sizes, other.sizes)]
    pairs += [(values, getattr(other.objects, name)) for name, values in vars(one.objects).items()]
    for here, there in pairs:
        assert here.dtype == there.dtype
        assert here.tolist() == there.tolist()
        assert here.dtype == object or here.tobytes() == there.tobytes()
    for here, there in zip(one.records, other.records, strict=True):
        assert here.path.read_bytes() == there.path.read_bytes()


def names_of(index: DatasetIndex, record: Record) -> list[str]:
    return [index.label_map.names[label] for label in record.labels]


@pytest.mark.parametrize("to", FORMATS)
def test_there_and_back_changes_nothing(odd, tmp_path, to):
    api.convert_data(odd, tmp_path / "there", to)
    shutil.move(tmp_path / "there", tmp_path / "moved")
    api.convert_data(tmp_path / "moved", tmp_path / "back", "coco")
    assert split_names(tmp_path / "moved") == ["train", "val"]
    for split in ("train", "val"):
        before, converted = load_index(odd, split), load_index(tmp_path / "moved", split)
        require_same(before, converted)
        require_same(before, load_index(tmp_path / "back", split))
        assert not converted.left_out
        assert not converted.repairs
    # Also from an archive, in which the links have become files.
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "moved")
    require_same(load_index(odd, "val"), load_index(archive, "val"))


@pytest.mark.parametrize("to", OTHERS)
def test_without_notes_boxes_and_names_are_the_same(coco_folder, tmp_path, to, capsys):
    source = coco_folder([3, 0, 2, 1], splits=("train", "val"), names=("star", "circle", "nut, large"))
    api.convert_data(source, tmp_path / "there", to)
    said = capsys.readouterr().out
    assert "train: 4 pictures, 6 objects" in said
    assert "opendetr.json beside it holds them" in said
    (tmp_path / "there" / "opendetr.json").unlink()
    for split in ("train", "val"):
        before, after = load_index(source, split), load_index(tmp_path / "there", split)
        assert not after.left_out
        found = {record.path.name: record for record in after.records}
        for record in before.records:
            same = found.pop(record.path.name)
            assert np.abs(record.boxes_xyxy - same.boxes_xyxy).max(initial=0) < 1e-4
        assert not found


def test_what_a_format_cannot_hold_is_counted_and_not_written_as_something_else(odd, tmp_path, capsys):
    said = {}
    for to in FORMATS:
        api.convert_data(odd, tmp_path / to, to, splits="train")
        said[to] = capsys.readouterr().out
    assert "cannot hold" not in said["coco"]
    assert not (tmp_path / "coco" / "opendetr.json").exists()
    unused = "objects that are not used in training"
    assert f"YOLO cannot hold 3 {unused}, 6 ids of pictures, 15 ids of objects" in said["yolo"]
    assert f"Pascal VOC cannot hold 2 {unused}" in said["voc"]
    assert "2 names of classes" in said["csv"]  # the one with two lines, and one of two of the same name
    assert "without objects" in said["csv"]
    assert "without objects" not in said["yolo"]
    for to in OTHERS:
        (tmp_path / to / "opendetr.json").unlink()
        index = load_index(tmp_path / to, "train")
        kept = {USED, OF_OBJECTS.index(Unused.CROWD)} if to == "voc" else {USED}
        assert set(index.objects.reasons.tolist()) == kept
        assert len(index) == 6
    assert load_index(tmp_path / "voc", "train").label_map.names[-1] == "zebra 2"


def test_the_files_are_those_that_other_programs_expect(coco_folder, tmp_path):
    source = coco_folder([1, 0], names=("no", "0"))
    record = load_index(source, "train").records[0]
    x1, y1, x2, y2 = map(int, record.boxes_xyxy[0])
    name = ("no", "0")[record.labels[0]]
    api.convert_data(source, tmp_path / "yolo", "yolo")
    assert yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text()) == {
        "train": "images/train", "names": {0: "no", 1: "0"},
    }  # fmt: skip
    line = (tmp_path / "yolo" / "labels" / "train" / "train_0.txt").read_text().split()
    assert line[0] == str(record.labels[0])
    assert list(map(float, line[1:])) == [(x1 + x2) / 2 / 64, (y1 + y2) / 2 / 48, (x2 - x1) / 64, (y2 - y1) / 48]
    assert (tmp_path / "yolo" / "labels" / "train" / "train_1.txt").read_text() == ""
    api.convert_data(source, tmp_path / "voc", "voc")
    text = (tmp_path / "voc" / "Annotations" / "train_0.xml").read_text()
    assert f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>" in text
    assert (tmp_path / "voc" / "ImageSets" / "Main" / "train.txt").read_text() == "train_0\ntrain_1\n"
    api.convert_data(source, tmp_path / "csv", "csv")
    assert (tmp_path / "csv" / "train.csv").read_text().splitlines() == [
        "filename,width,height,class,xmin,ymin,xmax,ymax", f"train_0.png,64,48,{name},{x1},{y1},{x2},{y2}",
        "train_1.png,64,48,,,,,",
    ]  # fmt: skip
    api.convert_data(source, tmp_path / "coco", "coco")
    entry = json.loads((tmp_path / "coco" / "annotations" / "train.json").read_text())["annotations"][0]
    assert entry["bbox"] == [x1, y1, x2 - x1, y2 - y1]
    assert all(type(value) is int for value in entry["bbox"])


def edit_yolo(folder: Path, change) -> None:
    path = folder / "labels" / "train" / "train_0.txt"
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def test_labels_that_were_changed_later_are_those_of_the_label_file(coco_folder, tmp_path, edit_json):
    source = coco_folder([3, 2])

    def make_odd(content):
        content["annotations"][1]["iscrowd"] = 1
        content["annotations"][2]["area"] = 5.5

    edit_json(source / "annotations" / "train.json", make_odd)
    before = load_index(source, "train")
    api.convert_data(source, tmp_path / "yolo", "yolo")
    edit_yolo(tmp_path / "yolo", lambda lines: ["2 0.5 0.5 0.25 0.5", lines[1]])
    after = load_index(tmp_path / "yolo", "train")
    assert after.repairs == {"picture whose labels were changed after the conversion: read from its label file": 1}
    # A new object, the third one with its note, and the crowd, which no label file can hold.
    objects = after.objects.at(after.objects.pictures == 0)
    assert objects.labels.tolist() == [2, *before.objects.labels[[2, 1]].tolist()]
    assert objects.boxes_xywh.tolist() == [[24, 12, 16, 24], *before.objects.boxes_xywh[[2, 1]].tolist()]
    assert objects.areas.tolist() == [16 * 24, 5.5, before.objects.areas[1]]
    assert objects.ids.tolist() == [6, 3, 2]
    assert objects.is_crowd.tolist() == [False, False, True]
    second = after.objects.at(after.objects.pictures == 1)
    assert second.boxes_xywh.tobytes() == before.objects.boxes_xywh[before.objects.pictures == 1].tobytes()


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_a_class_that_is_added_later_leaves_the_noted_objects_theirs(coco_folder, tmp_path, edit_json, to):
    """The new class comes between the others in the order of the ids or names."""
    data = coco_folder((3, 3), names=("ant", "yak"))

    def change(coco):
        for category, number in zip(coco["categories"], (5, 9)):
            category["id"] = number
        for number, annotation in enumerate(coco["annotations"]):
            annotation.update(category_id=9 if number % 2 else 5, id=70 + number, iscrowd=int(number == 1))

    edit_json(data / "annotations/train.json", change)
    before = load_index(data, "train")
    api.convert_data(data, tmp_path / "out", to)
    if to == "yolo":
        path = tmp_path / "out/data.yaml"
        path.write_text(path.read_text().replace("1: yak", "1: yak\n  2: bee"))
        assert "bee" in path.read_text()
        label = tmp_path / "out/labels/train/train_0.txt"
        label.write_text(label.read_text() + "2 0.5 0.5 0.1 0.1\n")
    else:
        label = tmp_path / "out/Annotations/train_0.xml"
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        added = f"<object><name>bee</name>{box}</object></annotation>"
        label.write_text(label.read_text().replace("</annotation>", added))
    after = load_index(tmp_path / "out", "train")
    assert set(after.label_map.names) == {"ant", "bee", "yak"}

    def told(index, picture):
        one = index.objects
        return {
            (int(one.ids[number]), index.label_map.names[one.labels[number]], bool(one.is_crowd[number]))
            for number in np.flatnonzero(one.pictures == picture)
        }

    assert told(after, 1) == told(before, 1)
    assert told(after, 0) >= told(before, 0)
    assert len(told(after, 0)) == 4


def test_pictures_and_classes_that_came_and_went_later(coco_folder, tmp_path):
    source = coco_folder([1, 1, 1])
    folder = api.convert_data(source, tmp_path / "yolo", "yolo")
    (folder / "images" / "train" / "train_1.png").unlink()
    (folder / "labels" / "train" / "train_1.txt").unlink()
    Image.new("RGB", (32, 32)).save(folder / "images" / "train" / "a new one.png")
    (folder / "labels" / "train" / "a new one.txt").write_text("3 0.5 0.5 0.5 0.5\n")
    names = {"names": {0: "disc", 1: "square", 2: "star", 3: "moon"}}
    content = yaml.safe_load((folder / "data.yaml").read_text()) | names
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    index = load_index(folder, "train")
    assert index.image_ids.tolist() == [1, 3, 4]
    assert [record.path.name for record in index.records] == ["train_0.png", "train_2.png", "a new one.png"]
    assert index.label_map.names == ("disc", "square", "star", "moon")  # a class with another name, and a new one
    assert index.label_map.category_ids == (1, 2, 3, 4)
    assert index.boxes_xyxy[-1].tolist() == [8, 8, 24, 24]
    assert index.sizes.tolist() == [[64, 48], [64, 48], [32, 32]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", r"opendetr\.json cannot be read \(JSONDecodeError"),
        ('{"opendetr": 1, "format": "YOLO", "splits": {"train": 3}}', r"opendetr\.json cannot be read \(TypeError"),
        ('{"opendetr": 2}', "was written by a newer version"),
        ('{"name": "something else"}', None),
        ('{"opendetr": 1, "format": "CSV", "splits": {}}', None),
    ],
)
def test_damaged_notes_are_one_sentence_and_others_are_none(coco_folder, tmp_path, text, expected):
    folder = api.convert_data(coco_folder(), tmp_path / "yolo", "yolo")
    (folder / "opendetr.json").write_text(text)
    if expected is None:
        assert load_index(folder, "train").label_map.category_ids == (0, 1, 2)
    else:
        with pytest.raises(UserError, match=expected):
            load_index(folder, "train")


@pytest.mark.skipif(os.name != "posix", reason="Windows has neither such modes nor links for everyone")
def test_pictures_are_links_or_copies_and_never_touched(coco_folder, tmp_path, monkeypatch):
    source = coco_folder([1])
    picture = source / "images" / "train_0.png"
    picture.chmod(0o600)
    linked = api.convert_data(source, tmp_path / "linked", "yolo") / "images" / "train" / "train_0.png"
    assert linked.is_symlink()
    assert linked.resolve() == picture.resolve()
    copied = api.convert_data(source, tmp_path / "copied", "coco", copies=True) / "images" / "train_0.png"
    assert not copied.is_symlink()
    assert picture.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    kept = api.convert_data(source, tmp_path / "kept", "csv") / "images" / "train_0.png"
    assert not kept.is_symlink()
    assert kept.read_bytes() == copied.read_bytes() == picture.read_bytes()


def test_pictures_of_an_archive_are_copied(coco_folder, tmp_path):
    source = coco_folder([1, 2])
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", source)
    assert zipfile.is_zipfile(archive)
    api.convert_data(archive, tmp_path / "there", "voc")
    require_same(load_index(source, "train"), load_index(tmp_path / "there", "train"))


def test_only_some_splits_and_classes(coco_folder, tmp_path, capsys):
    source = coco_folder([2, 3], splits=("train", "val"))
    api.convert_data(source, tmp_path / "there", "csv", splits=["val"], classes="star", rename={"square": "star"})
    index = load_index(tmp_path / "there", "val")
    assert split_names(tmp_path / "there") == ["val"]
    expected = load_index(source, "val")
    assert index.label_map.names == ("star",)
    assert len(index) == 2
    assert len(index.objects) == (expected.objects.labels > 0).sum()
    lost = len(expected.objects) - len(index.objects)
    assert f"val: {lost} object" in capsys.readouterr().out


def test_a_split_of_another_name_and_one_in_two_splits(coco_folder, tmp_path):
    source = coco_folder([2, 1], splits=("train",))
    shutil.copy(source / "annotations" / "train.json", source / "annotations" / "instances_all.json")
    for to in FORMATS:
        folder = api.convert_data(source, tmp_path / to, to)
        require_same(load_index(source, "annotations/instances_all.json"), load_index(folder, "all"))
        assert len(list((folder).rglob("*.png"))) == (4 if to == "yolo" else 2)  # elsewhere they share a file


@pytest.mark.parametrize(
    ("output", "options", "expected"),
    [
        ("", {}, "exists and is not empty"),
        ("inside/of/it", {}, "lies in the data set"),
        ("../new", {"splits": "tests"}, "has no split 'tests'; it has: train"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence_and_writes_nothing(coco_folder, output, options, expected):
    source = coco_folder()
    with pytest.raises(UserError, match=expected):
        api.convert_data(source, source / output, **({"to": "yolo"} | options))
    assert not (source.parent / "new").exists()
    assert {path.name for path in source.iterdir()} == {"annotations", "images"}


def test_a_picture_that_vanishes_leaves_nothing_behind(coco_folder, tmp_path, monkeypatch):
    source = coco_folder([1, 1])
    monkeypatch.setattr("opendetr.data.converting.shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        api.convert_data(source, tmp_path / "there", "coco", copies=True)
    assert list(tmp_path.glob("*there*")) == []


def test_entries_that_cannot_be_used_are_counted(coco_folder, tmp_path, edit_json, capsys):
    source = coco_folder([1, 1])
    (source / "images" / "train_1.png").unlink()
    api.convert_data(source, tmp_path / "there", "coco")
    said = capsys.readouterr().out
    assert "train: 1 picture whose file does not exist: not written" in said
    assert "train: 1 object of a picture that is not listed: not written" in said
