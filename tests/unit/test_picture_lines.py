import pytest
from foreign_data import assert_same, copy_pictures, pictures_of

from opendetr.data.door import find_split, load_index, split_names
from opendetr.data.index import Unused
from opendetr.errors import UserError

NAMES = ("circle", "square", "star")


def write(coco, folder, split="train"):
    copy_pictures(coco, folder, split)
    lines = []
    for image, objects in pictures_of(coco, split):
        boxes = [f"{x},{y},{x + w},{y + h},{NAMES.index(name)}" for name, (x, y, w, h) in objects]
        lines.append(" ".join([image["file_name"], *boxes]))
    (folder / "_annotations.txt").write_text("\r\n".join(lines) + "\r\n")
    (folder / "_classes.txt").write_text("\n".join(NAMES))


def test_the_same_data_as_in_coco(coco_folder, tmp_path):
    coco = coco_folder((1, 2, 0, 3), ("train", "val"))
    for split, name in (("train", "train"), ("val", "valid")):
        write(coco, tmp_path / "lines" / name, split)
    assert find_split(tmp_path / "lines", "train").layout == "lines of pictures"
    assert split_names(tmp_path / "lines") == ["train", "val"]
    for split in ("train", "val"):
        index = load_index(tmp_path / "lines", split)
        assert_same(index, load_index(coco, split))
        assert index.label_map.category_ids == (0, 1, 2)


def test_faults_are_named(coco_folder, tmp_path):
    write(coco_folder((1,)), tmp_path)
    good = "train_0.png 1,2,4,6,0"
    (tmp_path / "_annotations.txt").write_text(
        f"{good} 1,2,4,6,3 1,2,4,6,x 1,2,nan,6,1 4,6,1,2,2 1,2,2\nmy picture.png 1,2,4,6,0\n"
    )
    index = load_index(tmp_path, "train")
    assert index.boxes_xyxy.tolist() == [[1, 2, 4, 6]] * 2
    assert [(one.kind, one.reason) for one in index.left_out] == [
        ("object", Unused.NO_CATEGORY), ("object", Unused.NO_CATEGORY), ("object", Unused.NO_BOX),
        ("object", Unused.NO_BOX),
        ("picture", Unused.MISSING_FILE), ("object", Unused.NO_PICTURE),
    ]  # fmt: skip
    assert "_annotations.txt:1: '1,2,4,6,3' has the class '3'" in index.left_out[0].sentence
    assert "my picture.png" in index.left_out[4].sentence
    (tmp_path / "_classes.txt").unlink()
    with pytest.raises(UserError, match=r"_classes\.txt does not exist"):
        load_index(tmp_path, "train")
