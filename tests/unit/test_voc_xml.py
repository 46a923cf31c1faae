import json
from pathlib import Path

import numpy as np
import pytest
from foreign_data import assert_same, copy_pictures, pictures_of, voc_text, write_voc

from opendetr.data.check import left_out_in_words
from opendetr.data.door import find_split, load_index, split_names
from opendetr.data.index import Unused
from opendetr.data.source import DataSource
from opendetr.errors import UserError


@pytest.fixture
def coco(coco_folder):
    return coco_folder((1, 2, 0, 3), ("train", "val"))


def official(coco: Path, root: Path) -> None:
    for split in ("train", "val"):
        copy_pictures(coco, root / "JPEGImages", split)
        write_voc(coco, root / "Annotations", split)
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        stems = [Path(image["file_name"]).stem for image, _ in pictures_of(coco, split)]
        (root / f"ImageSets/Main/{split}.txt").write_text("\r\n".join(stems) + "\r\n")
        (root / f"ImageSets/Main/circle_{split}.txt").write_text("".join(f"{stem}  1\n" for stem in stems))


def devkit(coco: Path, root: Path) -> None:
    official(coco, root / "VOCdevkit/VOC2012")


def of_roboflow(coco: Path, root: Path) -> None:
    for split, name in (("train", "train"), ("val", "valid")):
        copy_pictures(coco, root / name, split)
        write_voc(coco, root / name, split)


def folders_of_splits(coco: Path, root: Path) -> None:
    for split in ("train", "val"):
        copy_pictures(coco, root / "images" / split, split)
        write_voc(coco, root / "annotations" / split, split)


def parts_in_splits(coco: Path, root: Path) -> None:
    for split in ("train", "val"):
        copy_pictures(coco, root / split / "images", split)
        write_voc(coco, root / split / "annotations", split)


@pytest.mark.parametrize("write", [official, devkit, of_roboflow, folders_of_splits, parts_in_splits])
def test_layouts_with_splits(coco, tmp_path, write):
    write(coco, tmp_path / "voc")
    assert find_split(tmp_path / "voc", "train").layout == "Pascal VOC"
    assert split_names(tmp_path / "voc") == ["train", "val"]
    for split in ("train", "val"):
        index = load_index(tmp_path / "voc", split)
        assert_same(index, load_index(coco, split))
        assert index.label_map.category_ids == tuple(range(1, len(index.label_map.names) + 1))
        assert index.label_map == load_index(tmp_path / "voc", "train").label_map
        assert index.image_ids.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("pictures", "annotations"), [("JPEGImages", "Annotations"), ("images", "annotations"), (".", "."), (".", "xml")]
)
def test_a_folder_without_splits_is_train(coco, tmp_path, pictures, annotations):
    root = tmp_path / "voc"
    copy_pictures(coco, root / pictures)
    write_voc(coco, root / annotations)
    (root / "notes.xml").write_text("<html/>") if annotations == "xml" else None
    assert split_names(root) == ["train"]
    index = load_index(root, "train")
    assert_same(index, load_index(coco, "train"))
    assert index.label_map.names == tuple(sorted(index.label_map.names))
    assert left_out_in_words(index) == []


@pytest.fixture
def one(coco_folder, tmp_path):
    """A data set of one picture (64x48) whose annotation is some text, or ours with something else in it."""

    def make(text: str | bytes | None = None, was: str = "", becomes: str = "", boxes: int = 2) -> Path:
        root, coco = tmp_path / "one", coco_folder((boxes,))
        copy_pictures(coco, root)
        ((image, objects),) = pictures_of(coco)
        ours = voc_text(image, objects)
        assert was in ours
        content = ours.replace(was, becomes, 1) if text is None else text
        (root / "train_0.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return make


@pytest.mark.parametrize(
    "stated", ["C:\\photos\\train_0.png", "/home/me/other.jpg", "", "train_1.png", "folder/train_0.png"]
)
def test_the_stem_of_the_annotation_finds_its_picture(one, stated):
    root = one(was="<filename>train_0.png", becomes=f"<filename>{stated}")
    (root / "train_1.png").write_bytes((root / "train_0.png").read_bytes())
    index = load_index(root, "train")
    assert [Path(path).name for path in index.paths] == ["train_0.png"]
    (root / "train_0.xml").rename(root / "annotation-7.xml")
    if "train_0" in stated or "train_1" in stated:
        assert [Path(path).name for path in load_index(root, "train").paths] == [
            stated.replace("\\", "/").split("/")[-1]
        ]


def test_difficult_objects_are_crowds(one):
    index = load_index(one(was="<difficult>0", becomes="<difficult>1"), "train")
    assert index.objects.is_crowd.tolist() == [True, False]
    assert len(index.labels) == 1
    index = load_index(one(was="<difficult>0", becomes="<difficult>very"), "train")
    assert not index.objects.is_crowd.any()
    assert index.repairs["difficult that is neither 0 nor 1: taken as 0"] == 1


@pytest.mark.parametrize("size", ["<width>0<", "<width>-1<", "<width>?<", "<width><"])
def test_a_size_that_is_not_stated_is_read_from_the_file(one, size):
    index = load_index(one(was="<width>64<", becomes=size), "train")
    assert index.sizes.tolist() == [[64, 48]]
    assert index.repairs == {"picture without a stated size: read from its file": 1}


def test_numbers_are_floats_and_corners_may_be_exchanged(one):
    box = "<bndbox><xmax>1.5</xmax><ymin>2.25</ymin><xmin>20</xmin><ymax>30.5</ymax></bndbox>"
    index = load_index(one(f"<annotation><object><name>a</name>{box}</object></annotation>"), "train")
    assert index.objects.boxes_xywh.tolist() == [[1.5, 2.25, 18.5, 28.25]]
    assert index.repairs["box whose corners are exchanged"] == 1


def test_parts_of_objects_are_not_objects(one):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    index = load_index(one(was="</object>", becomes=f"{part}</object>"), "train")
    assert len(index.labels) == 2


@pytest.mark.parametrize(
    ("was", "becomes", "reason"),
    [
        ("<name>", "<nom>x</nom><name> </name><name>", Unused.NO_CATEGORY),
        ("<bndbox>", "<robndbox></robndbox><bndbox/><bndbox>", Unused.NO_BOX),
        ("<xmin>", "<xmin>nan</xmin><xmin>", Unused.NO_BOX),
        ("<ymin>", f"<ymin>{'9' * 400}</ymin><ymin>", Unused.NO_BOX),
    ],
)
def test_an_object_that_cannot_be_used_is_named_with_its_line(one, was, becomes, reason):
    root = one(was=was, becomes=becomes)
    index = load_index(root, "train")
    (left_out,) = index.left_out
    assert (left_out.kind, left_out.reason) == ("object", reason)
    assert left_out.sentence.startswith(f"{root / 'train_0.xml'}:5: ")  # the first object's line
    assert len(index.labels) == 1


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<annotation><object>", r"train_0\.xml:1 cannot be read as XML \(no element found"),
        ("<annotation>\n</annotation></a>", r"train_0\.xml:2 cannot be read as XML"),
        (BOMB, r"train_0\.xml cannot be read as XML \(it defines entities"),
        (b"<annotation>\x00\xff</annotation>", r"train_0\.xml:1 cannot be read as XML"),
    ],
)
def test_a_file_that_is_no_annotation_is_left_out_and_named(one, coco, text, expected):
    root = one(text)
    with pytest.raises(UserError, match=expected):
        load_index(root, "train")
    copy_pictures(coco, root, "val")
    write_voc(coco, root, "val")
    index = load_index(root, "train")
    (left_out,) = index.left_out
    assert (left_out.kind, left_out.reason, len(index)) == ("picture", Unused.UNREADABLE, 4)


@pytest.mark.parametrize(
    ("encoding", "declared"), [("utf-8-sig", ""), ("utf-16", "UTF-16"), ("gb2312", "gb2312"), ("cp1252", "")]
)
def test_encodings(one, encoding, declared):
    name = "\u732b" if encoding == "gb2312" else "caf\u00e9"
    declaration = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    text = f"{declaration}<annotation><object><name>{name}</name>{box}</object></annotation>"
    index = load_index(one(text.encode(encoding)), "train")
    assert index.label_map.names == (name,)
    assert bool(index.repairs.get(f"file that is not in the encoding it states: read as {encoding}")) == (
        encoding in ("gb2312", "cp1252")
    )


def test_the_lists_of_splits(coco, tmp_path):
    root = tmp_path / "voc"
    official(coco, root)
    (root / "ImageSets/Main/train.txt").write_text("train_0\ntrain_1 1\n\ntrain_0\nnowhere\ntrain_3.png\n")
    (root / "JPEGImages/train_1.png").unlink()
    index = load_index(root, "train")
    assert [Path(path).name for path in index.paths] == ["train_0.png", "train_3.png"]
    assert [(one.kind, one.reason) for one in index.left_out] == [
        ("picture", Unused.LISTED_TWICE), ("picture", Unused.MISSING_FILE),  # of the list
        ("picture", Unused.MISSING_FILE), ("object", Unused.NO_PICTURE), ("object", Unused.NO_PICTURE),  # train_1
    ]  # fmt: skip
    assert "train.txt:4: train_0 is listed before" in index.left_out[0].sentence
    assert "train.txt:5: nowhere has no annotation" in index.left_out[1].sentence


def test_the_first_pixel(coco, tmp_path, edit_json):
    edit_json(coco / "annotations/train.json", lambda content: content["annotations"][0].update(bbox=[0, 3, 64, 20]))
    for shift in (0, 1):
        copy_pictures(coco, tmp_path / str(shift))
        write_voc(coco, tmp_path / str(shift), shift=shift)
    expected = load_index(coco, "train")
    from_0, from_1 = (load_index(tmp_path / str(shift), "train") for shift in (0, 1))
    assert from_0.notes == ()
    assert np.array_equal(from_1.objects.boxes_xywh[:, :2], expected.objects.boxes_xywh[:, :2] + 1)  # as written
    (note,) = from_1.notes
    assert "1 box begins at 1 and none at 0" in note
    assert "--voc-origin 1" in note
    subtracted = load_index(DataSource((str(tmp_path / "1"),), voc_origin=1), "train")
    assert_same(subtracted, expected)
    assert subtracted.notes == ()
    (note,) = load_index(DataSource((str(tmp_path / "0"),), voc_origin=1), "train").notes
    assert "1 box begins at 0, so the first pixel counts as 0" in note
    assert left_out_in_words(from_1) == list(from_1.notes)


def test_other_files_are_no_annotations(tmp_path, coco):
    copy_pictures(coco, tmp_path / "data")
    (tmp_path / "data/train_0.xml").write_text("<annotations><image/></annotations>")
    (tmp_path / "data/more.json").write_text(json.dumps({"shapes": 3}))
    with pytest.raises(UserError, match="has no data set"):
        load_index(tmp_path / "data", "train")


def test_pictures_without_an_annotation_are_not_listed(coco, tmp_path):
    copy_pictures(coco, tmp_path / "voc/JPEGImages")
    write_voc(coco, tmp_path / "voc/Annotations")
    (tmp_path / "voc/Annotations/train_2.xml").unlink()
    index = load_index(tmp_path / "voc", "train")
    (left_out,) = index.left_out
    assert (left_out.kind, left_out.reason) == ("picture", Unused.NOT_LISTED)
    assert "JPEGImages/train_2.png has no annotation" in left_out.sentence


def test_splits_of_one_name_are_told_apart_by_their_folders(coco, tmp_path):
    for year in ("train2014", "train2017"):
        copy_pictures(coco, tmp_path / "voc" / year)
        write_voc(coco, tmp_path / "voc" / year)
    with pytest.raises(UserError, match=r"could be any of train2014, train2017"):
        load_index(tmp_path / "voc", "train")
    assert len(load_index(tmp_path / "voc", "train2017")) == 4


def test_a_data_set_in_a_folder_is_named(coco, tmp_path):
    copy_pictures(coco, tmp_path / "above/set/JPEGImages")
    write_voc(coco, tmp_path / "above/set/Annotations")
    with pytest.raises(UserError, match=r"above is no data set, but holds one: give .*above/set"):
        load_index(tmp_path / "above", "train")


def test_classes_are_known_by_their_names_where_a_format_has_no_ids(coco, tmp_path, edit_json):
    """A test set that shows fewer classes than the model was trained on would number them anew."""
    copy_pictures(coco, tmp_path / "trained")
    write_voc(coco, tmp_path / "trained")
    trained = load_index(tmp_path / "trained", "train")
    edit_json(
        coco / "annotations/train.json", lambda content: [one.update(category_id=3) for one in content["annotations"]]
    )
    copy_pictures(coco, tmp_path / "fewer")
    write_voc(coco, tmp_path / "fewer")
    fewer = load_index(tmp_path / "fewer", "train")
    assert fewer.label_map.names == ("star",)
    known = fewer.under(trained.label_map)
    assert {trained.label_map.names[label] for label in known.labels} == {"star"}
