"""`data check` on a copy of real data with a fault of every kind."""

import json
import shutil

import pytest
from PIL import Image

import opendetr
from opendetr.data.data_check import check_splits, read_all_splits

KINDS = {
    "object marked as a crowd or as difficult", "picture whose file does not exist", "object without width or height",
    "object outside its picture", "partly outside", "object of a category that is not listed",
    "object of a picture that is not listed", "object without a box of four finite numbers", "picture cannot be used",
    "picture listed twice", "not listed", "double box", "two classes", "copies within a split", "copies across splits",
    "near duplicates within a split", "near duplicates across splits", "tiny", "extreme aspect",
    "as large as the picture", "uniform picture", "class only outside train", "never used", "rare", "letter case",
    "put right", "unusual size", "more objects than queries", "listed in two splits",
}  # fmt: skip


@pytest.fixture
def faulty(test_data, tmp_path):
    """BCCD's train and val; every fault is in a picture of its own."""
    folder = tmp_path / "faulty"
    (folder / "annotations").mkdir(parents=True)
    shutil.copytree(test_data / "bccd" / "images", folder / "images", copy_function=shutil.copyfile)
    (folder / "images").chmod(0o755)
    train, val = (json.loads((test_data / f"bccd/annotations/{name}.json").read_text()) for name in ("train", "val"))
    images = train["images"]

    def path(number):
        return folder / "images" / images[number]["file_name"]

    def add(number, box, category=1, **others):
        own = {"id": 10**6 + len(train["annotations"]), "image_id": images[number]["id"], "category_id": category}
        train["annotations"].append({**own, "bbox": box, "iscrowd": 0, **others})

    def first(number):
        return next(entry for entry in train["annotations"] if entry["image_id"] == images[number]["id"])

    add(0, [10, 10, 50, 50], iscrowd=1)
    path(1).unlink()
    add(2, [100, 100, 0, 40])
    add(3, [900, 100, 40, 40])
    for number in (4, 5, 6):
        add(number, [600, 400, 90, 60])
    add(7, [10, 10, 50, 50], category=42)
    add(8, [10, 10, 50, 50], image_id=10**9)
    add(9, [1, 2, 3])
    path(10).write_bytes(b"\xff\xd8\xff nonsense")
    images.append({**images[11], "id": 10**7})
    Image.effect_noise((640, 480), 90).save(folder / "images/other.jpg")
    add(12, first(12)["bbox"], category=first(12)["category_id"])
    add(13, first(13)["bbox"], category=first(13)["category_id"] % 3 + 1)
    shutil.copyfile(path(14), path(15))
    shutil.copyfile(path(16), folder / "images" / val["images"][5]["file_name"])
    Image.open(path(17)).point(lambda value: min(255, value + 6)).save(path(18), quality=80)
    Image.open(path(19)).save(folder / "images" / val["images"][6]["file_name"], quality=60)
    add(20, [300, 300, 2, 40])
    add(21, [20, 300, 600, 20])
    add(22, [0, 0, 640, 480])
    Image.new("RGB", (640, 480), "grey").save(path(23))
    for content in (train, val):
        content["categories"].append({"id": 4, "name": "Basophil"})
    train["categories"].append({"id": 5, "name": "Nothing"})
    val["annotations"][0]["category_id"] = 4
    upper = images[24]["file_name"].upper()
    Image.effect_noise((640, 480), 60).convert("RGB").save(folder / "images" / upper)
    images.append({"id": 10**8, "file_name": upper, "width": 640, "height": 480})
    add(25, [10, 10, 50, 50], area="big")
    add(26, [5, 5, 620, 460], category=2)
    val["images"].append({**images[27], "id": 10**8})
    for name, content in (("train", train), ("val", val)):
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_fault_of_every_kind_is_found_and_a_clean_copy_has_no_error(faulty, tmp_path, capsys):
    found = opendetr.check_data(faulty, tmp_path / "checked", fix="clip", image_size=480, num_queries=25)
    assert {finding.kind for finding in found} >= KINDS
    assert capsys.readouterr().out.count("PROBLEM") == sum(finding.is_problem for finding in found) == 3
    page = (tmp_path / "checked/data-check.html").read_text()
    assert page.count("<h2 id=f") >= 15
    assert str(tmp_path) not in page.partition("<table")[0]
    account = json.loads((tmp_path / "checked/findings.json").read_text())["splits"]["train"]
    stated = json.loads((faulty / "annotations/train.json").read_text())
    kinds = [entry["kind"] for entry in account["left_out"]]
    assert account["pictures"] + kinds.count("picture") == len(stated["images"])
    assert account["objects"] + kinds.count("object") == len(stated["annotations"])
    clean = check_splits(read_all_splits(tmp_path / "checked/clean"), lambda index: 480)
    assert {one.kind for one in clean.findings} & KINDS == {
        "two classes", "copies across splits", "near duplicates within a split", "near duplicates across splits",
        "tiny", "extreme aspect", "as large as the picture", "class only outside train", "rare", "unusual size",
        "object marked as a crowd or as difficult", "listed in two splits", "never used",
    }  # fmt: skip
