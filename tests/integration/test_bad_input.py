"""Bad input: one sentence on stderr, exit code 2, no traceback, nothing written."""

import json

import pytest

from opendetr.cli import main

ANNOTATION = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}

EXPORTED = "model.onnx: an exported file is a finished graph, which predict, val and info take; here give the model"


def broken(coco_folder, **changes):
    """A small data set whose train.json has been changed."""
    folder = coco_folder(boxes_per_picture=[1, 1])
    path = folder / "annotations/train.json"
    coco = json.loads(path.read_text())
    path.write_text(json.dumps(coco | {key: change(coco[key]) for key, change in changes.items()}))
    return folder


def train(folder, *words):
    return ["train", "--data", folder, "--preset", "detr-tiny", "--image-size", "32", "--epochs", "1", *words]


CASES = {
    "missing folder": (lambda make, run: train("nowhere"), "nowhere"),
    "not COCO": (lambda make, run: train(_with_text(make, "[1, 2]")), "not a COCO annotation file"),
    "not JSON": (lambda make, run: train(_with_text(make, "{{{")), "cannot be read as JSON"),
    "missing split": (lambda make, run: train(make(), "--train-split", "trainn"), "no split 'trainn'"),
    "missing pictures": (lambda make, run: train(_without_pictures(make())), "does not exist"),
    "annotation of a missing picture": (
        lambda make, run: train(broken(make, annotations=lambda _: [ANNOTATION | {"image_id": 99}])),
        "image 99",
    ),
    "annotation of a missing category": (
        lambda make, run: train(broken(make, annotations=lambda _: [ANNOTATION | {"category_id": 42}])),
        "category 42",
    ),
    "broken picture": (lambda make, run: train(_cut_picture(make()), "--strict"), "cannot be read as a picture"),
    "unknown preset": (lambda make, run: ["train", "--data", make(), "--preset", "detr-tinny"], "detr-tiny"),
    "unknown recipe": (lambda make, run: ["train", "--data", make(), "--recipe", "papper"], "paper"),
    "unknown key": (lambda make, run: train(make(), "--set", "model.num_querys=3"), "num_queries"),
    "wrong kind": (lambda make, run: train(make(), "--set", "model.num_queries=many"), "whole number"),
    "unknown backbone": (lambda make, run: train(make(), "--backbone", "resnet5000"), "resnet5000"),
    "weights that are not there": (lambda make, run: train(make(), "--backbone-weights", "nothing.pt"), "nothing.pt"),
    "unknown device": (lambda make, run: train(make(), "--device", "abacus"), "abacus"),
    "epochs and minutes": (lambda make, run: train(make(), "--minutes", "1"), "exclude each other"),
    "resume of nothing": (lambda make, run: ["train", "--resume", "no-run"], "no-run"),
    "model that is none": (lambda make, run: ["val", make(), "--data", make(splits=("train", "val"))], "is no model"),
    "model that is missing": (lambda make, run: ["info", "no-model"], "does not exist"),
    "damaged model": (lambda make, run: ["info", _damaged(make, run)], "model.safetensors"),
    "picture that is missing": (lambda make, run: ["predict", run, "no.jpg", "--output", "out"], "no.jpg"),
    "threshold": (lambda make, run: ["predict", run, "a.jpg", "--output", "o", "--threshold", "7"], "between 0 and 1"),
    "results in the place of the pictures": (
        lambda make, run: ["predict", run, (folder := make()) / "images", "--output", folder / "images"],
        "nothing to detect in",
    ),
    "output that is a file": (lambda make, run: train(folder := make(), "--output", _file(folder)), "is a file"),
    "a file after --json": (lambda make, run: ["val", run, "--data", make(), "--json", "m.json"], "extra argument"),
    "no minutes": (lambda make, run: ["train", "--data", make(), "--minutes", "0"], "above 0"),
    "no batch": (lambda make, run: ["val", run, "--data", make(), "--batch-size", "0"], "at least 1"),
    "random and fixed": (lambda make, run: train(make(), "--set", "train.backbone_lr=0"), "random weights"),
    "exported file to explain": (lambda make, run: ["explain", _exported(make), "a.png"], EXPORTED),
    "exported file to convert": (lambda make, run: ["convert", _exported(make), "out", "--to", "official"], EXPORTED),
    "exported file to export": (lambda make, run: ["export", _exported(make), "--output", "out/a.xml"], EXPORTED),
    "exported file to benchmark": (lambda make, run: ["benchmark", _exported(make)], EXPORTED),
    "exported file to train": (lambda make, run: ["train", "--init", _exported(make), "--data", make()], EXPORTED),
    "cost of an exported file": (lambda make, run: ["info", _exported(make), "--size", "64x64"], "does not tell"),
    "exported file that is not there": (lambda make, run: ["explain", "gone.onnx", "a.png"], "gone.onnx does not"),
    "dilation told to another command": (lambda make, run: ["train", "--dc5"], "convert X.pth DIR --to opendetr --dc5"),
    "size": (lambda make, run: ["info", run, "--size", "large"], "HEIGHTxWIDTH"),
    "val of nothing": (lambda make, run: ["val"], "needs either MODEL"),
    "results that are none": (lambda make, run: ["val", *_results(make, {"a": 1})], "not a list of COCO results"),
    "result of another picture": (
        lambda make, run: ["val", *_results(make, [{"image_id": 99, "category_id": 1, "bbox": [0] * 4, "score": 1}])],
        "image 99",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_exit_code_2(case, coco_folder, tiny_run, tmp_path, monkeypatch, capsys):
    arguments, expected = CASES[case]
    words = [str(word) for word in arguments(coco_folder, tiny_run)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["opendetr", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    errors = capsys.readouterr().err.strip()
    assert exit_.value.code == 2
    assert errors.startswith(("opendetr: ", f"opendetr {words[0]}: "))
    assert len(errors.splitlines()) == 1
    assert expected in errors
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "out").exists()


def _exported(make):
    path = make() / "model.onnx"
    path.write_bytes(b"a graph")  # the name alone tells
    return path


def _with_text(make, text):
    folder = make()
    (folder / "annotations/train.json").write_text(text)
    return folder


def _file(folder):
    (folder / "taken").write_text("something")
    return folder / "taken"


def _without_pictures(folder):
    for path in (folder / "images").iterdir():
        path.unlink()
    return folder


def _cut_picture(folder):
    path = next((folder / "images").iterdir())
    path.write_bytes(path.read_bytes()[:60])
    return folder


def _damaged(make, run):
    folder = make() / "model"
    folder.mkdir()
    for path in (run / "best").iterdir():
        (folder / path.name).write_bytes(
            path.read_bytes()[:1000] if path.suffix == ".safetensors" else path.read_bytes()
        )
    return folder


def _results(make, results):
    folder = make()
    (folder / "results.json").write_text(json.dumps(results))
    return ["--detections", folder / "results.json", "--annotations", folder / "annotations/train.json"]
