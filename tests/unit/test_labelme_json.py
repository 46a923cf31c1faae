import json
from pathlib import Path

import pytest
from foreign_data import assert_same, copy_pictures, write_labelme

from opendetr.data.door import find_split, load_index, split_names
from opendetr.data.index import Unused
from opendetr.errors import UserError


@pytest.fixture
def coco(coco_folder):
    return coco_folder((1, 2, 0, 3), ("train", "val"))


@pytest.mark.parametrize(
    ("pictures", "annotations", "to_pictures"),
    [
        (".", ".", ""), ("images", "json", "../images/"), ("images", "json", "..\\images\\"),
        ("images", "annotations", ""), (".", ".", "C:\\Users\\me\\"), (".", "json", "../"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_splits", [False, True])
def test_layouts(coco, tmp_path, pictures, annotations, to_pictures, has_splits):
    for split in ("train", "val") if has_splits else ("train",):
        root = tmp_path / "labelme" / split if has_splits else tmp_path / "labelme"
        copy_pictures(coco, root / pictures, split)
        write_labelme(coco, root / annotations, split, to_pictures)
    assert find_split(tmp_path / "labelme", "train").layout == "LabelMe"
    assert split_names(tmp_path / "labelme") == (["train", "val"] if has_splits else ["train"])
    for split in split_names(tmp_path / "labelme"):
        index = load_index(tmp_path / "labelme", split)
        assert_same(index, load_index(coco, split))
        assert index.label_map.category_ids == tuple(range(1, len(index.label_map.names) + 1))


@pytest.fixture
def shapes(coco_folder, tmp_path):
    """The index of one picture (64x48) with shapes; what they leave out is a rectangle called a."""

    def load(*given: object, **more: object):
        root = tmp_path / "one"
        copy_pictures(coco_folder((1,)), root)
        rectangle = {"label": "a", "points": [[1, 2], [4, 6]], "shape_type": "rectangle"}
        entries = [rectangle | one if isinstance(one, dict) else one for one in given]
        content = {"version": "5", "shapes": entries, "imagePath": "train_0.png", "imageHeight": 48, "imageWidth": 64}
        (root / "train_0.json").write_text(json.dumps(content | more))
        return load_index(root, "train")

    return load


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ({}, [1, 2, 4, 6]),
        ({"points": [[4, 2], [1, 2], [1, 6.5], [4, 6.5]]}, [1, 2, 4, 6.5]),  # newer versions have all four corners
        ({"shape_type": "polygon", "points": [[5, 6], [20, 10], [7, 30]]}, [5, 6, 20, 30]),
        ({"shape_type": None, "points": [[5, 6], [20, 10], [7, 30]]}, [5, 6, 20, 30]),  # of the first versions
        ({"shape_type": "circle", "points": [[20, 20], [23, 24]]}, [15, 15, 25, 25]),
    ],
)
def test_shapes(shapes, shape, box):
    index = shapes(shape)
    assert index.boxes_xyxy.tolist() == [box]
    assert not index.left_out


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"shape_type": "point", "points": [[5, 6]]}, Unused.NO_BOX),
        ({"shape_type": "line"}, Unused.NO_BOX),
        ({"points": [[5, 6]]}, Unused.NO_BOX),
        ({"points": "1,2"}, Unused.NO_BOX),
        ({"points": [[1, 2], [3]]}, Unused.NO_BOX),
        ({"points": [[1, 2], [10**400, 3]]}, Unused.NO_BOX),
        ({"shape_type": "circle", "points": [[1, 2]] * 3}, Unused.NO_BOX),
        ({"label": ""}, Unused.NO_CATEGORY),
        ({"label": None}, Unused.NO_CATEGORY),
        ([1], Unused.UNREADABLE),
    ],
)
def test_a_shape_that_cannot_be_used_is_named(shapes, tmp_path, shape, reason):
    index = shapes({}, shape)
    (left_out,) = index.left_out
    assert (left_out.kind, left_out.reason) == ("object", reason)
    assert left_out.sentence.startswith(f"{tmp_path / 'one/train_0.json'}: shape 2")
    with pytest.raises(UserError, match="shape 1"):
        shapes(shape)


def test_numbers_are_names_and_difficult_shapes_crowds(shapes):
    index = shapes({"label": 7, "difficult": True}, {"label": "b", "difficult": []})
    assert index.label_map.names == ("7", "b")
    assert index.objects.is_crowd.tolist() == [True, False]
    assert index.repairs["difficult that is neither 0 nor 1: taken as 0"] == 1


@pytest.mark.parametrize("size", [0, None, "x", -1])
def test_a_size_that_is_not_stated_is_read_from_the_file(shapes, size):
    assert shapes({}, imageWidth=size).sizes.tolist() == [[64, 48]]


@pytest.mark.parametrize("stated", ["other.png", 7, None, ""])
def test_the_stem_of_the_annotation_finds_its_picture(shapes, stated):
    assert [Path(path).name for path in shapes({}, imagePath=stated).paths] == ["train_0.png"]


@pytest.mark.parametrize("text", ["[1]", "{", '{"shapes": 1}', "\x00"])
def test_a_file_that_is_no_annotation_is_left_out_and_named(coco, tmp_path, text):
    copy_pictures(coco, tmp_path / "data")
    write_labelme(coco, tmp_path / "data")
    (tmp_path / "data/train_1.json").write_text(text)
    index = load_index(tmp_path / "data", "train")
    (left_out,) = index.left_out
    assert (left_out.kind, left_out.reason, len(index)) == ("picture", Unused.UNREADABLE, 3)
    assert "train_1.json" in left_out.sentence


def test_a_picture_that_is_not_there(shapes, tmp_path):
    shapes({})
    (tmp_path / "one/train_0.png").unlink()
    with pytest.raises(UserError, match=r"train_0\.png, which does not exist"):
        load_index(tmp_path / "one", "train")


def test_pictures_without_an_annotation_are_not_listed(coco, tmp_path):
    copy_pictures(coco, tmp_path / "data/images")
    write_labelme(coco, tmp_path / "data/json", to_pictures="../images/")
    (tmp_path / "data/json/train_2.json").unlink()
    (left_out,) = load_index(tmp_path / "data", "train").left_out
    assert (left_out.kind, left_out.reason) == ("picture", Unused.NOT_LISTED)
    assert "images/train_2.png has no annotation" in left_out.sentence
