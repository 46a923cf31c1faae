"""A training that cannot learn says why: on the console, in its log and on its page, once, also after --resume."""

import json

from PIL import Image
from tiny import TINY

from opendetr import api
from opendetr.training.run_folder import read_metrics


def blacken(root):
    """Make the training pictures black."""
    for image in json.loads((root / "annotations" / "train.json").read_text())["images"]:
        (path,) = root.rglob(image["file_name"])
        Image.new("RGB", (image["width"], image["height"])).save(path)


def said_by(run):
    return [(line["kind"], list(line["symptoms"])) for line in read_metrics(run) if "symptoms" in line]


def test_a_symptom_is_in_the_console_the_log_and_the_page(coco_folder, tmp_path, capsys):
    root = coco_folder((2,) * 8, splits=("train", "val"))
    blacken(root)
    run = api.train(root, **TINY, epochs=2, output=tmp_path / "run")
    sentence = "8 of the 8 training pictures that were looked at are of one colour"
    assert capsys.readouterr().out.replace("\n", " ").count(sentence) == 1
    assert said_by(run) == [("val", ["uniform-pictures"])]
    page = (run / "report.html").read_text()
    assert page.index("What may keep it from learning") < page.index(sentence) < page.index("Average precision")
    api.train(resume=run, epochs=4)
    assert sentence not in capsys.readouterr().out.replace("\n", " ")
    assert said_by(run) == [("val", ["uniform-pictures"])]
    assert sentence in (run / "report.html").read_text()


def test_a_training_without_objects_has_nothing_to_look_at(coco_folder, tmp_path, capsys):
    run = api.train(coco_folder((0,) * 4, splits=("train", "val")), **TINY, epochs=1, output=tmp_path / "run")
    assert "has no objects to learn" in capsys.readouterr().out.replace("\n", " ")
    assert said_by(run) == []


def test_a_run_without_val_looks_at_its_training_pictures_at_the_end(coco_folder, tmp_path):
    root = coco_folder((2,) * 8)
    blacken(root)
    run = api.train(root, **TINY, epochs=1, val_split="none", output=tmp_path / "run")
    assert said_by(run) == [("symptoms", ["uniform-pictures"])]
    api.train(resume=run, epochs=2)
    assert said_by(run) == [("symptoms", ["uniform-pictures"])]
