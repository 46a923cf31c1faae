import hashlib
import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opendetr.data import digits
from opendetr.data.digits import SPLITS, write_digits
from opendetr.data.door import load_index
from opendetr.errors import UserError
from opendetr.files import write_json

NAMES = [split.name for split in SPLITS]


@pytest.fixture(scope="module")
def material():
    return digits._load_material()


@pytest.fixture(scope="module")
def scenes(material):
    return [digits._scene(material, split, i, seed=0) for split in SPLITS for i in range(60)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "digits"
    return root, write_digits(root, scenes=25, seed=3)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def bounds_of_change(scene) -> tuple[int, int, int, int]:
    changed = (np.asarray(scene.picture) != np.asarray(scene.background)).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(written, tmp_path):
    root, _ = written
    write_digits(tmp_path / "same", scenes=25, seed=3)
    write_digits(tmp_path / "other", scenes=25, seed=4)
    assert contents(tmp_path / "same") == contents(root)
    assert not set(contents(root / "images").values()) & set(contents(tmp_path / "other" / "images").values())


def test_what_is_written_for_a_seed_stays_what_it_was(scenes):
    """The scenes that figures in docs and issues are about. A picture's digest; boxes to the pixel."""
    scene = scenes[0]
    assert (scene.digits, scene.boxes) == ([674], [(54, 77, 93, 126)])
    digest = hashlib.sha256(np.asarray(scene.picture).tobytes()).hexdigest()
    assert digest == "3a47ac048f5390d90c3b5fb45b79d21d4e59d944040c63c60d1aca056605b835"


def test_a_scene_does_not_depend_on_how_many_are_asked_for(written, tmp_path):
    root, _ = written
    write_digits(tmp_path, scenes=3, seed=3)
    for name in NAMES:
        few, many = (json.loads((folder / "annotations" / f"{name}.json").read_text()) for folder in (tmp_path, root))
        assert few["images"] == many["images"][: len(few["images"])]
        assert few["annotations"] == many["annotations"][: len(few["annotations"])]
        for image in few["images"]:
            file_name = Path("images") / image["file_name"]
            assert (tmp_path / file_name).read_bytes() == (root / file_name).read_bytes()


def test_counts_and_coco_content(written):
    root, counts = written
    assert counts == {"train": 25, "val": 5, "test": 5}
    ids: list[int] = []
    for name, count in counts.items():
        coco = json.loads((root / "annotations" / f"{name}.json").read_text())
        assert [image["file_name"] for image in coco["images"]] == [f"{name}_{i:05d}.png" for i in range(count)]
        assert coco["categories"] == [{"id": digit, "name": str(digit)} for digit in range(10)]
        assert [annotation["id"] for annotation in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
        assert all(a["area"] == a["bbox"][2] * a["bbox"][3] and a["iscrowd"] == 0 for a in coco["annotations"])
        assert "CC BY 4.0" in " ".join(coco["info"]["sources"])
        ids += [image["id"] for image in coco["images"]]
    assert len(ids) == len(set(ids)) == len(list((root / "images").iterdir()))


@pytest.mark.parametrize(("scenes", "held_out"), [(1, 4), (20, 4), (30, 6), (501, 100)])
def test_held_out_splits_have_a_fifth_within_limits(tmp_path, monkeypatch, scenes, held_out):
    written = {}
    monkeypatch.setattr(digits, "_write_split", lambda images, split, count, *rest: written.setdefault(split.name, {}))
    assert write_digits(tmp_path, scenes) == {"train": scenes, "val": held_out, "test": held_out}
    assert list(written) == NAMES


def test_the_index_reads_it(written):
    root, counts = written
    for name, count in counts.items():
        index = load_index(root, name)
        assert (len(index), index.label_map.names, index.left_out) == (count, tuple("0123456789"), ())
        assert all(1 <= len(record.labels) <= 4 for record in index.records)
        for record in index.records:
            with Image.open(record.path) as picture:
                assert picture.size == (record.width, record.height) == (128, 128)


def test_one_to_four_digits_of_the_promised_size_inside_the_picture(scenes):
    assert {len(scene.boxes) for scene in scenes} == {1, 2, 3, 4}
    for scene in scenes:
        assert len(scene.digits) == len(scene.boxes)
        for x1, y1, x2, y2 in scene.boxes:
            assert 0 <= x1 < x2 <= 128
            assert 0 <= y1 < y2 <= 128
            assert 32 <= max(x2 - x1, y2 - y1) <= 64


@pytest.mark.parametrize("longest", digits.LONGEST_SIDE)
def test_a_digit_keeps_its_size_when_turned_and_trimmed(material, longest):
    sides = {
        max(digits._render_digit(digit, turn, longest).size)
        for digit, turn in zip(material.digits[::3], np.linspace(-digits.MAX_TURN, digits.MAX_TURN, 599).tolist())
    }
    assert sides <= {longest - 1, longest}


def test_boxes_hardly_overlap(scenes):
    overlaps = []
    for scene in scenes:
        for a, b in combinations(scene.boxes, 2):
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
            overlaps.append(max(0, width) * max(0, height) / smaller)
    assert 0 < max(overlaps) <= 0.2


def test_a_box_is_exactly_what_the_digit_changes(scenes):
    alone = [scene for scene in scenes if len(scene.boxes) == 1]
    assert len(alone) > 30
    for scene in alone:
        assert bounds_of_change(scene) == scene.boxes[0]


def test_the_boxes_of_several_digits_together_are_exactly_what_changes(scenes):
    for scene in scenes:
        x1, y1, x2, y2 = zip(*scene.boxes)
        assert bounds_of_change(scene) == (min(x1), min(y1), max(x2), max(y2))


def test_light_digits_on_a_dark_background(scenes):
    for scene in scenes:
        picture, background = np.asarray(scene.picture).astype(int), np.asarray(scene.background)
        assert background.max() <= 115
        assert (picture - background).min() >= 0
        for x1, y1, x2, y2 in scene.boxes:
            assert picture[y1:y2, x1:x2].mean(axis=2).max() > 180


def test_splits_share_no_digit_and_cover_all(material):
    used = [material.of_split[name].tolist() for name in NAMES]
    assert sorted(index for indices in used for index in indices) == list(range(1797))
    assert [round(len(indices), -2) for indices in used] == [1200, 300, 300]
    assert all(set(material.classes[indices]) == set(range(10)) for indices in used)
    assert len({digit.tobytes() for digit in material.digits}) == 1797  # nor the same picture under two indices


def test_a_scene_uses_the_digits_and_columns_of_its_split_only(material):
    for split in SPLITS:
        columns = np.zeros((427, 640, 3), dtype=np.uint8)
        columns[:, slice(*split.columns)] = 255
        marked = material._replace(photos=(Image.fromarray(columns),))
        for i in range(40):
            scene = digits._scene(marked, split, i, seed=0)
            assert set(scene.digits) <= set(material.of_split[split.name].tolist())
            assert np.asarray(scene.background).min() > 0  # black: a pixel of another split
    assert sorted(column for split in SPLITS for column in range(*split.columns)) == list(range(640))


def test_earlier_digit_scenes_are_replaced(tmp_path):
    write_digits(tmp_path, scenes=6, seed=0)
    write_digits(tmp_path, scenes=2, seed=1)
    assert len(list((tmp_path / "images").iterdir())) == 2 + 4 + 4
    assert len(load_index(tmp_path, "train")) == 2


def test_an_interrupted_run_leaves_the_earlier_data_set_whole(tmp_path, monkeypatch):
    write_digits(tmp_path, scenes=2, seed=0)
    before = contents(tmp_path)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "_empty_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_digits(tmp_path, scenes=2, seed=1)
    assert contents(tmp_path) == before


def test_a_run_interrupted_before_the_annotations_does_not_look_complete_and_can_be_repeated(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    write_digits(tmp_path, scenes=2, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(digits, "write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_digits(tmp_path, scenes=2, seed=1)
    assert (tmp_path / "images" / "train_00000.png").exists()
    assert not list((tmp_path / "annotations").iterdir())
    write_digits(tmp_path, scenes=2, seed=1)
    assert len(load_index(tmp_path, "val")) == 4


def foreign_split(root: Path) -> Path:
    coco = {"info": {"description": "mine"}, "images": [], "annotations": [], "categories": []}
    write_json(root / "annotations" / "train.json", coco)
    return root / "annotations" / "train.json"


def foreign_coco(root: Path) -> Path:
    write_json(root / "annotations" / "instances_val2017.json", {})
    return root / "annotations" / "instances_val2017.json"


def foreign_picture(root: Path) -> Path:
    (root / "images").mkdir()
    Image.new("RGB", (8, 8)).save(root / "images" / "train_00000.png")
    return root / "images" / "train_00000.png"


def foreign_file(root: Path) -> Path:
    (root / "images").write_text("a file")
    return root / "images"


@pytest.mark.parametrize("make", [foreign_split, foreign_coco, foreign_picture, foreign_file])
def test_other_data_is_not_overwritten(tmp_path, make):
    path = make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="choose another folder") as caught:
        write_digits(tmp_path, scenes=1)
    assert str(path) in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("scenes", "seed"), [(0, 0), (-3, 0), (1, -1)])
def test_impossible_numbers(tmp_path, scenes, seed):
    with pytest.raises(UserError, match="at least 1 scene"):
        write_digits(tmp_path / "new", scenes, seed)
    assert not (tmp_path / "new").exists()


def test_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'opendetr\[demo\]'"):
        write_digits(tmp_path / "new")
    assert not (tmp_path / "new").exists()
